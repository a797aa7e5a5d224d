"""Outputs: Parquet with a column of fixed-size lists, JSONL with one more field, or a matrix as .npy."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import orjson

from multiembed import ConfigurationError
from multiembed.files.arrow import abandon, arrow
from multiembed.files.atomic_write import WholeFile, naming
from multiembed.files.rows import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from multiembed.files.arrow import Column
    from multiembed.files.rows import Chunk

OUTPUT_FORMATS = ("parquet", "jsonl", "npy")
_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".npy": "npy"}
_ROW_GROUP_BYTES = 32 << 20
"""Size of a row group: what is held in memory until it is written."""
_NPY_HEADER_BYTES = 128


class Output:
    """Base of the output formats. See WholeFile for how an output gets its name."""

    def __init__(self, file: WholeFile) -> None:
        self._file = file
        self.rows = 0
        """Rows with a vector, so far."""

    def write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        """Write the next rows, with float32 vectors of shape (rows, dimensions), as far as they are kept."""
        self.rows += int(kept.sum())
        with naming(self._file.path):
            self._write(chunk, vectors, kept)

    def finish(self) -> None:
        """Finish the output and give it its name."""
        self.prepare()
        self.place()

    def prepare(self) -> None:
        """Write everything to the disk; the long part of finishing."""
        with naming(self._file.path):
            self._finish()
        self._file.prepare()

    def place(self) -> None:
        """Give the prepared output its name."""
        self._file.place()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()
        self._file.discard()

    def _write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        """Write what is still held."""

    def _discard(self) -> None:
        """Write nothing more, not even when the output is deleted."""


def output_format(path: Path, form: str | None = None) -> str:
    """Return the format of an output: the one named, or the one of its suffix.

    Raises:
        ConfigurationError: neither says it.
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
    """Open an output.

    Args:
        path: of the output.
        form: one of OUTPUT_FORMATS.
        columns: for Parquet, the columns of the inputs.
        names: the names of all columns of the inputs.
        name: the column of the vectors.
        facts: about the vectors, for the metadata of a Parquet file.
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
        return ParquetOutput(file, columns, name, facts or {})
    return JsonLinesOutput(file, name) if form == "jsonl" else MatrixOutput(file)


class ParquetOutput(Output):
    """Output of the kept rows' columns, and their vectors as a column of fixed-size lists of float32."""

    def __init__(self, file: WholeFile, columns: Sequence[Column], name: str, facts: Mapping[str, object]) -> None:
        super().__init__(file)
        self._columns = columns
        self._name = name
        self._metadata = {"multiembed": json.dumps(dict(facts), ensure_ascii=False)}
        self._held: list[Any] = []
        self._held_bytes = 0
        self._writer: Any = None

    def _write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        if not kept.any():
            return
        pa = arrow()
        arrays = [self._array(column, chunk) for column in self._columns]
        if not kept.all():
            mask = pa.array(kept)
            arrays = [array.filter(mask) for array in arrays]
            vectors = vectors[kept]
        dimensions = vectors.shape[1]
        fields = [pa.field(column.name, column.type or pa.string()) for column in self._columns]
        fields.append(pa.field(self._name, pa.list_(pa.float32(), dimensions)))
        numbers = pa.array(np.ascontiguousarray(vectors).reshape(-1))
        arrays.append(pa.FixedSizeListArray.from_arrays(numbers, dimensions))
        batch = pa.record_batch(arrays, schema=pa.schema(fields, metadata=self._metadata))
        self._held.append(batch)
        self._held_bytes += batch.nbytes
        if self._held_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _finish(self) -> None:
        self._flush()
        self._writer.close()

    def _discard(self) -> None:
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
                use_dictionary=plain,  # for vectors, dictionaries and statistics only cost time
                write_statistics=plain,
            )
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._held, self._held_bytes = [], 0


class JsonLinesOutput(Output):
    """Output of the kept rows as JSON objects, with their vectors as one more field."""

    def __init__(self, file: WholeFile, name: str) -> None:
        super().__init__(file)
        self._field = orjson.dumps(name) + b":"

    def _write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        numbers = np.ascontiguousarray(vectors)
        lines = []
        for row, line in enumerate(chunk.columns.objects()):
            if kept[row]:
                body = line.rstrip()[:-1].rstrip()
                comma = b"" if body == b"{" else b","
                vector = orjson.dumps(numbers[row], option=orjson.OPT_SERIALIZE_NUMPY)
                lines.append(b"".join((body, comma, self._field, vector, b"}\n")))
        self._file.stream.write(b"".join(lines))


class MatrixOutput(Output):
    """Output of all vectors as a float32 matrix. A row without a vector is NaN, so that row i is text i."""

    def __init__(self, file: WholeFile) -> None:
        super().__init__(file)
        self._rows = self._dimensions = self._owed = 0
        file.stream.write(b"\0" * _NPY_HEADER_BYTES)

    def _write(self, chunk: Chunk, vectors: NDArray[np.float32], kept: NDArray[np.bool_]) -> None:
        self._rows += len(chunk)
        if not kept.any() and not self._dimensions:
            self._owed += len(chunk)  # their length is not known yet
            return
        self._dimensions = vectors.shape[1]
        if self._owed:
            self._file.stream.write(np.full((self._owed, self._dimensions), np.nan, dtype="<f4").tobytes())
            self._owed = 0
        rows = vectors if kept.all() else np.where(kept[:, None], vectors, np.float32(np.nan))
        self._file.stream.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())

    def _finish(self) -> None:
        # The number of rows is known now. numpy accepts the blanks that pad the header.
        shape = f"({self._rows}, {self._dimensions})"
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        length = _NPY_HEADER_BYTES - 10
        self._file.stream.seek(0)
        self._file.stream.write(b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little"))
        self._file.stream.write(f"{header:<{length - 1}}\n".encode())
