"""Log of requests for embeddings: when they came, accepted or refused for a quota. Bounded."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_ARRIVALS = 100_000


class Arrival(NamedTuple):
    """One request with the right key."""

    time: float
    """Seconds of the server's monotonic clock, before any wait."""
    accepted: bool
    """Within the quotas, also when it failed later."""
    tokens: int
    """Tokens of its texts, billed or not."""
    provider: str


class RequestLog:
    """The last 100,000 arrivals, in order of time; the counts are of all. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Remove all arrivals, and count from 0 again."""
        with self._lock:
            self._arrivals: deque[Arrival] = deque(maxlen=_MAX_ARRIVALS)
            self.accepted = self.rejected = 0

    def add(self, arrival: Arrival) -> None:
        """Add an arrival, no earlier than the one before."""
        with self._lock:
            self._arrivals.append(arrival)
            self.accepted += arrival.accepted
            self.rejected += not arrival.accepted

    def arrivals(self) -> list[Arrival]:
        """The arrivals; a copy."""
        with self._lock:
            return list(self._arrivals)

    def most_requests(self, seconds: float) -> int:
        """The maximum of requests within any such time. Two that lie exactly so far apart do not share one."""
        return self._maximum(seconds, lambda _: 1)

    def most_tokens(self, seconds: float) -> int:
        """The maximum of tokens within any such time."""
        return self._maximum(seconds, lambda arrival: arrival.tokens)

    def _maximum(self, seconds: float, amount: Callable[[Arrival], int]) -> int:
        arrivals, maximum, total, first = self.arrivals(), 0, 0, 0
        for last in arrivals:
            total += amount(last)
            while first < len(arrivals) and last.time - arrivals[first].time >= seconds:
                total -= amount(arrivals[first])
                first += 1
            maximum = max(maximum, total)
        return maximum
