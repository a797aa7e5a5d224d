"""Token estimate of a text by its scripts: a high one to pack batches, a mean one to estimate costs. No I/O."""

from __future__ import annotations

import encodings.utf_16_le  # noqa: F401 - its first use imports it, and a fork during that would leave the child waiting
import math
import re
import string
from operator import index
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

# Tokens per character, measured with the Qwen tokenizer (vocabulary of 151,936) in November 2026: Chinese prose
# 0.54, English 0.16 to 0.25, code 0.37, digits 1.0, random ideographs 1.64, ideographs outside the basic plane
# 2.98, emoji 1.84. The rates below are on the high side: a batch that is a little small costs nothing, a rejected
# batch costs a request.
_WORD = 0.25
_MARK = 0.7
_DIGIT = 1.0
_IDEOGRAPH = 0.75
_OTHER = 0.75
_ASTRAL = 2.5

_DIGITS = b"0123456789"
_WORDS_AND_BLANKS = (string.ascii_letters + string.digits + "_" + string.whitespace).encode()
_IDEOGRAPHS = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]+")

# The mean estimate covers models whose tokenizers differ by a fifth. It counts words, long words, marks and runs of
# marks. Fitted in November 2026 to English prose, licences, Python code, Markdown, HTML, JSON and Chinese prose: there
# it is 10 to 20 % above the Qwen tokenizer, which makes few tokens of English (SentencePiece and WordPiece make more),
# and 8 % below it for Chinese.
_PER_WORD = 0.97
_PER_LONG = 0.9
_PER_LETTER = 0.025
_PER_RUN_OF_MARKS = 0.42
_PER_MARK = 0.47
_PER_LINE = 0.6
_PER_RUN_OF_IDEOGRAPHS = 0.4
_PER_IDEOGRAPH = 0.65
_PER_OTHER = 0.95
_LONG = b"x" * 7
"""Letters of a word that is seldom one token."""

# Translation tables: "x" for each letter or each mark, a blank for any other character.
_LETTERS, _MARKS = (
    bytes(ord("x") if chr(byte) in kept else ord(" ") for byte in range(256))
    for kept in (string.ascii_letters, string.punctuation)
)


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text, rather too high; at least 1 unless it is empty."""
    plain = text.encode("ascii", "ignore")
    digits = len(plain) - len(plain.translate(None, _DIGITS))
    if len(plain) == len(text):
        marks = len(plain.translate(None, _WORDS_AND_BLANKS))
        return math.ceil((len(text) - digits - marks) * _WORD + marks * _MARK + digits * _DIGIT)
    ideographs, _, astral, other = _count_non_ascii(text, plain)
    words = (len(plain) - digits) * _WORD
    return math.ceil(ideographs * _IDEOGRAPH + astral * _ASTRAL + digits * _DIGIT + words + other * _OTHER)


def expected_tokens(text: str) -> float:
    """Estimate the tokens of a text without bias, for sums over many texts."""
    plain = text.encode("ascii", "ignore")
    letters = b" " + plain.translate(_LETTERS)
    marks = b" " + plain.translate(_MARKS)
    tokens = (
        letters.count(b" x") * _PER_WORD
        + letters.count(_LONG) * _PER_LONG
        + letters.count(b"x") * _PER_LETTER
        + marks.count(b" x") * _PER_RUN_OF_MARKS
        + marks.count(b"x") * _PER_MARK
        + (len(plain) - len(plain.translate(None, _DIGITS))) * _DIGIT
        + plain.count(b"\n") * _PER_LINE
    )
    if len(plain) < len(text):
        ideographs, runs, astral, other = _count_non_ascii(text, plain)
        tokens += runs * _PER_RUN_OF_IDEOGRAPHS + ideographs * _PER_IDEOGRAPH
        tokens += astral * _ASTRAL + other * _PER_OTHER
    return tokens


def _count_non_ascii(text: str, plain: bytes) -> tuple[int, int, int, int]:
    """Count ideographs, runs of them, characters outside the basic plane, and others that are not ASCII."""
    rest, runs = _IDEOGRAPHS.subn("", text)
    ideographs = len(text) - len(rest)
    astral = len(text.encode("utf-16-le", "surrogatepass")) // 2 - len(text)
    return ideographs, runs, astral, len(text) - ideographs - astral - len(plain)


def checked_counter(counter: Callable[[str], int]) -> Callable[[str], int]:
    """Wrap a user's token counter to raise ConfigurationError for no int >= 0: NaN would stop the whole account."""

    def count(text: str) -> int:
        result = counter(text)
        try:
            tokens = index(result)
        except TypeError:
            tokens = -1
        if tokens < 0:
            raise ConfigurationError(f"token_counter returned {result!r:.40}; it must return an int >= 0.")
        return tokens

    return count


def max_tokens_bound(text: str) -> int:
    """Upper bound of the tokens of a text, for the tokenizers of all models.

    Byte-level BPE makes at most one token of each UTF-8 byte; WordPiece and SentencePiece add two marks.
    """
    return len(text.encode("utf-8", "replace")) + 2
