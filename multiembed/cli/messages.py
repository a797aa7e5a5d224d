"""Messages of the core in the words of the command line: `--base-url` for `base_url`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from multiembed import EmbeddingOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_FLAGS: Mapping[str, str] = {"api_key": "--api-key-env", "send_dimensions": "--no-send-dimensions"}
_OPTIONS = sorted(EmbeddingOptions.model_fields, key=len, reverse=True)
_ANY = "|".join(_OPTIONS)
_CLEAR = "|".join(name for name in _OPTIONS if "_" in name)
_WORDS = "|".join(name for name in _OPTIONS if "_" not in name)
"""Options whose names are ordinary words: they are options only in certain places."""
_IN_CODE_ONLY = re.compile(r"[.;,][^.;]*\b(?:key_in_pickle|http_client|http_async_client)\b[^.;]*")
_ASSIGNED = re.compile(rf"\b({_ANY})=(\"[^\"]*\"|'[^']*'|\{{[^}}]*\}}|True\b|False\b|…|)")
_NAMED = re.compile(
    rf"'({_ANY})'(?=:| is missing)|\b({_CLEAR})\b|^({_WORDS})(?= (?:is|may|must|has|holds|names|takes)\b|\[)"
    rf"|(?<=\boption )({_WORDS})\b|(?<=\bRaise )({_WORDS})\b|(?<=\binto )({_WORDS})\b|(?<=\bfor )(instruct)\b"
    rf"|(?<=\bleave )({_WORDS})\b(?= (?:at|out))|(?<=\bgive )(instruct)\b|(?<=\bno )(instruct|query|region)(?=[: ])"
)
_JOINED = re.compile(rf"(--[a-z-]+(?:,| and| or)) ({_WORDS})\b")


def in_command_words(message: str, flags: Mapping[str, str] = _NO_FLAGS) -> str:
    """Replace options of the Python classes by those of the command line, and drop advice that holds in code only.

    Args:
        message: of the core.
        flags: of the command, by the name of the option.
    """

    def flag(name: str) -> str:
        return flags.get(name, f"--{name.replace('_', '-')}")

    def assigned(found: re.Match[str]) -> str:
        value = found[2].strip("{}").replace(": ", "=").translate({ord('"'): None, ord("'"): None})
        return flag(found[1]) if value in ("True", "False", "…", "") else f"{flag(found[1])} {value}"

    message = _ASSIGNED.sub(assigned, _IN_CODE_ONLY.sub("", message))
    message = _NAMED.sub(lambda found: flag(next(filter(None, found.groups()))), message)
    return _JOINED.sub(lambda found: f"{found[1]} {flag(found[2])}", message)
