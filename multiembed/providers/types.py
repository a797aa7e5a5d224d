"""Arguments and results of a provider's encoder, decoder and error classifier."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed.types import Encoding, ErrorKind, LimitKind, ModelInfo, Output, Role, Vectors


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeInput:
    """Everything a provider's encoder needs to write the body of one request."""

    model: ModelInfo
    texts: Sequence[str]
    role: Role
    dimensions: int | None
    """As the user asked for; None for the provider's default."""
    output: Output
    instruct: str | None
    """Only when the API has a parameter for it, and only for queries."""
    encoding: Encoding | None
    """None where the user asked for none and the model has no preferred one."""
    parameters: Mapping[str, Any]


@dataclass(slots=True)
class DecodedItem:
    """One element of a response, not yet validated."""

    index: object
    dense: object = None
    sparse: object = None


@dataclass(frozen=True, slots=True)
class DecodedResponse:
    """A response as its provider's decoder read it, not yet validated."""

    items: Sequence[DecodedItem]
    total_tokens: int | None = None
    request_id: str | None = None
    model: str | None = None
    """As the server names it in its response; None where it does not."""


@dataclass(frozen=True, slots=True)
class ApiFailure:
    """A failed request: what kind of error it is, and what the server said."""

    kind: ErrorKind
    code: str | None = None
    message: str | None = None
    request_id: str | None = None
    max_items: int | None = None
    """Texts per request that the message allows."""
    limit_kind: LimitKind | None = None
    """What the account has used too much of, where the message says it."""
    token_limit: int | None = None
    """Tokens of one text that the message allows."""
    local: bool = False
    """Caused by this machine or the user's options, so it says nothing about the provider."""
    bad_rows: tuple[int, ...] = ()
    """Positions, in the request, of unusable vectors; only where the other vectors are usable."""
    format_error: str | None = None
    """What is wrong with the format of a complete response. A server that repeats it will always do so."""


LocalEmbedder: TypeAlias = "Callable[[Sequence[str], int | None], Vectors]"
