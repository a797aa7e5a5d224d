"""Sending from tasks, by asyncio's own connections: kept open for an event loop, closed when the loop ends."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

from multiembed.address import is_number
from multiembed.wire.common import KEEP_ALIVE, TunnelRefusedError, broken, readable, ssl_context, timed_out, unsendable
from multiembed.wire.exchange import Answer, Tunnel, Writer, asking_for_tunnel

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from multiembed.records import TransportFailure, WireReply, WireRequest
    from multiembed.wire.route import Route

_FREE = 4 << 20


class LoopSession:
    """The connections of one event loop, for all embedders in it.

    They are held by a started async generator, because a loop closes those when it shuts down. They belong to the
    loop and not to an embedder: one that is dropped while its loop ends could no longer close them.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._keeper: AsyncGenerator[None, None] | None = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._writer = Writer()
        self._idle: dict[Route, list[_Connection]] = {}
        self._open: set[_Connection] = set()

    async def send(self, user: object, request: WireRequest) -> WireReply | TransportFailure:
        """One attempt, which ends within `request.timeout` seconds whatever the server does."""
        begun = time.monotonic()
        self._users.add(user)
        route, data = self._writer.write(request)
        answer = Answer(request.max_reply_bytes)
        if self._keeper is None:
            self._keeper = self._keep_until_the_end()
            await anext(self._keeper)
        connection = None
        try:
            async with asyncio.timeout(request.timeout):
                connection = self._kept(route, fresh=request.fresh) or await self._connect(route, request.timeout)
                await connection.exchange(data, answer)
            return answer.result(time.monotonic() - begun, reused=connection.kept_at > 0.0)
        except OSError as error:
            return timed_out(request) if time.monotonic() - begun >= request.timeout else broken(error)
        except ValueError:  # a host that is no name
            pass  # told below, outside of this block, so that the library's words are no context of ours
        finally:
            if connection is not None:
                self._keep(route, connection) if answer.reusable else connection.abort()
        raise unsendable()

    async def leave(self, user: object) -> None:
        """One embedder is done; with the last one, the connections are closed."""
        self._users.discard(user)
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """Close all connections; a later request opens new ones."""
        self._writer = Writer()  # the last one knows a key
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.aclose()

    async def _keep_until_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if os.getpid() == self._pid:  # else the parent of this process goes on with them
                self._idle.clear()
                leaving = [connection.lost for connection in self._open]
                for connection in list(self._open):
                    connection.abort()
                if leaving:
                    await asyncio.wait(leaving)

    def _kept(self, route: Route, *, fresh: bool) -> _Connection | None:
        idle = self._idle.setdefault(route, [])
        while idle:
            connection = idle.pop()
            if not fresh and connection.fresh():
                return connection
            connection.abort()
        return None

    def _keep(self, route: Route, connection: _Connection) -> None:
        if connection in self._open and connection.all_sent:
            connection.kept_at = time.monotonic()
            self._idle.setdefault(route, []).append(connection)
        else:
            connection.abort()

    async def _connect(self, route: Route, seconds: float) -> _Connection:
        """A connection that reaches the server, by way of its proxy.

        Raises:
            OSError: it cannot be reached.
        """
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {}
        # uvloop does not know it. A number is one address, and asyncio's race (3.11.7) leaves a task behind when it is
        # cancelled, and a socket open.
        if isinstance(loop, asyncio.BaseEventLoop) and not is_number(route.host):
            options["happy_eyeballs_delay"] = 0.25
        if route.tls:
            options |= {"ssl": ssl_context(), "server_hostname": route.host, "ssl_handshake_timeout": seconds}
        _, connection = await loop.create_connection(lambda: _Connection(self._open), route.host, route.port, **options)
        if route.tunnel:
            try:
                answer = Tunnel()
                await connection.exchange(asking_for_tunnel(route), answer)
                if not answer.open:
                    raise TunnelRefusedError(answer.status)
                await connection.begin_tls(route.server, seconds)
            except BaseException:
                connection.abort()
                raise
        return connection


class _Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    transport: asyncio.Transport

    def __init__(self, family: set[_Connection]) -> None:
        loop = asyncio.get_running_loop()
        self.kept_at = 0.0
        self.lost: asyncio.Future[None] = loop.create_future()
        self._loop = loop
        self._open = family
        self._answer: Answer | None = None
        self._over: asyncio.Future[None] | None = None

    async def exchange(self, data: bytes, answer: Answer) -> None:
        """Send, and wait until the answer is over."""
        self._answer, self._over = answer, self._loop.create_future()
        try:
            self.transport.write(data)
            await self._over
        finally:
            self._answer = self._over = None

    async def begin_tls(self, host: str, seconds: float) -> None:
        """Begin TLS in what is a tunnel now."""
        begun = await self._loop.start_tls(
            self.transport, self, ssl_context(), server_hostname=host, ssl_handshake_timeout=seconds
        )
        if begun is None:
            raise ConnectionResetError("the tunnel was closed")
        self.transport = begun

    def fresh(self) -> bool:
        """Whether it can carry another request: not too old, not closed by the server, and nothing came unasked.

        The loop may have been held up since: what came in that time it has not yet seen.
        """
        if self.transport.is_closing() or time.monotonic() - self.kept_at > KEEP_ALIVE:
            return False
        return not readable(self.transport.get_extra_info("socket"))

    def abort(self) -> None:
        """Close it, whatever was still to be sent."""
        self.transport.abort()

    @property
    def all_sent(self) -> bool:
        """Whether the request has left: a server may answer before it has read it."""
        return not self.transport.is_closing() and not self.transport.get_write_buffer_size()

    # ── what the loop calls ──────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nothing was asked
            self.abort()
        elif self._answer.feed(data):
            self._wake()

    def eof_received(self) -> None:
        if self._answer is not None:
            self._answer.end()
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._open.discard(self)
        if self._answer is not None:
            self._answer.end(error if isinstance(error, OSError) else None)
            self._wake()
        if not self.lost.done():
            self.lost.set_result(None)

    def _wake(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


@functools.cache
def _keep_memory() -> None:
    """Have the C library keep a few megabytes that are free, once and for all.

    Answers of 200 KB come and go by the dozen in one step of a loop. glibc gives the system back what is free at the
    end of its heap, beyond twice the largest piece that it has seen go, and asks for it again with the next answers:
    50 page faults a request, and an eighth of a call's time (mallopt(3), M_MMAP_THRESHOLD, 2026-11-21). Other libraries
    take no notice.
    """
    bytes(_FREE)  # neither filled nor kept


_sessions: dict[tuple[int, asyncio.AbstractEventLoop], LoopSession] = {}
"""By process, too: a forked child may go on with its parent's loop, and would read the parent's answers."""


def session_of(loop: asyncio.AbstractEventLoop) -> LoopSession:
    """The loop's session, made when it is first asked for."""
    here = os.getpid(), loop
    session = _sessions.get(here)
    if session is None:
        _forget_closed_loops()
        _keep_memory()
        session = _sessions[here] = LoopSession()
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
    for pid, loop in list(_sessions):
        if pid == os.getpid() and loop.is_closed():
            _sessions.pop((pid, loop), None)
