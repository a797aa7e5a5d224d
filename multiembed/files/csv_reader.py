"""CSV and TSV input: rows under a header, with quoted fields that may hold line ends."""

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
from multiembed.files.rows import CHUNK_ROWS, InputError, Row, Source, grouped, make_chunk, shortened, text_fault
from multiembed.files.text_decoding import MAX_LINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from multiembed.files.rows import Chunk
    from multiembed.files.text_decoding import Lines

# A column becomes numbers only where every value of the whole file is one and none loses anything by it: 007 is text.
_PATTERNS: dict[str, re.Pattern[str]] = {
    "boolean": re.compile(r"[Tt]rue|[Ff]alse|TRUE|FALSE"),
    "integer": re.compile(r"0|-?[1-9][0-9]{0,17}"),
    "number": re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?"),
}
_PARSERS: dict[str, Callable[[str], Any]] = {
    "boolean": lambda field: field in ("true", "True", "TRUE"),
    "integer": int,
    "number": float,
}


@dataclass(slots=True)
class Fields:
    """Columns of a chunk: its rows, and the kinds that the columns of the whole file turned out to have."""

    kinds: dict[str, str]
    rows: list[list[str]]

    def values(self, name: str) -> list[Any]:
        """Return one column; None where the file does not have it, and for an empty field of a column of numbers."""
        if name not in self.kinds:
            return [None] * len(self.rows)
        index = list(self.kinds).index(name)
        parse = _PARSERS.get(self.kinds[name])
        if parse is None:
            return [row[index] for row in self.rows]
        return [parse(row[index]) if row[index] else None for row in self.rows]

    def objects(self) -> list[bytes]:
        """Return each row as a JSON object."""
        columns = [self.values(name) for name in self.kinds]
        return [to_json(dict(zip(self.kinds, row, strict=True))) for row in zip(*columns, strict=True)]


