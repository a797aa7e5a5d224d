"""CSV and TSV: rows under a header, with quoted fields that may hold line ends."""

from __future__ import annotations

import csv
import re
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, cast

from multiembed.files.arrow import arrow, to_json
from multiembed.files.csv_dialect import (
    DELIMITERS,
    SAMPLE_ROWS,
    SampleRow,
    delimiter_name,
    separator_line,
    suspected_delimiter,
)
from multiembed.files.rows import CHUNK_ROWS, InputError, Row, chunk_of, fault_of, gathered, shortened
from multiembed.files.text_decoding import LONGEST_LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from multiembed.files.rows import Chunk
    from multiembed.files.text_decoding import Lines

# A column becomes numbers only where every value of the whole file is one and none loses anything by it: 007 is text.
_FORMS: dict[str, re.Pattern[str]] = {
    "boolean": re.compile(r"[Tt]rue|[Ff]alse|TRUE|FALSE"),
    "integer": re.compile(r"0|-?[1-9][0-9]{0,17}"),
    "number": re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?"),
}
_READ: dict[str, Callable[[str], Any]] = {
    "boolean": lambda word: word in ("true", "True", "TRUE"),
    "integer": int,
    "number": float,
}


@dataclass(slots=True)
class Fields:
    """The rows of a chunk; their values by the kinds that the whole file turned out to have."""

    kinds: dict[str, str]
    rows: list[list[str]]

    def values(self, name: str) -> list[Any]:
        """One column; None where the file does not have it, and for an empty field of a column of numbers."""
        if name not in self.kinds:
            return [None] * len(self.rows)
        at = list(self.kinds).index(name)
        read = _READ.get(self.kinds[name])
        if read is None:
            return [row[at] for row in self.rows]
        return [read(row[at]) if row[at] else None for row in self.rows]

    def objects(self) -> list[bytes]:
        """Each row as a JSON object."""
        columns = [self.values(name) for name in self.kinds]
        return [to_json(dict(zip(self.kinds, row, strict=True))) for row in zip(*columns, strict=True)]


