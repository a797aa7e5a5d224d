"""The quotas of an account: what they are, and whether one more request is within them. Pure: time is an argument."""

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

    from multiembed.simulator.api_format import Form, Limit
    from multiembed.simulator.quota_counters import Meter

Kind: TypeAlias = Literal["bucket", "sliding", "fixed"]

_METERS: dict[Kind, Callable[[float], Meter]]
_METERS = {"bucket": Bucket, "sliding": SlidingWindow, "fixed": FixedWindow}


@dataclass(frozen=True, kw_only=True, slots=True)
class Quota:
    """What an account may do. None leaves a thing unlimited.

    Raises:
        ConfigurationError: nothing is limited, there is no such kind, or a number makes no sense.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    in_flight: int | None = None
    per_second: bool | None = None
    """Whether a sixtieth is also the most in any second; None: where the provider does that."""
    kind: Kind = "bucket"
    retry_after: float | None = None
    """Seconds that a refusal names."""

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
    """Why a request is refused."""

    limit: Limit
    retry_after: float | None


class _Rate:
    """One thing of which an account may have so much a minute, and the meters that count it."""

    def __init__(self, kind: Kind, per_minute: float) -> None:
        self.kind = kind
        self._per_minute = per_minute
        self._minute = _METERS[kind](per_minute)
        self._second = SlidingWindow(per_minute, SECOND)

    def has_room(self, now: float, amount: int, *, per_second: bool) -> bool:
        # An untouched meter takes anything; but more than a minute's worth is more than the account ever may.
        return (
            amount <= self._per_minute
            and self._minute.has_room(now, amount)
            and (self._second.has_room(now, amount) or not per_second)
        )

    def take(self, now: float, amount: int) -> None:
        self._minute.take(now, amount)
        self._second.take(now, amount)

    def change(self, now: float, per_minute: float) -> None:
        self._per_minute = per_minute
        self._minute.change(now, per_minute)
        self._second.change(now, per_minute)


class _Account:
    """One quota, and what of it is used. `change` keeps what is used, as far as it is counted in the same way."""

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

    def exceeded(self, form: Form, amounts: dict[Limit, int], now: float, in_flight: int) -> Limit | None:
        if self.quota.in_flight is not None and in_flight >= self.quota.in_flight:
            return "in_flight"
        per_second = form.per_second if self.quota.per_second is None else self.quota.per_second
        for limit, rate in self._rates.items():
            if not rate.has_room(now, amounts[limit], per_second=per_second):
                return limit
        return None

    def take(self, amounts: dict[Limit, int], now: float) -> None:
        for limit, rate in self._rates.items():
            rate.take(now, amounts[limit])


class Quotas:
    """At most one quota per provider, and one over all. A request must be within both; refused, it uses up neither.

    Changed by any thread, asked by the server's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[str | None, _Account] = {}
        self._in_flight: Counter[str] = Counter()

    def limit(self, quota: Quota, now: float, provider: str | None = None) -> None:
        """Let a quota hold from now on, in the place of the one before."""
        with self._lock:
            self._accounts.setdefault(provider, _Account()).change(quota, now)

    def unlimit(self) -> None:
        """Let no quota hold. What is in flight is still counted, for those to come."""
        with self._lock:
            self._accounts.clear()

    def enter(self, form: Form, tokens: int, now: float) -> Excess | None:
        """Count a request as in flight, until `leave`; or say which limit it is over, and count nothing."""
        amounts: dict[Limit, int] = {"requests": 1, "tokens": tokens}
        with self._lock:
            for in_flight, account in self._concerned(form):
                limit = account.exceeded(form, amounts, now, in_flight)
                if limit is not None:
                    return Excess(limit, account.quota.retry_after)
            for _, account in self._concerned(form):
                account.take(amounts, now)
            self._in_flight[form.provider] += 1
        return None

    def leave(self, form: Form) -> None:
        """A request that had entered is answered."""
        with self._lock:
            self._in_flight[form.provider] -= 1

    def _concerned(self, form: Form) -> Iterator[tuple[int, _Account]]:
        """The accounts that a request of this form draws on, with what is in flight of theirs."""
        if account := self._accounts.get(form.provider):
            yield self._in_flight[form.provider], account
        if account := self._accounts.get(None):
            yield self._in_flight.total(), account
