"""Writes finished vectors to the cache: in a worker thread, and all that finished during the last write together."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING

from multiembed.execution.io_thread import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.cache.base import CacheEntry
    from multiembed.cache.checked_cache import CheckedCache


_MAX_ENTRIES = 16
"""Entries in one commit: more make it slower again (benchmarks/results/cache.md, 2026-11-28)."""


class CacheWriter:
    """Used on the I/O thread alone.

    A commit for each request, on the thread that reads the sockets, took 22.6 % of an ingestion (300,000 rows of 1,024
    dimensions, 2026-11).

    Args:
        cache: where vectors are kept.
    """

    def __init__(self, cache: CheckedCache) -> None:
        self._cache = cache
        self._pending: list[CacheEntry] = []
        self._committed: asyncio.Future[None] | None = None
        """Done when what is pending is kept."""
        self._task: asyncio.Task[None] | None = None

    async def write(self, entries: Sequence[CacheEntry]) -> None:
        """Keep vectors; returns when they are committed. A cancelled caller does not take them back.

        Raises:
            CacheWarning: warnings are errors, and the cache cannot be written.
        """
        loop = asyncio.get_running_loop()
        self._pending += entries
        if self._committed is None:
            self._committed = loop.create_future()
        committed = self._committed
        if self._task is None:
            # Not in the context of the caller that happens to be first: it writes for all.
            self._task = loop.create_task(self._write_pending(), context=Context())
        await asyncio.shield(committed)

    async def _write_pending(self) -> None:
        try:
            while self._committed is not None:
                entries, self._pending = self._pending, []
                committed, self._committed = self._committed, None
                try:
                    await in_thread(self._put, entries)
                    committed.set_result(None)
                except BaseException as error:  # noqa: BLE001 - raised again by those who wait
                    committed.set_exception(error)
                    committed.exception()  # those who wait may be cancelled
        finally:
            self._task = None

    def _put(self, entries: Sequence[CacheEntry]) -> None:
        for begin in range(0, len(entries), _MAX_ENTRIES):
            self._cache.put_many(entries[begin : begin + _MAX_ENTRIES])
