"""Delimiters of CSV and TSV: how users and Excel name them, and how to tell that a file uses another one. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DELIMITERS = (",", ";", "\t", "|")
"""The common delimiters."""
SAMPLE_ROWS = 100
"""Rows after the header that are checked."""
_NAMES = {"tab": "\t", "\\t": "\t"}
_SEPARATOR_LINE = re.compile(r'"?sep=(.?)"?\r?\n?', re.IGNORECASE)


class SampleRow(NamedTuple):
    """Row and the line on which it begins."""

    line: int
    fields: list[str]


def parse_delimiter(name: str) -> str:
    """Return the character that a user names: itself, or "tab".

    Raises:
        ValueError: it is not one character that can separate fields.
    """
    delimiter = _NAMES.get(name.lower(), name)
    if len(delimiter) != 1 or delimiter.isalnum() or delimiter in '"\r\n\0\ufeff':
        raise ValueError(
            f"{name!r} cannot separate fields: give one character other than a letter, a digit, a quotation "
            "mark or a line end, or the word tab."
        )
    return delimiter


def delimiter_name(delimiter: str) -> str:
    """Return a delimiter as it is typed in a shell."""
    return "tab" if delimiter == "\t" else repr(delimiter)


def separator_line(line: str) -> str | None:
    """Return the delimiter that a first line `sep=X` names, as Excel reads it.

    Returns:
        "" if the line names none; None if it is not such a line.
    """
    found = _SEPARATOR_LINE.fullmatch(line)
    return None if found is None else found[1].strip('"\r\n')


def suspected_delimiter(
    samples: Mapping[str, Sequence[SampleRow]], current: str, *, column: str | None
) -> tuple[str, SampleRow] | None:
    """Return another delimiter that the first rows of a file with one column point to, and the row that shows it.

    The header decides: prose often has semicolons, a column's name has not. Rows alone count only if every one of
    them has the same number of fields, and none looks like prose, where a blank or nothing follows the delimiter.

    Args:
        samples: the first rows by the delimiter with which they were read; the header first.
        current: the delimiter in use.
        column: the column that the user named.
    """
    header = samples[current][0].fields if samples[current] else []
    if len(header) > 1:
        return None
    found: list[tuple[int, str, SampleRow]] = []
    for delimiter, rows in samples.items():
        if delimiter == current or not rows:
            continue
        body = [row.fields for row in rows[1:]]
        if len(rows[0].fields) > 1:
            if header != [column] and _is_header(rows[0].fields, body):
                found.append((len(rows[0].fields), delimiter, rows[0]))
        elif _is_table(body):
            found.append((len(body[0]), delimiter, rows[1]))
    return max(found)[1:] if found else None


def _is_header(names: list[str], body: list[list[str]]) -> bool:
    matching = sum(len(fields) == len(names) for fields in body)
    return 2 * matching >= len(body) or (_is_tight(names) and any(len(fields) > 1 for fields in body))


def _is_table(body: list[list[str]]) -> bool:
    if len(body) < 2 or len(body[0]) < 2 or any(len(fields) != len(body[0]) for fields in body):
        return False
    return all(_is_tight(fields) and fields[-1] for fields in body)


def _is_tight(fields: list[str]) -> bool:
    return not any(field.startswith((" ", "\u3000")) for field in fields[1:])
