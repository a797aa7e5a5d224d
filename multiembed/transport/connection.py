"""What aiohttp is extended by, through its documented parameters: a request that knows its connection, and its body.

aiohttp sends a request on any connection that it holds for open. `request_class` lets us look at the connection first.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.payload import Payload

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import AddrInfoType, Connection


class StaleConnectionError(Exception):
    """The kept connection was closed by the server, or something came on it unasked. Nothing has been sent."""


class UnansweredError(Exception):
    """The kept connection ended before any byte of an answer. The request was not processed."""


class Watch(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol, and knows whether anything was received.

    aiohttp does not say whether a connection died before or after the first byte of an answer.
    """

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        self.transport = transport
        self._protocol = protocol
        for name in ("eof_received", "connection_lost", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(protocol, name))
        self.owner: Upload | None = None
        """The attempt under way. aiohttp may give the connection to the next one before the task of the last one has
        noticed that its answer is whole."""
        self.has_received = False

    def data_received(self, data: bytes) -> None:
        """Pass data on; close the connection if nothing was asked."""
        self.has_received = True
        if self.owner is None:
            self.transport.abort()
        else:
            self._protocol.data_received(data)


class Upload(Payload):
    """The body of one attempt, and what becomes known of its connection.

    Args:
        body: what to send. aiohttp's own payload for bytes warns above 1 MiB.
        connected: called with the server's address when a new connection is used for the first time.
    """

    def __init__(self, body: bytes, connected: Callable[[str], None]) -> None:
        super().__init__(body)
        self._size = len(body)
        self._connected = connected
        self.reused = False
        """The connection had carried a request before."""
        self.started = 0.0
        """When sending began (monotonic)."""
        self._watch: Watch | None = None
        self._is_written = False
        self._sockets: list[socket.socket] = []
        _sockets.set(self._sockets)

    def attach(self, connection: Connection) -> None:
        """Take the connection that the request is about to be sent on.

        Raises:
            StaleConnectionError: it is a kept one and must not be used.
            ConnectionResetError: it is a new one and was closed at once.
        """
        self._sockets.clear()
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            raise ConnectionResetError("the connection was closed at once")
        watch = transport.get_protocol()
        if isinstance(watch, Watch):
            self.reused = True
            # `should_close`: an answer that nothing asked for has been read already. Buffered: the last request was
            # answered before all of it was sent. Readable: an answer that nothing asked for lies in the socket, or the
            # server's end of the connection does, and the loop has not come to it yet.
            if protocol.should_close or transport.get_write_buffer_size() or _is_readable(transport):
                transport.abort()
                raise StaleConnectionError
        else:
            watch = Watch(transport, protocol)
            transport.set_protocol(watch)
            peer = transport.get_extra_info("peername")
            if peer:
                self._connected(peer[0])
        watch.owner, watch.has_received = self, False
        self._watch = watch
        self.started = time.monotonic()

    @property
    def is_unanswered(self) -> bool:
        """Not a byte has come since the request was sent."""
        return self._watch is not None and not self._watch.has_received

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body."""
        await writer.write(self._value)
        self._is_written = True

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text, which aiohttp's interface demands."""
        return bytes(self._value).decode(encoding, errors)

    def finish(self) -> None:
        """The answer is whole. The connection is of no more use if the server gave it before it had all of the body."""
        watch = self._watch
        if watch is None or watch.owner is not self:
            return
        if self._is_written and not watch.transport.get_write_buffer_size():
            watch.owner = None
        else:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once: aiohttp would first wait until the server has read what was written."""
        if self._watch is not None and self._watch.owner is self:
            self._watch.transport.abort()
        # A connection whose TLS or tunnel is not ready yet. asyncio leaves it open if it is cancelled as TLS begins
        # (Python 3.11.7), and closes it when the socket is at its end.
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


_sockets: ContextVar[list[socket.socket]] = ContextVar("_sockets")
"""The sockets that were opened for the attempt of this task and the tasks that it starts."""


def make_socket(address: AddrInfoType) -> socket.socket:
    """A socket for aiohttp, noted for the attempt that it is for."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    _sockets.get().append(made)
    return made


class Request(aiohttp.ClientRequest):
    """A request that looks at its connection before it is sent."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send the request."""
        if isinstance(self.body, Upload):
            self.body.attach(conn)
        return await super().send(conn)


def _is_readable(transport: asyncio.Transport) -> bool:
    """Whether something can be read from a transport's socket now, its end included."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock.fileno()], [], [], 0)[0])  # Windows, where it takes any socket
