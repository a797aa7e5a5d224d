"""Requests and responses of the simulator, as values."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One HTTP request."""

    id: str
    """32 hexadecimal digits; each provider writes its own kind of request id from them."""
    method: str
    path: str
    """Without the query."""
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case; a header that came twice is joined by ", "."""
    raw: bytes = field(repr=False)
    """The body's bytes; empty when it was larger than the server takes."""
    body: Any = field(repr=False)
    """The parsed JSON body; None when it is not JSON."""
    too_large: bool = False
    """Whether the body was larger than the server takes, and was discarded."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP response. Content-Length is added when it is sent."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def with_headers(self, *headers: tuple[str, str]) -> Answer:
        """The response with more headers."""
        return replace(self, headers=(*self.headers, *headers))
