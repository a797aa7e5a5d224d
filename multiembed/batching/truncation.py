"""Truncation and splitting of a text that is too long, without tearing a character apart. No I/O."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BREAKS = re.compile(r"\n\s*\n|[。！？!?]|\.\s|\n|\s")
"""Where a piece may end; the last one found is used."""
_BREAK_SEARCH = 0.2  # share of a piece, at its end, that is searched for a break
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")


def truncate(text: str, maximum: int, count: Callable[[str], int]) -> str:
    """Truncate a text to its longest beginning of at most so many tokens, and at least one character.

    `count` counts tokens. A longer text must not have fewer.
    """
    return text[: _end(text, 0, maximum, count)]


def split_text(text: str, maximum: int, count: Callable[[str], int]) -> list[str]:
    """Split a text into pieces of at most so many tokens each, between sentences or words where possible."""
    pieces = []
    start = 0
    while start < len(text):
        end = _end(text, start, maximum, count)
        if end < len(text):
            search = end - int((end - start) * _BREAK_SEARCH)
            end = max((found.end() for found in _BREAKS.finditer(text, search, end)), default=end)
        pieces.append(text[start:end])
        start = end
    return pieces


def _end(text: str, start: int, maximum: int, count: Callable[[str], int]) -> int:
    """End of the longest piece from `start`. The search widens from a guess, so that it never counts a long rest."""
    width = max(maximum, 16)
    while count(text[start : start + width]) <= maximum:
        if start + width >= len(text):
            return len(text)
        width *= 2
    ends = range(start + 2, min(start + width, len(text)))
    end = start + 1 + bisect_right(ends, maximum, key=lambda end: count(text[start:end]))
    whole = end  # before a combining mark or a joined emoji, the character that it belongs to is left out, too
    while whole > start + 1 and (
        text[whole] in _JOINERS or unicodedata.combining(text[whole]) or text[whole - 1] == "\u200d"
    ):
        whole -= 1
    return whole if whole > start + 1 else end
