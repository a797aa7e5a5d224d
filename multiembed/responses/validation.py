"""Validation of decoded vectors before use: one for each text, in order, of the right length, finite numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from multiembed.responses.vector_extraction import parse_base64, parse_vector
from multiembed.types import SparseVector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from multiembed.providers.types import DecodedItem, DecodedResponse
    from multiembed.types import Output, Vectors

_T = TypeVar("_T")


class IncompleteError(ValueError):
    """A response that lacks vectors or repeats one. Unlike after other format errors, a retry may well succeed."""


class BadRowsError(ValueError):
    """Some vectors of an otherwise good response are not usable."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(reasons[min(reasons)])
        self.rows = tuple(sorted(reasons))
        """Their positions in the request."""


@dataclass(frozen=True, slots=True)
class ValidatedVectors:
    """Vectors of one request, in the order of its texts."""

    dense: Vectors | None
    """float32, shape (texts, dimensions)."""
    sparse: list[SparseVector] | None
    total_tokens: int | None
    request_id: str | None
    model: str | None = None
    """Model that the server named."""


def validate_vectors(
    response: DecodedResponse, *, texts: int, dimensions: int | None, output: Output
) -> ValidatedVectors:
    """Validate the vectors of a response to so many texts, and their dimensions where these are known.

    Raises:
        BadRowsError: some vectors are not usable.
        ValueError: the response as a whole is not usable; the message says why.
    """
    items = _in_order(response.items, texts)
    return ValidatedVectors(
        dense=None if output == "sparse" else _dense([item.dense for item in items], dimensions),
        sparse=None if output == "dense" else _each("sparse vector", _parse_sparse, [item.sparse for item in items]),
        total_tokens=response.total_tokens,
        request_id=response.request_id,
        model=response.model,
    )


def weighted_mean(
    parts: Sequence[tuple[Sequence[int], ValidatedVectors]], weights: Sequence[int]
) -> ValidatedVectors | None:
    """Compute the weighted mean of the vectors of a text's pieces, at unit length; None if they cancel each other out.

    Each part has the positions of some pieces and their vectors. The weights are by position.
    """
    positions = [position for some, _ in parts for position in some]
    rows = np.concatenate([vectors.dense for _, vectors in parts if vectors.dense is not None])
    mean = np.asarray([weights[position] for position in positions], dtype=np.float64) @ rows
    length = float(np.linalg.norm(mean))
    if length == 0.0:
        return None
    return ValidatedVectors((mean / length).astype(np.float32)[np.newaxis], None, sum_tokens(parts), None)


def sum_tokens(parts: Sequence[tuple[Sequence[int], ValidatedVectors]]) -> int | None:
    """Return the billed tokens of all parts; None if a response did not name them."""
    tokens = [vectors.total_tokens for _, vectors in parts]
    return None if None in tokens else sum(filter(None, tokens))


def _in_order(items: Sequence[DecodedItem], texts: int) -> list[DecodedItem]:
    """Sort the items by index, which must be 0, 1, …, texts - 1. One vector for one text needs no index."""
    if len(items) != texts:
        raise IncompleteError(f"{texts} texts were sent and {len(items)} vectors came back")
    if texts == 1 and items[0].index is None:
        return list(items)
    ordered: dict[int, DecodedItem] = {}
    for item in items:
        index = item.index
        if type(index) is not int or not 0 <= index < texts:
            raise ValueError(f"a vector has the index {index!r:.40}, which is not a position of the {texts} texts")
        if index in ordered:
            raise IncompleteError(f"two vectors have the index {index}")
        ordered[index] = item
    return [ordered[index] for index in range(texts)]


def _each(name: str, parse: Callable[[object], _T], raw: Sequence[object]) -> list[_T]:
    """Parse each vector, or raise BadRowsError for those that are not usable."""
    rows, bad = [], {}
    for position, value in enumerate(raw):
        try:
            rows.append(parse(value))
        except ValueError as error:
            bad[position] = f"{name} {position} {error}"
    if bad:
        raise BadRowsError(bad)
    return rows


def _dense(raw: Sequence[object], dimensions: int | None) -> Vectors:
    rows = _each("vector", partial(_parse_dense, dimensions), raw)
    size = len(rows[0])
    for position, row in enumerate(rows):
        if len(row) != size:  # either length may be the right one, so the whole response is not usable
            raise ValueError(f"vector {position} has {len(row)} dimensions where {size} were expected")
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinity, which is rejected
        vectors = np.concatenate(rows, dtype=np.float32).reshape(len(rows), size)
    # A sum of squares that is not finite holds a NaN or an infinity, and 0 is all zeros. In float32 it is fast, but may
    # overflow or underflow: it is computed again in float64 if it does not find all vectors good.
    squares = np.einsum("ij,ij->i", vectors, vectors).tolist()
    if math.isfinite(sum(squares)) and min(squares) > 0.0:
        return vectors
    exact = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    bad = {
        position: f"vector {position} {'holds NaN or infinity' if square else 'is all zeros'}"
        for position, square in enumerate(exact.tolist())
        if square == 0.0 or not math.isfinite(square)
    }
    if bad:
        raise BadRowsError(bad)
    return vectors


def _parse_dense(dimensions: int | None, value: object) -> NDArray[Any]:
    if isinstance(value, memoryview):
        row = parse_vector(value)
    else:
        row = parse_base64(value) if isinstance(value, str) else _parse_list(value)
    if dimensions is not None and len(row) != dimensions:
        raise ValueError(f"has {len(row)} dimensions where {dimensions} were expected")
    return row


def _parse_list(value: object) -> NDArray[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"is {_kind_of(value)}, not a list of numbers")
    try:
        row = np.array(value)  # without dtype: numpy would read numbers out of strings
    except (ValueError, OverflowError):
        raise ValueError("is not a flat list of numbers") from None
    # A JSON true or false would be 1 or 0 among numbers.
    if (
        row.ndim != 1
        or row.dtype.kind not in "fiu"
        or any(type(value[i]) is bool for i in np.flatnonzero((row == 0) | (row == 1)))
    ):
        raise ValueError("holds something that is not a number")
    return row.astype(np.float64, copy=False)


def _parse_sparse(value: object) -> SparseVector:
    if not isinstance(value, list) or {*map(type, value)} != {dict}:
        raise ValueError(f"is {_kind_of(value)}, not a list of weights")
    entries = [(entry.get("index"), entry.get("value"), entry.get("token")) for entry in value]
    indices, weights, tokens = zip(*entries, strict=True)
    # The types of what JSON holds are exact; that of true is not int.
    if {*map(type, indices)} != {int} or min(indices) < 0 or len(set(indices)) != len(indices):
        raise ValueError("has an index that is not a vocabulary position, or one twice")
    if not {*map(type, weights)} <= {int, float} or not all(map(math.isfinite, weights)):
        raise ValueError("has a weight that is not a number")
    return SparseVector(indices, tuple(map(float, weights)), tokens if {*map(type, tokens)} == {str} else None)


def _kind_of(value: object) -> str:
    if isinstance(value, list):
        return "a list of something else" if value else "empty"
    return "missing" if value is None else type(value).__name__
