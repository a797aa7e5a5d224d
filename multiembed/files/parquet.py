"""Parquet as an input, read in small batches whatever the size of its row groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multiembed.files.arrow import arrow, to_json
from multiembed.files.rows import CHUNK_CHARACTERS, CHUNK_ROWS, Chunk, InputError, fault_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_BUFFER = 1 << 18
"""Bytes read ahead of each column."""


@dataclass(slots=True)
class Batch:
    """The rows of a chunk as arrow holds them."""

    batch: Any

    def values(self, name: str) -> Any:
        """One column; nulls where the file does not have it."""
        if name in self.batch.schema.names:
            return self.batch.column(name)
        return [None] * self.batch.num_rows

    def objects(self) -> list[bytes]:
        """Each row as a JSON object."""
        names = self.batch.schema.names
        columns = [_plain(name, column) for name, column in zip(names, self.batch.columns, strict=True)]
        return [to_json(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


class Parquet:
    """A Parquet file."""

    def __init__(self, path: Path, name: str, column: str | None) -> None:
        self.name = name
        self.column = column
        self._path = path

    def kinds(self) -> dict[str, str]:
        """The columns, with what they hold."""
        pa = arrow()
        return {name: "text" if _textual(pa, its) else str(its) for name, its in self.types().items()}

    def types(self) -> dict[str, Any]:
        """The columns, with their arrow types."""
        with self._opened() as file:
            schema = file.schema_arrow
        twice = _repeated(arrow(), [(field.name, field.type) for field in schema])
        if twice is not None:
            raise InputError(f"two columns, or two fields of one column, have the same name: {twice!r}", file=self.name)
        return dict(zip(schema.names, schema.types, strict=True))

    def names(self) -> Collection[str]:
        """The names of the columns."""
        return self.types()

    def seen(self, chunk: Chunk) -> dict[str, Any]:  # noqa: ARG002
        """Nothing more."""
        return {}

    def read(self, *, whole: bool = True) -> Iterator[Chunk]:
        """The rows, from the first; with all columns, or with the texts alone."""
        pa = arrow()
        column = str(self.column)
        first = 1
        with self._opened() as file:
            columns = None if whole else [column]
            try:
                for batch in file.iter_batches(_rows_at_once(file.metadata), columns=columns, use_threads=False):
                    yield self._chunk(batch, first)
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"cannot be read: {error}", file=self.name, line=first) from None

    def _chunk(self, batch: Any, first: int) -> Chunk:
        values, faults = _values(batch.column(str(self.column)))
        for row, value in enumerate(values):
            fault = f"{self.column!r} is null" if value is None else fault_of(value)
            if fault:
                faults[row] = fault
        texts = [value or "" for value in values]
        return Chunk([self.name] * len(texts), range(first, first + len(texts)), texts, faults, Batch(batch))

    def _opened(self) -> Any:
        pa = arrow()
        try:
            return pa.parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=_BUFFER)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            raise InputError(f"this is no whole Parquet file: {error}", file=self.name) from None


def _rows_at_once(metadata: Any) -> int:
    """How many rows make a chunk, by what they take on average."""
    size = sum(metadata.row_group(at).total_byte_size for at in range(metadata.num_row_groups))
    average: int = size // max(1, metadata.num_rows)
    return max(1, min(CHUNK_ROWS, 2 * CHUNK_CHARACTERS // max(1, average)))


def _values(column: Any) -> tuple[list[Any], dict[int, str]]:
    """A column's values, and what is wrong with those that are no UTF-8, which Parquet promises and nobody checks."""
    try:
        return column.to_pylist(), {}
    except UnicodeDecodeError:
        values: list[Any] = []
        faults = {}
        for row, scalar in enumerate(column):
            try:
                values.append(scalar.as_py())
            except UnicodeDecodeError as error:
                values.append(error.object.decode("utf-8", "replace"))
                faults[row] = f"byte 0x{error.object[error.start]:02x} at {error.start} is no utf-8"
        return values, faults


def _repeated(pa: Any, fields: list[tuple[str, Any]]) -> str | None:
    """A name that stands twice among columns, or among the fields of a struct in them."""
    names = [name for name, _ in fields]
    for name, its in fields:
        nested = pa.types.is_nested(its)
        inner = [(its.field(at).name, its.field(at).type) for at in range(its.num_fields)] if nested else []
        twice = name if names.count(name) > 1 else _repeated(pa, inner)
        if twice is not None:
            return twice
    return None


def _plain(name: str, column: Any) -> list[Any]:
    """A column's values for JSON. What Python has no value for becomes text: nanoseconds, and years after 9999.

    Raises:
        InputError: arrow can make neither values nor text of it.
    """
    pa = arrow()
    try:
        return _values(column)[0]
    except (ValueError, OverflowError):
        pass
    try:
        values: list[Any] = column.cast(pa.string()).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(
            f"The column {name!r} ({column.type}) cannot be written as JSON ({error}): write .parquet."
        ) from None
    return values


def _textual(pa: Any, its: Any) -> bool:
    types = pa.types
    if types.is_dictionary(its):
        its = its.value_type
    return bool(types.is_string(its) or types.is_large_string(its) or types.is_string_view(its))
