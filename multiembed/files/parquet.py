"""Parquet input, read in small batches whatever the size of its row groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multiembed.files.arrow import arrow, to_json
from multiembed.files.rows import CHUNK_CHARACTERS, CHUNK_ROWS, Chunk, InputError, Source, text_fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_READ_BYTES = 1 << 18
"""Bytes read ahead of each column."""


@dataclass(slots=True)
class Batch:
    """Columns of a chunk as arrow holds them."""

    batch: Any

    def values(self, name: str) -> Any:
        """Return one column; nulls where the file does not have it."""
        if name in self.batch.schema.names:
            return self.batch.column(name)
        return [None] * self.batch.num_rows

    def objects(self) -> list[bytes]:
        """Return each row as a JSON object."""
        names = self.batch.schema.names
        columns = [_json_values(name, column) for name, column in zip(names, self.batch.columns, strict=True)]
        return [to_json(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


class Parquet(Source):
    """Reader of a Parquet file."""

    def __init__(self, path: Path, name: str, column: str | None) -> None:
        self.name = name
        self.column = column
        self._path = path

    def kinds(self) -> dict[str, str]:
        """Return the columns, with what they hold."""
        return {name: "text" if _is_text(type_) else str(type_) for name, type_ in self.types().items()}

    def types(self) -> dict[str, Any]:
        """Return the columns, with their arrow types."""
        with self._opened() as file:
            schema = file.schema_arrow
        repeated = _repeated_name([(field.name, field.type) for field in schema])
        if repeated is not None:
            raise InputError(
                f"two columns, or two fields of one column, have the same name: {repeated!r}", file=self.name
            )
        return dict(zip(schema.names, schema.types, strict=True))

    def read(self, *, whole: bool = True, limit: int | None = None) -> Iterator[Chunk]:
        """Read the rows, from the first; with all columns, or with the texts alone."""
        first = 1
        with self._opened() as file:
            data = file.metadata
            size = sum(data.row_group(group).total_byte_size for group in range(data.num_row_groups))
            average = max(1, size // max(1, data.num_rows))
            rows = max(1, min(CHUNK_ROWS, 2 * CHUNK_CHARACTERS // average))
            columns = None if whole else [self.column]
            try:
                for batch in file.iter_batches(rows, columns=columns, use_threads=False):
                    kept = batch if limit is None else batch.slice(0, limit + 1 - first)
                    if not kept.num_rows:
                        return
                    yield self._make_chunk(kept, first)
                    first += kept.num_rows
            except (arrow().ArrowException, OSError) as error:
                raise InputError(f"cannot be read: {error}", file=self.name, line=first) from None

    def _make_chunk(self, batch: Any, first: int) -> Chunk:
        values, faults = _python_values(batch.column(self.column))
        for row, value in enumerate(values):
            fault = f"{self.column!r} is null" if value is None else text_fault(value)
            if fault:
                faults[row] = fault
        texts = [value or "" for value in values]
        return Chunk([self.name] * len(texts), range(first, first + len(texts)), texts, faults, Batch(batch))

    def _opened(self) -> Any:
        pa = arrow()
        try:
            return pa.parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=_READ_BYTES)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            raise InputError(f"this is no whole Parquet file: {error}", file=self.name) from None


def _python_values(column: Any) -> tuple[list[Any], dict[int, str]]:
    """A column's values, and the faults of those that are not UTF-8, which Parquet promises but no writer checks."""
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


def _repeated_name(fields: list[tuple[str, Any]]) -> str | None:
    """A name that is there twice among columns, or among the fields of a struct in them."""
    names = [name for name, _ in fields]
    for name, type_ in fields:
        indices = range(type_.num_fields) if arrow().types.is_nested(type_) else ()
        inner = [(type_.field(index).name, type_.field(index).type) for index in indices]
        repeated = name if names.count(name) > 1 else _repeated_name(inner)
        if repeated is not None:
            return repeated
    return None


def _json_values(name: str, column: Any) -> list[Any]:
    """A column's values for JSON. Those that Python cannot hold become text: nanoseconds, and years after 9999.

    Raises:
        InputError: arrow can make neither values nor text of it.
    """
    pa = arrow()
    try:
        return _python_values(column)[0]
    except (ValueError, OverflowError):
        pass
    try:
        values: list[Any] = column.cast(pa.string()).to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(
            f"The column {name!r} ({column.type}) cannot be written as JSON ({error}): write .parquet."
        ) from None
    return values


def _is_text(type_: Any) -> bool:
    types = arrow().types
    if types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_))
