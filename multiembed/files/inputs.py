"""Inputs of a run, read twice: a survey finds every fault before anything is paid, then the rows are embedded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from multiembed.files.arrow import Column, Types
from multiembed.files.csv_dialect import parse_delimiter
from multiembed.files.csv_reader import Delimited
from multiembed.files.formats import choose_column, open_source
from multiembed.files.pipes import Spool, special_kind
from multiembed.files.rows import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from multiembed.files.rows import Chunk, Source

_NAMED = 5
"""Maximum faulty rows that a survey names."""


@dataclass(slots=True)
class Survey:
    """Result of the first reading."""

    rows: int = 0
    faults: int = 0
    """Rows that cannot be embedded."""
    named: list[str] = field(default_factory=list)
    """The first of them, with their locations and reasons."""
    names: set[str] = field(default_factory=set)
    """The names of all columns."""
    columns: list[Column] = field(default_factory=list)
    """The columns, if they were asked for."""


class Inputs:
    """Inputs in the order given.

    Args:
        paths: files, folders, or "-" for standard input.
        form: one of INPUT_FORMATS, for inputs whose names do not tell it.
        column: the column of the texts. None: the only one of text, or the one named text or content.
        encoding: of text, CSV, TSV and JSONL.
        delimiter: of CSV and TSV, if it is not the usual one: one character, or "tab".
        quoted: False: in CSV and TSV a quotation mark is a character like any other.
        stdin: what "-" reads from.
        spool: the folder for copies of inputs that can be read only once.
        limit: the number of rows that are read, over all inputs. None: all.

    Raises:
        InputError: an input cannot be read, or its column of texts is not clear.
        OSError: it does not exist.
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
        limit: int | None = None,
    ) -> None:
        self._limit = limit
        self.paths: list[Path] = []
        self._spool = Spool(spool)
        self._sources: list[Source] = []
        try:
            delimiter = None if delimiter is None else parse_delimiter(delimiter)
        except ValueError as error:
            raise InputError(f"--delimiter: {error}") from None
        if list(paths).count("-") > 1:
            raise InputError("Standard input can be read once only.")
        options: dict[str, Any] = {"form": form, "encoding": encoding, "delimiter": delimiter, "quoted": quoted}
        try:
            for name in paths:
                path = self._readable_path(name, stdin)
                source = open_source(path, name, column=column, **options)
                column = source.column = choose_column(source, column)
                self.paths.append(path)
                self._sources.append(source)
            if delimiter is not None and not any(isinstance(source, Delimited) for source in self._sources):
                raise InputError("--delimiter is for CSV and TSV, and no input is either: say --format csv.")
        except BaseException:
            self.close()
            raise
        self.column = column
        self._stamps = [_stamp(path) for path in self.paths]

    def survey(self, *, columns: bool, seen: Callable[[int], object] = lambda _: None) -> Survey:
        """Read everything once, up to the limit.

        Args:
            columns: whether the types of the columns are asked for, which takes pyarrow.
            seen: called with the rows so far.

        Raises:
            InputError: a file is broken in a way that concerns more than single rows.
        """
        survey = Survey()
        types = Types()
        for source in self._sources:
            for chunk in source.read(whole=False, limit=self._rows_after(survey.rows)):
                survey.rows += len(chunk)
                survey.faults += len(chunk.faults)
                for row in list(chunk.faults)[: _NAMED - len(survey.named)]:
                    survey.named.append(f"{chunk.location(row)}: {chunk.faults[row]}")
                if columns:
                    types.add(source.untyped_values(chunk))
                seen(survey.rows)
            survey.names.update(source.names())
            if columns:
                types.add(source.types())
        survey.columns = types.columns()
        return survey

    def chunks(self, *, whole: bool = True) -> Iterator[Chunk]:
        """Read all rows, up to the limit.

        Args:
            whole: False: the texts are enough, the other columns may be left out.

        Raises:
            InputError: a file has changed since it was first opened.
        """
        rows = 0
        for source, path, stamp in zip(self._sources, self.paths, self._stamps, strict=True):
            for chunk in source.read(whole=whole, limit=self._rows_after(rows)):
                rows += len(chunk)
                yield chunk
            if stamp != _stamp(path):
                raise InputError("the file has changed while it was read: run again", file=source.name)

    def _rows_after(self, rows: int) -> int | None:
        """The number of rows that may still be read."""
        return None if self._limit is None else self._limit - rows

    def close(self) -> None:
        """Remove the copies of inputs that can be read only once."""
        self._spool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _readable_path(self, name: str, stdin: IO[bytes] | None) -> Path:
        """The path at which an input can be read again and again: standard input and pipes are copied to disk."""
        if name == "-":
            return self._spool.copy_stdin(stdin)
        if not name:  # Path("") is the folder of the process
            raise InputError("An input's name is empty.")
        path = Path(name)
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            if path.is_symlink():
                raise InputError("this is a link to a file that does not exist", file=name) from None
            raise InputError(f"The file or folder {name} does not exist.") from None
        except (OSError, ValueError) as error:  # a circle of links, a name that is too long or holds a NUL
            raise InputError(f"it cannot be read: {getattr(error, 'strerror', None) or error}", file=name) from None
        if not os.access(path, os.R_OK):
            raise InputError("it may not be read: permission denied", file=name)
        kind = special_kind(status)
        if kind == "a pipe":
            return self._spool.copy_pipe(path, name)
        if kind not in (None, "a folder"):
            raise InputError(f"this is {kind}, not a file, a folder or a pipe", file=name)
        return path


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time, by which a changed file is recognised; None for a folder, which may hold the output itself."""
    status = path.stat()
    return None if path.is_dir() else (status.st_size, status.st_mtime_ns)
