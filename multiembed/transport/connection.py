"""Checks of kept connections (keep-alive), which aiohttp does not make, through its documented parameters.

aiohttp sends a request on any connection that it holds for open, and does not report whether a connection that died had
delivered the first byte of a response. `request_class` lets us look at a connection before it is used.
"""

from __future__ import annotations

import asyncio
import select
import socket
import time
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

if TYPE_CHECKING:
    from aiohttp.connector import AddrInfoType, Connection


class KeptConnections:
    """The kept connections of one server. Those of an earlier generation are not used any more."""

    generation = 0


class Watch(asyncio.Protocol):
    """Protocol between a connection and aiohttp's protocol, which reports to the attempt when bytes arrive."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, generation: int) -> None:
        self.transport = transport
        self.generation = generation
        self.attempt: Attempt | None = None
        """The attempt under way. aiohttp may give the connection to the next one before the task of the last one has
        noticed that its response is whole."""
        self._protocol = protocol
        for name in ("eof_received", "connection_lost", "pause_writing", "resume_writing"):
            setattr(self, name, getattr(protocol, name))

    def data_received(self, data: bytes) -> None:
        """Pass data on; close the connection if no request is under way."""
        if self.attempt is None:
            self.transport.abort()
        else:
            self.attempt.is_answered = True
            self._protocol.data_received(data)


@dataclass(slots=True, eq=False)
class Attempt:
    """One request on one connection."""

    kept: KeptConnections
    fresh: bool
    """Whether to refuse all kept connections."""
    reused: bool = False
    """Whether the connection had carried a request before."""
    is_answered: bool = False
    """Whether a byte has arrived since the request was sent."""
    address: str = ""
    """The server's address, of a new connection."""
    started: float = 0.0
    """When sending began (monotonic)."""
    watch: Watch | None = None
    """None until something was sent."""
    sockets: list[socket.socket] = field(default_factory=list)

    def attach(self, connection: Connection) -> None:
        """Take the connection that the request is about to be sent on.

        Raises:
            ConnectionResetError: it is a kept one that must not be used, or a new one that was closed at once.
        """
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            raise ConnectionResetError("the connection was closed at once")
        watch = transport.get_protocol()
        if isinstance(watch, Watch):
            self.reused = True
            # `should_close`: an unrequested response was parsed. Buffered: the last request was answered before all of
            # it was sent. Readable: the loop has not yet read an unrequested response or the end of the connection.
            if (
                self.fresh
                or watch.generation < self.kept.generation
                or protocol.should_close
                or transport.get_write_buffer_size()
                or _is_readable(transport)
            ):
                transport.abort()
                raise ConnectionResetError("the kept connection is stale")
        else:
            watch = Watch(transport, protocol, self.kept.generation)
            transport.set_protocol(watch)
            self.address = (transport.get_extra_info("peername") or ("",))[0]
        watch.attempt = self
        self.watch = watch
        self.started = time.monotonic()

    def finish(self, *, is_whole: bool) -> None:
        """Give the connection back, or close it at once unless the response is whole and the request was all sent.

        aiohttp would first wait until the server has read what was written.
        """
        if self.watch is not None and self.watch.attempt is self:
            self.watch.attempt = None
            if not is_whole or self.watch.transport.get_write_buffer_size():
                self.watch.transport.abort()
        # asyncio leaves a connection open that is cancelled as TLS begins (Python 3.11.7), until its socket ends.
        for each in () if is_whole else self.sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


current_attempt: ContextVar[Attempt] = ContextVar("current_attempt")
"""The attempt of this task and the tasks that it starts."""


def make_socket(address: AddrInfoType) -> socket.socket:
    """Make a socket for aiohttp, noted for the attempt that it is for."""
    made = socket.socket(*address[:3])
    current_attempt.get().sockets.append(made)
    return made


class Request(aiohttp.ClientRequest):
    """A request that looks at its connection before it is sent."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        """Send the request."""
        if self.method == "POST":  # not the one for a proxy's tunnel
            current_attempt.get().attach(conn)
        return await super().send(conn)


def _is_readable(transport: asyncio.Transport) -> bool:
    """Return whether a transport's socket has data, or has reached its end."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    if not hasattr(select, "poll"):  # Windows, where `select` takes any socket
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()  # takes 2 us, a selector of `selectors` 8
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))
