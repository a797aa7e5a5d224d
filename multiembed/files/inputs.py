"""Several inputs as one row of chunks, read twice: to find every mistake before anything is paid, and to embed."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from multiembed.files.arrow import Column, Types
from multiembed.files.rows import InputError
from multiembed.files.sources import choose_column, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from multiembed.files.rows import Chunk
    from multiembed.files.sources import Source

_NAMED = 5
"""The most faulty rows that a survey names."""


@dataclass(slots=True)
class Survey:
    """What the first reading found."""

    rows: int = 0
    faults: int = 0
    """Rows that cannot be embedded."""
    named: list[str] = field(default_factory=list)
    """The first of them, with their places and reasons."""
    names: set[str] = field(default_factory=set)
    """The names of all columns."""
    columns: list[Column] = field(default_factory=list)
    """The columns, where they were asked for."""


class Inputs:
    """Inputs in the order given.

    Args:
        paths: files, folders, or "-" for standard input.
        form: one of INPUT_FORMATS, for inputs whose names do not tell it.
        column: the column of the texts; None: the only one of text, or the one named text or content.
        encoding: of text, CSV, TSV and JSONL.
        delimiter: of CSV and TSV, where it is not the usual one.
        quoted: False: in CSV and TSV a quotation mark is a character like any other.
        stdin: what "-" reads from.
        spool: the folder in which what can be read only once is kept meanwhile.

    Raises:
        InputError: an input cannot be read, or its column of texts cannot be told.
        OSError: it is not there.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        form: str | None = None,
        column: str | None = None,
        encoding: str = "utf-8",
        delimiter: str | None = None,
        quoted: bool = True,
        stdin: IO[bytes] | None = None,
        spool: Path | None = None,
    ) -> None:
        self.paths: list[Path] = []
        self._spooled: list[Path] = []
        self._sources: list[Source] = []
        if delimiter is not None and len(delimiter) != 1:
            raise InputError("--delimiter is one character.")
        if list(paths).count("-") > 1:
            raise InputError("Standard input can be read once only.")
        try:
            for name in paths:
                path = self._kept(name, stdin, spool)
                source = open_source(
                    path,
                    name,
                    form=form,
                    column=column,
                    encoding=encoding,
                    delimiter=delimiter,
                    quoted=quoted,
                )
                column = source.column = choose_column(source, column)
                self.paths.append(path)
                self._sources.append(source)
        except BaseException:
            self.close()
            raise
        self.column = column
        self._stamps = [_stamp(path) for path in self.paths]

    def survey(self, *, columns: bool, seen: Callable[[int], object] = lambda _: None) -> Survey:
        """Read everything once.

        Args:
            columns: whether the types of the columns are asked for, which takes pyarrow.
            seen: is told the rows so far.

        Raises:
            InputError: a file is broken in a way that concerns more than single rows.
        """
        found = Survey()
        types = Types()
        for source in self._sources:
            for chunk in source.read(whole=False):
                found.rows += len(chunk)
                found.faults += len(chunk.faults)
                for row in list(chunk.faults)[: _NAMED - len(found.named)]:
                    found.named.append(f"{chunk.place(row)}: {chunk.faults[row]}")
                if columns:
                    types.see(source.seen(chunk))
                seen(found.rows)
            found.names.update(source.names())
            if columns:
                types.see(source.types())
        if columns:
            found.columns = types.columns()
        return found

    def chunks(self, *, whole: bool = True) -> Iterator[Chunk]:
        """All rows, from the first.

        Args:
            whole: False: the texts are enough, the other columns may be left out.

        Raises:
            InputError: a file has changed since it was first opened.
        """
        for source, path, stamp in zip(self._sources, self.paths, self._stamps, strict=True):
            yield from source.read(whole=whole)
            if stamp != _stamp(path):
                raise InputError("the file has changed while it was read: run again", file=source.name)

    def close(self) -> None:
        """Remove what was kept of inputs that can be read only once."""
        for path in self._spooled:
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _kept(self, name: str, stdin: IO[bytes] | None, spool: Path | None) -> Path:
        """Where an input can be read again and again: pipes are copied to disk."""
        path = Path(name)
        if name == "-" and stdin is None:
            raise InputError("There is no standard input to read.")
        if name != "-":
            if not path.exists():
                raise InputError(f"There is no file or folder {name}.")
            if not os.access(path, os.R_OK):
                raise InputError("it may not be read: permission denied", file=name)
            if path.is_file() or path.is_dir():
                return path
        with tempfile.NamedTemporaryFile(dir=spool, prefix=".multiembed-input-", delete=False) as copy:
            self._spooled.append(Path(copy.name))
            if name == "-" and stdin is not None:
                shutil.copyfileobj(stdin, copy)
            else:
                with path.open("rb") as pipe:
                    shutil.copyfileobj(pipe, copy)
        return self._spooled[-1]


def _stamp(path: Path) -> tuple[int, int] | None:
    """By what a changed file is known; None for a folder, in which the output itself may come to stand."""
    status = path.stat()
    return None if path.is_dir() else (status.st_size, status.st_mtime_ns)
