"""Formats of input files: which reader reads a file, and which column holds the texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from multiembed.files.csv_reader import Delimited
from multiembed.files.jsonl import JsonLines
from multiembed.files.parquet import Parquet
from multiembed.files.plain_text import Documents, TextLines
from multiembed.files.rows import InputError
from multiembed.files.text_decoding import Lines

if TYPE_CHECKING:
    from multiembed.files.rows import Source

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
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_USUAL = ("text", "content")
"""The names that the column of texts usually has."""


def open_source(
    path: Path, name: str, *, form: str | None, column: str | None, encoding: str, delimiter: str | None, quoted: bool
) -> Source:
    """Choose the reader of an input.

    Raises:
        InputError: the format is neither named nor known from the file's name.
    """
    form = form or ("document" if path.is_dir() else _format_of(name))
    if path.is_dir() or form == "document":
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
    """Choose the column of the texts: the one asked for, the only one of text, or the one with a usual name.

    Returns:
        None when the input has no row from which it could be chosen.

    Raises:
        InputError: there is none, or there are several. The message lists the columns.
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


def _format_of(name: str) -> str:
    path = Path(name)
    if path.suffix.lower() in _COMPRESSED:
        path = path.with_suffix("")
    form = _SUFFIXES.get(path.suffix.lower())
    if form is None:
        input_name = "standard input" if name == "-" else name
        raise InputError(f"Say with --format what {input_name} holds: {', '.join(INPUT_FORMATS)}.")
    return form
