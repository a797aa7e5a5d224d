"""Bodies of responses, which never grow above the cap."""

from __future__ import annotations

import zlib

from multiembed.transport.failures import BROKEN_COMPRESSION, too_large
from multiembed.transport.types import TransportFailure


class Body:
    """A response's body as it arrives.

    Args:
        max_bytes: the cap on what arrives, and on what that unpacks to.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> TransportFailure | None:
        """Take a piece. Returns a failure if the body is too large."""
        self._parts.append(data)
        self._size += len(data)
        return too_large(self._max_bytes) if self._size > self._max_bytes else None

    def whole(self, encoding: str = "") -> bytes | TransportFailure:
        """The body after its last piece, unpacked by the value of Content-Encoding.

        Packings other than gzip and deflate are not asked for; a body that has one is taken as it is, and then fails as
        JSON.
        """
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        coding = encoding.strip().lower()
        return _unpack(data, coding, self._max_bytes) if coding in ("gzip", "x-gzip", "deflate") else data


def _unpack(data: bytes, coding: str, max_bytes: int) -> bytes | TransportFailure:
    """Unpack a body. No more than one byte above the cap is unpacked."""
    body = Body(max_bytes)
    while data:
        unpacker = zlib.decompressobj(_window_bits(data, coding))
        try:
            failure = body.add(unpacker.decompress(data, max_bytes + 1 - body._size))
        except zlib.error:
            return BROKEN_COMPRESSION
        if failure is not None:
            return failure
        if not unpacker.eof:
            return TransportFailure("malformed", "the answer's compression breaks off")
        data = unpacker.unused_data.lstrip(b"\0")  # padding between or after members, as gzip(1) accepts it
        if unpacker.unused_data and coding == "deflate":  # only gzip may have several members (RFC 1952, 2.2)
            return BROKEN_COMPRESSION
    return body.whole()


def _window_bits(data: bytes, coding: str) -> int:
    """What zlib calls the format of a packed body."""
    if coding != "deflate":
        return 31  # gzip
    # RFC 1950, 2.2: compression method 8, and both bytes divisible by 31. Some servers send the raw stream.
    return 15 if data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0 else -15
