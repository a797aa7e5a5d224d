"""Vector extraction: takes the vectors out of the bytes of a response, and reads them without making Python floats.

They are nearly all of the response. With the extra "fast", simdjson reads the numbers; else orjson, slower.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pybase64

try:
    import simdjson
except ImportError:
    simdjson = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from multiembed.providers.types import DecodedItem

_KEY = b'"embedding"'
"""Name of a vector in every API format. A format with another name is parsed as a whole."""
_VALUE = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*([\["])')
_CLOSING = {b"[": b"]", b'"': b'"'}
_MAX_SIMDJSON_BYTES = 2**20
"""JSON text of a vector that simdjson may read: its parsers keep several times as much memory."""
_NUL = b"\\u0000"


def extract_vectors(body: bytes) -> tuple[bytes, dict[str, memoryview]] | None:
    """Take the vectors out of a response body.

    Whether the rest is JSON is not checked. If it is, then each mark stands for a whole value: the quote before the
    colon follows a letter, so it ends or opens a string, and if it opened one, a bare word would stand before it.
    Whether the vectors are JSON is not checked either, before `parse_vector` reads each of them.

    Returns:
        The JSON text with a mark in the position of each vector; and by mark, the JSON text of the vector, from its
        first bracket or quote to the next. These are views, because copies of all of them would allocate and free that
        memory with each response. None if the body holds no vectors, or none that can be found in the bytes alone.
    """
    parts: list[bytes] = []
    vectors: list[memoryview] = []
    view = memoryview(body)
    done = at = 0
    while (at := body.find(_KEY, at)) >= 0:
        at += len(_KEY)
        value = _VALUE.match(body, at)
        if value is None:
            continue
        start = value.start(1)
        at = body.find(_CLOSING[value[1]], start + 1) + 1
        if not at:
            return None
        parts += body[done:start], b'"%b%d"' % (_NUL, len(vectors))
        vectors.append(view[start:at])
        done = at
    rest = b"".join((*parts, body[done:]))
    # A response with such a character of its own could hold what looks like a mark.
    if not vectors or rest.count(_NUL) != len(vectors):
        return None
    return rest, {f"\0{number}": vector for number, vector in enumerate(vectors)}


def attach_vectors(items: Sequence[DecodedItem], vectors: dict[str, memoryview]) -> None:
    """Replace the marks in the items by their vectors, as views of JSON.

    Raises:
        ValueError: marks and items do not match.
    """
    left: dict[Any, memoryview] = dict(vectors)
    try:
        for item in items:
            item.dense = left.pop(item.dense)
    except (KeyError, TypeError):
        raise ValueError("an item has no extracted vector") from None
    if left:
        raise ValueError("an extracted vector belongs to no item")


def parse_vector(text: bytes | memoryview) -> NDArray[Any]:
    """Read the JSON text of a vector: float64 from numbers, float32 from base64.

    Raises:
        ValueError: the text is not a plain list of numbers, or not base64 of float32.
    """
    if text[:1] == b'"':
        return parse_base64(text[1:-1])
    row = parse_floats(bytes(text))
    if not row.size:  # some versions of numpy raise here themselves
        raise ValueError("is empty")
    return row


def parse_base64(text: str | bytes | memoryview) -> NDArray[Any]:
    """Read little-endian float32 in base64, as OpenAI sends them. A ValueError says what else the text is."""
    try:
        data = pybase64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("is not base64") from None
    if not data or len(data) % 4:
        raise ValueError(f"has {len(data)} bytes, which are not a row of float32")
    return np.frombuffer(data, dtype="<f4")


_parser: Any = None
"""Used on the I/O thread alone. A new one for each vector would allocate pages of memory."""


def _parse_by_simdjson(text: bytes) -> NDArray[np.float64]:
    if text.find(b"[", 1) >= 0:  # simdjson would flatten it
        raise ValueError("a list within the list")
    global _parser
    try:
        _parser = _parser or simdjson.Parser(_MAX_SIMDJSON_BYTES)
        return np.frombuffer(_parser.parse(text).as_buffer(of_type="d"))
    except (RuntimeError, TypeError, ValueError) as error:  # a number too large for it, not a number, not JSON
        _parser = None  # an exception that is kept can keep it busy
        raise ValueError(str(error)) from None


def _parse_by_orjson(text: bytes) -> NDArray[np.float64]:
    if b"t" in text or b"f" in text:  # struct would take true for 1
        raise ValueError("a letter of true or false")
    values = orjson.loads(text)
    try:
        return np.frombuffer(struct.pack(f"{len(values)}d", *values))
    except struct.error as error:
        raise ValueError(str(error)) from None


parse_floats: Callable[[bytes], NDArray[np.float64]] = _parse_by_simdjson if simdjson else _parse_by_orjson
