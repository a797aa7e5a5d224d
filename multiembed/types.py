"""The plain records that travel between the rooms: facts, requests, replies, results. No behaviour of note."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from typing_extensions import TypeVar  # with a default: in typing since Python 3.13

from multiembed.errors import MultiEmbedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    Vectors: TypeAlias = NDArray[np.float32]

Role: TypeAlias = Literal["document", "query"]
Output: TypeAlias = Literal["dense", "sparse", "dense&sparse"]
Encoding: TypeAlias = Literal["float", "base64"]
TooLong: TypeAlias = Literal["error", "truncate", "split"]
LimitKind: TypeAlias = Literal["in_flight", "requests", "tokens"]
"""What an account may have only so much of: requests in flight, or requests or tokens in a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one request to a model may hold. None means that no limit is documented."""

    max_items: int
    """Texts in one request."""
    max_tokens_per_item: int | None = None
    """Tokens in one text."""
    max_tokens_per_request: int | None = None
    """Tokens in all texts of one request together."""
    max_bytes_per_request: int | None = None
    """Bytes of one request's body."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """What is known of one model, from where, and since when. Account quotas are not facts of a model."""

    name: str
    limits: Limits
    dimensions: tuple[int, ...] | None
    """The sizes that may be asked for, ascending; None when no list is known and any positive size may be tried."""
    default_dimensions: int | None
    """The size that comes when none is asked for; None when unknown."""
    dimensions_on_wire: bool = True
    """False when the API has no dimensions parameter for this model."""
    role_parameter: bool = False
    """True when the API itself keeps queries and documents apart."""
    instruct: str | None = None
    """"parameter" for an API field; a prompt form with {instruct} and {text}; or None: no place for it."""
    sparse: bool = False
    base64: bool = False
    query_prefix: str | None = None
    """The prefix its authors recommend for queries; used only on request."""
    price_cny_per_mtok: float | None = None
    """CNY for a million tokens; None when unknown, 0 when free."""
    source: str = ""
    checked: str = ""
    """The day the source was read, as YYYY-MM-DD."""
    notes: str = ""
    known: bool = True
    """False for a model that is not in the catalog and runs on its provider's careful defaults."""


ErrorKind: TypeAlias = Literal[
    "authentication", "permission", "quota", "model", "tls", "proxy", "redirect",  # fatal for the whole call
    "rate_limit", "server", "timeout", "connection", "malformed",  # may pass: tried again
    "invalid",  # never tried again
    "too_many_items", "request_too_large",  # split and sent again
    "too_long", "invalid_or_too_long", "content",  # one text's fault: split until it stands alone
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SparseVector:
    """One text's weights by vocabulary index, as DashScope's text-embedding-v3 and -v4 give them."""

    indices: tuple[int, ...]
    values: tuple[float, ...]
    tokens: tuple[str, ...] | None = None
    """The token of each index, where the provider names it."""

    def to_dict(self) -> dict[int, float]:
        """The form that Milvus and LlamaIndex's sparse stores take."""
        return dict(zip(self.indices, self.values, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What was spent. What the provider did not tell is None, never 0."""

    total_tokens: int | None = 0
    """Tokens as the provider billed them."""
    requests: int = 0
    """HTTP requests that were sent, retries among them."""
    retries: int = 0
    cached_texts: int = 0
    """Texts that cost nothing because they were known already."""
    cost: float | None = 0.0
    """CNY by the catalog's price; None where price or tokens are unknown."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{each.name: _sum(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)})


def _sum(left: Any, right: Any) -> Any:
    return None if left is None or right is None else left + right


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientStats:
    """What an embedder has done so far in this process. What is unknown is None, never 0."""

    texts: int
    """Those that are done with: embedded, known already, or failed. A text that stands twice in a call counts twice."""
    cached_texts: int
    """Of these, the ones that cost nothing because they were known already."""
    failed_texts: int
    """Of these, the ones that have no vector."""
    total_tokens: int | None
    """As the provider billed them."""
    cost: float | None
    """CNY by the catalog's price."""
    requests: int
    """HTTP requests that were sent, retries among them."""
    retries: int
    rate_errors: int
    """Requests that were refused for being too fast, and sent again later."""
    p50: float | None
    """Seconds from request to answer: half of the requests took no longer. Right within 1 %."""
    p99: float | None
    """Likewise, 99 of 100."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a call would take, told without sending anything."""

    texts: int
    requests: int
    tokens: int
    cost: float | None
    """CNY by the catalog's price; None when the price is unknown."""
    seconds: float | None
    """From the latency seen so far; None before the first request."""


_VectorsT_co = TypeVar("_VectorsT_co", bound="Vectors | None", default="Vectors", covariant=True)


@dataclass(frozen=True, kw_only=True)
class EmbeddingResult(Generic[_VectorsT_co]):
    """The vectors of one call, one row per text, in the order of the texts.

    `EmbeddingResult` alone is the type of a result with dense vectors; `EmbeddingResult[Vectors | None]` is the type of
    any result.
    """

    vectors: _VectorsT_co
    """float32, shape (len(texts), dimensions), not writeable. None for output="sparse", and for `lists=True` if no text
    failed."""
    sparse: list[SparseVector | None] | None
    """One per text, None where that text failed; None as a whole when only dense vectors were asked for."""
    usage: Usage
    model: str
    """As provider:model."""
    failures: Mapping[int, MultiEmbedError] = field(default_factory=dict)
    """Empty, except in a PartialFailureError's `.result`, where the rows of these texts are NaN."""
    lists: list[list[float]] | None = field(default=None, repr=False)
    """What `to_list` gives, where the call was asked for lists and no text failed; then there is no array."""

    @property
    def texts(self) -> int:
        """How many there were."""
        kinds = (self.lists, self.vectors, self.sparse)
        return next((len(rows) for rows in kinds if rows is not None), 0)

    def to_sparse(self) -> list[SparseVector]:
        """The sparse vectors, one per text.

        Raises:
            ValueError: there are no sparse vectors, or some texts failed and have none.
        """
        if self.sparse is None:
            raise ValueError("There are no sparse vectors here: output was 'dense'. Read .vectors instead.")
        found = [vector for vector in self.sparse if vector is not None]
        if len(found) < len(self.sparse):
            raise ValueError(
                f"{len(self.sparse) - len(found)} texts have no vector: read .failures, and take the others of .sparse."
            )
        return found

    def to_list(self) -> list[list[float]]:
        """The dense vectors as plain Python floats.

        Raises:
            ValueError: there are no dense vectors, or some texts failed and have none.
        """
        if self.lists is not None:
            return self.lists
        if self.vectors is None:
            raise ValueError("There are no dense vectors here: output was 'sparse'. Read .sparse instead.")
        if self.failures:
            raise ValueError(
                f"{len(self.failures)} texts have no vector: read .failures, and take the other rows of .vectors."
            )
        rows: list[list[float]] = self.vectors.tolist()
        return rows


class PartialFailureError(MultiEmbedError):
    """Some texts failed; what could be embedded was, and is kept.

    Attributes:
        result: the EmbeddingResult, one row per text; a failed text's row is NaN, never a guess.
        failures: the error of each failed text, by its position in the caller's list.
    """

    result: EmbeddingResult
    failures: Mapping[int, MultiEmbedError]
