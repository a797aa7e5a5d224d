"""Record format: one vector as bytes with a checksum, under the digest of its namespace and text. Pure.

A record is, all little-endian: version and kind (uint16 each), dimensions (uint32), the digest (32 bytes), the dense
vector (float32), the sparse one, and the CRC-32 of all that. Kind 1 is dense, 2 sparse, 3 both.

The digest is SHA-256 over the namespace (as hex), a zero byte and the text (as UTF-8). Two texts with one digest would
share a vector; with 256 bits this does not happen by chance or by choice of texts. Every language has SHA-256, so an
export can be joined with the texts anywhere.
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
_CRC_OF_INTACT = 0x2144DF1C
"""The CRC-32 of any bytes that end with their own CRC-32."""


def digests(namespace: str, texts: Iterable[str]) -> list[bytes]:
    """Compute the digest of each text in a namespace."""
    prefix = hashlib.sha256(namespace.encode() + b"\0")
    computed = []
    for text in texts:
        sha256 = prefix.copy()
        sha256.update(_encode_text(text))
        computed.append(sha256.digest())
    return computed


def encode(entry: CacheEntry) -> list[tuple[bytes, bytes]]:
    """Make records, each with its digest; a sparse vector whose indices no record can hold is left out.

    Raises:
        ValueError: there are not as many vectors as texts, or none at all.
    """
    if not entry.texts:
        return []
    entry.check()
    dense, sparse = entry.dense, entry.sparse
    rows = np.empty((len(entry.texts), 0)) if dense is None else dense
    rows = np.ascontiguousarray(rows, dtype="<f4")
    form = _FORM.pack(VERSION, (dense is not None) + 2 * (sparse is not None), rows.shape[1])
    records = []
    for position, digest in enumerate(digests(entry.namespace, entry.texts)):
        tail = b"" if sparse is None else _encode_sparse(sparse[position])
        if tail is not None:
            record = form + digest + rows[position].tobytes() + tail
            records.append((digest, record + _CRC.pack(crc32(record))))
    return records


def intact_of(records: Iterable[object]) -> list[bytes]:
    """Select the records that pass their check and are of this version."""
    return [
        record
        for record in records
        if isinstance(record, bytes)
        and crc32(record) == _CRC_OF_INTACT
        and len(record) > _BODY
        and record.startswith(b"\1\0")
    ]


def digests_of(records: Iterable[bytes]) -> list[bytes]:
    """Read the digest of each record."""
    return [record[_FORM.size : _BODY] for record in records]


def form_of(record: bytes) -> bytes:
    """Read what the records of one namespace have in common: the kind and length of the vector."""
    return record[: _FORM.size]


def decode(records: Sequence[bytes]) -> tuple[Vectors | None, list[SparseVector] | None]:
    """Read the vectors of intact records of one form.

    Returns:
        Dense vectors, float32, shape (len(records), dimensions), and sparse ones. None for a kind they do not hold.
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


def _encode_sparse(vector: SparseVector) -> bytes | None:
    """Indices and values in four bytes each where that loses nothing, else in eight; tokens as JSON."""
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
    head = _SPARSE.pack(len(indices), indices.itemsize, values.itemsize, 0)
    tokens = b"" if vector.tokens is None else _encode_text(json.dumps(vector.tokens, ensure_ascii=False))
    return head + indices.tobytes() + values.tobytes() + tokens


def _decode_sparse(data: bytes) -> SparseVector:
    count, index_size, value_size, _ = _SPARSE.unpack_from(data)
    values_at = _SPARSE.size + count * index_size
    tokens_at = values_at + count * value_size
    tokens = data[tokens_at:]
    return SparseVector(
        tuple(np.frombuffer(data[_SPARSE.size : values_at], dtype=f"<u{index_size}").tolist()),
        tuple(np.frombuffer(data[values_at:tokens_at], dtype=f"<f{value_size}").tolist()),
        tuple(json.loads(tokens.decode("utf-8", "surrogatepass"))) if tokens else None,
    )


def _encode_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # lone surrogates can be decoded again
