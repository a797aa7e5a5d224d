"""Any cache behind one check: what it raises or returns wrongly is a CacheWarning and an uncached run."""

from __future__ import annotations

import inspect
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from multiembed.cache.base import CacheLookup, CacheWarning
from multiembed.cache.failure_policy import StoreHealth
from multiembed.types import SparseVector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from multiembed.cache.base import CacheEntry, VectorCache
    from multiembed.types import Output, Vectors


class CheckedCache:
    """A cache that raises nothing and returns usable vectors only, whatever the cache inside does.

    After the first failure the cache inside is left alone, with one CacheWarning.

    Args:
        cache: the cache inside; it may be the user's own object.
        output: the vectors that a text needs to count as found.
        dimensions: the length of each dense vector; None when it is not known yet.
    """

    def __init__(self, cache: VectorCache, *, output: Output, dimensions: int | None) -> None:
        self._cache = cache
        self._guard = StoreHealth(type(cache).__name__)
        self._output = output
        self._dimensions = dimensions

    def describe(self, space: str, words: Mapping[str, Any]) -> None:
        """Pass on the description of a space, if the cache inside takes one."""
        if self._guard.reads:
            with _reporting(self._guard.cannot_read):
                describe = getattr(self._cache, "describe", None)
                if describe is not None:
                    _refuse_awaitable(describe(space, words))

    def get(self, space: str, texts: Sequence[str]) -> CacheLookup:
        """Return the vectors of the texts that are known."""
        if self._guard.reads:
            with _reporting(self._guard.cannot_read):
                found = self._cache.get(space, list(texts))  # a copy: the cache may keep or change it
                return usable(found, len(texts), output=self._output, dimensions=self._dimensions)
        return CacheLookup()

    def put_many(self, entries: Sequence[CacheEntry]) -> None:
        """Keep the vectors of all entries, in one write if the cache inside has `put_many`."""
        if not self._guard.writes:
            return
        with _reporting(self._guard.cannot_write):
            put_many: Any = getattr(self._cache, "put_many", None)
            if put_many is not None:
                _refuse_awaitable(put_many(entries))
                return
            put: Any = self._cache.put
            for entry in entries:
                _refuse_awaitable(put(entry.namespace, entry.texts, entry.dense, entry.sparse))

    def close(self) -> None:
        """Close the cache inside, if it can be closed."""
        with _reporting(self._guard.cannot_close):
            if hasattr(self._cache, "close"):
                _refuse_awaitable(self._cache.close())  # type: ignore[func-returns-value]


@contextmanager
def _reporting(failed: Callable[[Exception], None]) -> Iterator[None]:
    """Report an exception to `failed` instead of raising it; the cache may be the user's, and raise anything."""
    try:
        yield
    except CacheWarning:  # where warnings are errors, the user wants them raised
        raise
    except Exception as error:  # noqa: BLE001 - as above
        failed(error)


def usable(found: Any, texts: int, *, output: Output, dimensions: int | None) -> CacheLookup:
    """What a cache returned, if every vector of it can be used.

    Args:
        found: what `get` returned.
        texts: how many were asked for.
        output: the vectors that a text needs to count as found.
        dimensions: the length of each dense vector; None when it is not known yet.

    Returns:
        The positions in the cache's order, float32 rows, and sparse vectors, as far as `output` wants them.

    Raises:
        TypeError: `found` or a part of it is of another type.
        ValueError: a position or a vector cannot be right; the message says why.
    """
    _refuse_awaitable(found)
    if not all(hasattr(found, name) for name in ("positions", "dense", "sparse")):
        raise TypeError(f"get returned {type(found).__name__}, not a Found")
    positions = _positions(found.positions, texts)
    if not positions:
        return CacheLookup()
    return CacheLookup(
        positions,
        None if output == "sparse" else _dense(found.dense, len(positions), dimensions),
        None if output == "dense" else _sparse(found.sparse, len(positions)),
    )


def _positions(given: Any, texts: int) -> list[int]:
    positions = np.asarray(given)
    if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
        raise TypeError("the positions are not a list of integers")
    if positions.size and not 0 <= positions.min() <= positions.max() < texts:
        raise ValueError(f"a position is not one of the {texts} texts")
    if len(np.unique(positions)) < positions.size:
        raise ValueError("a position is there twice")
    return list(map(int, positions.tolist()))


def _dense(given: Any, count: int, dimensions: int | None) -> Vectors:
    if not isinstance(given, np.ndarray) or given.dtype.kind != "f":
        raise TypeError("the dense vectors are not an array of floats")
    if given.ndim != 2 or len(given) != count or given.shape[1] != (dimensions or given.shape[1] or 1):
        raise ValueError(
            f"the dense vectors have the shape {given.shape} where ({count}, {dimensions or 'dimensions'}) was expected"
        )
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which is refused
        rows = np.asarray(given).astype(np.float32, copy=False)
    if not any(_all_real(rows, precision) for precision in (np.float32, np.float64)):
        raise ValueError("a dense vector holds NaN or infinity, or is all zeros")
    return rows


def _all_real(rows: Vectors, precision: type[np.floating[Any]]) -> bool:
    """Whether each row has a length. float32 is quick, but its squares overflow and underflow."""
    squares = np.einsum("ij,ij->i", rows, rows, dtype=precision)
    return bool(np.isfinite(squares).all() and squares.all())


def _sparse(given: Any, count: int) -> list[SparseVector]:
    if not isinstance(given, (list, tuple)) or not all(isinstance(each, SparseVector) for each in given):
        raise TypeError("the sparse vectors are not a list of SparseVector")
    if len(given) != count:
        raise ValueError(f"there are {len(given)} sparse vectors for {count} positions")
    if problem := next(_problems(given), None):
        raise ValueError(f"a sparse vector {problem}")
    return list(given)


def _problems(vectors: Sequence[SparseVector]) -> Iterator[str]:
    for each in vectors:
        if len({len(each.indices), len(each.values), len(each.tokens or each.indices)}) > 1:
            yield "has not as many values as indices"
        elif each.indices and (set(map(type, each.indices)) != {int} or min(each.indices) < 0):
            yield "has an index that is not a vocabulary position"
        elif len(set(each.indices)) < len(each.indices):
            yield "has an index twice"
        elif each.values and (set(map(type, each.values)) != {float} or not all(map(math.isfinite, each.values))):
            yield "has a value that is not a finite float"


def _refuse_awaitable(result: Any) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # else Python warns that it was never awaited
        raise TypeError("its methods are coroutines; multiembed calls them without await")
