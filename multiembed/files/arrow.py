"""pyarrow, loaded when a file needs it, and the arrow type of a column, found out while the files are read."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import orjson

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


_MAX_LEVELS = 96
"""Nesting of a column in Parquet's schema: pyarrow 26 writes more than 98 levels, but reads no more (2026-11-28)."""


@cache
def arrow() -> Any:
    """The module pyarrow.

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
    """Close a pyarrow.parquet.ParquetWriter while its file is still open; a closed one stays as it is.

    Otherwise its `__del__` writes to the closed file, and Python prints a traceback that nothing can catch.
    """
    with suppress(Exception):  # on a full disk
        writer.close()
    writer.is_open = False  # it stays True after an error, and __del__ would try again


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the output."""

    name: str
    type: Any
    """A pyarrow type; None: the values have no type in common, or one too deeply nested, and become text, whatever is
    no string its JSON."""

    def array(self, values: Any) -> Any:
        """The values as an arrow array."""
        pa = arrow()
        if self.type is None:
            return pa.array([_as_text(value) for value in _plain(values)], "string")
        if isinstance(values, (pa.Array, pa.ChunkedArray)):
            return values if values.type == self.type else values.cast(self.type)
        if pa.types.is_floating(self.type):  # arrow refuses whole numbers above 2**53 here; JSON does not
            return pa.array([None if value is None else float(value) for value in values], self.type)
        return pa.array(values, self.type)


class Types:
    """The types of columns, learned chunk by chunk."""

    def __init__(self) -> None:
        self._types: dict[str, Any] = {}

    def see(self, columns: Mapping[str, Any]) -> None:
        """Learn from the values of some rows, or from a pyarrow type, of each column."""
        pa = arrow()
        for name, seen in columns.items():
            found = seen if isinstance(seen, pa.DataType) else _type_of(seen)
            self._types[name] = _merged(self._types[name], found) if name in self._types else found

    def columns(self) -> list[Column]:
        """The columns, in the order in which they were first seen."""
        pa = arrow()
        return [Column(name, _told(pa, its)) for name, its in self._types.items()]


def to_json(value: Any) -> bytes:
    """A value as JSON: bytes as their hex digits, what JSON does not know as its text."""
    return orjson.dumps(value, default=_spelled, option=orjson.OPT_NON_STR_KEYS)


def _spelled(value: object) -> object:
    return value.hex() if isinstance(value, (bytes, bytearray)) else str(value)


def _as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else to_json(value).decode()


def _plain(values: Any) -> Iterable[Any]:
    return values if isinstance(values, list) else values.to_pylist()


def _type_of(values: list[Any]) -> Any:
    """The type that all values have in common; None where there is none."""
    pa = arrow()
    try:
        return pa.array(values).type
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


def _merged(left: Any, right: Any) -> Any:
    pa = arrow()
    if left is None or right is None or left == right:
        return None if left is None or right is None else left
    try:
        schemas = [pa.schema([("c", each)]) for each in (left, right)]
        merged = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    # Of a signed and an unsigned number arrow makes a signed one, which may be too small.
    unsigned = {pa.types.is_unsigned_integer(each) for each in (left, right) if pa.types.is_integer(each)}
    return None if len(unsigned) == 2 else merged


def _told(pa: Any, its: Any) -> Any:
    """A type that Parquet has: no values at all become text, objects without fields and deep nesting their JSON."""
    if its is None or _hollow(pa, its) or _levels(pa, its) > _MAX_LEVELS:
        return None
    return pa.string() if pa.types.is_null(its) else its


def _levels(pa: Any, its: Any) -> int:
    """The levels of a type in Parquet's schema, where a list takes two."""
    if pa.types.is_nested(its):
        inner = [its.field(at).type for at in range(its.num_fields)]
        below: int = max((_levels(pa, each) for each in inner), default=0)
        return below + (1 if pa.types.is_struct(its) else 2)
    return 0


def _hollow(pa: Any, its: Any) -> bool:
    if pa.types.is_struct(its):
        return its.num_fields == 0 or any(_hollow(pa, its.field(at).type) for at in range(its.num_fields))
    if pa.types.is_list(its) or pa.types.is_large_list(its) or pa.types.is_fixed_size_list(its):
        return _hollow(pa, its.value_type)
    return False
