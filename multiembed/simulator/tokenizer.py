"""Token count of the simulator, which differs from the client's estimate as a real model's does.

It cuts text as a byte-pair encoder does before it merges (words with their leading space, single digits, runs
of ideographs, runs of marks) and charges each piece at a fixed rate. Deterministic, and of no model in
particular.
"""

from __future__ import annotations

import re

_LETTERS = "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f"
_IDEOGRAPHS = "\u2e80-\u2fff\u3005-\u3007\u3021-\u3029\u3031-\u9fff\uac00-\ud7af\uf900-\ufaff"
_ASCII_MARKS = re.escape("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_WIDE_MARKS = "\u2010-\u205e\u3001-\u3004\u3008-\u3020\u302a-\u3030\uff00-\uffef"
_EMOJI = "\u2600-\u27bf\U0001f000-\U0001faff"

# One match is one token: six letters, one digit, two marks, or blanks beyond the single space before a word.
_PIECE = re.compile(f"[{_LETTERS}]{{1,6}}|[0-9]|[{_ASCII_MARKS}{_WIDE_MARKS}]{{1,2}}|\\s{{2,}}|[^\\S ]")
# These are charged by length.
_IDEOGRAPH_RUN = re.compile(f"[{_IDEOGRAPHS}]+")
_EMOJI_RUN = re.compile(f"[{_EMOJI}]+")
_ALL_ABOVE = re.compile(f"[{_LETTERS}0-9{_ASCII_MARKS}{_WIDE_MARKS}{_IDEOGRAPHS}{_EMOJI}\\s]+")

_TOKENS_PER_TEN_IDEOGRAPHS = 6
_TOKENS_PER_EMOJI = 2
_BYTES_PER_OTHER_TOKEN = 2


def count_tokens(text: str) -> int:
    """Token count of a text: 0 for the empty one, at least 1 for any other."""
    if not text:
        return 0
    # subn counts its matches inside C and, unlike findall, builds no string for each.
    tokens = _PIECE.subn("", text)[1]
    if not text.isascii():
        tokens += _beyond_ascii(text)
    return max(tokens, 1)


def _beyond_ascii(text: str) -> int:
    ideographs = sum(-(-len(run) * _TOKENS_PER_TEN_IDEOGRAPHS // 10) for run in _IDEOGRAPH_RUN.findall(text))
    emoji = sum(map(len, _EMOJI_RUN.findall(text))) * _TOKENS_PER_EMOJI
    other = len(_ALL_ABOVE.sub("", text).encode("utf-8", "replace"))
    return ideographs + emoji + -(-other // _BYTES_PER_OTHER_TOKEN)
