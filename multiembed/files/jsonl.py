"""JSONL: an object on each line. Lines are kept as they stand, so that JSONL out of JSONL loses nothing."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import orjson

from multiembed.files.rows import Row, chunk_of, fault_of, gathered, shortened

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


@dataclass(slots=True)
class Objects:
    """The rows of a chunk, each with its line."""

    rows: Sequence[dict[str, Any]]
    lines: Sequence[bytes]

    def values(self, name: str) -> list[Any]:
        """One column; None where a row does not have it."""
        return [row.get(name) for row in self.rows]

    def objects(self) -> list[bytes]:
        """Each row as it stood."""
        return list(self.lines)


class JsonLines:
    """An object on each line; blank lines are passed over.

    The texts are one field's; of objects inside objects it is named as outer.inner. A line is refused if it nests
    deeper than MAX_DEPTH, or has a key twice in itself or in an object on the way to the text: a parser would silently
    take the last one.
    """

    def __init__(self, lines: Lines, column: str | None) -> None:
        self.name = lines.name
        self.column = column
        self._lines = lines
        self._names: set[str] = set()
        self._repeats = 0
        self._checked = False
        """Whether the whole file was read with its column: without repeated keys then, none is looked for again."""

    def kinds(self) -> dict[str, str]:
        """The fields of the first rows that have some, with what they hold."""
        kinds: dict[str, str] = {}
        for chunk in self.read():
            for row in cast("Objects", chunk.columns).rows:
                for name, value in row.items():
                    if kinds.setdefault(name, "null") == "null":
                        kinds[name] = _KINDS.get(type(value), "null")
            if kinds:
                break
        return kinds

    def types(self) -> dict[str, Any]:
        """Nothing that was not seen in the chunks."""
        return {}

    def names(self) -> Collection[str]:
        """The names of all fields that were read so far."""
        return self._names

    def seen(self, chunk: Chunk) -> dict[str, Any]:
        """The columns of a chunk with their values."""
        columns = cast("Objects", chunk.columns)
        names = dict.fromkeys(name for row in columns.rows for name in row)
        return {name: columns.values(name) for name in names}

    def read(self, *, whole: bool = True) -> Iterator[Chunk]:  # noqa: ARG002 - a line is parsed as a whole
        """The rows, from the first."""
        for group in gathered(self._rows()):
            rows, lines = zip(*(row.kept for row in group), strict=True)
            self._names.update(*rows)
            yield chunk_of(group, [self.name] * len(group), Objects(rows, lines))
        self._checked = self.column is not None

    def _rows(self) -> Iterator[Row]:
        for number, line in self._lines.numbered():
            line = line.strip()
            if not line:
                continue
            row, kept, fault = self._row(line)
            text = shortened(line.decode("utf-8", "replace")) if fault else ""
            if fault is None:
                text, fault = self._text(row)
            yield Row(number, text, fault, len(line), (row, kept))

    def _row(self, line: bytes) -> tuple[dict[str, Any], bytes, str | None]:
        """The object of a line, the line as UTF-8, and what is wrong with it."""
        if self._lines.encoding != "utf-8":
            try:
                line = self._lines.decode(line).encode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                return {}, b"{}", self._lines.said(error)
        if _depth(line) > MAX_DEPTH:
            return {}, b"{}", f"the line nests lists and objects more than {MAX_DEPTH} levels deep"
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return self._again(line, error)
        if not isinstance(row, dict):
            kind = _KINDS.get(type(row), "null")
            hint = " (jq -c '.[]' makes lines of a list)" if kind == "list" else ""
            return {}, b"{}", f"the line is no JSON object but {_a(kind)}{hint}"
        return row, line, self._repeated(line, row)

    def _again(self, line: bytes, error: orjson.JSONDecodeError) -> tuple[dict[str, Any], bytes, str | None]:
        """What Python writes and strict JSON does not know: NaN and halves of a surrogate pair."""
        try:
            parsed = json.loads(line.decode("utf-8"), parse_constant=lambda _: None)
            row = _sound(parsed)
            if isinstance(row, dict):
                return row, orjson.dumps(row), self._repeated(line, parsed)
        except UnicodeDecodeError as its:
            return {}, b"{}", self._lines.said(its)
        except (ValueError, TypeError, OverflowError):  # no JSON, or a number that no float holds
            pass
        hint = ": one object a line is asked for, not JSON over several lines" if line in (b"{", b"[") else ""
        return {}, b"{}", f"the line is no JSON ({error.msg} at column {error.colno}){hint}"

    def _repeated(self, line: bytes, row: dict[str, Any]) -> str | None:
        """The fault of a line that has a key twice in itself, or in an object on the way to the text."""
        if self._checked and not self._repeats:
            return None
        if line.count(b":") == len(row):
            return None
        keys = _keys(row)
        # Without a blank before a colon, no key is missed by counting quotation marks before colons.
        if line.count(b'":') == keys and not any(each in line for each in (b'" :', b'"\t:', b'"\r:')):
            return None
        if sum(map(bool, _KEY.findall(line))) == keys:
            return None
        key = _repeated_key(line, self._path(row))
        if key is None:
            return None
        self._repeats += 1
        return f"the key {shortened(key)!r} stands twice in one object"

    def _path(self, row: dict[str, Any]) -> list[str]:
        """The names that lead to the text."""
        if self.column is None or self.column in row:
            return [self.column] if self.column else []
        return self.column.split(".")

    def _text(self, row: dict[str, Any]) -> tuple[str, str | None]:
        column = self.column
        if column is None:  # the columns are only looked at, or there are none
            return "", None if row else "the line has no field"
        value: Any = row
        for name in self._path(row):
            if not isinstance(value, dict) or name not in value:
                return "", f"there is no {column!r}; the line has {', '.join(map(repr, row)) or 'no field'}"
            value = value[name]
        if isinstance(value, str):
            return value, fault_of(value)
        if value is None:
            return "", f"{column!r} is null"
        kind = _KINDS[type(value)]
        hint = ""
        if isinstance(value, dict) and value:
            hint = f": a field inside is named as {column}.{next(iter(value))}"
        return "", f"{column!r} is {_a(kind)}, not text{hint}"


def _depth(line: bytes) -> int:
    """How deep a line nests lists and objects, at most; exact where it matters."""
    if line.count(b"[") + line.count(b"{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for found in _BRACKET_OR_STRING.finditer(line):
        token = found[0]
        depth += (token in b"[{") - (token in b"]}")
        deepest = max(deepest, depth)
    return deepest


def _keys(value: Any) -> int:
    """All keys in all objects of a value."""
    if isinstance(value, dict):
        return len(value) + sum(map(_keys, value.values()))
    return sum(map(_keys, value)) if isinstance(value, list) else 0


class _Repeated(dict[str, Any]):
    """An object that has a key twice."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    repeated = _Repeated(row)
    names = [name for name, _ in pairs]
    repeated.key = next(name for name in names if names.count(name) > 1)
    return repeated


def _repeated_key(line: bytes, path: list[str]) -> str | None:
    """A key that stands twice in the object of a line, or in one of those on a path in it."""
    value = json.loads(line, object_pairs_hook=_object)
    for name in [*path, None]:
        if isinstance(value, _Repeated):
            return value.key
        if not isinstance(value, dict):
            break
        value = value.get(name)
    return None


def _a(kind: str) -> str:
    return kind if kind in ("null", "text") else f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _sound(value: Any) -> Any:
    """A value in which halves of surrogate pairs are U+FFFD, because UTF-8 has no place for them."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_sound(each) for each in value]
    if isinstance(value, dict):
        return {_sound(name): _sound(each) for name, each in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value)
    if value in (math.inf, -math.inf):
        raise OverflowError("a number that no float holds")
    return value
