"""The records that a lookup brings, checked one by one and put in the order of the texts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from multiembed.cache.codec import as_array, decode, form_of, name_of, read_alike, whole
from multiembed.cache.contract import Found

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.records import SparseVector, Vectors

    Places: TypeAlias = np.ndarray[tuple[int], np.dtype[np.intp]]


class Gathering:
    """What one lookup has found so far. Of two forms in a space, which cannot both be right, the last to come is kept.

    Args:
        names: the digest of each text; one may stand there twice.
    """

    def __init__(self, names: Sequence[bytes]) -> None:
        self._wanted = names
        self.names = list(dict.fromkeys(names))
        self.digests = as_array(self.names)
        self.damaged = False
        self.mixed = False
        self._form: bytes | None = None
        self._is_found = np.zeros(len(self.names), dtype=bool)
        self._dense: Vectors | None = None
        self._sparse: list[SparseVector | None] | None = None

    def add(self, places: Places, records: Sequence[bytes]) -> None:
        """Take in records, each with the place in `names` of the text that it was brought for."""
        if not records:
            return
        alike = read_alike(records, self.digests[places])
        if alike is None:
            self._add_each(places.tolist(), records)
        else:
            form, dense = alike
            if form != self._form:
                self._begin(form, others=False)
            self._keep(places, dense, None)

    def _add_each(self, places: Sequence[int], records: Sequence[bytes]) -> None:
        names = self.names
        read = whole(zip(places, records, strict=True))
        self.damaged = self.damaged or len(read) < len(records)
        read = [(place, record) for place, record in read if name_of(record) == names[place]]
        if not read:
            return
        form = form_of(read[-1][1])
        of_one_form = [(place, record) for place, record in read if record.startswith(form)]
        if form != self._form or len(of_one_form) < len(read):
            self._begin(form, others=len(of_one_form) < len(read))
        self._keep(np.array([place for place, _ in of_one_form]), *decode([record for _, record in of_one_form]))

    def found(self) -> Found:
        """Everything that was found, by the positions of the texts."""
        places = np.flatnonzero(self._is_found)
        if not len(places):
            return Found()
        if len(self._wanted) == len(self.names):
            positions = places.tolist()
        else:
            place_of = {name: place for place, name in enumerate(self.names) if self._is_found[place]}
            positions = [position for position, name in enumerate(self._wanted) if name in place_of]
            places = np.array([place_of[self._wanted[position]] for position in positions])
        return Found(positions, self._rows(places), self._sparse_of(places))

    def _begin(self, form: bytes, *, others: bool) -> None:
        """Take this form from now on, and forget what was found of another one."""
        self.mixed = self.mixed or others or self._form is not None
        if form != self._form:
            self._form = form
            self._is_found[:] = False
            self._dense = self._sparse = None

    def _keep(self, places: Places, dense: Vectors | None, sparse: list[SparseVector] | None) -> None:
        if dense is not None:
            if self._dense is None:
                self._dense = np.empty((len(self.names), dense.shape[1]), dtype=np.float32)
            self._dense[places] = dense
        if sparse is not None:
            self._sparse = self._sparse or [None] * len(self.names)
            for place, vector in zip(places.tolist(), sparse, strict=True):
                self._sparse[place] = vector
        self._is_found[places] = True

    def _rows(self, places: Places) -> Vectors | None:
        if self._dense is None or len(places) == len(self._dense) == len(self._wanted):
            return self._dense  # all of them, so that there is nothing to copy
        return self._dense[places]

    def _sparse_of(self, places: Places) -> list[SparseVector] | None:
        if self._sparse is None:
            return None
        return [vector for place in places.tolist() if (vector := self._sparse[place]) is not None]
