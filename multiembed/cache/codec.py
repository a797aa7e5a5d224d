"""One vector as bytes, under a name made of its space and its text. Pure.

A record is, all little-endian: version and kind (uint16 each), dimensions (uint32), the digest (32 bytes), the dense
vector (float32), the sparse one, and the CRC-32 of all that. Kind 1 is dense, 2 sparse, 3 both.

The digest is SHA-256 over the space (as hex), a zero byte and the text (as UTF-8). 256 bits, because two texts with one
digest would share a vector: that cannot happen by chance, nor to somebody who chooses texts on purpose, and with 1 KiB
pages it takes no more room in the file than 128 bits would. SHA-256, because every language has it, so an export can be
joined with the texts anywhere.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import TYPE_CHECKING, TypeAlias
from zlib import crc32

import numpy as np

from multiembed.records import SparseVector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multiembed.records import Vectors

    Names: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.uint32]]

VERSION = 1
DIGEST = 32
"""Bytes of a digest."""

_FORM = struct.Struct("<HHI")
_SPARSE = struct.Struct("<IBBH")
_CRC = struct.Struct("<I")
_DENSE, _BOTH = 1, 3
_BODY = _FORM.size + DIGEST
_WHOLE = 0x2144DF1C
"""The CRC-32 of any bytes that end with their own CRC-32."""


def digests(space: str, texts: Iterable[str]) -> list[bytes]:
    """The digest of each text in a space."""
    begun = hashlib.sha256(space.encode() + b"\0")
    found = []
    for text in texts:
        each = begun.copy()
        each.update(text.encode("utf-8", "surrogatepass"))
        found.append(each.digest())
    return found


def encode(
    names: Sequence[bytes], dense: Vectors | None, sparse: Sequence[SparseVector] | None
) -> list[tuple[bytes, bytes]]:
    """The digests with their records; a sparse vector whose indices no record can hold is left out.

    Args:
        names: the digest of each text.
        dense: shape (len(names), dimensions).
        sparse: as many.

    Raises:
        ValueError: there are not as many vectors as texts, or none at all.
    """
    if dense is None and sparse is None:
        raise ValueError("There is nothing to keep: neither dense nor sparse vectors.")
    if any(vectors is not None and len(vectors) != len(names) for vectors in (dense, sparse)):
        raise ValueError("There are not as many vectors as texts.")
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


def whole(records: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Those that are as they were written, and written in a form that is read here; a number stands before each."""
    return [
        (number, record)
        for number, record in records
        if crc32(record) == _WHOLE and len(record) > _BODY and record.startswith(b"\1\0")
    ]


def read_alike(records: Sequence[bytes], names: Names) -> tuple[bytes, Vectors] | None:
    """The form and the vectors of many records in a few steps, as long as nothing is to be said of any of them.

    Args:
        records: at least one.
        names: the digest that each must have been written under, as `as_array` gives them.

    Returns:
        Vectors of shape (len(records), dimensions). None when a record is damaged, of another text or form, or holds
        more than a dense vector: then each is to be looked at.
    """
    form = form_of(records[0])
    if set(map(crc32, records)) != {_WHOLE} or len(form) < _FORM.size:
        return None
    version, kind, dimensions = _FORM.unpack(form)
    size = _BODY + 4 * dimensions + _CRC.size
    if version != VERSION or kind != _DENSE or set(map(len, records)) != {size}:
        return None
    words = np.frombuffer(b"".join(records), dtype="<u4").reshape(len(records), size // 4)
    formed = (words[:, : _FORM.size // 4] == np.frombuffer(form, dtype="<u4")).all()
    if not formed or not np.array_equal(words[:, _FORM.size // 4 : _BODY // 4], names):
        return None
    return form, words[:, _BODY // 4 : -1].view("<f4")


def as_array(names: Sequence[bytes]) -> Names:
    """Digests side by side, shape (len(names), 8)."""
    return np.frombuffer(b"".join(names), dtype="<u4").reshape(len(names), DIGEST // 4)


def name_of(record: bytes) -> bytes:
    """The digest that a record was written under."""
    return record[_FORM.size : _BODY]


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
    dense = None
    if kind & _DENSE:
        joined = b"".join([record[_BODY:end] for record in records])
        dense = np.frombuffer(joined, dtype="<f4").reshape(len(records), dimensions).astype(np.float32, copy=False)
    if kind == _DENSE:
        return dense, None
    return dense, [_decode_sparse(record[end : -_CRC.size]) for record in records]


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
    tokens = b"" if vector.tokens is None else _text(json.dumps(vector.tokens, ensure_ascii=False))
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


def _text(text: str) -> bytes:
    """As UTF-8, in which lone surrogates, should there be any, come back as they were."""
    return text.encode("utf-8", "surrogatepass")