class Delimited:
    """Rows under a header.

    A first line `sep=X`, as Excel writes it, names the delimiter and is not a row.

    Args:
        lines: the file.
        column: the column of the texts.
        delimiter: one character; None: the one that the file names in a `sep=` line, or else the usual one.
        usual: the delimiter of files of this format.
        quoted: False: a quotation mark is a character like any other.
    """

    def __init__(self, lines: Lines, column: str | None, *, delimiter: str | None, usual: str, quoted: bool) -> None:
        self.name = lines.name
        self.column = column
        self._lines = lines
        self._asked = delimiter
        self._usual = usual
        self._quoted = quoted
        self._undecoded: str | None = None  # what is wrong with the bytes of the row that is being read
        self._kinds: dict[str, str] = {}
        self._known = False

    def kinds(self) -> dict[str, str]:
        """The columns, with what their first values are.

        Raises:
            InputError: there is no header, or the file looks as if another delimiter separated its fields.
        """
        self._check_delimiter()
        rows = self._rows()
        header = self._header(rows)
        sample = [fields for _, (_, fields) in zip(range(CHUNK_ROWS), rows, strict=False) if len(fields) == len(header)]
        return {name: _kind(None, [fields[at] for fields in sample]) or "text" for at, name in enumerate(header)}

    def types(self) -> dict[str, Any]:
        """The columns, with their arrow types, once the file was read to its end."""
        pa = arrow()
        types = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64()}
        return {name: types.get(kind, pa.string()) for name, kind in self._kinds.items()}

    def names(self) -> Collection[str]:
        """The names of the columns, once the file was read."""
        return self._kinds

    def seen(self, chunk: Chunk) -> dict[str, Any]:  # noqa: ARG002
        """Nothing more."""
        return {}

    def read(self, *, whole: bool = True) -> Iterator[Chunk]:  # noqa: ARG002 - a row is parsed as a whole
        """The rows, from the first. The first reading to the end finds out what the columns hold."""
        rows = self._rows()
        header = self._header(rows)
        learned: dict[str, str | None] = dict.fromkeys(header)
        learned[str(self.column)] = "text"
        for chunk in self._chunks(rows, header):
            if not self._known:
                fields = cast("Fields", chunk.columns).rows
                for at, name in enumerate(header):
                    learned[name] = _kind(learned[name], [row[at] for row in fields])
            yield chunk
        if not self._known:
            self._kinds.update((name, kind or "text") for name, kind in learned.items())
            self._known = True

    def _chunks(self, rows: Iterator[tuple[int, list[str]]], header: list[str]) -> Iterator[Chunk]:
        for group in gathered(self._told(rows, header)):
            columns = Fields(self._kinds, [row.kept for row in group])
            yield chunk_of(group, [self.name] * len(group), columns)

    def _told(self, rows: Iterator[tuple[int, list[str]]], header: list[str]) -> Iterator[Row]:
        at = header.index(str(self.column))
        for number, fields in rows:
            fault = self._fault(fields, len(header))
            text = fields[at] if at < len(fields) else ""
            fault = fault or fault_of(text)
            if fault:
                fields = (fields + [""] * len(header))[: len(header)]
            yield Row(number, text, fault, sum(map(len, fields)), fields)

    def _fault(self, fields: list[str], expected: int) -> str | None:
        undecoded, self._undecoded = self._undecoded, None
        if undecoded:
            return undecoded
        return None if len(fields) == expected else f"the row has {len(fields)} fields, the header {expected}"

    def _header(self, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
        number, header = next(rows, (None, []))
        twice = [name for name in header if header.count(name) > 1]
        if number is None:
            raise InputError("the file is empty: it has no header", file=self.name)
        if self._undecoded:
            raise InputError(self._undecoded, file=self.name, line=number)
        if twice:
            raise InputError(f"the header names {twice[0]!r} twice", file=self.name, line=number)
        if not self._kinds:
            self._kinds = dict.fromkeys(header, "text")
        return header

    def _check_delimiter(self) -> None:
        """Refuse a file that would be embedded as one column, though another delimiter separates its fields.

        Raises:
            InputError: the message names the line and the option.
        """
        delimiter, before = self._separator()
        if self._asked == self._usual or (before and self._asked is None):  # the user or the file says so
            return
        samples = {each: self._sample(each) for each in {delimiter, *DELIMITERS}}
        suspected = suspected_delimiter(samples, delimiter, column=self.column)
        if suspected is None or "\ufffd" in "".join(suspected[1].fields):  # of another encoding
            return
        found, row = suspected
        if self._asked is None:
            advice = f", or --delimiter {delimiter_name(self._usual)} if it is one column"
        else:
            advice = "; files with different delimiters need a run each"
        raise InputError(
            f"this looks like {len(row.fields)} fields separated by {delimiter_name(found)} "
            f"({shortened(', '.join(row.fields))}), but {delimiter_name(delimiter)} makes one column of them. "
            f"Say --delimiter {delimiter_name(found)}{advice}.",
            file=self.name,
            line=row.line,
        )

    def _sample(self, delimiter: str) -> list[SampleRow]:
        """The header and some rows, as far as they can be read with a delimiter."""
        rows: list[SampleRow] = []
        with suppress(InputError):  # the reading itself reports it
            rows.extend(SampleRow(*row) for row in islice(self._rows(delimiter), 1 + SAMPLE_ROWS))
        return rows

    def _separator(self) -> tuple[str, int]:
        """The delimiter, and how many lines stand before the header.

        Raises:
            InputError: the file has a `sep=` line that names no delimiter.
        """
        first = next(self._decoded(), "")
        self._undecoded = None
        named = separator_line(first)
        if named == "" and self._asked is None:
            raise InputError("the line 'sep=' names no delimiter: say --delimiter", file=self.name, line=1)
        return self._asked or named or self._usual, 0 if named is None else 1

    def _rows(self, delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
        """Each row with the line on which it begins; empty lines are passed over."""
        csv.field_size_limit(LONGEST_LINE)
        right, before = self._separator()
        self._undecoded = None
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE
        lines = islice(self._decoded(), before, None)
        reader = csv.reader(lines, delimiter=delimiter or right, quoting=quoting, strict=True)
        begins = before + 1
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                hint = "; where a quotation mark is a character like any other, say --no-quotes" if self._quoted else ""
                raise InputError(f"the row cannot be read: {error}{hint}", file=self.name, line=begins) from None
            if fields is None:
                return
            if fields:
                yield begins, fields
            begins = before + reader.line_num + 1

    def _decoded(self) -> Iterator[str]:
        for _, line in self._lines.numbered():
            try:
                text = self._lines.decode(line)
            except UnicodeDecodeError as error:
                self._undecoded = self._undecoded or self._lines.said(error)
                text = line.decode("utf-8", "replace")
            yield text


def _kind(before: str | None, values: Iterable[str]) -> str | None:
    """What a column holds, when it held this before; None while it holds nothing but empty fields."""
    if before == "text":
        return "text"
    words = [word for word in values if word]
    if not words:
        return before
    for kind, form in _FORMS.items():
        if before in (None, kind, "integer" if kind == "number" else kind) and all(map(form.fullmatch, words)):
            return kind
    return "text"
