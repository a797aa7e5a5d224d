"""Vector cache in Redis, for processes on many machines: one record per text, which expires if the URL says so.

A text is claimed under the key of its record, so that no other process pays for it at the same moment. The record
replaces the claim. A claim ends by itself after `CLAIM_SECONDS`.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qsl, urlencode

from multiembed.cache.admin import NamespaceInfo, parse_description
from multiembed.cache.base import CacheClaim
from multiembed.cache.failure_policy import StoreAwayError, StoreError
from multiembed.cache.record_cache import LookupBuilder, RecordCache
from multiembed.cache.record_format import digests
from multiembed.cache.sqlite import DAY
from multiembed.errors import ConfigurationError
from multiembed.transport.redis_connection import RedisCommandError, check_url, connect, explained, shown_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from multiembed.cache.base import CacheLookup
    from multiembed.cache.record_cache import Records

CLAIM_SECONDS = 30
"""Life of a claim: the longest that a text waits for a process that was killed. A request that takes longer, with its
wait for a permit, may be paid for twice."""
RETRY_SECONDS = 5.0
"""Seconds without a command after one that did not reach Redis: each may wait for its timeout."""
_KEYS_PER_COMMAND = 1000
_PREFIX = b"multiembed:"
_NAMESPACE = b"multiembed:namespace:"
_CLAIM = b"claim:"
"""Beginning of a claim. A record begins with its version."""


class RedisCache(RecordCache):
    """Vector cache in Redis, shared by all processes that name it. Not for Redis Cluster.

    While Redis cannot be reached, nothing is found and nothing kept. Pickling keeps the URL, its password included.

    Args:
        url: `redis://`, `rediss://` or `unix://` as redis-py takes it; `ttl=…` in its query: seconds that a vector is
            kept. Without it, Redis evicts as its `maxmemory-policy` says.

    Raises:
        ConfigurationError: the URL cannot work, or the package redis is missing. Nothing is connected to find out.
    """

    claim_age: ClassVar[float] = 0.0

    def __init__(self, url: str) -> None:
        self._given = url
        self._url, self._seconds = _split_ttl(url)
        check_url(self._url, "cache")
        super().__init__("in Redis", lambda error: "away" if isinstance(error, StoreAwayError) else None)
        self._client: Any = connect(self._url)  # redis-py types its results as sync or async at once
        self._away_until = 0.0
        self._claim = _CLAIM + uuid.uuid4().bytes
        self._descriptions: dict[str, str] = {}
        self._used: dict[str, int] = {}

    @property
    def url(self) -> str:
        """The URL without user, password and query."""
        return shown_url(self._url)

    def check(self) -> None:
        """Connect. Redis that cannot be reached is a CacheWarning.

        Raises:
            ConfigurationError: Redis refuses the user, the password or the database.
        """
        try:
            with self._connected() as client:
                client.ping()
        except StoreAwayError as error:
            self._health.report("away", error)
        except StoreError as error:
            raise ConfigurationError(f"The cache cannot be used: {error}") from None

    def describe(self, namespace: str, description: Mapping[str, Any]) -> None:
        """Describe a namespace in plain JSON: model, role, dimensions. It is written with its first vectors."""
        self._descriptions[namespace] = json.dumps(dict(description), default=str, ensure_ascii=False)

    def get(self, namespace: str, texts: Sequence[str]) -> CacheLookup:
        """Look vectors up, all of one length. Finds nothing if Redis fails."""
        found = super().get(namespace, texts)
        today = int(time.time()) // DAY
        if found.positions and self._used.get(namespace) != today and self._health.writes:
            self._used[namespace] = today
            with self._health.reporting("write"), self._connected() as client:
                client.hset(_NAMESPACE + namespace.encode(), mapping=self._facts(namespace))
        return found

    def claim(self, namespace: str, texts: Sequence[str]) -> CacheClaim:
        """Look vectors up again, and claim the texts of those that are missing."""
        if not self._health.writes:
            return super().claim(namespace, texts)
        requested = digests(namespace, texts)
        builder, others = LookupBuilder(requested), set[bytes]()
        with self._health.reporting("write"), self._connected() as client:
            keys = _keys(namespace, builder.digests)
            pipeline = client.pipeline(transaction=False)
            for key in keys:
                pipeline.set(key, self._claim, nx=True, ex=CLAIM_SECONDS)
            *claimed, values = pipeline.mget(keys).execute()  # after the claims: no record comes in between unseen
            builder.add([value for value in values if value and not value.startswith(_CLAIM)])
            others = {
                digest
                for digest, is_ours, value in zip(builder.digests, claimed, values, strict=True)
                if not is_ours and value and value.startswith(_CLAIM)
            }
        return CacheClaim(builder.build(), [row for row, digest in enumerate(requested) if digest in others])

    def release(self, namespace: str, texts: Sequence[str]) -> None:
        """Give up the claims of texts that got no vector. Those of other processes, and vectors, stay."""
        if self._health.writes:
            with self._health.reporting("write"), self._connected() as client:
                keys = _keys(namespace, digests(namespace, texts))
                ours = [key for key, value in zip(keys, client.mget(keys), strict=True) if value == self._claim]
                if ours:
                    client.delete(*ours)

    def namespaces(self) -> list[NamespaceInfo]:
        """List the namespaces, the one with most vectors first. It reads all keys: 100,000 take a few seconds.

        Sizes are what Redis needs for the keys and vectors.

        Raises:
            ConfigurationError: Redis cannot be used.
        """
        try:
            with self._connected(patient=True) as client:
                sizes = _sizes(client)
                names = [key[len(_NAMESPACE) :].decode() for key in client.scan_iter(_NAMESPACE + b"*")]
                facts = {name: client.hgetall(_NAMESPACE + name.encode()) for name in names}
        except StoreError as error:
            raise ConfigurationError(f"The cache cannot be used: {error}") from None
        found = [
            NamespaceInfo(
                fingerprint=name,
                description=parse_description(facts[name].get(b"words", b"").decode(errors="replace")),
                vectors=vectors,
                bytes=size,
                **{when: float(facts[name].get(when.encode(), 0)) for when in ("first", "last", "used")},
            )
            for name in names
            for vectors, size in (sizes.get(name[:16].encode(), (0, 0)),)
            if vectors
        ]
        return sorted(found, key=lambda info: info.vectors, reverse=True)

    def close(self) -> None:
        """Close the connections of this process. A later call opens new ones."""
        self._client.close()

    def __repr__(self) -> str:
        return f"RedisCache({self.url!r})"

    def __reduce__(self) -> Any:
        return RedisCache, (self._given,)

    @contextmanager
    def _connected(self, *, patient: bool = False) -> Iterator[Any]:
        """The client, unless Redis could not be reached a moment ago.

        Raises:
            StoreAwayError: Redis cannot be reached. Later commands may work.
            StoreError: Redis answers with an error.
        """
        if time.monotonic() < self._away_until and not patient:
            raise StoreAwayError
        try:
            with explained(self._url):
                yield self._client
        except RedisCommandError as failure:
            if failure.is_away:
                self._away_until = time.monotonic() + RETRY_SECONDS
            raise (StoreAwayError if failure.is_away else StoreError)(str(failure)) from None

    def _read(self, namespace: str, builder: LookupBuilder) -> None:
        with self._connected() as client:
            for begin in range(0, len(builder.digests), _KEYS_PER_COMMAND):
                values = client.mget(_keys(namespace, builder.digests[begin : begin + _KEYS_PER_COMMAND]))
                builder.add([value for value in values if value and not value.startswith(_CLAIM)])

    def _write(self, encoded: Mapping[str, Records]) -> None:
        with self._connected() as client:
            pipeline = client.pipeline(transaction=False)
            for namespace, records in encoded.items():
                for key, (_, record) in zip(_keys(namespace, (each for each, _ in records)), records, strict=True):
                    pipeline.set(key, record, ex=self._seconds)
                facts = self._facts(namespace)
                name = _NAMESPACE + namespace.encode()
                pipeline.hsetnx(name, "first", str(facts["used"]))
                pipeline.hset(name, mapping={**facts, "last": facts["used"]})
                if self._seconds is not None:
                    pipeline.expire(name, self._seconds)
            pipeline.execute()

    def _facts(self, namespace: str) -> dict[str, Any]:
        words = self._descriptions.get(namespace)
        return {"used": int(time.time())} | ({} if words is None else {"words": words})


def _split_ttl(url: str) -> tuple[str, int | None]:
    """Take `ttl`, which is not an option of redis-py, out of the query of a URL."""
    address, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    seconds = [value for name, value in options if name == "ttl"]
    if not seconds:
        return url, None
    if not re.fullmatch(r"0*[1-9]\d{0,9}", seconds[-1], re.ASCII):
        raise ConfigurationError("ttl in the URL of cache must be a number of seconds, for instance ?ttl=2592000.")
    others = urlencode([(name, value) for name, value in options if name != "ttl"])
    return f"{address}?{others}" if others else address, int(seconds[-1])


def _keys(namespace: str, requested: Iterable[bytes]) -> list[bytes]:
    prefix = _PREFIX + namespace[:16].encode() + b":"
    return [prefix + digest for digest in requested]


def _sizes(client: Any) -> dict[bytes, tuple[int, int]]:
    """Number and bytes of the vectors, by the beginning of their namespace."""
    sizes: dict[bytes, tuple[int, int]] = {}
    cursor: Any = None
    while cursor != 0:
        cursor, found = client.scan(cursor or 0, match=_PREFIX + b"*", count=_KEYS_PER_COMMAND)
        keys = [key for key in found if not key.startswith(_NAMESPACE)]
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.getrange(key, 0, len(_CLAIM) - 1).memory_usage(key, samples=0)
        answers = iter(pipeline.execute())
        for key, (beginning, size) in zip(keys, zip(answers, answers, strict=True), strict=True):
            if size and beginning != _CLAIM:
                name = key[len(_PREFIX) :].partition(b":")[0]
                vectors, total = sizes.get(name, (0, 0))
                sizes[name] = vectors + 1, total + size
    return sizes
