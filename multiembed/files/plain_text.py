"""Plain text input: a file with a text on each line, and files that are one text each, alone or in folders."""

from __future__ import annotations

import lzma
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiembed.files.arrow import arrow, to_json
from multiembed.files.pipes import special_kind
from multiembed.files.rows import InputError, Row, Source, grouped, make_chunk, text_fault
from multiembed.files.text_decoding import (
    MAX_LINE_BYTES,
    decode,
    decompressed,
    encoding_of_mark,
    known_encoding,
    refuse_wide_encoding,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from multiembed.files.rows import Chunk
    from multiembed.files.text_decoding import Lines

DOCUMENT_SUFFIXES = (".txt", ".text", ".md", ".markdown")
"""The files of a folder that are read."""
TEXT = "text"
"""The column of the texts where the file gives it no name."""
PATH = "path"


@dataclass(slots=True)
class Listed:
    """Columns of text, as lists."""

    lists: Mapping[str, list[str]]

    def values(self, name: str) -> list[Any]:
        """Return one column."""
        return list(self.lists[name]) if name in self.lists else [None] * len(next(iter(self.lists.values())))

    def objects(self) -> list[bytes]:
        """Return each row as a JSON object."""
        rows = zip(*self.lists.values(), strict=True)
        return [to_json(dict(zip(self.lists, row, strict=True))) for row in rows]


class TextLines(Source):
    """Reader of a text on each line. An empty line is a row too, with a fault: leaving it out would shift the rows."""

    def __init__(self, lines: Lines, column: str | None) -> None:
        self.name = lines.name
        self.column: str = column or TEXT
        self._lines = lines

    def kinds(self) -> dict[str, str]:
        """Return the columns, with what they hold."""
        return {self.column: "text"}

    def types(self) -> dict[str, Any]:
        """Return the columns, with their arrow types."""
        return {self.column: arrow().string()}

    def read(self, *, whole: bool = True, limit: int | None = None) -> Iterator[Chunk]:  # noqa: ARG002 - there are no other columns
        """Read the rows, from the first."""
        for group in grouped(self._rows(), limit):
            texts = [row.text for row in group]
            yield make_chunk(group, [self.name] * len(group), Listed({self.column: texts}))

    def _rows(self) -> Iterator[Row]:
        for number, line in self._lines.numbered():
            text, fault = self._lines.decode(line)
            text = text.rstrip("\r\n")
            yield Row(number, text, fault or text_fault(text), len(text))


class Documents(Source):
    """Reader of files that are one text each, with their paths: one file, or a folder's, ordered by name.

    Hidden files and folders are left out, and links to folders are not followed. A link to a file is read if that file
    is in the folder and is not read by its own name; otherwise the same text would be read twice. Anything else with
    the name of a text file is a row with a fault: a link that leads out of the folder, to nothing or in a circle, a
    pipe, a socket or a device.
    """

    def __init__(self, path: Path, name: str, column: str | None, encoding: str) -> None:
        if column == PATH:
            raise InputError(f"the column {PATH!r} holds the paths: call the texts otherwise", file=name)
        self.name = name
        self.column: str = column or TEXT
        self._path = path
        self._root = Path(os.path.realpath(path)) if path.is_dir() else None
        """The folder itself; None for a file alone."""
        self._encoding = known_encoding(encoding)
        if self._root is not None and next(self._files(), None) is None:
            raise InputError(f"no file in this folder ends with {', '.join(DOCUMENT_SUFFIXES)}", file=name)

    def kinds(self) -> dict[str, str]:
        """Return the columns, with what they hold."""
        return {PATH: "path", self.column: "text"}

    def types(self) -> dict[str, Any]:
        """Return the columns, with their arrow types."""
        return dict.fromkeys(self.kinds(), arrow().string())

    def read(self, *, whole: bool = True, limit: int | None = None) -> Iterator[Chunk]:  # noqa: ARG002 - a path is short
        """Read the rows, from the first."""
        for group in grouped(self._rows(), limit):
            paths = [row.held for row in group]
            yield make_chunk(group, paths, Listed({PATH: paths, self.column: [row.text for row in group]}))

    def _rows(self) -> Iterator[Row]:
        for path in self._files():
            text, fault = self._read_text(path)
            # A name that is not UTF-8 cannot be written to the output.
            name = os.fsencode(path.as_posix()).decode("utf-8", "replace")
            yield Row(None, text, fault, len(text), name)

    def _read_text(self, path: Path) -> tuple[str, str | None]:
        """The text of a file, and why it cannot be embedded."""
        if self._root is not None and path.is_symlink() and not self._is_inside(path):
            return "", "is a link that leads out of the folder: name its file as an input of its own"
        try:
            if kind := special_kind(path.stat()):
                return "", f"is {kind}, not a file"
            with decompressed(path) as stream:
                data = stream.read(MAX_LINE_BYTES + 1)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            return "", f"cannot be read: {getattr(error, 'strerror', None) or error}"
        if len(data) > MAX_LINE_BYTES:
            return "", f"the file is longer than {MAX_LINE_BYTES >> 20} MiB, which no model takes as one text"
        encoding = encoding_of_mark(data[:4]) or self._encoding
        if encoding == "utf-8" and (fault := refuse_wide_encoding(data[:4])):
            return "", fault
        text, fault = decode(data, encoding)
        return text, fault or text_fault(text)

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
                if path.is_symlink() and self._is_inside(path):
                    target = os.path.realpath(path)
                    if target in linked or self._is_read(Path(target)):
                        continue
                    linked.add(target)
                yield path

    def _is_inside(self, path: Path) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(str(self._root))

    def _is_read(self, target: Path) -> bool:
        """Whether the target of a link in the folder is one of its files by its own name."""
        hidden = any(part.startswith(".") for part in target.relative_to(str(self._root)).parts)
        return not hidden and _is_document(target.name) and target.is_file()


def _is_document(name: str) -> bool:
    return name.lower().endswith(DOCUMENT_SUFFIXES) and not name.startswith(".")
