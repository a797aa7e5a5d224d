"""Base of the caches that keep one checked record per text, whatever stores the records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from multiembed.cache.base import CacheEntry, CacheLookup
from multiembed.cache.failure_policy import StoreHealth
from multiembed.cache.lookup import LookupBuilder
from multiembed.cache.record_format import digests, encode
from multiembed.cache.schema import is_busy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.types import SparseVector, Vectors


class RecordCache:
    """A cache whose subclass reads and writes records. A store that fails is one CacheWarning.

    Args:
        name: of the store, for people.
    """

    def __init__(self, name: str) -> None:
        self._guard = StoreHealth(name)

    def get(self, space: str, texts: Sequence[str]) -> CacheLookup:
        """The vectors of the texts that are known; all of one length. Nothing when the store fails."""
        if not self._guard.reads or not texts:
            return CacheLookup()
        builder = LookupBuilder(digests(space, texts))
        try:
            self._read(builder)
        except Exception as error:  # noqa: BLE001 - a damaged file makes sqlite3 raise more than its own errors
            if is_busy(error):
                self._guard.is_locked()
            else:
                self._guard.cannot_read(error)
            return CacheLookup()
        if builder.damaged:
            self._guard.is_damaged()
        if builder.mixed:
            self._guard.is_mixed()
        return builder.build()

    def put(
        self, space: str, texts: Sequence[str], dense: Vectors | None, sparse: Sequence[SparseVector] | None = None
    ) -> None:
        """Keep the vectors of texts, as `put_many` does.

        Raises:
            ValueError: there are not as many vectors as texts, or none at all.
        """
        if texts and self._guard.writes:
            entry = CacheEntry(space, texts, dense, sparse)
            entry.check()
            self.put_many([entry])

    def put_many(self, entries: Sequence[CacheEntry]) -> None:
        """Keep the vectors of all entries in one write; what was kept of the same texts is replaced.

        An entry that cannot be encoded is a CacheWarning, and the others are kept. Nothing is kept when the store
        fails.
        """
        if not self._guard.writes:
            return
        encoded, mistake = [], None
        for entry in entries:
            try:
                if records := encode(entry):
                    encoded.append((entry.namespace, records))
            except Exception as error:  # noqa: BLE001 - the values may be of any type
                mistake = error
        try:
            if encoded:
                self._write(encoded)
        except Exception as error:  # noqa: BLE001 - as in `get`
            if is_busy(error):
                self._guard.is_locked()
            else:
                self._guard.cannot_write(error)
        if mistake is not None:
            self._guard.cannot_encode(mistake)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # all copies of an embedder share one cache

    def _read(self, builder: LookupBuilder) -> None:
        """Add the records of `builder.names`."""
        raise NotImplementedError

    def _write(self, encoded: Sequence[tuple[str, Sequence[tuple[bytes, bytes]]]]) -> None:
        """Store the digests and records of some spaces, all or none where the store can do that."""
        raise NotImplementedError
