"""A reply's vectors are checked before they are believed: all of them, in order, of the right length, real numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pybase64

from multiembed.responses.vector_extraction import parse_vector
from multiembed.types import SparseVector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from multiembed.providers.types import DecodedItem, DecodedResponse
    from multiembed.types import Output, Vectors

_T = TypeVar("_T")


class IncompleteError(ValueError):
    """An answer that lacks vectors or repeats one. Unlike other faults of form, the next answer may well be good."""


class BadRowsError(ValueError):
    """Some vectors of an otherwise good answer are not usable.

    Attributes:
        rows: their positions in the request, ascending.
    """

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__(reasons[min(reasons)])
        self.rows = tuple(sorted(reasons))


@dataclass(frozen=True, slots=True)
class ValidatedVectors:
    """The vectors of one request, in the order of its texts."""

    dense: Vectors | None
    """float32, shape (texts, dimensions)."""
    sparse: list[SparseVector] | None
    total_tokens: int | None
    request_id: str | None
    model: str | None = None
    """The model that the server named."""


def validate_vectors(reply: DecodedResponse, *, texts: int, dimensions: int | None, output: Output) -> ValidatedVectors:
    """The vectors of a reply, if they can be believed.

    Args:
        reply: as the provider's decoder took it apart.
        texts: how many were sent.
        dimensions: the length that each dense vector must have; None when it is not known yet.
        output: what was asked for.

    Raises:
        BadRowsError: some vectors are not usable.
        ValueError: the answer as a whole is not usable; the message says why.
    """
    items = _in_order(reply.items, texts)
    return ValidatedVectors(
        dense=None if output == "sparse" else _dense([item.dense for item in items], dimensions),
        sparse=None if output == "dense" else _read_rows(_sparse, [item.sparse for item in items]),
        total_tokens=reply.total_tokens,
        request_id=reply.request_id,
        model=reply.model,
    )


def weighted_mean(
    parts: Sequence[tuple[Sequence[int], ValidatedVectors]], weights: Sequence[int]
) -> ValidatedVectors | None:
    """The mean of the pieces' vectors, weighted and brought to unit length; None when they cancel each other out.

    Args:
        parts: the places of some pieces with their vectors; together all of them.
        weights: of each piece, by its place.
    """
    places = [place for some, _ in parts for place in some]
    rows = np.concatenate([believed.dense for _, believed in parts if believed.dense is not None])
    mean = np.asarray([weights[place] for place in places], dtype=np.float64) @ rows
    length = float(np.linalg.norm(mean))
    if length == 0.0:
        return None
    tokens = [believed.total_tokens for _, believed in parts]
    return ValidatedVectors(
        dense=(mean / length).astype(np.float32)[np.newaxis],
        sparse=None,
        total_tokens=None if None in tokens else sum(filter(None, tokens)),
        request_id=None,
    )


def _in_order(items: Sequence[DecodedItem], texts: int) -> list[DecodedItem]:
    """The items by their index, which must be 0, 1, …, texts - 1, each once.

    One vector for one text needs no index: there is no order to get wrong.
    """
    if len(items) != texts:
        raise IncompleteError(f"{texts} texts were sent and {len(items)} vectors came back")
    if texts == 1 and items[0].index is None:
        return list(items)
    ordered: list[DecodedItem | None] = [None] * texts
    for item in items:
        index = item.index
        if type(index) is not int or not 0 <= index < texts:
            raise ValueError(f"a vector has the index {index!r:.40}, which is no position of the {texts} texts")
        if ordered[index] is not None:
            raise IncompleteError(f"two vectors have the index {index}")
        ordered[index] = item
    return ordered  # type: ignore[return-value] # as many distinct positions as places: none is left empty


def _read_rows(read: Callable[[object, int], _T], raw: Sequence[object]) -> list[_T]:
    """Each vector as `read` gives it.

    Raises:
        BadRowsError: `read` refused some of them.
    """
    rows, bad = [], {}
    for place, value in enumerate(raw):
        try:
            rows.append(read(value, place))
        except ValueError as error:
            bad[place] = str(error)
    if bad:
        raise BadRowsError(bad)
    return rows


def _dense(raw: Sequence[object], dimensions: int | None) -> Vectors:
    def read(value: object, place: int) -> NDArray[Any]:
        row = _row(value, place)
        if dimensions is not None and len(row) != dimensions:
            raise ValueError(f"vector {place} has {len(row)} dimensions where {dimensions} were expected")
        return row

    rows = _read_rows(read, raw)
    size = len(rows[0])
    for place, row in enumerate(rows):
        if len(row) != size:  # nothing tells which of the two lengths is right
            raise ValueError(f"vector {place} has {len(row)} dimensions where {size} were expected")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinity, which is refused
        vectors = np.concatenate(rows, dtype=np.float32).reshape(len(rows), size)
    # One pass tells both: a sum of squares that is not finite holds a NaN or an infinity, and 0 is all zeros. In
    # float32 it is quick, but so are overflow and underflow: what it does not find good is summed up again.
    squares = np.einsum("ij,ij->i", vectors, vectors)
    each = squares.tolist()
    if math.isfinite(sum(each)) and min(each) > 0.0:
        return vectors
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    bad = {int(place): f"vector {place} is all zeros" for place in np.flatnonzero(squares == 0.0)}
    bad |= {int(place): f"vector {place} holds NaN or infinity" for place in np.flatnonzero(~np.isfinite(squares))}
    if bad:
        raise BadRowsError(bad)
    return vectors


def _row(value: object, place: int) -> NDArray[Any]:
    """A vector as float64, or as float32 where it came as such."""
    if isinstance(value, memoryview):
        return parse_vector(bytes(value))
    if isinstance(value, str):
        return _row_from_base64(value, place)
    if not isinstance(value, list) or not value:
        raise ValueError(f"vector {place} is {_name(value)}, not a list of numbers")
    try:
        row = np.array(value)  # no dtype: numpy would read numbers out of strings
    except (ValueError, OverflowError):
        raise ValueError(f"vector {place} is no flat list of numbers") from None
    if row.ndim != 1 or row.dtype.kind not in "fiu" or _holds_bool(value, row):
        raise ValueError(f"vector {place} holds something that is no number")
    return row.astype(np.float64, copy=False)


def _holds_bool(value: list[Any], row: np.ndarray[Any, Any]) -> bool:
    """Whether a JSON true or false was read as 1 or 0; looked for only where such a number stands."""
    return any(type(value[i]) is bool for i in np.flatnonzero((row == 0) | (row == 1)))


def _row_from_base64(value: str, place: int) -> Vectors:
    """Little-endian float32, by OpenAI's convention."""
    try:
        data = pybase64.b64decode(value, validate=True)
    except ValueError:
        raise ValueError(f"vector {place} is no base64") from None
    if not data or len(data) % 4:
        raise ValueError(f"vector {place} has {len(data)} bytes, which is no row of float32")
    return np.frombuffer(data, dtype="<f4")


def _sparse(value: object, place: int) -> SparseVector:
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"sparse vector {place} is {_name(value)}, not a list of weights")
    indices = tuple(entry.get("index") for entry in value)
    weights = tuple(entry.get("value") for entry in value)
    tokens = tuple(entry.get("token") for entry in value)
    if any(type(index) is not int or index < 0 for index in indices) or len(set(indices)) != len(indices):
        raise ValueError(f"sparse vector {place} has an index that is no vocabulary position, or one twice")
    if any(type(weight) not in (int, float) for weight in weights) or not np.isfinite(weights).all():
        raise ValueError(f"sparse vector {place} has a weight that is no number")
    named = all(isinstance(token, str) for token in tokens)
    return SparseVector(indices, tuple(map(float, weights)), tokens if named else None)


def _name(value: object) -> str:
    if value is None:
        return "missing"
    if isinstance(value, list):
        return "empty" if not value else "a list of something else"
    return type(value).__name__
