"""The vector cache: opens what a user gives as `cache`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from multiembed.errors import ConfigurationError
from multiembed.transport.redis_connection import is_redis_url, shown_url

if TYPE_CHECKING:
    from multiembed.cache.base import VectorCache


def open_cache(given: str | os.PathLike[str] | Any) -> VectorCache:
    """Open a vector cache.

    Args:
        given: the path of a SQLite file, which is made if it does not exist; the URL of a Redis server; a LangChain
            ByteStore; a LlamaIndex BaseKVStore; or an object with the methods `get` and `put` of VectorCache.

    Raises:
        ConfigurationError: it is none of these, or the file or server cannot be used. The message says what to do.
    """
    if isinstance(given, str) and is_redis_url(given):
        from multiembed.cache.redis_cache import RedisCache

        cache = RedisCache(given)
        cache.check()
        return cache
    if isinstance(given, (str, os.PathLike)):
        return _open_file(given)
    # No other attribute is read: a property may open a connection, and fail.
    names = set() if isinstance(given, type) else {"get", "put", "mget", "mset", "put_all"}.intersection(dir(given))
    methods = {name for name in names if callable(getattr(given, name, None))}
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
        "of a SQLite file, the URL of a Redis server, a LangChain ByteStore, a LlamaIndex BaseKVStore, or an object "
        "with the methods get and put of multiembed's VectorCache."
    )


def check_cache(given: object) -> None:
    """Import what a cache needs, before any fork, and check the URL of a Redis server without connecting.

    Raises:
        ConfigurationError: the URL cannot work, or the package redis is missing.
    """
    from multiembed.cache import checked_cache, sqlite  # noqa: F401

    if isinstance(given, str) and is_redis_url(given):
        from multiembed.cache.redis_cache import RedisCache

        RedisCache(given)


def _open_file(path: str | os.PathLike[str]) -> VectorCache:
    from multiembed.cache.sqlite import SqliteCache

    name = os.fspath(path)
    if not isinstance(name, str) or not name.strip() or name == ":memory:":
        raise ConfigurationError(
            "cache is not the path of a file. For a cache in memory give LangChain's InMemoryByteStore or LlamaIndex's "
            "SimpleKVStore."
        )
    if "\0" in name or "://" in name:
        raise ConfigurationError(
            f"cache is not the path of a file: {shown_url(name)[:80]!r}. Name a file on a local disk, or a "
            "Redis server as redis://host:6379/0."
        )
    cache = SqliteCache(name)
    cache.check()
    return cache
