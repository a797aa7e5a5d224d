"""Sending from threads: sockets that a reactor waits for, every attempt under one clock, and what stays open."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from multiembed.address import is_number
from multiembed.wire.common import KEEP_ALIVE, TunnelRefusedError, broken, readable, ssl_context, timed_out, unsendable
from multiembed.wire.exchange import Answer, Tunnel, Writer, asking_for_tunnel

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.reactor.threads import ThreadReactor
    from multiembed.records import TransportFailure, WireReply, WireRequest
    from multiembed.wire.route import Route

_MOST_KEPT = 200
_PIECE = 1 << 18
"""Bytes read at once: most answers whole."""
_ADDRESS_TIME = 5.0
"""Seconds for each of a host's addresses but the last, which has all the time that is left."""


class Pool:
    """The connections of one embedder's threads."""

    def __init__(self) -> None:
        self._writer = Writer()
        self._idle: dict[Route, list[_Connection]] = {}
        self._closed = False

    async def send(self, request: WireRequest, reactor: ThreadReactor) -> WireReply | TransportFailure:
        """One attempt, which ends within `request.timeout` seconds whatever the server does."""
        begun = time.monotonic()
        ends = begun + request.timeout
        route, data = self._writer.write(request)
        answer = Answer(request.max_reply_bytes)
        connection = None
        try:
            connection = self._kept(route, fresh=request.fresh) or await _connect(route, reactor, ends)
            connection.reactor, connection.ends = reactor, ends
            await connection.exchange(data, answer)
            return answer.result(time.monotonic() - begun, reused=connection.kept_at > 0.0)
        except OSError as error:
            return timed_out(request) if time.monotonic() >= ends else broken(error)
        except ValueError:  # a host that is no name
            pass  # told below, outside of this block, so that the library's words are no context of ours
        finally:
            if connection is not None:
                self._keep(route, connection) if answer.reusable else connection.close()
        raise unsendable()

    def close(self) -> None:
        """Close all idle connections; those in use are closed when their answer is there."""
        self._closed = True
        self._writer = Writer()  # the last one knows a key
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _kept(self, route: Route, *, fresh: bool) -> _Connection | None:
        idle = self._idle.setdefault(route, [])
        while True:
            try:
                connection = idle.pop()
            except IndexError:
                return None
            if not fresh and connection.fresh():
                return connection
            connection.close()

    def _keep(self, route: Route, connection: _Connection) -> None:
        idle = self._idle[route]
        if self._closed or len(idle) >= _MOST_KEPT:
            connection.close()
        else:
            connection.kept_at = time.monotonic()
            idle.append(connection)


class _Room(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(_PIECE))


_room = _Room()


