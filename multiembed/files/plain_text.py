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
from multiembed.files.pipes import special_kind
from multiembed.files.rows import InputError, Row, chunk_of, fault_of, gathered
from multiembed.files.text_decoding import (
    LONGEST_LINE,
    SEEMS_WIDE,
    decoded,
    decompressed,
    known_encoding,
    marked,
    undecoded,
    unmarked,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from multiembed.files.rows import Chunk
    from multiembed.files.text_decoding import Lines

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

    Hidden files and folders are left out, and links to folders are not followed. A link to a file is read where that
    file is in the folder and is not read by its own name; one to a file that is, would be the same text again. Whatever
    else has the name of a text file, is a row with a fault: a link that leads out of the folder, to nothing or in a
    circle, a pipe, a socket or a device.
    """

    def __init__(self, path: Path, name: str, column: str | None, encoding: str) -> None:
        if column == PATH:
            raise InputError(f"the column {PATH!r} holds the paths: call the texts otherwise", file=name)
        self.name = name
        self.column = column or TEXT
        self._path = path
        self._root = Path(os.path.realpath(path)) if path.is_dir() else None
        """The folder itself; None for a file alone."""
        self._encoding = known_encoding(encoding)
        if self._root is not None and next(self._files(), None) is None:
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
            fault = self._unreadable(path)
            text, fault = ("", fault) if fault else self._text(path)
            # A name that is no UTF-8 has no place in the output.
            name = os.fsencode(path.as_posix()).decode("utf-8", "replace")
            yield Row(None, text, fault, len(text), name)

    def _unreadable(self, path: Path) -> str | None:
        """Why a file must not be opened."""
        if self._root is not None and path.is_symlink() and not self._inside(path):
            return "is a link that leads out of the folder: name its file as an input of its own"
        try:
            kind = special_kind(path.stat())
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return f"is {kind}, not a file" if kind else None

    def _text(self, path: Path) -> tuple[str, str | None]:
        try:
            with decompressed(path) as stream:
                data = stream.read(LONGEST_LINE + 1)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            return "", f"cannot be read: {getattr(error, 'strerror', None) or error}"
        if len(data) > LONGEST_LINE:
            return "", f"the file is longer than {LONGEST_LINE >> 20} MiB, which no model takes as one text"
        encoding = marked(data[:4]) or self._encoding
        wide = unmarked(data[:4]) if encoding == "utf-8" else None
        if wide:
            return "", f"{SEEMS_WIDE}{wide}"
        try:
            text = decoded(data, encoding)
        except UnicodeDecodeError as error:
            return data.decode("utf-8", "replace"), undecoded(error, encoding)
        return text, fault_of(text)

    def _files(self) -> Iterator[Path]:
        if self._root is None:
            yield self._path
            return
        linked = set()
        for folder, folders, files in os.walk(self._path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(folder, name)
                if not _is_document(name):
                    continue
                if path.is_symlink() and self._inside(path):
                    target = os.path.realpath(path)
                    if target in linked or self._is_read(Path(target)):
                        continue
                    linked.add(target)
                yield path

    def _inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(str(self._root))

    def _is_read(self, target: Path) -> bool:
        """Whether the target of a link in the folder is one of its files by its own name."""
        hidden = any(part.startswith(".") for part in target.relative_to(str(self._root)).parts)
        return not hidden and _is_document(target.name) and target.is_file()


def _is_document(name: str) -> bool:
    return name.lower().endswith(DOCUMENT_SUFFIXES) and not name.startswith(".")
