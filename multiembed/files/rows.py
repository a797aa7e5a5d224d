"""The rows of files as they travel: their texts, where they stand, and what else they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

CHUNK_ROWS = 512
"""The most rows of a chunk."""
CHUNK_CHARACTERS = 1 << 20
"""Characters of text at which a chunk is full; one text alone may be longer."""
_SHOWN = 80


class InputError(ConfigurationError):
    """A file, or a row of it, that cannot be read as texts.

    Attributes:
        file: the file as the user named it.
        line: the line, or for Parquet the row, counted from 1; None when the file as a whole is meant.
    """

    def __init__(self, message: str = "", *, file: str | None = None, line: int | None = None) -> None:
        super().__init__(f"{place(file, line)}: {message}" if file else message)
        self.file = file
        self.line = line


class Columns(Protocol):
    """What the rows of a chunk hold, their texts included."""

    def values(self, name: str) -> Any:
        """One column: a list, or an arrow array; None where a row has no value."""

    def objects(self) -> list[bytes]:
        """Each row as a JSON object."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows."""

    files: Sequence[str]
    """The file of each row."""
    lines: Sequence[int | None]
    """The line of each row in its file, counted from 1; for Parquet the row; None where the file is one text."""
    texts: Sequence[str]
    """The text of each row; of a row with a fault, what there is of it."""
    faults: Mapping[int, str]
    """Why a row cannot be embedded, by its position in the chunk."""
    columns: Columns

    def __len__(self) -> int:
        return len(self.texts)

    def place(self, row: int) -> str:
        """Where a row stands, as file:line."""
        return place(self.files[row], self.lines[row])


class Row(NamedTuple):
    """One row as it is read, before it is in a chunk."""

    line: int | None
    text: str
    fault: str | None
    """Why it cannot be embedded."""
    size: int
    """Characters or bytes of what is kept of it."""
    kept: Any = None
    """What its source makes the chunk's columns of."""


def gathered(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows, as many together as make a chunk."""
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += row.size
        if len(group) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group


def chunk_of(group: Sequence[Row], files: Sequence[str], columns: Columns) -> Chunk:
    """Rows as a chunk.

    Args:
        group: the rows.
        files: the file of each.
        columns: what they hold.
    """
    return Chunk(
        files,
        [row.line for row in group],
        [row.text for row in group],
        {at: row.fault for at, row in enumerate(group) if row.fault},
        columns,
    )


def place(file: str | None, line: int | None) -> str:
    """Where something stands, as editors take it."""
    return f"{file}" if line is None else f"{file}:{line}"


def fault_of(text: str) -> str | None:
    """Why a text cannot be embedded: providers refuse texts of nothing but blanks."""
    return "the text is empty" if not text or text.isspace() else None


def shortened(text: str) -> str:
    """The beginning of a text, for people."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 2]} …"
