"""Responses that end early, trickle or never end: the use of the socket is wrong."""

from __future__ import annotations

import asyncio
import itertools
import struct
import zlib
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.fault_injection.base import InjectedFault
from multiembed.simulator.fault_injection.faults import reset_after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from multiembed.simulator.connection import Connection
    from multiembed.simulator.fault_injection.base import Send
    from multiembed.simulator.messages import Answer

    Settings = Mapping[str, Any]

_MEGABYTE = bytes(1024 * 1024)
_GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
# The last block, with nothing in it.
_GZIP_LAST = b"\x03\x00"
_CLOSE = ("connection", "close")
_CHUNKED = ("transfer-encoding", "chunked")


def _head(answer: Answer, *headers: tuple[str, str]) -> bytes:
    lines = [f"{name}: {value}" for name, value in (*answer.headers, *headers)]
    return "\r\n".join([f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", *lines, "", ""]).encode()


def _length(answer: Answer) -> tuple[str, str]:
    return "content-length", str(len(answer.body))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _close_after(part: Callable[[Answer], bytes]) -> Send:
    """Send a part and then FIN; the server then closes the connection."""

    async def send(connection: Connection, answer: Answer, _settings: Settings) -> None:
        connection.writer.write(part(answer))
        await connection.writer.drain()

    return send


async def _close_quietly(connection: Connection, answer: Answer, _settings: Settings) -> None:
    await connection.send(answer)
    connection.writer.close()


def _trickle(first: Callable[[Answer], bytes], pieces: Callable[[Answer], Iterable[bytes]]) -> Send:
    """Send one piece each `interval` seconds until the client has gone."""

    async def send(connection: Connection, answer: Answer, settings: Settings) -> None:
        connection.writer.write(first(answer))
        for piece in pieces(answer):
            connection.writer.write(piece)
            await connection.writer.drain()
            await asyncio.sleep(settings["interval"])
            if connection.reader.at_eof():
                return

    return send


def _body_bytes(answer: Answer) -> Iterable[bytes]:
    """The body byte by byte, and then blanks."""
    return (_chunk(bytes([byte])) for byte in itertools.chain(answer.body, itertools.repeat(0x20)))


def _header_bytes(answer: Answer) -> Iterable[bytes]:
    """The head byte by byte, with a header that does not end."""
    return (bytes([byte]) for byte in itertools.chain(_head(answer)[:-2] + b"x-slow: ", itertools.repeat(0x2E)))


async def _endless_headers(connection: Connection, answer: Answer, _settings: Settings) -> None:
    connection.writer.write(_head(answer)[:-2])
    for number in itertools.count():
        connection.writer.write(b"x-filler-%d: %b\r\n" % (number, b"." * 1000))
        await connection.writer.drain()
        await asyncio.sleep(0)


async def _bomb(connection: Connection, answer: Answer, settings: Settings) -> None:
    """The same packed megabyte again and again, so that only the client needs memory for all of it."""
    writer = connection.writer
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # Behind a full flush the packer remembers nothing, so the next megabyte would be packed into the same bytes.
    packed = packer.compress(_MEGABYTE) + packer.flush(zlib.Z_FULL_FLUSH)
    writer.write(_head(answer, ("content-encoding", "gzip"), _CHUNKED, _CLOSE) + _chunk(_GZIP_HEAD))
    checksum = 0
    for _ in range(settings["megabytes"]):
        checksum = zlib.crc32(_MEGABYTE, checksum)
        writer.write(_chunk(packed))
        await writer.drain()
        await asyncio.sleep(0)
    size = settings["megabytes"] * len(_MEGABYTE)
    writer.write(_chunk(_GZIP_LAST + struct.pack("<II", checksum, size % 2**32)) + _chunk(b""))
    await writer.drain()


def _socket(name: str, description: str, send: Send, **more: Any) -> InjectedFault:
    return InjectedFault(name, description, "socket", send=send, **more)


_SLOWLY = MappingProxyType({"interval": 0.05})

SOCKETS = (
    _socket(
        "connection-closed",
        "The connection is closed before the answer.",
        _close_after(lambda _: b""),
        sends_status=False,
    ),
    _socket(
        "reset-in-headers",
        "The connection is reset in the middle of the headers.",
        reset_after(lambda answer: _half(_head(answer, _length(answer)))),
        sends_status=False,
    ),
    _socket(
        "reset-after-headers",
        "The connection is reset between headers and body.",
        reset_after(lambda answer: _head(answer, _length(answer))),
    ),
    _socket(
        "reset-in-body",
        "The connection is reset in the middle of the body.",
        reset_after(lambda answer: _head(answer, _length(answer)) + _half(answer.body)),
    ),
    _socket(
        "body-truncated",
        "The connection is closed in the middle of the body.",
        _close_after(lambda answer: _head(answer, _length(answer)) + _half(answer.body)),
    ),
    _socket(
        "chunk-truncated",
        "The connection is closed before the last of the body's chunks.",
        _close_after(lambda answer: _head(answer, _CHUNKED) + _chunk(_half(answer.body))),
    ),
    _socket(
        "keepalive-closed",
        "The connection is closed after a good answer, without a word of it in the headers.",
        _close_quietly,
        harmless=True,
    ),
    _socket(
        "keepalive-reset",
        "The connection is reset when it is used for another request.",
        reset_after(lambda _: b""),
        when=lambda occasion: occasion.reused,
        sends_status=False,
    ),
    _socket(
        "trickle-headers",
        "The headers come one byte each `interval` seconds and never end.",
        _trickle(lambda _: b"", _header_bytes),
        settings=_SLOWLY,
        sends_status=False,
    ),
    _socket(
        "trickle-body",
        "The body comes one byte each `interval` seconds and never ends.",
        _trickle(lambda answer: _head(answer, _CHUNKED), _body_bytes),
        settings=_SLOWLY,
    ),
    _socket("headers-endless", "The headers come fast and never end.", _endless_headers, sends_status=False),
    _socket(
        "not-http",
        "What comes is no HTTP.",
        _close_after(lambda _: b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        sends_status=False,
    ),
    _socket(
        "gzip-bomb",
        "A small body that unpacks to `megabytes` MB of zeros.",
        _bomb,
        when=lambda occasion: occasion.succeeds,
        settings=MappingProxyType({"megabytes": 512}),
    ),
)
