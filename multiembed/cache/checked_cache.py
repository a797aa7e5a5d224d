"""Validation of what a cache returns: anything raised or unusable is one CacheWarning and an uncached run."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from multiembed.cache.base import CacheClaim, CacheLookup
from multiembed.cache.failure_policy import StoreHealth
from multiembed.cache.record_cache import RecordCache
from multiembed.types import SparseVector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiembed.cache.base import CacheEntry, VectorCache
    from multiembed.types import Output, Vectors


class CheckedCache:
    """Cache that raises nothing and returns usable vectors only, even if the inner cache fails or returns nonsense.

    After the first failure the inner cache is not used any more.

    Args:
        cache: the inner cache, which may be the user's own object.
        output: the vectors that a text needs to count as found.
        dimensions: the length of each dense vector. None if it is not known yet.
    """

    def __init__(self, cache: VectorCache, *, output: Output, dimensions: int | None) -> None:
        self._cache: Any = cache
        self._health = StoreHealth(type(cache).__name__)
        self._output = output
        self._dimensions = dimensions
        self.claim_age = cache.claim_age if isinstance(cache, RecordCache) else math.inf
        """Seconds since the look-up from which a batch is claimed before it is sent."""

    def describe(self, namespace: str, description: Mapping[str, Any]) -> None:
        """Pass on the description of a namespace, if the inner cache takes one."""
        if self._health.reads:
            with self._health.reporting("read"):
                describe = getattr(self._cache, "describe", None)
                if describe is not None:
                    _refuse_awaitable(describe(namespace, description))

    def get(self, namespace: str, texts: Sequence[str]) -> CacheLookup:
        """Look vectors up."""
        if self._health.reads:
            with self._health.reporting("read"):
                found = self._cache.get(namespace, list(texts))  # a copy: the cache may keep or change it
                return validate_lookup(found, len(texts), output=self._output, dimensions=self._dimensions)
        return CacheLookup()

    def claim(self, namespace: str, texts: Sequence[str]) -> CacheClaim:
        """Look vectors up again just before their texts are sent, and claim the missing ones."""
        if self._health.reads:
            with self._health.reporting("read"):
                claim: CacheClaim = self._cache.claim(namespace, texts)
                found = validate_lookup(claim.found, len(texts), output=self._output, dimensions=self._dimensions)
                return CacheClaim(found, claim.pending)
        return CacheClaim()

    def release(self, namespace: str, texts: Sequence[str]) -> None:
        """Give up the claims of texts that got no vector."""
        self._cache.release(namespace, texts)

    def put_many(self, entries: Sequence[CacheEntry]) -> None:
        """Keep the vectors of all entries, in one write if the inner cache has `put_many`."""
        if not self._health.writes:
            return
        with self._health.reporting("write"):
            put_many = getattr(self._cache, "put_many", None)
            if put_many is not None:
                _refuse_awaitable(put_many(entries))
                return
            for entry in entries:
                _refuse_awaitable(self._cache.put(entry.namespace, entry.texts, entry.dense, entry.sparse))

    def close(self) -> None:
        """Close the inner cache, if it can be closed."""
        with self._health.reporting("close"):
            if hasattr(self._cache, "close"):
                _refuse_awaitable(self._cache.close())


def validate_lookup(found: Any, texts: int, *, output: Output, dimensions: int | None) -> CacheLookup:
    """Check the result of a cache's `get`.

    Args:
        found: the result.
        texts: how many were requested.
        output: the vectors that a text needs to count as found.
        dimensions: the length of each dense vector. None if it is not known yet.

    Returns:
        The positions in the cache's order, with float32 rows and sparse vectors as far as `output` wants them.

    Raises:
        TypeError: `found` or a part of it has another type.
        ValueError: a position or a vector cannot be right. The message says why.
    """
    _refuse_awaitable(found)
    if not all(hasattr(found, name) for name in ("positions", "dense", "sparse")):
        raise TypeError(f"get returned {type(found).__name__}, not a CacheLookup")
    positions = np.asarray(found.positions)
    if positions.ndim != 1 or (positions.size and positions.dtype.kind not in "iu"):
        raise TypeError("the positions are not a list of integers")
    if not positions.size:
        return CacheLookup()
    if not 0 <= positions.min() <= positions.max() < texts:
        raise ValueError(f"a position is not one of the {texts} texts")
    if len(np.unique(positions)) < positions.size:
        raise ValueError("a position is there twice")
    return CacheLookup(
        positions.tolist(),
        None if output == "sparse" else _validate_dense(found.dense, positions.size, dimensions),
        None if output == "dense" else _validate_sparse(found.sparse, positions.size),
    )


def _validate_dense(dense: Any, count: int, dimensions: int | None) -> Vectors:
    if not isinstance(dense, np.ndarray) or dense.dtype.kind != "f":
        raise TypeError("the dense vectors are not an array of floats")
    if dense.ndim != 2 or len(dense) != count or dense.shape[1] != (dimensions or dense.shape[1] or 1):
        raise ValueError(
            f"the dense vectors have the shape {dense.shape} where ({count}, {dimensions or 'dimensions'}) was expected"
        )
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which is refused
        rows = np.asarray(dense).astype(np.float32, copy=False)
    # The squares of float32 are quick to sum, but overflow and underflow; those of float64 do not.
    for precision in (np.float32, np.float64):
        squares = np.einsum("ij,ij->i", rows, rows, dtype=precision)
        if np.isfinite(squares).all() and squares.all():
            return rows
    raise ValueError("a dense vector holds NaN or infinity, or is all zeros")


def _validate_sparse(sparse: Any, count: int) -> list[SparseVector]:
    if not isinstance(sparse, (list, tuple)) or not all(isinstance(vector, SparseVector) for vector in sparse):
        raise TypeError("the sparse vectors are not a list of SparseVector")
    if len(sparse) != count:
        raise ValueError(f"there are {len(sparse)} sparse vectors for {count} positions")
    for vector in sparse:
        indices, values = vector.indices, vector.values
        if len({len(indices), len(values), len(vector.tokens or indices)}) > 1:
            problem = "has not as many values as indices"
        elif not all(type(index) is int and index >= 0 for index in indices):
            problem = "has an index that is not a vocabulary position"
        elif len(set(indices)) < len(indices):
            problem = "has an index twice"
        elif not all(type(value) is float and math.isfinite(value) for value in values):
            problem = "has a value that is not a finite float"
        else:
            continue
        raise ValueError(f"a sparse vector {problem}")
    return list(sparse)


def _refuse_awaitable(result: Any) -> None:
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # else Python warns that it was never awaited
        raise TypeError("its methods are coroutines; multiembed calls them without await")
