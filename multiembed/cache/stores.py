"""A framework's key-value store as the cache: one record per text, under the text's digest, with the same checks."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from multiembed.cache.codec import digests, encode
from multiembed.cache.contract import Found
from multiembed.cache.gathering import Gathering
from multiembed.cache.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multiembed.records import SparseVector, Vectors

PREFIX = "multiembed-"
"""What the keys begin with; the digest in hex follows."""
COLLECTION = "multiembed"
"""Where a KVStore keeps the vectors."""


class _StoreCache:
    """What both have in common: names, checks, and what follows when the store fails."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self._guard = Guard(type(store).__name__)

    def get(self, space: str, texts: Sequence[str]) -> Found:
        """The vectors of the texts that are known; all of one length.

        A store that fails is a CacheWarning, and nothing is found.
        """
        if not self._guard.reads or not texts:
            return Found()
        gathering = Gathering(digests(space, texts))
        try:
            read = list(self._read([_key(name) for name in gathering.names]))
            gathering.add(np.array([place for place, _ in read], dtype=np.intp), [record for _, record in read])
        except Exception as error:  # noqa: BLE001 - the store is the user's, and may raise anything
            self._guard.cannot_read(error)
            return Found()
        if gathering.damaged:
            self._guard.is_damaged()
        if gathering.mixed:
            self._guard.is_mixed()
        return gathering.found()

    def put(
        self,
        space: str,
        texts: Sequence[str],
        dense: Vectors | None,
        sparse: Sequence[SparseVector] | None = None,
    ) -> None:
        """Keep the vectors of texts.

        A store that fails is a CacheWarning, and nothing more is kept.

        Raises:
            ValueError: there are not as many vectors as texts.
        """
        if not self._guard.writes or not texts:
            return
        records = [(_key(name), record) for name, record in encode(digests(space, texts), dense, sparse)]
        try:
            self._write(records)
        except Exception as error:  # noqa: BLE001 - as above
            self._guard.cannot_write(error)

    def close(self) -> None:
        """The store is the user's to close."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.store).__name__})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a cache is there to be shared

    def _read(self, keys: list[str]) -> Iterator[tuple[int, bytes]]:
        raise NotImplementedError

    def _write(self, records: list[tuple[str, bytes]]) -> None:
        raise NotImplementedError


class ByteStoreCache(_StoreCache):
    """Vectors in a LangChain ByteStore.

    Args:
        store: anything with its `mget` and `mset`.
    """

    def _read(self, keys: list[str]) -> Iterator[tuple[int, bytes]]:
        values = self.store.mget(keys)
        if len(values) != len(keys):
            raise ValueError(f"{len(keys)} keys were asked for and {len(values)} values came back")
        return ((place, _bytes(value)) for place, value in enumerate(values) if value is not None)

    def _write(self, records: list[tuple[str, bytes]]) -> None:
        self.store.mset(records)


class KVStoreCache(_StoreCache):
    """Vectors in a LlamaIndex BaseKVStore, as base64 in a dict that JSON can hold.

    Args:
        store: anything with its `get` and `put_all`.
    """

    def _read(self, keys: list[str]) -> Iterator[tuple[int, bytes]]:
        for place, key in enumerate(keys):
            value = self.store.get(key, collection=COLLECTION)
            if value is not None:
                yield place, _from_base64(value.get("record") if isinstance(value, dict) else None)

    def _write(self, records: list[tuple[str, bytes]]) -> None:
        pairs: list[tuple[str, dict[str, Any]]] = [
            (key, {"record": b64encode(record).decode()}) for key, record in records
        ]
        self.store.put_all(pairs, collection=COLLECTION)


def _key(name: bytes) -> str:
    return PREFIX + name.hex()


def _bytes(value: object) -> bytes:
    """The value, or what counts as damaged where it is something else."""
    return value if isinstance(value, bytes) else b""


def _from_base64(value: object) -> bytes:
    try:
        return b64decode(value, validate=True) if isinstance(value, str) else b""
    except ValueError:
        return b""
