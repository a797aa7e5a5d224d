"""Vector cache that keeps one record with a checksum per text; subclasses store the records."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np

from multiembed.cache.base import CacheClaim, CacheEntry, CacheLookup
from multiembed.cache.failure_policy import StoreHealth
from multiembed.cache.record_format import decode, digests, digests_of, encode, form_of, intact_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed.cache.failure_policy import Failure
    from multiembed.types import SparseVector, Vectors

Records: TypeAlias = "list[tuple[bytes, bytes]]"
"""Digests, each with its record."""


class RecordCache:
    """Base of the caches that keep records. A store that fails is one CacheWarning.

    Args:
        name: of the store, for messages.
        temporary: how an error is reported after which later calls try again; None for other errors.
    """

    claim_age: ClassVar[float] = math.inf
    """Seconds since the look-up from which a batch is claimed before it is sent: other processes add vectors, too."""

    def __init__(self, name: str, temporary: Callable[[Exception], Failure | None] = lambda _: None) -> None:
        self._health = StoreHealth(name, temporary=temporary)

    def get(self, namespace: str, texts: Sequence[str]) -> CacheLookup:
        """Look vectors up, all of one length. Finds nothing if the store fails."""
        if self._health.reads and texts:
            builder = LookupBuilder(digests(namespace, texts))
            with self._health.reporting("read"):
                self._read(namespace, builder)
                if builder.is_damaged:
                    self._health.report("damaged")
                if builder.is_mixed:
                    self._health.report("mixed")
                return builder.build()
        return CacheLookup()

    def claim(self, namespace: str, texts: Sequence[str]) -> CacheClaim:
        """Look vectors up again, just before their texts are sent."""
        return CacheClaim(self.get(namespace, texts))

    def release(self, namespace: str, texts: Sequence[str]) -> None:
        """Give up the claims of texts that got no vector."""

    def put(
        self, namespace: str, texts: Sequence[str], dense: Vectors | None, sparse: Sequence[SparseVector] | None = None
    ) -> None:
        """Keep the vectors of texts, as `put_many` does.

        Raises:
            ValueError: there are not as many vectors as texts, or none at all.
        """
        if texts and self._health.writes:
            entry = CacheEntry(namespace, texts, dense, sparse)
            entry.check()
            self.put_many([entry])

    def put_many(self, entries: Sequence[CacheEntry]) -> None:
        """Keep the vectors of all entries in one write; older vectors of the same texts are replaced.

        An entry that cannot be encoded is a CacheWarning, and the others are kept. Nothing is kept if the store fails.
        """
        if not self._health.writes:
            return
        encoded: dict[str, Records] = {}
        failure = None
        for entry in entries:
            try:
                if records := encode(entry):
                    encoded.setdefault(entry.namespace, []).extend(records)
            except Exception as error:  # noqa: BLE001 - the values may be of any type
                failure = error
        if encoded:
            with self._health.reporting("write"):
                self._write(encoded)
        if failure is not None:
            self._health.report("encode", failure)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # all copies of an embedder share one cache

    def _read(self, namespace: str, builder: LookupBuilder) -> None:
        """Add the records of `builder.digests`."""
        raise NotImplementedError

    def _write(self, encoded: Mapping[str, Records]) -> None:
        """Store records by their namespaces, all or none if the store can do that."""
        raise NotImplementedError


class LookupBuilder:
    """Builder of a look-up's result from records. A namespace should hold one form; of two, the last one added stays.

    Args:
        requested: the digest of each text, with repetitions.
    """

    def __init__(self, requested: Sequence[bytes]) -> None:
        self._index_of = {digest: index for index, digest in enumerate(dict.fromkeys(requested))}
        self.digests = list(self._index_of)
        """Without repetitions."""
        self.is_damaged = False
        """Whether a record failed its check."""
        self.is_mixed = False
        """Whether records of two forms were added."""
        self._requested = requested
        self._form: bytes | None = None
        self._is_found = np.zeros(len(self.digests), dtype=bool)
        self._dense: Vectors | None = None
        self._sparse: list[SparseVector] | None = None

    def add(self, records: Sequence[object]) -> None:
        """Check records and take their vectors. A record of a text that was not requested is ignored."""
        intact = intact_of(records)
        self.is_damaged = self.is_damaged or len(intact) < len(records)
        found = [record for record, digest in zip(intact, digests_of(intact), strict=True) if digest in self._index_of]
        if not found:
            return
        form = form_of(found[-1])
        alike = [record for record in found if record.startswith(form)]
        self.is_mixed = self.is_mixed or self._form not in (None, form) or len(alike) < len(found)
        dense, sparse = decode(alike)
        if form != self._form:
            self._form = form
            self._is_found[:] = False
            self._dense = None if dense is None else np.empty((len(self.digests), dense.shape[1]), dtype=np.float32)
            self._sparse = None if sparse is None else sparse[:1] * len(self.digests)
        indices = [self._index_of[digest] for digest in digests_of(alike)]
        self._is_found[indices] = True
        if dense is not None and self._dense is not None:
            self._dense[indices] = dense
        if sparse is not None and self._sparse is not None:
            for index, vector in zip(indices, sparse, strict=True):
                self._sparse[index] = vector

    def build(self) -> CacheLookup:
        """Put the vectors in the order of the texts."""
        indices = np.array([self._index_of[digest] for digest in self._requested], dtype=np.intp)
        positions = np.flatnonzero(self._is_found[indices])
        if not len(positions):
            return CacheLookup()
        indices = indices[positions]
        dense, sparse = self._dense, self._sparse
        if dense is not None and not len(positions) == len(self._requested) == len(dense):  # else no copy is needed
            dense = dense[indices]
        return CacheLookup(positions.tolist(), dense, None if sparse is None else [sparse[index] for index in indices])
