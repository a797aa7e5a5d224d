"""Plain text: a file with a text on each line, and files that are one text each, alone or in folders."""

from __future__ import annotations

import lzma
import os
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiembed.files.arrow import arrow, to_json
from multiembed.files.lines import decompressed, known_encoding, marked, undecoded
from multiembed.files.rows import InputError, Row, chunk_of, fault_of, gathered

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from multiembed.files.lines import Lines
    from multiembed.files.rows import Chunk

DOCUMENT_SUFFIXES = (".txt", ".text", ".md", ".markdown")
"""The files of a folder that are read."""
TEXT = "text"
"""What the column of the texts is called where the file gives it no name."""
PATH = "path"


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


class _Texts(ABC):
    """A source whose columns are known before it is read, and all text."""

    @abstractmethod
    def kinds(self) -> dict[str, str]:
        """The columns, with what they hold."""

    def types(self) -> dict[str, Any]:
        """The columns, with their arrow types."""
        return dict.fromkeys(self.kinds(), arrow().string())

    def names(self) -> Collection[str]:
        """The names of the columns."""
        return self.kinds()

    def seen(self, chunk: Chunk) -> dict[str, Any]:  # noqa: ARG002
        """Nothing more."""
        return {}


class TextLines(_Texts):
    """A text on each line. An empty line is a row too, with a fault: leaving it out would shift the rows."""

    def __init__(self, lines: Lines, column: str | None) -> None:
        self.name = lines.name
        self.column = column or TEXT
        self._lines = lines

    def kinds(self) -> dict[str, str]:
        """The columns, with what they hold."""
        return {self.column: "text"}

    def read(self, *, whole: bool = True) -> Iterator[Chunk]:  # noqa: ARG002 - there are no other columns
        """The rows, from the first."""
        for group in gathered(self._rows()):
            texts = [row.text for row in group]
            yield chunk_of(group, [self.name] * len(group), Listed({self.column: texts}))

    def _rows(self) -> Iterator[Row]:
        for number, line in self._lines.numbered():
            try:
                text = self._lines.decode(line).rstrip("\r\n")
                fault = fault_of(text)
            except UnicodeDecodeError as error:
                text, fault = line.decode("utf-8", "replace").rstrip("\r\n"), self._lines.said(error)
            yield Row(number, text, fault, len(text))


class Documents(_Texts):
    """Files that are one text each, with their paths: one file, or a folder's, in the order of their names.

    Hidden files and folders are left out, and links to folders are not followed.
    """

    def __init__(self, path: Path, name: str, column: str | None, encoding: str) -> None:
        if column == PATH:
            raise InputError(f"the column {PATH!r} holds the paths: call the texts otherwise", file=name)
        self.name = name
        self.column = column or TEXT
        self._path = path
        self._encoding = known_encoding(encoding)
        if path.is_dir() and next(self._files(), None) is None:
            raise InputError(f"no file in this folder ends with {', '.join(DOCUMENT_SUFFIXES)}", file=name)

    def kinds(self) -> dict[str, str]:
        """The columns, with what they hold."""
        return {PATH: "path", self.column: "text"}

    def read(self, *, whole: bool = True) -> Iterator[Chunk]:  # noqa: ARG002 - there are no other columns
        """The rows, from the first."""
        for group in gathered(self._rows()):
            paths = [row.kept for row in group]
            yield chunk_of(group, paths, Listed({PATH: paths, self.column: [row.text for row in group]}))

    def _rows(self) -> Iterator[Row]:
        for path in self._files():
            text, fault = self._text(path)
            # A name that is no UTF-8 has no place in the output.
            name = os.fsencode(path.as_posix()).decode("utf-8", "replace")
            yield Row(None, text, fault, len(text), name)

    def _text(self, path: Path) -> tuple[str, str | None]:
        try:
            with decompressed(path) as stream:
                data = stream.read()
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            return "", f"cannot be read: {getattr(error, 'strerror', None) or error}"
        encoding = marked(data[:4]) or self._encoding
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            return data.decode("utf-8", "replace"), undecoded(error, encoding)
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
