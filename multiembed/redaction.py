"""Redaction: text of a server made safe to show, without control characters and without any part of a key."""

from __future__ import annotations

import base64
import html
import string
import unicodedata
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LENGTH = 300  # characters of a server's message that are shown
SHORTEST_PART = 8
"""Characters of a key in a row that count as a part of it. A mask such as "sk-abc…wxyz" shows fewer."""
_WINDOW = 8192
"""Characters that are searched: a key may have 2,000 characters, and occur several times before the message."""
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""Keys are ASCII. `str.lower` may change the length of other text."""


def safe_text(text: str, secrets: Iterable[str] = (), *, max_length: int = MAX_LENGTH) -> str:
    """Make text safe for an error, a log line or a terminal: cleaned, redacted and shortened to `max_length`."""
    return redact(clean(text[:_WINDOW]), secrets).strip()[:max_length].rstrip()


def clean(text: str) -> str:
    """Put text on one line, without characters that a terminal obeys or does not show.

    White space becomes a blank. Format characters (bidirectional overrides, zero-width characters, tags) are removed,
    because they could make a reader see other words. Other characters that cannot be printed become U+FFFD.
    """
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if character.isspace():
        return " "
    return "" if unicodedata.category(character) == "Cf" else "\ufffd"


def redact(text: str, secrets: Iterable[str], *, shortest: int = SHORTEST_PART) -> str:
    """Replace every part of a secret by "…", in upper and lower case, plain or encoded, in linear time.

    `shortest` characters in a row count as a part. Shorter secrets are ignored, because they could be any word.
    """
    parts = {
        form[start : start + shortest]
        for secret in secrets
        for form in _encodings(secret)
        for start in range(len(form) - shortest + 1)
    }
    if not parts:
        return text
    lowered = text.translate(_LOWER)
    kept: list[str] = []
    done = 0
    for start in range(len(text) - shortest + 1):
        if lowered[start : start + shortest] in parts:
            if start > done or not kept:  # else the part continues the one before it
                kept += text[done:start], "…"
            done = start + shortest
    return "".join([*kept, text[done:]])


def _encodings(secret: str) -> set[str]:
    """A secret as servers repeat it, in lower case: plain, escaped for JSON, a URL or HTML, and in base64.

    Base64 may hold it within longer data, such as `user:key`, at any of three offsets, so the characters that depend
    on what surrounds it are left out.
    """
    json_form = secret.replace("\\", "\\\\").replace('"', '\\"')
    data = secret.encode("utf-8", "replace")
    coded = [base64.b64encode(b"\0" * offset + data).rstrip(b"=").decode() for offset in range(3)]
    coded = [text[start : len(text) - 1] for text, start in zip(coded, (0, 2, 3), strict=True)]
    url_safe = [text.replace("+", "-").replace("/", "_") for text in coded]
    plain = [secret, json_form, json_form.replace("/", "\\/"), quote(secret, safe=""), html.escape(secret)]
    return {form.translate(_LOWER) for form in (*plain, *coded, *url_safe)}
