"""Counters of a quota, in the three ways in which servers count: token bucket, sliding window, fixed window.

No I/O; the caller passes the time, in seconds, which never runs backwards. An amount above a counter's capacity passes
when the counter is unused, and delays what follows: a long text is not refused for good because the quota is also
enforced by the second.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

MINUTE = 60.0
SECOND = 1.0


class QuotaCounter(Protocol):
    """Counter of what passes."""

    def allows(self, now: float, amount: int) -> bool:
        """Whether that amount may pass now. Counts nothing."""

    def take(self, now: float, amount: int) -> None:
        """Count that amount."""

    def change(self, now: float, per_minute: float) -> None:
        """Use another rate from now on. What has passed still counts."""


class Bucket:
    """Token bucket: refills evenly and holds one second's worth, but at least 1. It is full at first."""

    def __init__(self, per_minute: float) -> None:
        self._level = self._rate = 0.0
        self._capacity = 1.0
        self._since = -math.inf
        self._turn_to(per_minute)

    def _turn_to(self, per_minute: float) -> None:
        self._rate = per_minute / MINUTE
        self._capacity = max(1.0, self._rate)

    def _fill(self, now: float) -> None:
        self._level = min(self._capacity, self._level + (now - self._since) * self._rate)
        self._since = now

    def allows(self, now: float, amount: int) -> bool:
        """Whether the level suffices, rounding errors of its sum excepted."""
        self._fill(now)
        return self._level >= min(amount, self._capacity) - 1e-9

    def take(self, now: float, amount: int) -> None:
        """The level falls below zero for an amount above the capacity."""
        self._fill(now)
        self._level -= amount

    def change(self, now: float, per_minute: float) -> None:
        """A level above the new capacity is lost."""
        self._fill(now)
        self._turn_to(per_minute)
        self._level = min(self._level, self._capacity)


class SlidingWindow:
    """Sliding window: what passed exactly one window ago counts no more.

    Args:
        per_minute: amount that passes in a minute; a shorter window allows its share of that, rounded up.
        seconds: length of the window.
    """

    def __init__(self, per_minute: float, seconds: float = MINUTE) -> None:
        self._seconds = seconds
        self._maximum = _share(per_minute, seconds)
        self._passed: deque[tuple[float, int]] = deque()
        self._sum = 0

    def allows(self, now: float, amount: int) -> bool:
        """Removes what is too old, too."""
        while self._passed and now - self._passed[0][0] >= self._seconds:
            self._sum -= self._passed.popleft()[1]
        return not self._passed or self._sum + amount <= self._maximum

    def take(self, now: float, amount: int) -> None:
        """Count that amount."""
        self._passed.append((now, amount))
        self._sum += amount

    def change(self, now: float, per_minute: float) -> None:  # noqa: ARG002 - other counters need the time
        """What has passed stays, so that a smaller quota may be used up for a while."""
        self._maximum = _share(per_minute, self._seconds)


class FixedWindow:
    """Fixed window: each minute since the first call."""

    def __init__(self, per_minute: float) -> None:
        self._maximum = per_minute
        self._start = math.nan
        self._minute = 0
        self._sum = 0

    def allows(self, now: float, amount: int) -> bool:
        """Starts a new count when a minute is over, too."""
        if math.isnan(self._start):
            self._start = now
        minute = int((now - self._start) // MINUTE)
        if minute != self._minute:
            self._minute, self._sum = minute, 0
        return not self._sum or self._sum + amount <= self._maximum

    def take(self, now: float, amount: int) -> None:  # noqa: ARG002
        """Count that amount."""
        self._sum += amount

    def change(self, now: float, per_minute: float) -> None:  # noqa: ARG002
        """The minute and its count go on."""
        self._maximum = per_minute


def _share(per_minute: float, seconds: float) -> int:
    # Rounded up: otherwise a quota of 90 a minute would let one pass in each second, which makes 60.
    return max(1, math.ceil(per_minute * seconds / MINUTE))
