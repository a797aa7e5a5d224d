"""Builds the result of one look-up from the records that a store returns. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from multiembed.cache.base import CacheLookup
from multiembed.cache.record_format import decode, form_of, intact_of, names_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.types import SparseVector, Vectors


class LookupBuilder:
    """The vectors found so far. A namespace should hold one form; of two, the last one added is kept.

    Args:
        names: the digest of each text, with repetitions.
    """

    def __init__(self, names: Sequence[bytes]) -> None:
        self._index_of = dict(zip(dict.fromkeys(names), range(len(names)), strict=False))
        self.names = list(self._index_of)
        """Without repetitions."""
        self.damaged = False
        """Whether a record failed its check."""
        self.mixed = False
        """Whether records of two forms were added."""
        self._requested = names
        self._form: bytes | None = None
        self._is_found = np.zeros(len(self.names), dtype=bool)
        self._dense: Vectors | None = None
        self._sparse: list[SparseVector] | None = None

    def add(self, records: Sequence[object]) -> None:
        """Check records and take over their vectors. A record of a text that was not requested is ignored."""
        intact = intact_of(records)
        self.damaged = self.damaged or len(intact) < len(records)
        found = [record for record, name in zip(intact, names_of(intact), strict=True) if name in self._index_of]
        if not found:
            return
        form = form_of(found[-1])
        alike = [record for record in found if record.startswith(form)]
        self.mixed = self.mixed or self._form not in (None, form) or len(alike) < len(found)
        if form != self._form:
            self._form = form
            self._is_found[:] = False
            self._dense = self._sparse = None
        indices = [self._index_of[name] for name in names_of(alike)]
        dense, sparse = decode(alike)
        if dense is not None:
            if self._dense is None:
                self._dense = np.empty((len(self.names), dense.shape[1]), dtype=np.float32)
            self._dense[indices] = dense
        if sparse is not None:
            if self._sparse is None:
                self._sparse = sparse[:1] * len(self.names)
            for index, vector in zip(indices, sparse, strict=True):
                self._sparse[index] = vector
        self._is_found[indices] = True

    def build(self) -> CacheLookup:
        """The vectors by the positions of the texts."""
        indices = np.array([self._index_of[name] for name in self._requested], dtype=np.intp)
        positions = np.flatnonzero(self._is_found[indices])
        if not len(positions):
            return CacheLookup()
        indices = indices[positions]
        dense, sparse = self._dense, self._sparse
        if dense is not None and not len(positions) == len(self._requested) == len(dense):  # else it need not be copied
            dense = dense[indices]
        return CacheLookup(positions.tolist(), dense, None if sparse is None else [sparse[index] for index in indices])