class Delimited(Source):
    """Reader of rows under a header.

    A first line `sep=X`, as Excel writes it, names the delimiter and is not a row.

    Args:
        lines: the file.
        column: the column of the texts.
        delimiter: one character. None: the one of a `sep=` line, or else the usual one.
        usual: the delimiter of files of this format.
        quoted: False: a quotation mark is a character like any other.
    """

    def __init__(self, lines: Lines, column: str | None, *, delimiter: str | None, usual: str, quoted: bool) -> None:
        self.name = lines.name
        self.column = column
        self._lines = lines
        self._delimiter = delimiter
        self._usual = usual
        self._quoted = quoted
        self._decoding_fault: str | None = None
        """What is wrong with the bytes of the row that is being read."""
        self._kinds: dict[str, str] = {}
        self._is_known = False
        """Whether the kinds are those of the whole file."""

    def kinds(self) -> dict[str, str]:
        """Return the columns, with what their first values are.

        Raises:
            InputError: the header is missing, or another delimiter seems to separate the fields.
        """
        self._check_delimiter()
        rows = self._rows()
        header = self._header(rows)
        sample = [fields for _, fields in islice(rows, CHUNK_ROWS) if len(fields) == len(header)]
        return {
            name: _merge_kind(None, [fields[index] for fields in sample]) or "text" for index, name in enumerate(header)
        }

    def types(self) -> dict[str, Any]:
        """Return the columns, with their arrow types, after reading to the end."""
        pa = arrow()
        types = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64()}
        return {name: types.get(kind, pa.string()) for name, kind in self._kinds.items()}

    def names(self) -> Collection[str]:
        """Return the names of the columns, after reading."""
        return self._kinds

    def read(self, *, whole: bool = True, limit: int | None = None) -> Iterator[Chunk]:  # noqa: ARG002 - a row is parsed as a whole
        """Read the rows, from the first. The first reading to the end finds out what the columns hold."""
        rows = self._rows()
        header = self._header(rows)
        learned: dict[str, str | None] = dict.fromkeys(header)
        learned[str(self.column)] = "text"
        for group in grouped(self._checked_rows(rows, header), limit):
            fields: list[list[str]] = [row.held for row in group]
            if not self._is_known:
                for index, name in enumerate(header):
                    learned[name] = _merge_kind(learned[name], [row[index] for row in fields])
            yield make_chunk(group, [self.name] * len(group), Fields(self._kinds, fields))
        if not self._is_known:
            self._kinds.update((name, kind or "text") for name, kind in learned.items())
            self._is_known = True

    def _checked_rows(self, rows: Iterator[tuple[int, list[str]]], header: list[str]) -> Iterator[Row]:
        index = header.index(str(self.column))
        for number, fields in rows:
            fault, self._decoding_fault = self._decoding_fault, None
            if not fault and len(fields) != len(header):
                fault = f"the row has {len(fields)} fields, the header {len(header)}"
            text = fields[index] if index < len(fields) else ""
            fault = fault or text_fault(text)
            if fault:
                fields = (fields + [""] * len(header))[: len(header)]
            yield Row(number, text, fault, sum(map(len, fields)), fields)

    def _header(self, rows: Iterator[tuple[int, list[str]]]) -> list[str]:
        number, header = next(rows, (None, cast("list[str]", [])))
        repeated = [name for name in header if header.count(name) > 1]
        if number is None:
            raise InputError("the file is empty: it has no header", file=self.name)
        if self._decoding_fault:
            raise InputError(self._decoding_fault, file=self.name, line=number)
        if repeated:
            raise InputError(f"the header names {repeated[0]!r} twice", file=self.name, line=number)
        if not self._kinds:
            self._kinds = dict.fromkeys(header, "text")
        return header

    def _check_delimiter(self) -> None:
        """Refuse a file that would be embedded as one column, though another delimiter separates its fields.

        Raises:
            InputError: the message names the line and the option.
        """
        delimiter, skipped_lines = self._separator()
        if skipped_lines if self._delimiter is None else self._delimiter == self._usual:  # the user or the file says so
            return
        samples = {each: self._sample(each) for each in {delimiter, *DELIMITERS}}
        suspected = suspected_delimiter(samples, delimiter, column=self.column)
        if suspected is None or "\ufffd" in "".join(suspected[1].fields):  # of another encoding
            return
        found, row = suspected
        if self._delimiter is None:
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
        """The delimiter, and how many lines come before the header.

        Raises:
            InputError: the file has a `sep=` line that names no delimiter.
        """
        named = separator_line(next(self._decoded(), ""))
        self._decoding_fault = None
        if named == "" and self._delimiter is None:
            raise InputError("the line 'sep=' names no delimiter: say --delimiter", file=self.name, line=1)
        return self._delimiter or named or self._usual, 0 if named is None else 1

    def _rows(self, delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
        """Each row with the line on which it begins; empty lines are skipped."""
        csv.field_size_limit(MAX_LINE_BYTES)
        usual, skipped_lines = self._separator()
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._quoted else csv.QUOTE_NONE
        lines = islice(self._decoded(), skipped_lines, None)
        reader = csv.reader(lines, delimiter=delimiter or usual, quoting=quoting, strict=True)
        line = skipped_lines + 1
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                hint = "; where a quotation mark is a character like any other, say --no-quotes" if self._quoted else ""
                raise InputError(f"the row cannot be read: {error}{hint}", file=self.name, line=line) from None
            if fields is None:
                return
            if fields:
                yield line, fields
            line = skipped_lines + reader.line_num + 1

    def _decoded(self) -> Iterator[str]:
        for _, line in self._lines.numbered():
            text, fault = self._lines.decode(line)
            self._decoding_fault = self._decoding_fault or fault
            yield text


def _merge_kind(known: str | None, fields: Iterable[str]) -> str | None:
    """The kind of a column, given the kind of its earlier fields; None while all fields are empty."""
    if known == "text":
        return "text"
    filled = [field for field in fields if field]
    if not filled:
        return known
    for kind, pattern in _PATTERNS.items():
        is_wider = known in (None, kind) or (known == "integer" and kind == "number")
        if is_wider and all(map(pattern.fullmatch, filled)):
            return kind
    return "text"
