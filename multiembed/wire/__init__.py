"""The wire: one request in, one answer or one failure out, as values, for threads and for event loops.

The standard library opens the connections (`socket` and `ssl` for a thread's reactor, asyncio's transports for tasks),
httptools parses what comes (llhttp, the parser of Node.js), and between the two stand a list of idle connections and
one clock for an attempt. Both doors share the bytes of a request and the reading of an answer (`exchange`) and the way
through proxies (`route`), so that no server is right by one and broken by the other.

It was chosen by measuring (benchmarks/wire.py; November 2026, 2 cores, Python 3.11, medians of three, 1,000 answers of
221 KB, decoded by orjson in 0.27 ms of CPU each). Wall seconds, and milliseconds of CPU for a request:

    in flight, server's time     50, 50 ms     200, 100 ms   50, none
    ideal                        1.00          0.50          -
    this, one thread             1.10  0.49    0.65  0.46    0.43  0.42
    http.client, threads         1.10  0.69    1.05  1.18    0.87  0.97
    urllib3, threads             1.17  1.06    1.37  1.53    1.18  1.30
    httpx2, threads              1.89  1.89    2.53  2.63    1.88  1.99
    this, tasks                  1.08  0.49    0.65  0.48    0.48  0.48
    aiohttp, tasks               1.33  0.59    0.81  0.56    0.56  0.56
    httpx2, tasks                1.43  1.36    2.04  1.96    1.57  1.57

The others are bare here. With a thread for each request, this took 0.80 s at 200 in flight and 0.63 s where the server
takes no time. With what this does beside (an end that also holds against a trickling server, a cap on the body, no
warning of what lies idle), urllib3 took 1.55 s and 1.75 ms at 50. libcurl by pycurl was no faster in threads.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from multiembed.reactor.threads import ThreadReactor

if TYPE_CHECKING:
    from multiembed.reactor.contract import Reactor
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

    async def send(self, request: WireRequest, reactor: Reactor) -> WireReply | TransportFailure:
        """Send one request, by the connections of threads or of the running event loop."""
        if isinstance(reactor, ThreadReactor):
            if self._given is not None:
                from multiembed.wire.http import send

                return await reactor.aside(send, self._given, request)
            return await self._threads().send(request, reactor)
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
