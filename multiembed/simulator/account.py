"""The account that the simulator plays, as its users hold it: its quota, what fails, and what was asked of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from multiembed.errors import ConfigurationError
from multiembed.simulator.fault_injection.schedule import Schedule, entry_of
from multiembed.simulator.quotas import Quota, Quotas
from multiembed.simulator.recorder import Recorder
from multiembed.simulator.request_log import Arrivals
from multiembed.simulator.responder import FORMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.simulator.messages import Answer, Request
    from multiembed.simulator.quotas import Kind
    from multiembed.simulator.recorder import RecordedRequest
    from multiembed.simulator.request_log import Arrival


class Account:
    """What can be set and asked while the server runs, and also before and afterwards, from any thread."""

    def __init__(self, *, record: bool) -> None:
        self._recorder = Recorder(keep=record)
        self._arrivals = Arrivals()
        self._quotas = Quotas()
        self._schedule = Schedule()

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, in order of arrival; a copy."""
        return self._recorder.requests()

    @property
    def peak_in_flight(self) -> int:
        """The highest number of embedding requests that were being answered at once, so far."""
        return self._recorder.peak

    def clear(self) -> None:
        """Forget the requests and the arrivals so far, and the peak. What quotas have counted stays."""
        self._recorder.clear()
        self._arrivals.clear()

    def limit(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        in_flight: int | None = None,
        per_second: bool | None = None,
        kind: Kind = "bucket",
        retry_after: float | None = None,
        provider: str | None = None,
    ) -> None:
        """Give the account a quota from now on; what is more is refused with 429, in each vendor's own words.

        Called again, it changes the quota, and what was used of it counts on. All that comes with the right key and
        a JSON object uses it up, except for what is refused for a quota. Such a refusal comes after a tenth of the
        latency, and no fault is made for it. Other answers, the wrong and the failing ones too, occupy a place in
        flight until they are sent.

        Args:
            requests_per_minute: 1 or more.
            tokens_per_minute: as the simulator counts them and reports them in `usage`.
            in_flight: requests that are being answered at once.
            per_second: whether a sixtieth, rounded up, is also the most in any second; without it, DashScope's two
                forms do that and the others do not.
            kind: how a minute is counted. "bucket": it refills evenly and holds one second's worth, but at least 1;
                "sliding": what was accepted in the last 60 seconds; "fixed": in each minute since the first request.
            retry_after: seconds that a refusal names in Retry-After.
            provider: whose requests share this quota; without it, those of all providers share it. A request must be
                within both.

        Raises:
            ConfigurationError: nothing is limited, there is no such kind or provider, or a number makes no sense.
        """
        if provider is not None and provider not in FORMS:
            raise ConfigurationError(f"The simulator has no provider {provider!r}; it has {', '.join(FORMS)}.")
        quota = Quota(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            in_flight=in_flight,
            per_second=per_second,
            kind=kind,
            retry_after=retry_after,
        )
        self._quotas.limit(quota, time.monotonic(), provider)

    def unlimit(self) -> None:
        """Take all quotas away."""
        self._quotas.unlimit()

    @property
    def accepted(self) -> int:
        """How many requests with the right key were within the quotas, since the start or `clear`."""
        return self._arrivals.accepted

    @property
    def rejected(self) -> int:
        """How many requests were refused for a quota, since the start or `clear`."""
        return self._arrivals.rejected

    @property
    def arrivals(self) -> list[Arrival]:
        """When requests came, accepted or refused for a quota, and their tokens: the last 100,000; a copy."""
        return self._arrivals.log()

    def most_requests(self, seconds: float) -> int:
        """The most requests, accepted or refused, that arrived within any so many seconds, of those in `arrivals`."""
        return self._arrivals.most_requests(seconds)

    def most_tokens(self, seconds: float) -> int:
        """The most tokens, accepted or refused, that arrived within any so many seconds, of those in `arrivals`."""
        return self._arrivals.most_tokens(seconds)

    def fail(
        self,
        fault: str | Callable[[Request, Answer], Answer],
        *,
        times: int | None = None,
        probability: float | None = None,
        every: int | None = None,
        after: int = 0,
        seconds: float | None = None,
        provider: str | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Let embedding requests fail from now on, until `heal`. A request meets the first fault that is due.

        Args:
            fault: a name of `FAULTS`, or a function from the request and its good answer to the answer to send.
            times: how often; without it, always.
            probability: make it for this share of the requests it could be made for, at random.
            every: make it for each `every`-th of them only.
            after: leave out the first so many of them.
            seconds: for how long.
            provider: for this provider's requests only.
            seed: of the random numbers.
            settings: the fault's own, for instance `cap=8`.

        Raises:
            ConfigurationError: no such fault, provider or setting, or a number that makes no sense.
        """
        self._schedule.add(
            entry_of(
                fault,
                times=times,
                probability=probability,
                every=every,
                after=after,
                seconds=seconds,
                provider=provider,
                seed=seed,
                settings=settings,
            )
        )

    def heal(self) -> None:
        """Let nothing fail any more. An answer that fails already goes on failing."""
        self._schedule.clear()
