"""What is asked of the simulator and what it answers, as values: no socket in sight."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One HTTP request, whole."""

    id: str
    """32 hexadecimal digits; each provider writes its own kind of request id from them."""
    method: str
    path: str
    """Without the query."""
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case; a header that came twice is joined by ", "."""
    raw: bytes = field(repr=False)
    """The body as it came; empty when it was larger than the server takes."""
    body: Any = field(repr=False)
    """The body as JSON; None when it is none."""
    too_large: bool = False
    """The body was larger than the server takes, and was thrown away while it came."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, whole. Content-Length is not among the headers: it is added on the way out."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
