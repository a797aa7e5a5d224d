"""Adaptive limit: learns a quota that is not configured from the provider's rejections, as TCP CUBIC does. No I/O."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from multiembed.ratelimit.sliding_window import InFlightRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.types import LimitKind

# Factors of consecutive rejections, and the shares of the recent throughput that remain at least. Part of the
# throughput may have passed before the quota fell. A rejection is consecutive within so many seconds of use after the
# last one.
_DECREASES = (0.95, 0.88, 0.75, 0.5)
_MIN_OF_THROUGHPUT = (0.95, 0.95, 0.8, 0.8)
_CONSECUTIVE = 1.0

# Seconds of use from a decrease until the limit is again at the rejected value. They double, up to the maximum, with
# each rejection that differs by at most 15 % from the one before. A requested pause takes at most 5 % of the time.
RECOVERY = 2.0
_MAX_RECOVERY = 8.0
_SAME_VALUE = 0.15
_RECOVERY_PER_PAUSE = 20.0

# Maximum of seconds of use from there until the limit is 5 % higher. At 1.25 times the rejected value a new search
# begins: the cubic curve alone takes 43 seconds of use from 0.2 requests a second to 100.
_MAX_PROBING = 4.0
_NEW_SEARCH = 1.25


class AdaptiveLimit:
    """Adaptive limit that converges to the provider's quota.

    Until the first rejection it doubles with each second of use, up to `maximum`. After one it follows a cubic curve,
    as TCP CUBIC and the adaptive retry mode of the AWS SDKs do: steep at first, flat near `target` times the rejected
    value, and steep again beyond it. Well above that value it doubles again. Only time in which the limit delays a
    request counts as use.
    """

    def __init__(self, start: float, *, minimum: float, maximum: float, target: float = 1.0) -> None:
        self.value = start
        self.searching = True
        self._minimum = minimum
        self._maximum = maximum
        self._target = target
        self._low = self._peak = start
        self._age = 0.0
        self._recovery = RECOVERY
        self._consecutive = 0

    def grow(self, seconds: float) -> None:
        """Raise the limit after so many seconds of use."""
        self._age += seconds
        if self.searching:
            self.value = max(self.value, min(self.value * 2.0**seconds, self._maximum))
            return
        if self._age < self._recovery:
            span, scale = max(self._peak - self._low, (1.0 - _DECREASES[0]) * self._peak), self._recovery
        else:
            span, scale = (1.0 - _DECREASES[0]) * self._peak, min(self._recovery, _MAX_PROBING)
        self.value = max(self.value, self._peak + span * ((self._age - self._recovery) / scale) ** 3)
        self.searching = self.value > _NEW_SEARCH * self._peak

    def decrease(self, at: float, throughput: float = 0.0, pause: float = 0.0, recovery: float = RECOVERY) -> None:
        """Lower the limit after a rejection at a value; after a search, at most the present value counts.

        It does not fall much below the recent `throughput`. In `recovery` seconds of use it is at the rejected value
        again, unless that was rejected before or the provider asks for a `pause`.
        """
        again = not self.searching and self._age < _CONSECUTIVE
        self._consecutive = min(self._consecutive + 1, len(_DECREASES) - 1) if again else 0
        rejected = at if self.searching else min(self.value, at)
        before, self._peak = self._peak, max(self._target * rejected, self._minimum)
        if not self.searching and not again and abs(self._peak - before) <= _SAME_VALUE * before:
            recovery = min(self._recovery * 2.0, _MAX_RECOVERY)
        self._recovery = max(recovery, pause * _RECOVERY_PER_PAUSE)
        passed = min(throughput, self._peak) * _MIN_OF_THROUGHPUT[self._consecutive]
        self._low = self.value = max(rejected * _DECREASES[self._consecutive], passed, self._minimum)
        if again:  # the quota lies well below the rejected value
            self._peak = max((self._peak + self._low) / 2.0, self._minimum)
        self._age = 0.0
        self.searching = False

    def restart_search(self, factor: float = 1.0) -> None:
        """Forget the rejected value and search from the present one, times `factor`."""
        self.searching = True
        self.value = min(max(self.value * factor, self._minimum), self._maximum)
        self._age = 0.0

    def export_state(self) -> list[float]:
        """What it has learned, as numbers for another process."""
        learned = self.value, self._low, self._peak, self._age, self._recovery
        return [*learned, float(self.searching), float(self._consecutive)]

    def import_state(self, state: Sequence[float]) -> None:
        """Continue from what another process exported."""
        value, self._low, self._peak, self._age, self._recovery, searching, consecutive = map(float, state)
        self.value = min(max(value, self._minimum), self._maximum)
        self.searching, self._consecutive = bool(searching), int(consecutive)

    def divide(self, share: int) -> None:
        """Continue as one of `share` limits that divide this one."""
        self.value, self._low, self._peak = (
            max(value / share, self._minimum) for value in (self.value, self._low, self._peak)
        )


class ThroughputMeter:
    """Successful requests of up to ten seconds: how many a second, with how many tokens, and how many in flight."""

    _WINDOW = 10.0
    _MIN_SUCCESSES = 10

    def __init__(self) -> None:
        self.successes: deque[tuple[float, InFlightRecord]] = deque(maxlen=4096)

    def add(self, now: float, record: InFlightRecord) -> None:
        """Record a success."""
        self.successes.append((now, record))

    def holds_few(self, now: float) -> bool:
        """Whether ten seconds hold too few successes to infer a rate from."""
        minimum = self._MIN_SUCCESSES
        return len(self.successes) < minimum or now - self.successes[-minimum][0] > self._WINDOW

    def export_state(self, now: float) -> list[float]:
        """Number, tokens and maximum concurrency of the recent successes."""
        recent = [record for when, record in self.successes if now - when <= self._WINDOW]
        return [len(recent), sum(record.tokens for record in recent), self.max_concurrency(now - self._WINDOW)]

    def import_state(self, now: float, state: Sequence[float]) -> None:
        """Record as many successes, spread evenly over the time that they were counted in."""
        number, tokens, concurrency = int(state[0]), state[1], int(state[2])
        self.successes.clear()
        for index in range(min(number, self.successes.maxlen or number)):
            when = now - self._WINDOW * (1.0 - (index + 1) / number)
            self.add(when, InFlightRecord(when, tokens / number, concurrency, in_flight=False))

    def rate(self, now: float, kind: LimitKind) -> float:
        """Requests or tokens per second in the last second, or in up to ten seconds while that holds few successes."""
        amount, span = 0.0, 0.0
        for count, (when, record) in enumerate(reversed(self.successes)):
            if now - when > self._WINDOW or (now - when > 1.0 and count >= self._MIN_SUCCESSES):
                break
            amount += record.tokens if kind == "tokens" else 1.0
            span = now - when
        return amount / max(span, 1.0)

    def max_concurrency(self, since: float) -> int:
        """Maximum of requests in flight when a request started that succeeded since then; 0 if none did."""
        return max((record.concurrency for when, record in self.successes if when >= since), default=0)
