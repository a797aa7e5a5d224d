"""Plain text: a file with a text on each line, and files that are one text each, alone or in folders."""

from __future__ import annotations

import codecs
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiembed.files.arrow import to_json
from multiembed.files.rows import CHUNK_CHARACTERS, CHUNK_ROWS, Chunk, InputError, fault_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from multiembed.files.lines import Lines

DOCUMENT_SUFFIXES = (".txt", ".text", ".md", ".markdown")
"""The files of a folder that are read."""
TEXT = "text"
"""What the column of the texts is called where the file gives it no name."""
PATH = "path"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(slots=True)
class Listed:
    """Columns of text, as lists."""

    lists: Mapping[str, list[str]]

    def values(self, name: str) -> list[Any]:
        """One column."""
        return list(self.lists[name]) if name in self.lists else [None] * len(next(iter(self.lists.values())))

    def objects(self) -> list[bytes]:
        """Each row as a JSON object."""
        rows = zip(*self.lists.values(), strict=True)
        return [to_json(dict(zip(self.lists, row, strict=True))) for row in rows]


class TextLines:
    """A text on each line. An empty line is a row too, with a fault: leaving it out would shift the rows."""

    def __init__(self, lines: Lines, column: str | None) -> None:
        self.name = lines.name
        self.column = column or TEXT
        self._lines = lines

    def kinds(self) -> dict[str, str]:
        """The columns, with what they hold."""
        return {self.column: "text"}

    def types(self) -> dict[str, Any]:
        """The columns, with their arrow types."""
        return _strings(self.column)

    def names(self) -> Collection[str]:
        """The names of the columns."""
        return self.kinds()

    def seen(self, chunk: Chunk) -> dict[str, Any]:  # noqa: ARG002
        """Nothing more."""
        return {}

    def read(self, *, whole: bool = True) -> Iterator[Chunk]:  # noqa: ARG002 - there are no other columns
        """The rows, from the first."""
        texts: list[str] = []
        faults: dict[int, str] = {}
        size = 0
        number = 0
        for number, line in self._lines.numbered():
            try:
                text = self._lines.decode(line).rstrip("\r\n")
                reason = fault_of(text)
            except UnicodeDecodeError as error:
                text, reason = line.decode("utf-8", "replace").rstrip("\r\n"), self._lines.said(error)
            if reason:
                faults[len(texts)] = reason
            texts.append(text)
            size += len(text)
            if len(texts) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
                yield self._chunk(number, texts, faults)
                texts, faults, size = [], {}, 0
        if texts:
            yield self._chunk(number, texts, faults)

    def _chunk(self, last: int, texts: list[str], faults: dict[int, str]) -> Chunk:
        numbers = range(last - len(texts) + 1, last + 1)
        return Chunk([self.name] * len(texts), numbers, texts, faults, Listed({self.column: texts}))


class Documents:
    """Files that are one text each, with their paths: one file, or a folder's, in the order of their names.

    Hidden files and folders are left out, and links to folders are not followed.
    """

    def __init__(self, path: Path, name: str, column: str | None, encoding: str) -> None:
        if column == PATH:
            raise InputError(f"the column {PATH!r} holds the paths: call the texts otherwise", file=name)
        self.name = name
        self.column = column or TEXT
        self._path = path
        self._encoding = encoding
        if path.is_dir() and next(self._files(), None) is None:
            raise InputError(f"no file in this folder ends with {', '.join(DOCUMENT_SUFFIXES)}", file=name)

    def kinds(self) -> dict[str, str]:
        """The columns, with what they hold."""
        return {PATH: "path", self.column: "text"}

    def types(self) -> dict[str, Any]:
        """The columns, with their arrow types."""
        return _strings(PATH, self.column)

    def names(self) -> Collection[str]:
        """The names of the columns."""
        return self.kinds()

    def seen(self, chunk: Chunk) -> dict[str, Any]:  # noqa: ARG002
        """Nothing more."""
        return {}

    def read(self, *, whole: bool = True) -> Iterator[Chunk]:  # noqa: ARG002 - there are no other columns
        """The rows, from the first."""
        paths: list[str] = []
        texts: list[str] = []
        faults: dict[int, str] = {}
        size = 0
        for path in self._files():
            text, reason = self._text(path)
            if reason:
                faults[len(texts)] = reason
            paths.append(path.as_posix())
            texts.append(text)
            size += len(text)
            if len(texts) == CHUNK_ROWS or size >= CHUNK_CHARACTERS:
                yield self._chunk(paths, texts, faults)
                paths, texts, faults, size = [], [], {}, 0
        if texts:
            yield self._chunk(paths, texts, faults)

    def _chunk(self, paths: list[str], texts: list[str], faults: dict[int, str]) -> Chunk:
        return Chunk(paths, [None] * len(texts), texts, faults, Listed({PATH: paths, self.column: texts}))

    def _text(self, path: Path) -> tuple[str, str | None]:
        try:
            data = path.read_bytes()
        except OSError as error:
            return "", f"cannot be read: {error.strerror}"
        encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), self._encoding)
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            byte = data[error.start]
            reason = f"byte 0x{byte:02x} at {error.start} is no {encoding}: say --encoding, for instance gb18030"
            return data.decode("utf-8", "replace"), reason
        return text, fault_of(text)

    def _files(self) -> Iterator[Path]:
        if not self._path.is_dir():
            yield self._path
            return
        for folder, folders, files in os.walk(self._path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if name.lower().endswith(DOCUMENT_SUFFIXES) and not name.startswith("."):
                    yield Path(folder, name)


def _strings(*names: str) -> dict[str, Any]:
    from multiembed.files.arrow import arrow

    return dict.fromkeys(names, arrow().string())
