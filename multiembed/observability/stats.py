"""Statistics of one client in this process: texts, money, rejections and latencies, in constant memory."""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from multiembed.types import ClientStats, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEP = math.log(1.02)  # latencies within 2 % of each other are counted as the same


class StatsCollector:
    """Counters that grow with each finished request, on the I/O thread, while the caller's threads read them."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._latencies: Counter[int] = Counter()
        """Requests by their latency, as a power of 1.02 seconds."""

    def add(
        self, usage: Usage, *, texts: int = 0, failed: int = 0, rate_errors: int = 0, seconds: Iterable[float] = ()
    ) -> None:
        """Add to the counters. `texts` are all finished ones; `seconds` are the latencies of the requests."""
        steps = [round(math.log(max(latency, 1e-6)) / _STEP) for latency in seconds]
        with self._lock:
            self.usage += usage
            self._counts.update(texts=texts, failed_texts=failed, rate_errors=rate_errors)
            self._latencies.update(steps)

    def add_all(self, other: StatsCollector) -> None:
        """Add the counters of another client."""
        with self._lock:
            self.usage += other.usage
            self._counts.update(other._counts)
            self._latencies.update(other._latencies)

    def snapshot(self) -> ClientStats:
        """All counters at this moment."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("texts", "failed_texts", "rate_errors")}
            return ClientStats(**asdict(self.usage), **counts, p50=self._quantile(0.50), p99=self._quantile(0.99))

    def _quantile(self, share: float) -> float | None:
        left = math.ceil(share * self._latencies.total())
        for step in sorted(self._latencies):
            left -= self._latencies[step]
            if left <= 0:
                return math.exp(step * _STEP)
        return None
