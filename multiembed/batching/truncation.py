"""A text that is too long, made shorter or cut into pieces, at places where no character is torn. Pure."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ENDS = re.compile(r"\n\s*\n|[。！？!?]|\.\s|\n|\s")
"""Where a piece may end, the better places first in the alternation but the last one found wins."""
_SLACK = 0.2
"""The share of a piece, at its end, in which a better place to cut is looked for."""
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")


def truncate(text: str, most: int, count: Callable[[str], int]) -> str:
    """The longest beginning of a text that has at most so many tokens; at least one character.

    Args:
        text: any text.
        most: tokens.
        count: tokens of a text; must not fall when a text grows.
    """
    return text[: _end(text, 0, most, count)]


def split_text(text: str, most: int, count: Callable[[str], int]) -> list[str]:
    """Pieces of at most so many tokens each, together the text; cut between sentences or words where possible."""
    pieces = []
    start = 0
    while start < len(text):
        end = _end(text, start, most, count)
        if end < len(text):
            slack = end - int((end - start) * _SLACK)
            end = max((found.end() for found in _ENDS.finditer(text, slack, end)), default=end)
        pieces.append(text[start:end])
        start = end
    return pieces


def _end(text: str, start: int, most: int, count: Callable[[str], int]) -> int:
    """Where the longest piece from `start` ends that has at most so many tokens; at least one character further.

    The search widens from a guess, so that what lies far behind is never counted.
    """
    width = max(most, 16)
    while start + width < len(text) and count(text[start : start + width]) <= most:
        width *= 2
    high = min(start + width, len(text))
    if count(text[start:high]) <= most:
        return high
    low = start + 1  # text[start:low] is allowed, or the least there is; text[start:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if count(text[start:middle]) <= most:
            low = middle
        else:
            high = middle
    return _whole(text, start, low)


def _whole(text: str, start: int, end: int) -> int:
    """An end at or before `end` that parts no combining mark or joined emoji from what it belongs to."""
    best = end
    while best > start + 1 and best < len(text) and (_clings(text[best]) or text[best - 1] == "\u200d"):
        best -= 1
    return best if best > start + 1 else end


def _clings(character: str) -> bool:
    return character in _JOINERS or unicodedata.combining(character) != 0
