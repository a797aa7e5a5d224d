"""Quotas of an account, and whether one more request is within them. No I/O; the caller passes the time."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from multiembed.errors import ConfigurationError
from multiembed.simulator.quota_counters import SECOND, Bucket, FixedWindow, SlidingWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from multiembed.simulator.api_format import ApiFormat, Limit
    from multiembed.simulator.quota_counters import QuotaCounter

Kind: TypeAlias = Literal["bucket", "sliding", "fixed"]

_COUNTERS: dict[Kind, Callable[[float], QuotaCounter]]
_COUNTERS = {"bucket": Bucket, "sliding": SlidingWindow, "fixed": FixedWindow}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """Limits of an state. None is unlimited.

    Raises:
        ConfigurationError: nothing is limited, there is no such kind, or a number is out of range.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    in_flight: int | None = None
    per_second: bool | None = None
    """Whether a sixtieth is also the limit of any second; None: where the provider enforces that."""
    kind: Kind = "bucket"
    retry_after: float | None = None
    """Seconds in the Retry-After header of a refusal."""

    def __post_init__(self) -> None:
        limits = {
            "requests_per_minute": self.requests_per_minute,
            "tokens_per_minute": self.tokens_per_minute,
            "in_flight": self.in_flight,
        }
        if set(limits.values()) == {None}:
            raise ConfigurationError(f"Say what is limited: one of {', '.join(limits)}. unlimit() ends all limits.")
        for name, value in limits.items():
            if value is not None and not 1 <= value < math.inf:
                raise ConfigurationError(f"{name} must be 1 or more, not {value!r}.")
        if self.kind not in get_args(Kind):
            raise ConfigurationError(f"kind must be one of {', '.join(get_args(Kind))}, not {self.kind!r}.")
        if self.retry_after is not None and not 0 <= self.retry_after < math.inf:
            raise ConfigurationError(f"retry_after must be 0 or more seconds, not {self.retry_after!r}.")


@dataclass(frozen=True, slots=True)
class Excess:
    """The limit that a refused request exceeds."""

    limit: Limit
    retry_after: float | None


class _Rate:
    """Limit per minute and its counters."""

    def __init__(self, kind: Kind, per_minute: float) -> None:
        self.kind = kind
        self._per_minute = per_minute
        self._minute = _COUNTERS[kind](per_minute)
        self._second = SlidingWindow(per_minute, SECOND)

    def allows(self, now: float, amount: int, *, per_second: bool) -> bool:
        # An unused counter allows any amount, but more than a minute's worth is never allowed.
        return (
            amount <= self._per_minute
            and self._minute.allows(now, amount)
            and (self._second.allows(now, amount) or not per_second)
        )

    def take(self, now: float, amount: int) -> None:
        self._minute.take(now, amount)
        self._second.take(now, amount)

    def change(self, now: float, per_minute: float) -> None:
        self._per_minute = per_minute
        self._minute.change(now, per_minute)
        self._second.change(now, per_minute)


class _QuotaState:
    """One quota and its counters. `change` keeps what is used if it is counted in the same way."""

    def __init__(self) -> None:
        self.quota: Quota
        self._rates: dict[Limit, _Rate] = {}

    def change(self, quota: Quota, now: float) -> None:
        before, self._rates, self.quota = self._rates, {}, quota
        limits: tuple[tuple[Limit, float | None], ...]
        limits = (("requests", quota.requests_per_minute), ("tokens", quota.tokens_per_minute))
        for limit, per_minute in limits:
            if per_minute is None:
                continue
            rate = before.get(limit)
            if rate is None or rate.kind != quota.kind:
                rate = _Rate(quota.kind, per_minute)
            rate.change(now, per_minute)
            self._rates[limit] = rate

    def exceeded(self, api_format: ApiFormat, amounts: dict[Limit, int], now: float, in_flight: int) -> Limit | None:
        if self.quota.in_flight is not None and in_flight >= self.quota.in_flight:
            return "in_flight"
        per_second = api_format.per_second if self.quota.per_second is None else self.quota.per_second
        for limit, rate in self._rates.items():
            if not rate.allows(now, amounts[limit], per_second=per_second):
                return limit
        return None

    def take(self, amounts: dict[Limit, int], now: float) -> None:
        for limit, rate in self._rates.items():
            rate.take(now, amounts[limit])


class Quotas:
    """At most one quota per provider, and one over all. A request must be within both; a refused one uses neither.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quotas: dict[str | None, _QuotaState] = {}
        self._in_flight: Counter[str] = Counter()

    def limit(self, quota: Quota, now: float, provider: str | None = None) -> None:
        """Set a quota, or change it."""
        with self._lock:
            self._quotas.setdefault(provider, _QuotaState()).change(quota, now)

    def unlimit(self) -> None:
        """Remove all quotas. Requests in flight are still counted, for later quotas."""
        with self._lock:
            self._quotas.clear()

    def enter(self, api_format: ApiFormat, tokens: int, now: float) -> Excess | None:
        """Count a request as in flight until `leave`, or return the limit that it exceeds."""
        amounts: dict[Limit, int] = {"requests": 1, "tokens": tokens}
        with self._lock:
            for in_flight, state in self._states(api_format):
                limit = state.exceeded(api_format, amounts, now, in_flight)
                if limit is not None:
                    return Excess(limit, state.quota.retry_after)
            for _, state in self._states(api_format):
                state.take(amounts, now)
            self._in_flight[api_format.provider] += 1
        return None

    def leave(self, api_format: ApiFormat) -> None:
        """Count a request as no longer in flight."""
        with self._lock:
            self._in_flight[api_format.provider] -= 1

    def _states(self, api_format: ApiFormat) -> Iterator[tuple[int, _QuotaState]]:
        """The requests in flight and the quota of the provider, and those over all."""
        if state := self._quotas.get(api_format.provider):
            yield self._in_flight[api_format.provider], state
        if state := self._quotas.get(None):
            yield self._in_flight.total(), state
