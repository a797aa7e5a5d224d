"""One vector as bytes, under a name made of its space and its text. Pure.

A record is, all little-endian: version and kind (uint16 each), dimensions (uint32), the digest (32 bytes), the dense
vector (float32), the sparse one, and the CRC-32 of all that. Kind 1 is dense, 2 sparse, 3 both.

The digest is SHA-256 over the space (as hex), a zero byte and the text (as UTF-8). Two texts with one digest would
share a vector; with 256 bits, no chance and no choice of texts leads to that. Every language has SHA-256, so an export
can be joined with the texts anywhere.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from multiembed.types import SparseVector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multiembed.cache.base import CacheEntry
    from multiembed.types import Vectors

VERSION = 1

_FORM = struct.Struct("<HHI")
_SPARSE = struct.Struct("<IBBH")
_CRC = struct.Struct("<I")
_HAS_DENSE, _HAS_SPARSE = 1, 2
_BODY = _FORM.size + 32
_WHOLE = 0x2144DF1C
"""The CRC-32 of any bytes that end with their own CRC-32."""


def digests(space: str, texts: Iterable[str]) -> list[bytes]:
    """The digest of each text in a space."""
    begun = hashlib.sha256(space.encode() + b"\0")
    found = []
    for text in texts:
        each = begun.copy()
        each.update(_utf8(text))
        found.append(each.digest())
    return found


def encode(entry: CacheEntry) -> list[tuple[bytes, bytes]]:
    """The digests with their records; a sparse vector whose indices no record can hold is left out.

    Raises:
        ValueError: there are not as many vectors as texts, or none at all.
    """
    if not entry.texts:
        return []
    entry.check()
    names, dense, sparse = digests(entry.namespace, entry.texts), entry.dense, entry.sparse
    kind = (dense is not None) + 2 * (sparse is not None)
    rows = np.ascontiguousarray(dense, dtype="<f4") if dense is not None else np.empty((len(names), 0), dtype="<f4")
    form = _FORM.pack(VERSION, kind, rows.shape[1])
    kept = []
    for place, name in enumerate(names):
        tail = b"" if sparse is None else _encode_sparse(sparse[place])
        if tail is None:
            continue
        record = form + name + rows[place].tobytes() + tail
        kept.append((name, record + _CRC.pack(crc32(record))))
    return kept


def intact_of(records: Iterable[object]) -> list[bytes]:
    """The records that are as they were written, in a form that is read here."""
    return [
        record
        for record in records
        if isinstance(record, bytes) and crc32(record) == _WHOLE and len(record) > _BODY and record.startswith(b"\1\0")
    ]


def names_of(records: Iterable[bytes]) -> list[bytes]:
    """The digests that records were written under."""
    return [record[_FORM.size : _BODY] for record in records]


def form_of(record: bytes) -> bytes:
    """What the records of one space have in common: the kind of vector, and its length."""
    return record[: _FORM.size]


def decode(records: Sequence[bytes]) -> tuple[Vectors | None, list[SparseVector] | None]:
    """The vectors of whole records of one form.

    Returns:
        Dense ones, float32, shape (len(records), dimensions), and sparse ones; None for what they do not hold.
    """
    _, kind, dimensions = _FORM.unpack(form_of(records[0]))
    end = _BODY + 4 * dimensions
    dense = sparse = None
    if kind & _HAS_DENSE:
        joined = b"".join([record[_BODY:end] for record in records])
        dense = np.frombuffer(joined, dtype="<f4").reshape(len(records), dimensions).astype(np.float32, copy=False)
    if kind & _HAS_SPARSE:
        sparse = [_decode_sparse(record[end : -_CRC.size]) for record in records]
    return dense, sparse


# ── sparse vectors ───────────────────────────────────────────────────────────────────────────────


def _encode_sparse(vector: SparseVector) -> bytes | None:
    """Indices and values in four bytes each where nothing is lost by that, else in eight; tokens as JSON."""
    try:
        indices = np.array(vector.indices, dtype="<u8")
    except OverflowError:
        return None
    values = np.array(vector.values, dtype="<f8")
    with np.errstate(over="ignore"):
        short = values.astype("<f4")
    if (short == values).all():
        values = short
    if (indices < 2**32).all():
        indices = indices.astype("<u4")
    tokens = b"" if vector.tokens is None else _utf8(json.dumps(vector.tokens, ensure_ascii=False))
    return (
        _SPARSE.pack(len(indices), indices.itemsize, values.itemsize, 0) + indices.tobytes() + values.tobytes() + tokens
    )


def _decode_sparse(data: bytes) -> SparseVector:
    count, wide_index, wide_value, _ = _SPARSE.unpack_from(data)
    values_at = _SPARSE.size + count * wide_index
    tokens_at = values_at + count * wide_value
    tokens = data[tokens_at:]
    return SparseVector(
        tuple(np.frombuffer(data[_SPARSE.size : values_at], dtype=f"<u{wide_index}").tolist()),
        tuple(np.frombuffer(data[values_at:tokens_at], dtype=f"<f{wide_value}").tolist()),
        tuple(json.loads(tokens.decode("utf-8", "surrogatepass"))) if tokens else None,
    )


def _utf8(text: str) -> bytes:
    """Encode a text as UTF-8; a lone surrogate can be decoded again."""
    return text.encode("utf-8", "surrogatepass")
