"""Storage for the vectors of a block, filled as they arrive: an array, or plain lists where those are requested."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.types import Vectors


class VectorBuffer:
    """Vectors of texts by place. An unfilled place holds arbitrary numbers in the array and an empty list otherwise.

    Args:
        texts: how many places there are.
        lists: whether plain lists are wanted.
    """

    def __init__(self, texts: int, *, lists: bool = False) -> None:
        self.dimensions: int | None = None
        """Of the first vectors; no others are taken."""
        self._texts = texts
        self._array: Vectors
        # Made empty and filled later: most are past the garbage collector's first looks by then, which go through all
        # numbers of a list and would take a fifth of the call's CPU.
        self.lists: list[list[float]] | None = [[] for _ in range(texts)] if lists else None
        """The vectors as they stand, if plain lists were requested."""

    def put(self, places: Sequence[int], rows: Vectors) -> bool:
        """Put vectors in their places; False when they are not as long as those before."""
        if self._dimensions(rows.shape[1]) != rows.shape[1]:
            return False
        if self.lists is None:
            self._array[list(places)] = rows
            return True
        for place, row in zip(places, rows.astype(np.float32, copy=False), strict=True):
            made = self.lists[place]
            made.clear()
            made.extend(array("f", row.tobytes()))  # a list in between would be one copy more
        return True

    def row(self, place: int) -> Vectors | None:
        """The vector at a place that was put there, shape (1, dimensions); None when none was put anywhere."""
        if self.dimensions is None:
            return None
        if self.lists is None:
            return self._array[place : place + 1]
        return np.array([self.lists[place]], dtype=np.float32)

    def vectors(self, dimensions: int) -> Vectors:
        """The vectors as they stand, or as an array made of the lists.

        Args:
            dimensions: of the array, if no vector has told.
        """
        dimensions = self._dimensions(dimensions)
        if self.lists is None:
            return self._array
        made = np.empty((self._texts, dimensions), dtype=np.float32)
        for place, row in enumerate(self.lists):
            if row:
                made[place] = row
        return made

    def _dimensions(self, first: int) -> int:
        """Return the dimensions of all vectors: those of the first ones."""
        if self.dimensions is None:
            if self.lists is None:
                self._array = np.empty((self._texts, first), dtype=np.float32)
            self.dimensions = first
        return self.dimensions
