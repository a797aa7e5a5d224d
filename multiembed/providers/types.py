"""What the encoder, the decoder and the error classifier of a provider take and return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed.types import Encoding, ErrorKind, LimitKind, ModelInfo, Output, Role, Vectors


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeInput:
    """All that a provider's encoder needs to know to write one request's body."""

    model: ModelInfo
    texts: Sequence[str]
    role: Role
    dimensions: int | None
    """What the user asked for; None leaves the provider's default."""
    output: Output
    instruct: str | None
    """Only when the API has a parameter for it, and only for queries."""
    encoding: Encoding | None
    """None where the user asked for none and the model has no preferred one."""
    parameters: Mapping[str, Any]


@dataclass(slots=True)
class DecodedItem:
    """One element of a reply as it came, not yet believed."""

    index: object
    dense: object = None
    sparse: object = None


@dataclass(frozen=True, slots=True)
class DecodedResponse:
    """A reply taken apart by its provider's decoder, not yet believed."""

    items: Sequence[DecodedItem]
    total_tokens: int | None = None
    request_id: str | None = None
    model: str | None = None
    """The model that the server names in its answer, where it names one."""


@dataclass(frozen=True, slots=True)
class ApiFailure:
    """The judgement of a reply that is no success."""

    kind: ErrorKind
    code: str | None = None
    message: str | None = None
    request_id: str | None = None
    max_items: int | None = None
    """The number of texts per request that the provider's words name."""
    limit_kind: LimitKind | None = None
    """Of what the account has used too much, where the provider's words tell."""
    token_limit: int | None = None
    """The number of tokens of one text that the provider's words name, where they say that a text is too long."""
    local: bool = False
    """This machine or the user's own options are the cause: it says nothing of the provider."""
    bad_rows: tuple[int, ...] = ()
    """Positions, in the request, of the vectors that are not usable; only where the other vectors are."""
    format_error: str | None = None
    """What is wrong with the form of a complete answer. A server that answers so twice will always do."""


LocalEmbedder: TypeAlias = "Callable[[Sequence[str], int | None], Vectors]"
