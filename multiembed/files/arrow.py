"""pyarrow, loaded when a file needs it, and the arrow types of columns, learned while the files are read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import orjson

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_LEVELS = 96
"""Nesting of a column in Parquet's schema: pyarrow 26 writes more than 98 levels, but reads no more (2026-11-28)."""


@cache
def arrow() -> Any:
    """Load the module pyarrow.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Parquet and Zstandard files need pyarrow: pip install 'multiembed[files]'. Plain text, CSV, TSV, JSONL "
            "and .npy do without."
        ) from None


def abandon(writer: Any) -> None:
    """Close a pyarrow.parquet.ParquetWriter while its file is still open; a closed one is left as it is.

    Otherwise its `__del__` writes to the closed file, and Python prints a traceback that cannot be caught.
    """
    with suppress(Exception):  # on a full disk
        writer.close()
    writer.is_open = False  # it stays True after an error, and __del__ would try again


@dataclass(frozen=True, slots=True)
class Column:
    """Column of the output."""

    name: str
    type: Any
    """A pyarrow type. None: the values become text (JSON for those that are not strings), because they have no type in
    common or one too deeply nested."""

    def array(self, values: Any) -> Any:
        """Convert values to an arrow array."""
        pa = arrow()
        if self.type is None:
            plain = values if isinstance(values, list) else values.to_pylist()
            texts = [value if value is None or isinstance(value, str) else to_json(value).decode() for value in plain]
            return pa.array(texts, "string")
        if isinstance(values, (pa.Array, pa.ChunkedArray)):
            return values if values.type == self.type else values.cast(self.type)
        if pa.types.is_floating(self.type):  # arrow refuses whole numbers above 2**53 here; JSON does not
            return pa.array([None if value is None else float(value) for value in values], self.type)
        return pa.array(values, self.type)


class Types:
    """Types of columns, learned chunk by chunk."""

    def __init__(self) -> None:
        self._types: dict[str, Any] = {}

    def add(self, columns: Mapping[str, Any]) -> None:
        """Learn from the values of some rows, or from a pyarrow type, of each column."""
        pa = arrow()
        for name, seen in columns.items():
            type_ = seen if isinstance(seen, pa.DataType) else _type_of(seen)
            self._types[name] = _merge(self._types[name], type_) if name in self._types else type_

    def columns(self) -> list[Column]:
        """Return the columns, in the order in which they were first seen."""
        return [Column(name, _parquet_type(type_)) for name, type_ in self._types.items()]


def to_json(value: Any) -> bytes:
    """Write a value as JSON: bytes as their hex digits, what JSON does not know as its text."""
    return orjson.dumps(
        value,
        default=lambda other: other.hex() if isinstance(other, (bytes, bytearray)) else str(other),
        option=orjson.OPT_NON_STR_KEYS,
    )


def _type_of(values: list[Any]) -> Any:
    """The type that all values have in common; None where there is none."""
    pa = arrow()
    try:
        return pa.array(values).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _merge(left: Any, right: Any) -> Any:
    pa = arrow()
    if left is None or right is None or left == right:
        return None if left is None or right is None else left
    try:
        schemas = [pa.schema([("c", type_)]) for type_ in (left, right)]
        merged = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    # Of a signed and an unsigned number arrow makes a signed one, which may be too small.
    unsigned = {pa.types.is_unsigned_integer(type_) for type_ in (left, right) if pa.types.is_integer(type_)}
    return None if len(unsigned) == 2 else merged


def _parquet_type(type_: Any) -> Any:
    """A type that Parquet has: no values at all become text, objects without fields and deep nesting their JSON."""
    if type_ is None or _levels(type_) > _MAX_LEVELS:
        return None
    return arrow().string() if arrow().types.is_null(type_) else type_


def _levels(type_: Any) -> int:
    """The levels of a type in Parquet's schema, where a list takes two; too many if an object has no field."""
    types = arrow().types
    if not types.is_nested(type_):
        return 0
    if not type_.num_fields:
        return _MAX_LEVELS + 1
    below = max(_levels(type_.field(index).type) for index in range(type_.num_fields))
    return below + (1 if types.is_struct(type_) else 2)
