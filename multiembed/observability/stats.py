"""What an embedder has done so far in this process: texts, money, refusals and latencies, in constant memory."""

from __future__ import annotations

import math
import threading
from collections import Counter
from typing import TYPE_CHECKING

from multiembed.types import ClientStats, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable

_STEP = math.log(1.02)
"""Latencies within 2 % of each other are counted as the same."""


class StatsCollector:
    """Counts that grow with each finished request, on the I/O thread. The caller's threads read them meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usage = Usage()
        self._texts = 0
        self._failed = 0
        self._rate_errors = 0
        self._latencies: Counter[int] = Counter()

    @property
    def usage(self) -> Usage:
        """What was spent."""
        return self._usage

    def add(
        self, usage: Usage, *, texts: int = 0, failed: int = 0, rate_errors: int = 0, seconds: Iterable[float] = ()
    ) -> None:
        """Count in.

        Args:
            usage: what was spent.
            texts: that are done with, failed ones among them.
            failed: of these.
            rate_errors: refusals for being too fast.
            seconds: from request to answer, of each request that was answered.
        """
        steps = [round(math.log(max(its, 1e-6)) / _STEP) for its in seconds]
        with self._lock:
            self._usage += usage
            self._texts += texts
            self._failed += failed
            self._rate_errors += rate_errors
            self._latencies.update(steps)

    def add_all(self, other: StatsCollector) -> None:
        """Go on from what another one has counted."""
        with self._lock:
            self._usage += other._usage
            self._texts += other._texts
            self._failed += other._failed
            self._rate_errors += other._rate_errors
            self._latencies.update(other._latencies)

    def report(self) -> ClientStats:
        """All of it."""
        with self._lock:
            usage = self._usage
            return ClientStats(
                texts=self._texts,
                cached_texts=usage.cached_texts,
                failed_texts=self._failed,
                total_tokens=usage.total_tokens,
                cost=usage.cost,
                requests=usage.requests,
                retries=usage.retries,
                rate_errors=self._rate_errors,
                p50=self._quantile(0.50),
                p99=self._quantile(0.99),
            )

    def _quantile(self, share: float) -> float | None:
        left = math.ceil(share * self._latencies.total())
        for step in sorted(self._latencies):
            left -= self._latencies[step]
            if left <= 0:
                return math.exp(step * _STEP)
        return None
