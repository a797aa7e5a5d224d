"""The log of what came to be embedded, and when: accepted, or refused for a quota. Bounded, unlike the traffic."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST = 100_000


class Arrival(NamedTuple):
    """One request with the right key, as it came."""

    time: float
    """By the server's monotonic clock, in seconds, before it waited for anything."""
    accepted: bool
    """Within the quotas, whatever became of it later."""
    tokens: int
    """Of its texts, whether or not they were billed."""
    provider: str


class Arrivals:
    """The last 100,000 of them, in order of time; the counts are of all. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget them, and count from 0 again."""
        with self._lock:
            self._log: deque[Arrival] = deque(maxlen=_MOST)
            self._accepted = self._rejected = 0

    def note(self, arrival: Arrival) -> None:
        """One more; no earlier than the one before."""
        with self._lock:
            self._log.append(arrival)
            self._accepted += arrival.accepted
            self._rejected += not arrival.accepted

    @property
    def accepted(self) -> int:
        """How many were within the quotas."""
        with self._lock:
            return self._accepted

    @property
    def rejected(self) -> int:
        """How many were refused for a quota."""
        with self._lock:
            return self._rejected

    def log(self) -> list[Arrival]:
        """What is remembered; a copy."""
        with self._lock:
            return list(self._log)

    def most_requests(self, seconds: float) -> int:
        """The most that came within any such stretch of time. Two that lie just so far apart do not share one."""
        return self._most(seconds, lambda _: 1)

    def most_tokens(self, seconds: float) -> int:
        """The most tokens that were asked for within any such stretch."""
        return self._most(seconds, lambda arrival: arrival.tokens)

    def _most(self, seconds: float, amount: Callable[[Arrival], int]) -> int:
        log, most, within, first = self.log(), 0, 0, 0
        for last in log:
            within += amount(last)
            while first < len(log) and last.time - log[first].time >= seconds:
                within -= amount(log[first])
                first += 1
            most = max(most, within)
        return most
