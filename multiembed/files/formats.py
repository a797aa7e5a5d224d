"""Which kind of file an input is, by its name or by what the user says, and what reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from multiembed.files.csv_reader import Delimited
from multiembed.files.jsonl import JsonLines
from multiembed.files.parquet import Parquet
from multiembed.files.plain_text import Documents, TextLines
from multiembed.files.rows import InputError
from multiembed.files.text_decoding import Lines

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from multiembed.files.rows import Chunk

INPUT_FORMATS = ("text", "document", "csv", "tsv", "jsonl", "parquet")
"""text: a text on each line. document: the whole file is one text, as the files of a folder are."""
_SUFFIXES = {
    ".txt": "text",
    ".text": "text",
    ".md": "document",
    ".markdown": "document",
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_USUAL = ("text", "content")
"""The names that the column of texts usually has."""


class Source(Protocol):
    """One input, to be read as often as needed."""

    name: str
    column: Any
    """The column of the texts; None before it is chosen."""

    def kinds(self) -> dict[str, str]:
        """The columns, with what they hold; "text" for those that can be embedded."""

    def types(self) -> dict[str, Any]:
        """The columns, with their arrow types, as far as they are known once it was read to its end."""

    def names(self) -> Collection[str]:
        """The names of its columns, once it was read to its end."""

    def seen(self, chunk: Chunk) -> dict[str, Any]:
        """The columns of a chunk with their values, where types have to be learned from them."""

    def read(self, *, whole: bool = True) -> Iterator[Chunk]:
        """The rows, from the first; other columns than the texts' only where `whole`."""


def open_source(
    path: Path, name: str, *, form: str | None, column: str | None, encoding: str, delimiter: str | None, quoted: bool
) -> Source:
    """What reads an input.

    Raises:
        InputError: its name does not tell what it is, and nobody said it.
    """
    if path.is_dir():
        return Documents(path, name, column, encoding)
    form = form or _form(name)
    if form == "document":
        return Documents(path, name, column, encoding)
    if form == "parquet":
        return Parquet(path, name, column)
    lines = Lines(path, name, encoding)
    if form == "text":
        return TextLines(lines, column)
    if form == "jsonl":
        return JsonLines(lines, column)
    return Delimited(lines, column, delimiter=delimiter, usual="\t" if form == "tsv" else ",", quoted=quoted)


def choose_column(source: Source, wanted: str | None) -> str | None:
    """The column of the texts: the one asked for, the only one of text, or the one that is named as such.

    Returns:
        None when the input has no row from which it could be told.

    Raises:
        InputError: there is none, or there are several; the message lists the columns.
    """
    kinds = source.kinds()
    if not kinds:
        return wanted
    listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if wanted is not None:
        nested = isinstance(source, JsonLines) and "." in wanted and kinds.get(wanted.partition(".")[0]) == "object"
        if wanted not in kinds and not nested:
            raise InputError(f"there is no column {wanted!r}. Its columns: {listed}.", file=source.name)
        if isinstance(source, Parquet) and kinds[wanted] != "text":
            raise InputError(f"the column {wanted!r} holds no text. Its columns: {listed}.", file=source.name)
        return wanted
    texts = [name for name, kind in kinds.items() if kind == "text"]
    if len(texts) == 1:
        return texts[0]
    for usual in _USUAL:
        if usual in texts:
            return usual
    problem = "several columns hold text" if texts else "no column holds text"
    raise InputError(f"{problem}: say with --column which to embed. Its columns: {listed}.", file=source.name)


def _form(name: str) -> str:
    path = Path(name)
    if path.suffix.lower() in _PACKED:
        path = path.with_suffix("")
    form = _SUFFIXES.get(path.suffix.lower())
    if form is None:
        what = "standard input" if name == "-" else name
        raise InputError(f"Say with --format what {what} holds: {', '.join(INPUT_FORMATS)}.")
    return form
