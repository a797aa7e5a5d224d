"""A framework's key-value store as the cache: one record per text, under the text's digest, with the same checks."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

from multiembed.cache.record_cache import RecordCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.cache.lookup import LookupBuilder

PREFIX = "multiembed-"
"""What the keys begin with; the digest in hex follows."""
COLLECTION = "multiembed"
"""Where a KVStore keeps the vectors."""


class _StoreCache(RecordCache):
    def __init__(self, store: Any) -> None:
        super().__init__(type(store).__name__)
        self.store = store

    def close(self) -> None:
        """The store is the user's to close."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.store).__name__})"


class ByteStoreCache(_StoreCache):
    """Vectors in a LangChain ByteStore.

    Args:
        store: anything with its `mget` and `mset`.
    """

    def _read(self, builder: LookupBuilder) -> None:
        values = self.store.mget([_key(name) for name in builder.names])
        if len(values) != len(builder.names):
            raise ValueError(f"{len(builder.names)} keys were asked for and {len(values)} values came back")
        builder.add([value for value in values if value is not None])

    def _write(self, encoded: Sequence[tuple[str, Sequence[tuple[bytes, bytes]]]]) -> None:
        self.store.mset([(_key(name), record) for _, records in encoded for name, record in records])


class KVStoreCache(_StoreCache):
    """Vectors in a LlamaIndex BaseKVStore, as base64 in a dict that JSON can hold.

    Args:
        store: anything with its `get` and `put_all`.
    """

    def _read(self, builder: LookupBuilder) -> None:
        values = (self.store.get(_key(name), collection=COLLECTION) for name in builder.names)
        builder.add([_from_base64(value) for value in values if value is not None])

    def _write(self, encoded: Sequence[tuple[str, Sequence[tuple[bytes, bytes]]]]) -> None:
        pairs: list[tuple[str, dict[str, Any]]] = [
            (_key(name), {"record": b64encode(record).decode()}) for _, records in encoded for name, record in records
        ]
        self.store.put_all(pairs, collection=COLLECTION)


def _key(name: bytes) -> str:
    return PREFIX + name.hex()


def _from_base64(value: object) -> bytes | None:
    """The record in a value of the store; None counts as damaged."""
    try:
        return b64decode(value["record"], validate=True) if isinstance(value, dict) else None
    except (KeyError, TypeError, ValueError):
        return None
