"""What is written: Parquet with a column of fixed-size lists, JSONL with a field more, or a matrix as .npy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import orjson

from multiembed import ConfigurationError
from multiembed.files.arrow import abandon, arrow
from multiembed.files.atomic_write import WholeFile, naming
from multiembed.files.rows import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from multiembed.files.arrow import Column
    from multiembed.files.rows import Chunk

OUTPUT_FORMATS = ("parquet", "jsonl", "npy")
_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy"}
_ROW_GROUP = 32 << 20
"""Bytes of a row group: what is held in memory until it is written."""
_NPY_HEADER = 128


class Writer(Protocol):
    """One kind of output. Of each chunk it gets the vectors, float32, shape (rows, dimensions), and which rows stay."""

    def write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        """Take the next rows."""

    def finish(self) -> None:
        """Write what is still held."""

    def discard(self) -> None:
        """Write nothing more, not even when it is deleted."""


class Output:
    """An output in the making; see WholeFile for how it comes to its place."""

    def __init__(self, file: WholeFile, writer: Writer) -> None:
        self._file = file
        self._writer = writer
        self.rows = 0
        """Rows with a vector, so far."""

    def write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        """Take the next rows."""
        self.rows += int(kept.sum())
        with naming(self._file.path):
            self._writer.write(chunk, vectors, kept)

    def finish(self) -> None:
        """Put the output into its place."""
        self.prepare()
        self.place()

    def prepare(self) -> None:
        """Bring all of it to the disk; the long part of finishing."""
        with naming(self._file.path):
            self._writer.finish()
        self._file.prepare()

    def place(self) -> None:
        """Put the prepared output into its place."""
        self._file.place()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.discard()
        self._file.discard()


def output_format(path: Path, form: str | None = None) -> str:
    """The format of an output, as told or by its name.

    Raises:
        ConfigurationError: its name does not tell.
    """
    found = form or _SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise ConfigurationError(
            f"{path.name!r} does not tell what to write: end it with .parquet, .jsonl or .npy, or say --output-format."
        )
    if found == "parquet":
        arrow()
    return found


def open_output(
    path: Path,
    form: str,
    *,
    columns: Sequence[Column] = (),
    names: Collection[str] = (),
    name: str = "embedding",
    facts: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> Output:
    """Begin an output.

    Args:
        path: where it is to stand.
        form: one of OUTPUT_FORMATS.
        columns: for Parquet, the columns of the inputs.
        names: the names of all columns of the inputs.
        name: the column of the vectors.
        facts: what the vectors are, for the metadata of a Parquet file.
        overwrite: whether it may replace another file.

    Raises:
        ConfigurationError: the inputs have a column of the vectors' name, or the file may not be written.
    """
    if form != "npy" and name in names:
        raise ConfigurationError(
            f"The inputs have a column {name!r} already: name the vectors' with --embedding-column."
        )
    file = WholeFile(path, overwrite=overwrite)
    if form == "parquet":
        return Output(file, ParquetWriter(file, columns, name, facts or {}))
    return Output(file, JsonLinesWriter(file, name) if form == "jsonl" else MatrixWriter(file))


class ParquetWriter:
    """The kept rows' columns, and their vectors as a column of fixed-size lists of float32."""

    def __init__(self, file: WholeFile, columns: Sequence[Column], name: str, facts: Mapping[str, object]) -> None:
        self._file = file
        self._columns = columns
        self._name = name
        self._facts = facts
        self._held: list[Any] = []
        self._bytes = 0
        self._writer: Any = None

    def write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        """Hold the rows until they fill a row group."""
        if not kept.any():
            return
        pa = arrow()
        arrays = [self._array(column, chunk) for column in self._columns]
        if not kept.all():
            mask = pa.array(kept)
            arrays = [array.filter(mask) for array in arrays]
            vectors = vectors[kept]
        numbers = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(numbers, vectors.shape[1]))
        batch = pa.record_batch(arrays, schema=self._schema(vectors.shape[1]))
        self._held.append(batch)
        self._bytes += batch.nbytes
        if self._bytes >= _ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write the last row group and the footer."""
        self._flush()
        self._writer.close()

    def discard(self) -> None:
        """Close pyarrow's writer."""
        if self._writer is not None:
            abandon(self._writer)

    def _array(self, column: Column, chunk: Chunk) -> Any:
        try:
            return column.array(chunk.columns.values(column.name))
        except (arrow().ArrowException, OverflowError, TypeError, ValueError) as error:
            raise InputError(
                f"a value of the column {column.name!r} here or soon after is no {column.type}, as the others are "
                f"({error}): write .jsonl, which needs no types.",
                file=chunk.files[0],
                line=chunk.lines[0],
            ) from None

    def _flush(self) -> None:
        pa = arrow()
        if not self._held:
            return
        table = pa.Table.from_batches(self._held)
        if self._writer is None:
            plain = [column.name for column in self._columns]
            self._writer = pa.parquet.ParquetWriter(
                self._file.stream,
                table.schema,
                compression="zstd",
                use_dictionary=plain,  # for vectors it is time wasted, and so are their smallest and largest numbers
                write_statistics=plain,
            )
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._held, self._bytes = [], 0

    def _schema(self, dimensions: int) -> Any:
        pa = arrow()
        fields = [pa.field(column.name, column.type or pa.string()) for column in self._columns]
        fields.append(pa.field(self._name, pa.list_(pa.float32(), dimensions)))
        return pa.schema(fields, metadata={"multiembed": json.dumps(dict(self._facts), ensure_ascii=False)})


class JsonLinesWriter:
    """The kept rows as JSON objects, with their vectors as one field more."""

    def __init__(self, file: WholeFile, name: str) -> None:
        self._file = file
        self._field = orjson.dumps(name) + b":"

    def write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        """Write the rows."""
        numbers = np.ascontiguousarray(vectors)
        lines = []
        for row, line in enumerate(chunk.columns.objects()):
            if kept[row]:
                body = line.rstrip()[:-1].rstrip()
                comma = b"" if body == b"{" else b","
                vector = orjson.dumps(numbers[row], option=orjson.OPT_SERIALIZE_NUMPY)
                lines.append(b"".join((body, comma, self._field, vector, b"}\n")))
        self._file.stream.write(b"".join(lines))

    def finish(self) -> None:
        """Nothing is held."""

    def discard(self) -> None:
        """Nothing is held."""


class MatrixWriter:
    """All rows' vectors as a float32 matrix for numpy. A row without a vector is NaN, so that row i is text i."""

    def __init__(self, file: WholeFile) -> None:
        self._file = file
        self._rows = self._dimensions = self._owed = 0
        file.stream.write(b"\0" * _NPY_HEADER)

    def write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        """Write the rows."""
        self._rows += len(chunk)
        if not kept.any() and not self._dimensions:
            self._owed += len(chunk)  # their length is not known yet
            return
        self._dimensions = vectors.shape[1]
        self._put(np.full((self._owed, self._dimensions), np.nan))
        self._owed = 0
        self._put(vectors if kept.all() else np.where(kept[:, None], vectors, np.float32(np.nan)))

    def finish(self) -> None:
        """Write the header, now that the number of rows is known; its room is fixed, and numpy takes the blanks."""
        shape = f"({self._rows}, {self._dimensions})"
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        room = _NPY_HEADER - 10
        self._file.stream.seek(0)
        self._file.stream.write(b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little"))
        self._file.stream.write(f"{header:<{room - 1}}\n".encode())

    def discard(self) -> None:
        """Nothing is held."""

    def _put(self, vectors: NDArray[Any]) -> None:
        self._file.stream.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
