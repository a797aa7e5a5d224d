"""Response bodies under the response cap, which also holds while they are decompressed."""

from __future__ import annotations

import zlib

BROKEN_COMPRESSION = "the response's compression is broken"


class BodyError(Exception):
    """A body larger than the response cap, or with broken compression."""


class Body:
    """A response's body as it arrives, under the response cap of `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.size = 0
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> None:
        """Append data.

        Raises:
            BodyError: the body is larger than the cap.
        """
        self.size += len(data)
        if self.size > self._max_bytes:
            raise BodyError(f"the response is larger than {self._max_bytes:,} bytes")
        self._parts.append(data)

    def join(self) -> bytes:
        """Return the whole body."""
        return b"".join(self._parts)


def decompress(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress a body of the Content-Encoding gzip or deflate; return one of another encoding as it is.

    Raises:
        BodyError: the result is larger than `max_bytes`, or the compression is broken.
    """
    encoding = encoding.strip().lower()
    if encoding not in ("gzip", "x-gzip", "deflate"):
        return data
    body = Body(max_bytes)
    while data:
        # RFC 1950, 2.2: compression method 8, and both bytes divisible by 31. Some servers send the raw deflate stream.
        is_zlib = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
        decompressor = zlib.decompressobj(31 if encoding != "deflate" else 15 if is_zlib else -15)
        try:
            body.add(decompressor.decompress(data, max_bytes + 1 - body.size))
        except zlib.error:
            raise BodyError(BROKEN_COMPRESSION) from None
        if not decompressor.eof or (decompressor.unused_data and encoding == "deflate"):
            raise BodyError(BROKEN_COMPRESSION)  # only gzip may have several members (RFC 1952, 2.2)
        data = decompressor.unused_data.lstrip(b"\0")  # padding between or after members, as gzip(1) accepts it
    return body.join()
