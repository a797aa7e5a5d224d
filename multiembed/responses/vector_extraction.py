"""The vectors of a reply, cut out of its bytes: nearly all of it, and read without making Python floats."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pybase64

try:
    import simdjson
except ImportError:  # the extra "fast" is not installed: orjson reads the numbers too, but slower
    simdjson = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from multiembed.providers.types import DecodedItem

_KEY = b'"embedding"'
"""What every wire form calls a vector. A form with another name for it is read whole, and no worse."""
_VALUE = re.compile(rb'[ \t\r\n]*:[ \t\r\n]*([\["])')
_CLOSES = {b"[": b"]", b'"': b'"'}
_LARGEST = 2**20
"""Bytes of the JSON text of a vector that simdjson may read, because its parsers keep several times as much."""
_NUL = b"\\u0000"


@dataclass(frozen=True, slots=True)
class ExtractedBody:
    """A reply in two parts."""

    rest: bytes
    """The JSON text with a mark in the place of each vector."""
    vectors: Mapping[str, memoryview]
    """By mark, the JSON text of a vector: from its first bracket or quote to the next.

    Views, because copies of all of them at once are memory that is given back and asked for again with each reply.
    """


def extract_vectors(body: bytes) -> ExtractedBody | None:
    """A reply without its vectors; None when it has none, or none that can be told from the bytes alone.

    Whether the rest is JSON is not known yet. If it is, then each mark stands for a whole value: the quote before the
    colon follows a letter, so it ends or opens a string, and if it opened one, a bare word would stand before it.
    Whether the vectors are JSON is not known either, before `parse_vector` has read each of them.
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
        begin = value.start(1)
        at = body.find(_CLOSES[value[1]], begin + 1) + 1
        if not at:
            return None
        parts += body[done:begin], b'"%b%d"' % (_NUL, len(vectors))
        vectors.append(view[begin:at])
        done = at
    rest = b"".join((*parts, body[done:]))
    # A reply with such a character of its own could hold what looks like a mark.
    if not vectors or rest.count(_NUL) != len(vectors):
        return None
    return ExtractedBody(rest, {f"\0{number}": vector for number, vector in enumerate(vectors)})


def attach_vectors(items: Sequence[DecodedItem], vectors: Mapping[str, memoryview]) -> None:
    """Give the items the vectors that were cut out of them, as views of JSON.

    Raises:
        ValueError: an item has no vector that was cut, or a vector was cut that is no item's.
    """
    left = dict(vectors)
    for item in items:
        if not isinstance(item.dense, str) or item.dense not in left:
            raise ValueError("an item has no vector that was cut")
        item.dense = left.pop(item.dense)
    if left:
        raise ValueError("a vector that was cut is no item's")


def parse_vector(text: bytes) -> NDArray[Any]:
    """The vector that a JSON text cut out of a reply holds, as float64, or as float32 where it is base64 of them.

    Raises:
        ValueError: it is no plain list of numbers and no plain base64. What it is, the whole reply will tell.
    """
    if text.startswith(b'"'):
        row: NDArray[Any] = np.frombuffer(pybase64.b64decode(text[1:-1], validate=True), dtype="<f4")
    else:
        row = floats(text)
    if not row.size:  # some versions of numpy raise here themselves
        raise ValueError("it is empty")
    return row


_parser: Any = None
"""Used on the I/O thread alone. Made anew for each vector, it would cost pages of memory."""


def _floats_by_simdjson(text: bytes) -> NDArray[np.float64]:
    if text.find(b"[", 1) >= 0:  # simdjson would flatten it
        raise ValueError("a list within the list")
    global _parser
    try:
        _parser = _parser or simdjson.Parser(_LARGEST)
        return np.frombuffer(_parser.parse(text).as_buffer(of_type="d"))
    except (RuntimeError, TypeError, ValueError) as error:  # a number too large for it, no number, no JSON
        _parser = None  # an exception that is kept can keep it busy
        raise ValueError(str(error)) from None


def _floats_by_orjson(text: bytes) -> NDArray[np.float64]:
    if b"t" in text or b"f" in text:  # struct would take true for 1
        raise ValueError("a letter of true or false")
    values = orjson.loads(text)
    try:
        return np.frombuffer(struct.pack(f"{len(values)}d", *values))
    except struct.error as error:
        raise ValueError(str(error)) from None


floats: Callable[[bytes], NDArray[np.float64]] = _floats_by_simdjson if simdjson else _floats_by_orjson
