"""Sending from tasks, by aiohttp: one session for an event loop, closed when the loop ends."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import io
import time
import weakref
from typing import TYPE_CHECKING

import aiohttp

from multiembed.records import WireReply
from multiembed.wire.common import (
    HEADERS,
    KEEP_ALIVE,
    Body,
    broken,
    proxy_for,
    ssl_context,
    timed_out,
    too_large,
    unsendable,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from multiembed.records import TransportFailure, WireRequest


_LARGE = 1 << 20
"""Bytes from which a body is handed over in pieces, so that the loop stays free."""


class LoopSession:
    """The connections of one event loop, for all embedders in it.

    The session is held by a started async generator, because a loop closes those when it shuts down. It belongs to the
    loop and not to an embedder: one that is dropped while its loop ends could no longer close it.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._keeper: AsyncGenerator[aiohttp.ClientSession, None] | None = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._proxies: dict[str, str | None] = {}

    async def send(self, user: object, request: WireRequest) -> WireReply | TransportFailure:
        """One attempt, which ends within `request.timeout` seconds whatever the server does."""
        begun = time.monotonic()
        self._users.add(user)
        if request.url not in self._proxies:
            self._proxies[request.url] = proxy_for(request.url)
        session = self._session
        if session is None:
            self._keeper = _keep()
            session = self._session = await anext(self._keeper)
        try:
            async with (
                asyncio.timeout(request.timeout),
                session.post(
                    request.url,
                    data=request.body if len(request.body) < _LARGE else io.BytesIO(request.body),
                    headers=request.headers,
                    proxy=self._proxies[request.url],
                    allow_redirects=False,
                ) as response,
            ):
                return await _read(response, request, begun)
        except TimeoutError:
            return timed_out(request)
        except aiohttp.InvalidURL:
            pass  # told below, outside of this block, so that the library's words are no context of ours
        except (aiohttp.ClientError, OSError) as error:  # ahead of ValueError, which a bad certificate also is
            return broken(error)
        except ValueError:
            pass
        raise unsendable()

    async def leave(self, user: object) -> None:
        """One embedder is done; with the last one, the connections are closed."""
        self._users.discard(user)
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        keeper, self._keeper, self._session = self._keeper, None, None
        if keeper is not None:
            await keeper.aclose()

    def forget(self) -> None:
        """Let go of connections whose loop is closed: nothing can be awaited there any more.

        The sockets are left to the collector, and aiohttp does not report them as an error.
        """
        session, self._session = self._session, None
        connector = session.connector if session is not None and not session.closed else None
        if session is not None and connector is not None:
            session.detach()
            with contextlib.suppress(StopIteration):
                next(connector.close().__await__())


_sessions: dict[asyncio.AbstractEventLoop, LoopSession] = {}


def session_of(loop: asyncio.AbstractEventLoop) -> LoopSession:
    """The loop's session, made when it is first asked for."""
    session = _sessions.get(loop)
    if session is None:
        _forget_closed_loops()
        session = _sessions[loop] = LoopSession()
        _close_with(loop, session)
    return session


def _close_with(loop: asyncio.AbstractEventLoop, session: LoopSession) -> None:
    """Close the session also in a loop that is closed without shutting down, as LlamaIndex's `asyncio_run` does it."""
    close = loop.close

    def close_both() -> None:
        if not loop.is_closed() and not loop.is_running():
            loop.run_until_complete(session.close())
        close()

    with contextlib.suppress(AttributeError):  # a loop written in C takes no attribute
        loop.close = close_both  # type: ignore[method-assign]


@atexit.register
def _forget_closed_loops() -> None:
    for loop in [loop for loop in list(_sessions) if loop.is_closed()]:
        session = _sessions.pop(loop, None)
        if session is not None:
            session.forget()


async def _keep() -> AsyncGenerator[aiohttp.ClientSession, None]:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=ssl_context(), keepalive_timeout=KEEP_ALIVE),
        headers=HEADERS,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the attempt as a whole has one
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )
    try:
        yield session
    finally:
        await session.close()


async def _read(response: aiohttp.ClientResponse, request: WireRequest, begun: float) -> WireReply | TransportFailure:
    headers = {name.lower(): value for name, value in response.headers.items()}
    if (response.content_length or 0) > request.max_reply_bytes:
        return too_large(request.max_reply_bytes)
    body = Body(headers.get("content-encoding", ""), request.max_reply_bytes)
    async for data in response.content.iter_any():
        failure = body.add(data)
        if failure is not None:
            response.close()
            return failure
    whole = body.whole()
    if not isinstance(whole, bytes):
        return whole
    return WireReply(response.status, headers, whole, time.monotonic() - begun)
