"""Embeddings cache of LlamaIndex with a namespace for each fingerprint; LlamaIndex's own key is the text alone."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.storage.kvstore.types import BaseKVStore

if TYPE_CHECKING:
    from collections.abc import Callable


class NamespacedKVStore(BaseKVStore):
    """The user's store, with every key hashed together with the current namespace.

    Args:
        store: where values are kept.
        namespace: returns the name of the current namespace; called at each access.
    """

    def __init__(self, store: BaseKVStore, namespace: Callable[[], str]) -> None:
        self.store = store
        self._namespace = namespace

    def _key(self, key: str) -> str:
        return hashlib.sha256(f"{self._namespace()}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()

    def put(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Keep a value."""
        self.store.put(self._key(key), val, collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Keep a value."""
        await self.store.aput(self._key(key), val, collection)

    def get(self, key: str, collection: str = "data") -> dict[str, Any] | None:
        """Get the value of a key in this namespace."""
        return self.store.get(self._key(key), collection)

    async def aget(self, key: str, collection: str = "data") -> dict[str, Any] | None:
        """Get the value of a key in this namespace."""
        return await self.store.aget(self._key(key), collection)

    def get_all(self, collection: str = "data") -> dict[str, dict[str, Any]]:
        """Get all values of all namespaces, by their hashed keys."""
        return self.store.get_all(collection)

    async def aget_all(self, collection: str = "data") -> dict[str, dict[str, Any]]:
        """Get all values of all namespaces, by their hashed keys."""
        return await self.store.aget_all(collection)

    def delete(self, key: str, collection: str = "data") -> bool:
        """Delete a key in this namespace."""
        return self.store.delete(self._key(key), collection)

    async def adelete(self, key: str, collection: str = "data") -> bool:
        """Delete a key in this namespace."""
        return await self.store.adelete(self._key(key), collection)


class UnavailableKVStore(SimpleKVStore):
    """Replacement of an embeddings cache that could not be pickled: it keeps nothing, and warns when it is read.

    Args:
        warn: called at each access; it warns once in each process.
    """

    def __init__(self, warn: Callable[[], object]) -> None:
        super().__init__()
        self._warn = warn

    def __reduce__(self) -> Any:
        return UnavailableKVStore, (self._warn,)

    def put(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Keep nothing; the base class's async methods call the sync ones."""

    def get(self, key: str, collection: str = "data") -> dict[str, Any] | None:
        """Find nothing."""
        self._warn()
        return super().get(key, collection)
