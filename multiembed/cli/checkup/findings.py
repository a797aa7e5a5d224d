"""What is examined, and what was found; the words of others are shown without anything of the key."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from multiembed.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

State: TypeAlias = Literal["ok", "warn", "fail", "skip"]

_WINDOW = 5
"""So many characters of the key in a row are a part of it."""
_MASKED = re.compile(r"[^\s'\"]*(?:\*{2,}|•{2,})[^\s'\"]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What one look showed."""

    name: str
    state: State
    says: str
    advice: str = ""
    """What the user can do about it."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """The same for machines: seconds, dimensions, codes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """A provider as it is to be examined."""

    id: str
    title: str
    key_variables: tuple[str, ...]
    """Empty when no key is needed."""
    key_required: bool
    """False: a server of this provider may need none."""
    address_variables: tuple[str, ...]
    """Those that may name the address."""
    address_variable: str | None
    """The one that does."""
    key_page: str
    regions: Mapping[str, str]
    """Address by region; the first is the default."""
    models: tuple[str, ...]
    """Those of the catalog."""
    model: str | None
    """None when none was named and the provider has no first one."""
    base_url: str | None
    region: str | None
    auth_header: str | None
    own_address: bool
    """Whether the user named the address, here or in the environment."""

    @property
    def where(self) -> dict[str, Any]:
        """The options that lead to the server; None is the same as leaving one out."""
        return {"base_url": self.base_url, "region": self.region, "auth_header": self.auth_header}

    @property
    def at(self) -> str:
        """The region that is asked; empty where there is no choice."""
        if self.own_address or len(self.regions) < 2:
            return ""
        return self.region or next(iter(self.regions))

    @property
    def other_regions(self) -> tuple[str, ...]:
        """Where the key could be good instead."""
        return tuple(region for region in self.regions if region != self.at) if self.at else ()


def without(key: str, words: str) -> str:
    """Words of others without the key, without parts of it, and without what is left of a key that they masked."""
    return redact(_MASKED.sub("…", words), (key,), shortest=min(_WINDOW, len(key))) if key else words


def milliseconds(seconds: float) -> str:
    """A latency for people."""
    return f"{1000 * seconds:,.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"
