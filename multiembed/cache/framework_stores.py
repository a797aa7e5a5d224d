"""Key-value stores of the frameworks as vector caches: one record per text, under the text's digest."""

from __future__ import annotations

from base64 import b64decode, b64encode
from itertools import chain
from typing import TYPE_CHECKING, Any

from multiembed.cache.record_cache import RecordCache

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.cache.record_cache import LookupBuilder, Records

PREFIX = "multiembed-"
"""Beginning of each key; the digest in hex follows."""
COLLECTION = "multiembed"
"""Collection of a KVStore that holds the vectors."""


class _StoreCache(RecordCache):
    def __init__(self, store: Any) -> None:
        super().__init__(type(store).__name__)
        self.store = store

    def close(self) -> None:
        """Do nothing: the user closes the store."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.store).__name__})"


class ByteStoreCache(_StoreCache):
    """Vector cache in a LangChain ByteStore.

    Args:
        store: anything with its `mget` and `mset`.
    """

    def _read(self, namespace: str, builder: LookupBuilder) -> None:  # noqa: ARG002 - digests hold it
        values = self.store.mget([_key(digest) for digest in builder.digests])
        if len(values) != len(builder.digests):
            raise ValueError(f"mget returned {len(values)} values for {len(builder.digests)} keys")
        builder.add([value for value in values if value is not None])

    def _write(self, encoded: Mapping[str, Records]) -> None:
        self.store.mset([(_key(digest), record) for digest, record in chain.from_iterable(encoded.values())])


class KVStoreCache(_StoreCache):
    """Vector cache in a LlamaIndex BaseKVStore, as base64 in a dict that JSON can hold.

    Args:
        store: anything with its `get` and `put_all`.
    """

    def _read(self, namespace: str, builder: LookupBuilder) -> None:  # noqa: ARG002 - digests hold it
        values = (self.store.get(_key(digest), collection=COLLECTION) for digest in builder.digests)
        builder.add([_decode_base64(value) for value in values if value is not None])

    def _write(self, encoded: Mapping[str, Records]) -> None:
        records = chain.from_iterable(encoded.values())
        values: list[tuple[str, dict[str, Any]]] = [
            (_key(digest), {"record": b64encode(record).decode()}) for digest, record in records
        ]
        self.store.put_all(values, collection=COLLECTION)


def _key(digest: bytes) -> str:
    return PREFIX + digest.hex()


def _decode_base64(value: object) -> bytes | None:
    """The record in a value of the store; None counts as damaged."""
    try:
        return b64decode(value["record"], validate=True) if isinstance(value, dict) else None
    except (KeyError, TypeError, ValueError):
        return None
