"""A server's words, made safe to show: without control characters and without any part of a key."""

from __future__ import annotations

import base64
import html
import string
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable


LONGEST = 300
"""Characters that are shown of a server's message."""
_WINDOW = 8192
"""Characters that are looked at: a key may be 2,000 characters long, and stand before the words several times."""
SHORTEST_PART = 8
"""So many characters of a key in a row are a part of it. A mask such as "sk-abc…wxyz" shows fewer."""
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Keys are ASCII. `str.lower` may change the length of other text."""
_HIDDEN = "…"


def safe_words(words: str, secrets: Iterable[str] = (), *, longest: int = LONGEST) -> str:
    """The words as an error, a log line or a terminal may show them.

    Args:
        words: what a server, a proxy or a library said.
        secrets: keys, no part of which may be shown.
        longest: characters that are kept.
    """
    return redact(clean(words[:_WINDOW]), secrets).strip()[:longest].rstrip()


def clean(words: str) -> str:
    """The words on one line, without characters that a terminal obeys or does not show.

    Line breaks and other white space become a space. Format characters (bidirectional overrides, zero-width
    characters, tags) are removed, because what they hide or turn around could be taken for other words. All other
    characters that cannot be printed (controls such as ESC, lone surrogates) become U+FFFD.
    """
    return words if words.isprintable() else "".join(map(_shown, words))


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) == "Cf" else "\ufffd"


def redact(words: str, secrets: Iterable[str], *, shortest: int = SHORTEST_PART) -> str:
    """The words without any part of a secret, in any case of its letters, plain or encoded.

    Takes time in proportion to words and secrets, because each piece of `shortest` characters is looked up in a set.

    Args:
        words: what may repeat a secret.
        secrets: those shorter than `shortest` are left alone: they could be any word.
        shortest: so many characters in a row are a part of a secret.
    """
    parts = {
        form[start : start + shortest]
        for secret in secrets
        for form in _forms(secret)
        for start in range(len(form) - shortest + 1)
    }
    if not parts:
        return words
    lowered = words.translate(_LOWER)
    kept: list[str] = []
    done = 0
    for start in range(len(words) - shortest + 1):
        if lowered[start : start + shortest] in parts:
            if start > done or not kept:  # otherwise it goes on with the part before it
                kept += words[done:start], _HIDDEN
            done = start + shortest
    return "".join([*kept, words[done:]])


def _forms(secret: str) -> set[str]:
    """A secret as servers repeat it, in lower case: as it is, escaped for JSON, a URL or HTML, and in base64.

    In base64 it also stands within longer data, such as `user:key`, at any of three offsets. The characters that
    depend on what stands around it are left out.
    """
    json_form = secret.replace("\\", "\\\\").replace('"', '\\"')
    data = secret.encode("utf-8", "replace")
    coded = [base64.b64encode(b"\0" * offset + data).rstrip(b"=").decode() for offset in range(3)]
    coded = [text[start : len(text) - 1] for text, start in zip(coded, (0, 2, 3), strict=True)]
    forms = [
        secret,
        json_form,
        json_form.replace("/", "\\/"),
        quote(secret, safe=""),
        html.escape(secret),
        *coded,
        *(text.replace("+", "-").replace("/", "_") for text in coded),
    ]
    return {form.translate(_LOWER) for form in forms}
