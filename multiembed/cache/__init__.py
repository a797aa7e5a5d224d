"""The cache of paid vectors: what may be given for it, and how it is opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from multiembed.cache.base import VectorCache


def open_cache(given: str | os.PathLike[str] | Any) -> VectorCache:
    """The cache that was asked for.

    Args:
        given: the path of a SQLite file, which is made when there is none; a LangChain ByteStore; a LlamaIndex
            BaseKVStore; or an object with `get` and `put` as VectorCache has them.

    Raises:
        ConfigurationError: it is none of these, or the file cannot be used; the message says what to do.
    """
    if isinstance(given, (str, os.PathLike)):
        return _open_file(given)
    methods = set() if isinstance(given, type) else _methods(given)
    if {"mget", "mset"} <= methods:
        from multiembed.cache.framework_stores import ByteStoreCache

        return ByteStoreCache(given)
    if {"get", "put", "put_all"} <= methods:
        from multiembed.cache.framework_stores import KVStoreCache

        return KVStoreCache(given)
    if {"get", "put"} <= methods:
        return cast("VectorCache", given)
    raise ConfigurationError(
        f"cache is {'the class ' + given.__name__ if isinstance(given, type) else type(given).__name__}: give the path "
        "of a SQLite file, a LangChain ByteStore, a LlamaIndex BaseKVStore, or an object with the methods get and put "
        "of multiembed's VectorCache."
    )


def _methods(given: object) -> set[str]:
    """Those of a cache that it has. No other attribute is read: a property may open a connection, and fail."""
    names = {"get", "put", "mget", "mset", "put_all"}.intersection(dir(given))
    return {name for name in names if callable(getattr(given, name, None))}


def _open_file(path: str | os.PathLike[str]) -> VectorCache:
    from multiembed.cache.sqlite import SqliteCache

    told = os.fspath(path)
    if not isinstance(told, str) or not told.strip() or told == ":memory:":
        raise ConfigurationError(
            "cache is no path of a file. For a cache in memory give LangChain's InMemoryByteStore or LlamaIndex's "
            "SimpleKVStore."
        )
    if "\0" in told or "://" in told:
        raise ConfigurationError(f"cache is no path of a file: {told[:80]!r}. Name a file on a local disk.")
    opened = SqliteCache(told)
    opened.check()
    return opened
