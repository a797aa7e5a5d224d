"""Simulated account: its quotas, its injected faults and its recorded requests."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multiembed.errors import ConfigurationError
from multiembed.simulator.fault_injection import find_fault
from multiembed.simulator.fault_injection.base import InjectedFault
from multiembed.simulator.fault_injection.schedule import Schedule, ScheduledFault
from multiembed.simulator.formats import API_FORMATS
from multiembed.simulator.quotas import Quota, Quotas
from multiembed.simulator.recorder import Recorder
from multiembed.simulator.request_log import RequestLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.simulator.messages import Answer, Request
    from multiembed.simulator.quotas import Kind
    from multiembed.simulator.recorder import RecordedRequest
    from multiembed.simulator.request_log import Arrival


@dataclass(frozen=True, slots=True)
class AccountState:
    """State that the account's methods and its request handler share."""

    recorder: Recorder
    log: RequestLog = field(default_factory=RequestLog)
    quotas: Quotas = field(default_factory=Quotas)
    schedule: Schedule = field(default_factory=Schedule)


class Account:
    """Methods that any thread may call before, while and after the server runs."""

    def __init__(self, *, record: bool) -> None:
        self._state = AccountState(Recorder(keep=record))

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, in order of arrival; a copy."""
        return self._state.recorder.requests()

    @property
    def peak_in_flight(self) -> int:
        """The highest number of embedding requests that were handled at once, so far."""
        return self._state.recorder.peak

    def clear(self) -> None:
        """Clear the requests, the arrivals and the peak. What quotas have counted stays."""
        self._state.recorder.clear()
        self._state.log.clear()

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
        """Set a quota of the account; requests over it are refused with 429, as each vendor does.

        A second call changes the quota; what was used of it still counts. Each request with the right key and a JSON
        object uses it up, unless it is refused for a quota. Such a refusal comes after a tenth of the latency, and no
        fault is injected for it. Each other response, failing ones included, is in flight until it is sent.

        Args:
            requests_per_minute: 1 or more.
            tokens_per_minute: as the simulator counts and reports them in `usage`.
            in_flight: requests that are handled at once.
            per_second: whether a sixtieth, rounded up, is also the limit of any second. Without it, that holds for
                DashScope's two APIs only.
            kind: how a minute is counted. "bucket" refills evenly and holds one second's worth, but at least 1.
                "sliding" counts the last 60 seconds. "fixed" counts each minute since the first request.
            retry_after: seconds that a refusal names in Retry-After.
            provider: whose requests share this quota; without it, all providers share it. A request must be within
                both.

        Raises:
            ConfigurationError: nothing is limited, there is no such kind or provider, or a number is out of range.
        """
        if provider is not None and provider not in API_FORMATS:
            raise ConfigurationError(f"The simulator has no provider {provider!r}; it has {', '.join(API_FORMATS)}.")
        quota = Quota(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            in_flight=in_flight,
            per_second=per_second,
            kind=kind,
            retry_after=retry_after,
        )
        self._state.quotas.limit(quota, time.monotonic(), provider)

    def unlimit(self) -> None:
        """Remove all quotas."""
        self._state.quotas.unlimit()

    @property
    def accepted(self) -> int:
        """Number of requests with the right key that were within the quotas, since the start or `clear`."""
        return self._state.log.accepted

    @property
    def rejected(self) -> int:
        """Number of requests that were refused for a quota, since the start or `clear`."""
        return self._state.log.rejected

    @property
    def arrivals(self) -> list[Arrival]:
        """Time, tokens and acceptance of the last 100,000 requests with the right key; a copy."""
        return self._state.log.arrivals()

    def most_requests(self, seconds: float) -> int:
        """The maximum of requests in `arrivals`, accepted or refused, within any such number of seconds."""
        return self._state.log.most_requests(seconds)

    def most_tokens(self, seconds: float) -> int:
        """The maximum of tokens in `arrivals`, accepted or refused, within any such number of seconds."""
        return self._state.log.most_tokens(seconds)

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
        """Inject a fault into embedding requests until `heal`. A request meets the first fault that is due.

        Args:
            fault: a name of `FAULTS`, or a function from the request and its response to the response to send.
            times: how often it is injected; without it, always.
            probability: the share of the matching requests that meet it, at random.
            every: only each `every`-th of them meets it.
            after: number of matching requests before the first that meets it.
            seconds: for how long.
            provider: for this provider's requests only.
            seed: of the random numbers.
            settings: the fault's own, such as `cap=8`.

        Raises:
            ConfigurationError: no such fault, provider or setting, or a number out of range.
        """
        scheduled = ScheduledFault(
            fault=find_fault(fault) if isinstance(fault, str) else _custom_fault(fault),
            times=times,
            probability=probability,
            every=every,
            after=after,
            seconds=seconds,
            provider=provider,
            seed=seed,
            settings=settings,
        )
        self._state.schedule.add(scheduled)

    def heal(self) -> None:
        """Remove all faults. A response that fails already goes on failing."""
        self._state.schedule.clear()


def _custom_fault(function: Callable[[Request, Answer], Answer]) -> InjectedFault:
    return InjectedFault(
        getattr(function, "__name__", "function"),
        "A function of the caller's.",
        "body",
        alter=lambda occasion: function(occasion.request, occasion.answer),
    )
