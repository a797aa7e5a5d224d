"""JSONL input: an object on each line. Lines are kept unchanged, so that JSONL to JSONL loses nothing."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import orjson

from multiembed.files.rows import Row, Source, grouped, make_chunk, shortened, text_fault
from multiembed.files.text_decoding import decode

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from multiembed.files.rows import Chunk
    from multiembed.files.text_decoding import Lines

MAX_DEPTH = 128
"""Levels of lists and objects in a line, as in Rust's serde_json; CPython's and pyarrow's recursion ends at some 300
(measured 2026-11-28 with CPython 3.11 and pyarrow 26)."""
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_BRACKET_OR_STRING = re.compile(rb"[\[\]{}]|" + _STRING)
_KEY = re.compile(_STRING + rb"([ \t\r]*:)?")
_KINDS = {str: "text", int: "integer", float: "number", bool: "boolean", list: "list", dict: "object"}


class LineError(ValueError):
    """A line that is not an object of JSON; its message is the fault."""


@dataclass(slots=True)
class Objects:
    """Columns of a chunk: its rows, each with its line."""

    rows: Sequence[dict[str, Any]]
    lines: Sequence[bytes]

    def values(self, name: str) -> list[Any]:
        """Return one column; None where a row does not have it."""
        return [row.get(name) for row in self.rows]

    def objects(self) -> list[bytes]:
        """Return each row unchanged."""
        return list(self.lines)


class JsonLines(Source):
    """Reader of an object on each line; blank lines are skipped.

    The texts are one field; a field of an inner object is named outer.inner. A line is refused if it nests deeper than
    MAX_DEPTH, or has a key twice in itself or in an object on the way to the text: a parser would silently take the
    last one.
    """

    def __init__(self, lines: Lines, column: str | None) -> None:
        self.name = lines.name
        self.column = column
        self._lines = lines
        self._names: set[str] = set()
        self._has_repeats = False
        self._is_checked = False
        """Whether the whole file was read with its column: without repeated keys then, none is searched for again."""

    def kinds(self) -> dict[str, str]:
        """Return the fields of the first rows that have some, with what they hold."""
        kinds: dict[str, str] = {}
        for chunk in self.read():
            for row in cast("Objects", chunk.columns).rows:
                for name, value in row.items():
                    if kinds.setdefault(name, "null") == "null":
                        kinds[name] = _KINDS.get(type(value), "null")
            if kinds:
                break
        return kinds

    def names(self) -> Collection[str]:
        """Return the names of all fields that were read so far."""
        return self._names

    def untyped_values(self, chunk: Chunk) -> dict[str, Any]:
        """Return the columns of a chunk with their values."""
        columns = cast("Objects", chunk.columns)
        names = dict.fromkeys(name for row in columns.rows for name in row)
        return {name: columns.values(name) for name in names}

    def read(self, *, whole: bool = True, limit: int | None = None) -> Iterator[Chunk]:  # noqa: ARG002 - a line is parsed as a whole
        """Read the rows, from the first."""
        for group in grouped(self._rows(), limit):
            rows, lines = zip(*(row.held for row in group), strict=True)
            self._names.update(*rows)
            yield make_chunk(group, [self.name] * len(group), Objects(rows, lines))
        self._is_checked = self.column is not None

    def _rows(self) -> Iterator[Row]:
        for number, line in self._lines.numbered():
            line = line.strip()
            if not line:
                continue
            try:
                row, held = self._parse(line)
            except LineError as error:
                yield Row(number, shortened(line.decode("utf-8", "replace")), str(error), len(line), ({}, b"{}"))
                continue
            text, fault = row.get(self.column or ""), None
            if type(text) is not str or not text or text.isspace():
                text, fault = self._find_text(row)
            yield Row(number, text, fault, len(line), (row, held))

    def _parse(self, line: bytes) -> tuple[dict[str, Any], bytes]:
        """The object of a line, and the line as UTF-8."""
        if self._lines.encoding != "utf-8":
            text, fault = self._lines.decode(line)
            if fault:
                raise LineError(fault)
            line = text.encode("utf-8", "surrogatepass")
        if line.count(b"[") + line.count(b"{") > MAX_DEPTH and _depth(line) > MAX_DEPTH:
            raise LineError(f"the line nests lists and objects more than {MAX_DEPTH} levels deep")
        try:
            row, held = orjson.loads(line), line
        except orjson.JSONDecodeError as error:
            row, held = self._parse_leniently(line, error)
        if not isinstance(row, dict):
            kind = _KINDS.get(type(row), "null")
            hint = " (jq -c '.[]' makes lines of a list)" if kind == "list" else ""
            raise LineError(f"the line is no JSON object but {_with_article(kind)}{hint}")
        if self._has_repeats or not self._is_checked:
            self._refuse_repeated_key(line, row)
        return row, held

    def _parse_leniently(self, line: bytes, error: orjson.JSONDecodeError) -> tuple[Any, bytes]:
        """What Python writes and strict JSON does not know: NaN and halves of a surrogate pair."""
        text, fault = decode(line, "utf-8")
        if fault:
            raise LineError(fault) from None
        try:
            row = _sanitize(json.loads(text, parse_constant=lambda _: None))
            if isinstance(row, dict):
                return row, orjson.dumps(row)
        except (ValueError, TypeError, OverflowError):  # not JSON, or a number that no float holds
            pass
        hint = ": one object a line is asked for, not JSON over several lines" if line in (b"{", b"[") else ""
        raise LineError(f"the line is no JSON ({error.msg} at column {error.colno}){hint}") from None

    def _refuse_repeated_key(self, line: bytes, row: dict[str, Any]) -> None:
        """Refuse a line that has a key twice in itself, or in an object on the way to the text."""
        if line.count(b":") == len(row):
            return
        keys = _count_keys(row)
        # Without a blank before a colon, no key is missed by counting quotation marks before colons.
        if line.count(b'":') == keys and b" :" not in line and b"\t" not in line and b"\r" not in line:
            return
        if sum(map(bool, _KEY.findall(line))) == keys:
            return
        value = json.loads(line, object_pairs_hook=_object)
        for name in [*self._path(row), None]:
            if isinstance(value, _RepeatingObject):
                self._has_repeats = True
                raise LineError(f"the key {shortened(value.key)!r} stands twice in one object")
            if not isinstance(value, dict):
                return
            value = value.get(name)

    def _path(self, row: dict[str, Any]) -> list[str]:
        """The names that lead to the text."""
        if self.column is None or self.column in row:
            return [self.column] if self.column else []
        return self.column.split(".")

    def _find_text(self, row: dict[str, Any]) -> tuple[str, str | None]:
        """The text of a row, and why it cannot be embedded."""
        column = self.column
        if column is None:  # only the columns are looked at, or there are none
            return "", None if row else "the line has no field"
        value: Any = row
        for name in self._path(row):
            if not isinstance(value, dict) or name not in value:
                return "", f"there is no {column!r}; the line has {', '.join(map(repr, row)) or 'no field'}"
            value = value[name]
        if isinstance(value, str):
            return value, text_fault(value)
        if value is None:
            return "", f"{column!r} is null"
        hint = ""
        if isinstance(value, dict) and value:
            hint = f": a field inside is named as {column}.{next(iter(value))}"
        return "", f"{column!r} is {_with_article(_KINDS[type(value)])}, not text{hint}"


def _depth(line: bytes) -> int:
    """How deep a line nests lists and objects, at most."""
    depth = deepest = 0
    for found in _BRACKET_OR_STRING.finditer(line):
        token = found[0]
        depth += (token in b"[{") - (token in b"]}")
        deepest = max(deepest, depth)
    return deepest


def _count_keys(value: Any) -> int:
    """All keys in all objects of a list or an object."""
    count, inner = (len(value), value.values()) if isinstance(value, dict) else (0, value)
    for each in inner:
        if isinstance(each, (dict, list)):
            count += _count_keys(each)
    return count


class _RepeatingObject(dict[str, Any]):
    """An object that has a key twice."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    repeating = _RepeatingObject(row)
    names = [name for name, _ in pairs]
    repeating.key = next(name for name in names if names.count(name) > 1)
    return repeating


def _with_article(kind: str) -> str:
    return kind if kind in ("null", "text") else f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _sanitize(value: Any) -> Any:
    """Replace halves of surrogate pairs by U+FFFD, because UTF-8 cannot hold them."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_sanitize(each) for each in value]
    if isinstance(value, dict):
        return {_sanitize(name): _sanitize(each) for name, each in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    if value in (math.inf, -math.inf):
        raise OverflowError("a number that no float holds")
    return value
