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


def shorten(text: str, most: int, count: Callable[[str], int]) -> str:
    """The longest beginning of a text that has at most so many tokens; at least one character.

    Args:
        text: any text.
        most: tokens.
        count: tokens of a text; must not fall when a text grows.
    """
    if count(text) <= most:
        return text
    low, high = 1, len(text)  # text[:low] is allowed, or the least there is; text[:high] is not
    while high - low > 1:
        middle = (low + high) // 2
        if count(text[:middle]) <= most:
            low = middle
        else:
            high = middle
    return text[: _whole(text, low)]


def cut_up(text: str, most: int, count: Callable[[str], int]) -> list[str]:
    """Pieces of at most so many tokens each, together the text; cut between sentences or words where possible."""
    pieces = []
    while count(text) > most and len(text) > 1:
        piece = shorten(text, most, count)
        end = len(piece)
        found = None
        for found in _ENDS.finditer(piece, int(end * (1 - _SLACK))):  # noqa: B007 - the last one is wanted
            pass
        if found is not None and found.end() > 0:
            end = found.end()
        pieces.append(text[:end])
        text = text[end:]
    return [*pieces, text] if text else pieces


def _whole(text: str, end: int) -> int:
    """An end at or before `end` that parts no combining mark or joined emoji from what it belongs to."""
    start = end
    while start > 1 and start < len(text) and (_clings(text[start]) or text[start - 1] == "\u200d"):
        start -= 1
    return start if start > 1 else end


def _clings(character: str) -> bool:
    return character in _JOINERS or unicodedata.combining(character) != 0
