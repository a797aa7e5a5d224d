"""LlamaIndex keys its embeddings cache by the raw text alone; here each vector space gets keys of its own."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.storage.kvstore.types import BaseKVStore

if TYPE_CHECKING:
    from collections.abc import Callable


def _itself(store: BaseKVStore) -> BaseKVStore:
    """Copies and pickles hold the user's store, which the embedder there binds to itself."""
    return store


class SpacedKVStore(BaseKVStore):
    """The user's store, with every key put into the vector space that is asked for at the moment.

    Args:
        store: where values are kept.
        space: the name of the current space; asked at each access.
    """

    def __init__(self, store: BaseKVStore, space: Callable[[], str]) -> None:
        self.store = store
        self._space = space

    def __reduce__(self) -> Any:
        return _itself, (self.store,)

    def __deepcopy__(self, memo: dict[int, Any]) -> BaseKVStore:
        return self.store  # a cache is there to be shared

    def _key(self, key: str) -> str:
        return hashlib.sha256(f"{self._space()}\0{key}".encode("utf-8", "surrogatepass")).hexdigest()

    def put(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Keep a value."""
        self.store.put(self._key(key), val, collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Keep a value."""
        await self.store.aput(self._key(key), val, collection)

    def get(self, key: str, collection: str = "data") -> dict[str, Any] | None:
        """The value kept under a key in this space."""
        return self.store.get(self._key(key), collection)

    async def aget(self, key: str, collection: str = "data") -> dict[str, Any] | None:
        """The value kept under a key in this space."""
        return await self.store.aget(self._key(key), collection)

    def get_all(self, collection: str = "data") -> dict[str, dict[str, Any]]:
        """All values of all spaces, by their hashed keys."""
        return self.store.get_all(collection)

    async def aget_all(self, collection: str = "data") -> dict[str, dict[str, Any]]:
        """All values of all spaces, by their hashed keys."""
        return await self.store.aget_all(collection)

    def delete(self, key: str, collection: str = "data") -> bool:
        """Forget the value kept under a key in this space."""
        return self.store.delete(self._key(key), collection)

    async def adelete(self, key: str, collection: str = "data") -> bool:
        """Forget the value kept under a key in this space."""
        return await self.store.adelete(self._key(key), collection)


class MissingKVStore(SimpleKVStore):
    """Takes the place of an embeddings cache that could not be pickled: it stays empty, and warns at its first use.

    Args:
        warn: called at each use; it warns once in each process.
    """

    def __init__(self, warn: Callable[[], object]) -> None:
        super().__init__()
        self._warn = warn

    def __reduce__(self) -> Any:
        return MissingKVStore, (self._warn,)

    def put(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Keep nothing."""

    async def aput(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Keep nothing."""

    def get(self, key: str, collection: str = "data") -> dict[str, Any] | None:
        """Find nothing."""
        self._warn()
        return super().get(key, collection)

    async def aget(self, key: str, collection: str = "data") -> dict[str, Any] | None:
        """Find nothing."""
        return self.get(key, collection)
