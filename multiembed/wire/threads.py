"""Sending from threads: blocking sockets, every attempt under one clock, and the connections that stay open."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from multiembed.wire.common import KEEP_ALIVE, TunnelRefusedError, broken, ready, ssl_context, timed_out, unsendable
from multiembed.wire.exchange import Answer, Tunnel, asking_for_tunnel, written
from multiembed.wire.route import Route, route_to

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.records import TransportFailure, WireReply, WireRequest

_MOST_KEPT = 200
_PIECE = 1 << 18
"""Bytes read at once. Every read gives the GIL away, and waits for it while another thread decodes."""
_ADDRESS_TIME = 5.0
"""Seconds for each of a host's addresses but the last, which has all the time that is left."""


class Pool:
    """The connections of one embedder's threads."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._idle: dict[Route, list[_Connection]] = {}
        self._closed = False

    def send(self, request: WireRequest) -> WireReply | TransportFailure:
        """One attempt, which ends within `request.timeout` seconds whatever the server does."""
        begun = time.monotonic()
        ends = begun + request.timeout
        route = self._routes.get(request.url) or self._routes.setdefault(request.url, route_to(request.url))
        data = written(request, route)
        answer = Answer(request.max_reply_bytes)
        connection = None
        try:
            connection = self._kept(route, ends) or _connect(route, ends)
            connection.exchange(data, answer)
            return answer.result(time.monotonic() - begun)
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
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    def _kept(self, route: Route, ends: float) -> _Connection | None:
        idle = self._idle.setdefault(route, [])
        while True:
            try:
                connection = idle.pop()
            except IndexError:
                return None
            if connection.fresh():
                connection.ends = ends
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

    The socket never blocks. What cannot be done at once is waited for in one place, which is also fewest system calls,
    and so fewest times that the GIL is given away.
    """

    def __init__(self, sock: socket.socket, ends: float) -> None:
        self.sock = sock
        self.ends = ends
        """When the attempt must be over."""
        self.kept_at = 0.0

    def exchange(self, data: bytes, answer: Answer) -> None:
        """Send, and read until the answer is over."""
        refused: OSError | None = None
        try:
            self.write(data)
        except (BrokenPipeError, ConnectionResetError) as error:  # it may have said why before it closed
            refused = error
        else:
            # Not read in vain first: no answer is there yet, and every system call gives the GIL away.
            self._wait(writing=False)
        room = _room.view
        while not answer.over:
            count = self.read_into(room)
            answer.feed(room[:count]) if count else answer.end(refused)
        if refused is not None:
            answer.end()

    def begin_tls(self, host: str) -> None:
        """Begin TLS on what has been in the open."""
        context = ssl_context()
        context.sslsocket_class = _TLSSocket
        sock = context.wrap_socket(self.sock, server_hostname=host, do_handshake_on_connect=False)
        self.sock = sock
        self._when_ready(sock.do_handshake)

    def write(self, data: bytes) -> None:
        """Send all."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._when_ready(self.sock.send, rest, writing=True) :]

    def read_into(self, room: memoryview) -> int:
        """Read what is there, at least one byte; none at the end."""
        return int(self._when_ready(self.sock.recv_into, room))

    def fresh(self) -> bool:
        """Whether it can carry another request: not too old, not closed by the server, and nothing came unasked."""
        if time.monotonic() - self.kept_at > KEEP_ALIVE:
            return False
        self.ends = 0.0  # reads what is there and does not wait
        try:
            self.read_into(memoryview(bytearray(1)))
        except TimeoutError:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Close it."""
        self.sock.close()

    def _when_ready(self, step: Callable[..., Any], *args: Any, writing: bool = False) -> Any:
        while True:
            try:
                return step(*args)
            except BlockingIOError:
                pass
            except ssl.SSLWantReadError:
                writing = False
            except ssl.SSLWantWriteError:
                writing = True
            self._wait(writing=writing)

    def _wait(self, *, writing: bool) -> None:
        seconds = self.ends - time.monotonic()
        if seconds <= 0 or not ready(self.sock, seconds, writing=writing):
            raise TimeoutError("the attempt's time is over")


class _TLSWithin(_Connection):
    """TLS within a TLS connection, which `ssl` does not do by itself: a server behind a proxy reached by https."""

    def __init__(self, outer: _Connection, host: str) -> None:
        super().__init__(outer.sock, outer.ends)
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = ssl_context().wrap_bio(self._came, self._goes, server_hostname=host)
        self._do(self._tls.do_handshake)

    def write(self, data: bytes) -> None:
        """Send all."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._do(self._tls.write, rest) :]

    def read_into(self, room: memoryview) -> int:
        """Read what is there."""
        try:
            return int(self._do(self._tls.read, len(room), room))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return 0

    def _do(self, step: Callable[..., Any], *args: Any) -> Any:
        room = memoryview(bytearray(_PIECE))
        while True:
            try:
                done, wants = step(*args), False
            except ssl.SSLWantReadError:
                done, wants = None, True
            super().write(self._goes.read())
            if not wants:
                return done
            count = super().read_into(room)
            self._came.write(room[:count]) if count else self._came.write_eof()


class _Socket(socket.socket):
    def __del__(self) -> None:
        self.close()  # an idle connection may be left to the collector, and is no leak to warn of


class _TLSSocket(ssl.SSLSocket):
    def __del__(self) -> None:
        self.close()


def _connect(route: Route, ends: float) -> _Connection:
    """A connection that reaches the server, by way of its proxy.

    Raises:
        OSError: it cannot be reached.
    """
    connection = _Connection(_dial(route.host, route.port, ends), ends)
    try:
        if route.tls:
            connection.begin_tls(route.host)
        if route.tunnel:
            answer = Tunnel()
            connection.exchange(asking_for_tunnel(route), answer)
            if not answer.open:
                raise TunnelRefusedError(answer.status)
            if route.tls:
                return _TLSWithin(connection, route.server)
            connection.begin_tls(route.server)
    except BaseException:
        connection.close()
        raise
    return connection


def _dial(host: str, port: int, ends: float) -> socket.socket:
    """A socket that is connected to the first of the host's addresses that answers."""
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in addresses[:-1]:
        with suppress(OSError):
            return _connected(family, kind, protocol, address, min(ends, time.monotonic() + _ADDRESS_TIME))
    family, kind, protocol, _, address = addresses[-1]
    return _connected(family, kind, protocol, address, ends)


def _connected(family: int, kind: int, protocol: int, address: Any, ends: float) -> socket.socket:
    sock = _Socket(family, kind, protocol)
    try:
        sock.settimeout(max(0.001, ends - time.monotonic()))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.connect(address)
        sock.setblocking(False)  # noqa: FBT003
    except BaseException:
        sock.close()
        raise
    return sock