class _Connection:
    """A socket under a clock: a socket's own timeout would begin anew with every byte.

    The socket never blocks. What cannot be done at once is waited for in one place.
    """

    def __init__(self, sock: socket.socket, reactor: ThreadReactor, ends: float) -> None:
        self.sock = sock
        self.reactor = reactor
        """Of the request that it carries."""
        self.ends = ends
        """When the attempt must be over."""
        self.kept_at = 0.0

    async def open(self, address: Any) -> None:
        """Connect."""
        try:
            self.sock.connect(address)
        except BlockingIOError:
            await self._wait(writing=True)
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    async def exchange(self, data: bytes, answer: Answer) -> None:
        """Send, and read until the answer is over."""
        refused: OSError | None = None
        try:
            await self.write(data)
        except (BrokenPipeError, ConnectionResetError) as error:  # it may have said why before it closed
            refused = error
        else:
            await self._wait(writing=False)  # not read in vain first: no answer is there yet
        room = _room.view
        while not answer.over:
            count = await self.read_into(room)
            answer.feed(room[:count]) if count else answer.end(refused)
            if not answer.over:
                self._check()  # a server that sends without end is never waited for
        if refused is not None:
            answer.end()

    async def begin_tls(self, host: str) -> None:
        """Begin TLS on what has been in the open."""
        context = ssl_context()
        context.sslsocket_class = _TLSSocket
        sock = context.wrap_socket(self.sock, server_hostname=host, do_handshake_on_connect=False)
        self.sock = sock
        await self._when_ready(sock.do_handshake)

    async def write(self, data: bytes) -> None:
        """Send all."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self._when_ready(self.sock.send, rest, writing=True) :]

    async def read_into(self, room: memoryview) -> int:
        """Read what is there, at least one byte; none at the end."""
        return int(await self._when_ready(self.sock.recv_into, room))

    def fresh(self) -> bool:
        """Whether it can carry another request: not too old, not closed by the server, and nothing came unasked."""
        if time.monotonic() - self.kept_at > KEEP_ALIVE:
            return False
        if not self._something_came():
            return True
        self.ends = 0.0  # reads what is there and does not wait
        try:
            self.read_into(memoryview(bytearray(1))).send(None)
        except TimeoutError:
            return True
        except (OSError, StopIteration):
            pass
        return False

    def close(self) -> None:
        """Close it."""
        self.sock.close()

    def _something_came(self) -> bool:
        """Whether there are bytes to read, which TLS may have sent for itself, or the connection's end.

        OpenSSL holds none back: it takes one record at a time, and each was read whole into a larger room.
        """
        return readable(self.sock)

    async def _when_ready(self, step: Callable[..., Any], *args: Any, writing: bool = False) -> Any:
        while True:
            try:
                return step(*args)
            except BlockingIOError:
                pass
            except ssl.SSLWantReadError:
                writing = False
            except ssl.SSLWantWriteError:
                writing = True
            await self._wait(writing=writing)

    async def _wait(self, *, writing: bool) -> None:
        self._check()
        wait = self.reactor.writable if writing else self.reactor.readable
        if not await wait(self.sock, self.ends):
            raise TimeoutError("the attempt's time is over")

    def _check(self) -> None:
        if self.ends <= time.monotonic():
            raise TimeoutError("the attempt's time is over")


class _TLSWithin(_Connection):
    """TLS within a TLS connection, which `ssl` does not do by itself: a server behind a proxy reached by https."""

    def __init__(self, outer: _Connection, host: str) -> None:
        super().__init__(outer.sock, outer.reactor, outer.ends)
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = ssl_context().wrap_bio(self._came, self._goes, server_hostname=host)

    async def shake_hands(self) -> None:
        """Begin TLS."""
        await self._do(self._tls.do_handshake)

    async def write(self, data: bytes) -> None:
        """Send all."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self._do(self._tls.write, rest) :]

    async def read_into(self, room: memoryview) -> int:
        """Read what is there."""
        try:
            data = await self._do(self._tls.read, len(room))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0
        room[: len(data)] = data  # only now: others may have read into it while this one waited
        return len(data)

    def _something_came(self) -> bool:
        return self._came.pending > 0 or super()._something_came()

    async def _do(self, step: Callable[..., Any], *args: Any) -> Any:
        room = memoryview(bytearray(_PIECE))
        while True:
            try:
                done, wants = step(*args), False
            except ssl.SSLWantReadError:
                done, wants = None, True
            await super().write(self._goes.read())
            if not wants:
                return done
            count = await super().read_into(room)
            self._came.write(room[:count]) if count else self._came.write_eof()


class _Socket(socket.socket):
    def __del__(self) -> None:
        with suppress(AttributeError):  # it could not be made at all
            self.close()  # an idle connection may be left to the collector, and is no leak to warn of


class _TLSSocket(ssl.SSLSocket):
    def __del__(self) -> None:
        self.close()


async def _connect(route: Route, reactor: ThreadReactor, ends: float) -> _Connection:
    """A connection that reaches the server, by way of its proxy.

    Raises:
        OSError: it cannot be reached.
    """
    connection = await _dial(route.host, route.port, reactor, ends)
    try:
        if route.tls:
            await connection.begin_tls(route.host)
        if route.tunnel:
            answer = Tunnel()
            await connection.exchange(asking_for_tunnel(route), answer)
            if not answer.open:
                raise TunnelRefusedError(answer.status)
            if route.tls:
                inner = _TLSWithin(connection, route.server)
                await inner.shake_hands()
                return inner
            await connection.begin_tls(route.server)
    except BaseException:
        connection.close()
        raise
    return connection


async def _dial(host: str, port: int, reactor: ThreadReactor, ends: float) -> _Connection:
    """A connection to the first of the host's addresses that answers."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    addresses = look_up() if is_number(host) else await reactor.aside(look_up, ends=ends)
    for address in addresses[:-1]:
        with suppress(OSError):
            connection = await _connected(address, reactor, min(ends, time.monotonic() + _ADDRESS_TIME))
            connection.ends = ends  # what follows, TLS for instance, has all the time that is left
            return connection
    return await _connected(addresses[-1], reactor, ends)


async def _connected(info: Any, reactor: ThreadReactor, ends: float) -> _Connection:
    family, kind, protocol, _, address = info
    connection = _Connection(_Socket(family, kind, protocol), reactor, ends)
    try:
        connection.sock.setblocking(False)  # noqa: FBT003
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await connection.open(address)
    except BaseException:
        connection.close()
        raise
    return connection
