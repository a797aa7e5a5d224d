"""HTTP requests and responses as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.errors import FailureReason


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP POST, ready to send. The key is in the headers, or in the URL's query, so they have no repr."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    timeout: float
    """Seconds for the attempt as a whole."""
    max_reply_bytes: int
    """The response cap."""
    fresh: bool = False
    """Whether to use a new connection, and to close those to this server that are idle."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """One whole HTTP response. Header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    seconds: float = 0.0
    """From the first byte sent to the last one received."""
    requests: int = 1
    """Requests that were sent for it."""
    reused: bool = True
    """Whether the connection may have carried another response before."""


@dataclass(frozen=True, slots=True)
class TransportFailure:
    """Failure to get a whole response, as a value, so that a batch's flow can decide about it."""

    kind: Literal["connection", "tls", "proxy", "timeout", "malformed"]
    detail: str
    """For people; holds neither key nor text."""
    local: bool = False
    """This machine is the cause (no more files, ports or memory), so that it says nothing of the provider."""
    requests: int = 1
    """Requests that were sent without getting a usable response."""
    reason: FailureReason | None = None
    """Closer than the kind, where that is known."""

    # So that a request's result has these, whether it is a response or a failure.
    status: ClassVar[None] = None
    headers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    body: ClassVar[bytes] = b""
