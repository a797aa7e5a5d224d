"""How much of something passes in a stretch of time, by the three ways in which servers count it.

Pure: the time is an argument, in seconds, and never runs backwards. Where more is asked for at once than a meter ever
holds, it passes when the meter is untouched, and all that follows waits for it: a long text is not refused for good
because the quota is also kept by the second.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

MINUTE = 60.0
SECOND = 1.0


class Meter(Protocol):
    """Something of which only so much passes."""

    def has_room(self, now: float, amount: int) -> bool:
        """Whether that much may pass now; nothing is taken yet."""

    def take(self, now: float, amount: int) -> None:
        """Let that much pass."""

    def change(self, now: float, per_minute: float) -> None:
        """Count by another rate from now on. What has passed is not forgotten."""


class Bucket:
    """Fills at an even rate and holds one second's worth, but at least 1. It is full at first."""

    def __init__(self, per_minute: float) -> None:
        self._level = self._rate = 0.0
        self._holds = 1.0
        self._since = -math.inf
        self._turn_to(per_minute)

    def _turn_to(self, per_minute: float) -> None:
        self._rate = per_minute / MINUTE
        self._holds = max(1.0, self._rate)

    def _fill(self, now: float) -> None:
        self._level = min(self._holds, self._level + (now - self._since) * self._rate)
        self._since = now

    def has_room(self, now: float, amount: int) -> bool:
        """A level that sums of fractions have left a hair too low is taken for what it should be."""
        self._fill(now)
        return self._level >= min(amount, self._holds) - 1e-9

    def take(self, now: float, amount: int) -> None:
        """The level falls below zero for more than the bucket holds."""
        self._fill(now)
        self._level -= amount

    def change(self, now: float, per_minute: float) -> None:
        """What it holds too much flows over."""
        self._fill(now)
        self._turn_to(per_minute)
        self._level = min(self._level, self._holds)


class SlidingWindow:
    """At most so much in any stretch of time; what passed just so long ago counts no more.

    Args:
        per_minute: how much passes in a minute; a shorter window lets its share of that pass, rounded up.
        seconds: how long the window is.
    """

    def __init__(self, per_minute: float, seconds: float = MINUTE) -> None:
        self._seconds = seconds
        self._most = _share(per_minute, seconds)
        self._passed: deque[tuple[float, int]] = deque()
        self._sum = 0

    def has_room(self, now: float, amount: int) -> bool:
        """Forgets on the way what is too old."""
        while self._passed and now - self._passed[0][0] >= self._seconds:
            self._sum -= self._passed.popleft()[1]
        return not self._passed or self._sum + amount <= self._most

    def take(self, now: float, amount: int) -> None:
        """Note what passes."""
        self._passed.append((now, amount))
        self._sum += amount

    def change(self, now: float, per_minute: float) -> None:  # noqa: ARG002 - other meters need the time
        """The log stays, so that a smaller quota may be used up for a while."""
        self._most = _share(per_minute, self._seconds)


class FixedWindow:
    """At most so much in each minute, counted from when it was first asked."""

    def __init__(self, per_minute: float) -> None:
        self._most = per_minute
        self._start = math.nan
        self._minute = 0
        self._sum = 0

    def has_room(self, now: float, amount: int) -> bool:
        """Begins a new count on the way when a minute is over."""
        if math.isnan(self._start):
            self._start = now
        minute = int((now - self._start) // MINUTE)
        if minute != self._minute:
            self._minute, self._sum = minute, 0
        return not self._sum or self._sum + amount <= self._most

    def take(self, now: float, amount: int) -> None:  # noqa: ARG002
        """Note what passes."""
        self._sum += amount

    def change(self, now: float, per_minute: float) -> None:  # noqa: ARG002
        """The minute and its count go on."""
        self._most = per_minute


def _share(per_minute: float, seconds: float) -> int:
    # Rounded up, or else a quota of 90 a minute would let one pass each second, which makes 60.
    return max(1, math.ceil(per_minute * seconds / MINUTE))
