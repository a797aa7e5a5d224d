"""Rows of input files: chunks of texts with their locations and other columns, and the base class of the readers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

CHUNK_ROWS = 512
"""Maximum rows of a chunk."""
CHUNK_CHARACTERS = 1 << 20
"""Characters of text at which a chunk is full; one text alone may be longer."""
_SHOWN = 80


class InputError(ConfigurationError):
    """A file, or a row of it, that cannot be read as texts.

    Attributes:
        file: the file as the user named it.
        line: the line, or for Parquet the row, counted from 1. None for the file as a whole.
    """

    def __init__(self, message: str = "", *, file: str | None = None, line: int | None = None) -> None:
        super().__init__(f"{location(file, line)}: {message}" if file else message)
        self.file = file
        self.line = line


class Columns(Protocol):
    """Columns of the rows of a chunk, their texts included."""

    def values(self, name: str) -> Any:
        """Return one column: a list, or an arrow array. None where a row has no value."""

    def objects(self) -> list[bytes]:
        """Return each row as a JSON object."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows."""

    files: Sequence[str]
    """The file of each row."""
    lines: Sequence[int | None]
    """The line of each row in its file, counted from 1; for Parquet the row. None if the file is one text."""
    texts: Sequence[str]
    """The text of each row; of a faulty row, what could be read of it."""
    faults: Mapping[int, str]
    """Why a row cannot be embedded, by its position in the chunk."""
    columns: Columns

    def __len__(self) -> int:
        return len(self.texts)

    def location(self, row: int) -> str:
        """Return the location of a row, as file:line."""
        return location(self.files[row], self.lines[row])


class Row(NamedTuple):
    """One row as it is read, before it is in a chunk."""

    line: int | None
    text: str
    fault: str | None
    """Why it cannot be embedded."""
    size: int
    """Characters or bytes that are held of it."""
    held: Any = None
    """What the reader makes the chunk's columns of."""


class Source:
    """Base of the readers. A source is one file or folder and can be read again and again."""

    name: str
    """What messages call it."""
    column: str | None
    """The column of the texts. None before it is chosen."""

    def kinds(self) -> dict[str, str]:
        """Return the columns with what they hold; "text" for those that can be embedded."""
        raise NotImplementedError

    def types(self) -> dict[str, Any]:
        """Return the columns with their arrow types, as far as they are known after reading to the end."""
        return {}

    def names(self) -> Collection[str]:
        """Return the names of the columns, after reading to the end."""
        return self.kinds()

    def untyped_values(self, chunk: Chunk) -> dict[str, Any]:  # noqa: ARG002
        """Return the columns of a chunk whose types have to be learned from their values."""
        return {}

    def read(self, *, whole: bool = True, limit: int | None = None) -> Iterator[Chunk]:
        """Read the first `limit` rows, or all; other columns than the texts' may be left out if not `whole`."""
        raise NotImplementedError


def grouped(rows: Iterable[Row], limit: int | None = None) -> Iterator[list[Row]]:
    """Group the first `limit` rows, or all, as many as make a chunk."""
    group: list[Row] = []
    size = 0
    for row in islice(rows, limit):
        group.append(row)
        size += row.size
        if len(group) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def make_chunk(group: Sequence[Row], files: Sequence[str], columns: Columns) -> Chunk:
    """Make a chunk of rows, the file of each, and their columns."""
    faults = {position: row.fault for position, row in enumerate(group) if row.fault}
    return Chunk(files, [row.line for row in group], [row.text for row in group], faults, columns)


def location(file: str | None, line: int | None) -> str:
    """Format a location as editors read it."""
    return f"{file}" if line is None else f"{file}:{line}"


def text_fault(text: str) -> str | None:
    """Return why a text cannot be embedded: providers refuse texts of nothing but blanks."""
    return "the text is empty" if not text or text.isspace() else None


def shortened(text: str) -> str:
    """Shorten a text for a message."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 2]} …"
