"""Where the vectors of a block stand, put there as they come: an array, or plain lists for whoever wants those."""

from __future__ import annotations

import mmap
import threading
from array import array
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.records import Vectors

_HUGE = 4 << 20
"""Bytes from which on numpy asks for huge pages."""


class Room:
    """The vectors of texts, by their places; a place that none was put in holds whatever stood in memory, or no number.

    May be filled from many threads at once.

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
        self._lists: list[list[float]] | None = [[] for _ in range(texts)] if lists else None
        self._lock = threading.Lock()

    def put(self, places: Sequence[int], rows: Vectors) -> bool:
        """Put vectors in their places; False when they are not as long as those before."""
        if self._dimensions(rows.shape[1]) != rows.shape[1]:
            return False
        if self._lists is None:
            self._array[_slice(places) or places] = rows
            return True
        for place, row in zip(places, rows.astype(np.float32, copy=False), strict=True):
            made = self._lists[place]
            made.clear()
            made.extend(array("f", row.tobytes()))  # a list in between would be one copy more
        return True

    def row(self, place: int) -> Vectors | None:
        """The vector at a place that was put there, shape (1, dimensions); None when none was put anywhere."""
        if self.dimensions is None:
            return None
        if self._lists is None:
            return self._array[place : place + 1]
        return np.array([self._lists[place]], dtype=np.float32)

    def lists(self) -> list[list[float]] | None:
        """The vectors as they stand, if plain lists were wanted."""
        return self._lists

    def vectors(self, dimensions: int) -> Vectors:
        """The vectors as they stand, or as an array made of the lists.

        Args:
            dimensions: of the array, if no vector has told.
        """
        dimensions = self._dimensions(dimensions)
        if self._lists is None:
            return self._array
        made = _empty(self._texts, dimensions)
        for place, row in enumerate(self._lists):
            if row:
                made[place] = row
        return made

    def _dimensions(self, first: int) -> int:
        """The dimensions of all, which whoever comes first tells."""
        with self._lock:
            if self.dimensions is None:
                if self._lists is None:
                    self._array = _empty(self._texts, first)
                self.dimensions = first
            return self.dimensions


def _slice(places: Sequence[int]) -> slice | None:
    """The places as a slice, by which numpy puts rows sooner; None where they do not follow each other."""
    if not len(places):
        return None
    run = range(places[0], places[0] + len(places))
    return slice(run.start, run.stop) if list(places) == list(run) else None


def _empty(rows: int, dimensions: int) -> Vectors:
    """float32, in pages of the usual size.

    numpy asks Linux for pages of 2 MiB. One is got with the first vector that is written there, and where a virtual
    machine has to get it from its host, that took 5.5 ms, in which 50 answers waited: once in 51 requests, a twelfth of
    their time (2026-11-21). Pages of 4 KiB come one by one, while nothing else is to be done.
    """
    size = rows * dimensions * 4
    if size >= _HUGE and hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a system that has no huge pages, or nothing more to give, which numpy tells better
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            memory.madvise(mmap.MADV_NOHUGEPAGE)
            return np.frombuffer(memory, dtype=np.float32).reshape(rows, dimensions)
    return np.empty((rows, dimensions), dtype=np.float32)
