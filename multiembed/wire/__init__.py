"""The wire: one request in, one answer or one failure out, as values, for threads and for event loops."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiembed.records import TransportFailure, WireReply, WireRequest
    from multiembed.wire.threads import Pool


class Wire:
    """The connections of one embedder in one process: its own for threads, its event loop's for tasks.

    They are made when first needed. The threads' ones are closed when the embedder goes, a loop's when the loop ends;
    `close` and `aclose` do it sooner, and a later call opens new ones. The caller's own httpx clients are used in their
    place where he gave them, and stay his.
    """

    def __init__(self, client: Any = None, async_client: Any = None) -> None:
        if client is not None or async_client is not None:
            from multiembed.wire.http import check_clients

            check_clients(client, async_client)
        self._given = client
        self._given_async = async_client
        self._lock = threading.Lock()
        self._pool: Pool | None = None

    def send(self, request: WireRequest) -> WireReply | TransportFailure:
        """Send from a thread."""
        if self._given is not None:
            from multiembed.wire.http import send

            return send(self._given, request)
        return self._threads().send(request)

    async def asend(self, request: WireRequest) -> WireReply | TransportFailure:
        """Send from a task."""
        if self._given_async is not None:
            from multiembed.wire.http import asend

            return await asend(self._given_async, request)
        from multiembed.wire.tasks import session_of

        return await session_of(asyncio.get_running_loop()).send(self, request)

    def close(self) -> None:
        """Close the threads' connections."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close the connections of this loop and of threads."""
        from multiembed.wire.tasks import session_of

        await session_of(asyncio.get_running_loop()).leave(self)
        self.close()

    def _threads(self) -> Pool:
        pool = self._pool
        if pool is None:
            from multiembed.wire.threads import Pool

            with self._lock:
                pool = self._pool = self._pool or Pool()
        return pool
