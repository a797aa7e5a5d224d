"""The plain records that travel between the rooms: facts, requests, replies, results. No behaviour of note."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeAlias

from typing_extensions import TypeVar  # with a default: in typing since Python 3.13

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from multiembed.errors import MultiEmbedError

    Vectors: TypeAlias = NDArray[np.float32]

Role: TypeAlias = Literal["document", "query"]
Output: TypeAlias = Literal["dense", "sparse", "dense&sparse"]
Encoding: TypeAlias = Literal["float", "base64"]
TooLong: TypeAlias = Literal["error", "truncate", "split"]
Quota: TypeAlias = Literal["in_flight", "requests", "tokens"]
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
class ModelFacts:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedRequest:
    """All that a provider's encoder needs to know to write one request's body."""

    model: ModelFacts
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


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One HTTP POST, ready to send. The key is in the headers, or in the URL's query, so they have no repr."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    timeout: float
    """Seconds for the attempt as a whole."""
    max_reply_bytes: int
    fresh: bool = False
    """Whether to use a new connection, and to close those to this server that are idle."""


@dataclass(frozen=True, slots=True)
class WireReply:
    """One HTTP answer, whole. Header names are lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    seconds: float = 0.0
    """From the first byte sent to the last one received."""
    requests: int = 1
    """Requests that were sent for it."""
    reused: bool = True
    """Whether the connection may have carried another answer before."""


FailureReason: TypeAlias = Literal[
    "dns", "refused", "unreachable",  # no connection: no such name, no such port, no way there
    "certificate_untrusted", "certificate_date", "certificate_host", "client_certificate", "not_tls",
    "proxy_login", "proxy_refused",  # the proxy answers 407, or refuses the tunnel
    "connection", "tls", "proxy", "timeout", "malformed",  # the kinds of failure, where nothing closer is known
]  # fmt: skip
"""Why no whole answer came."""


@dataclass(frozen=True, slots=True)
class TransportFailure:
    """No answer: what broke, as a value, so that the story of a batch can decide about it."""

    kind: Literal["connection", "tls", "proxy", "timeout", "malformed"]
    detail: str
    """For people; holds neither key nor text."""
    local: bool = False
    """This machine is the cause (no more files, ports or memory), so that it says nothing of the provider."""
    requests: int = 1
    """Requests that were sent, and answered otherwise or not at all."""
    reason: FailureReason | None = None
    """Closer than the kind, where that is known."""

    # So that a request's result has these, whether it is a reply or a failure.
    status: ClassVar[None] = None
    headers: ClassVar[Mapping[str, str]] = MappingProxyType({})
    body: ClassVar[bytes] = b""


@dataclass(slots=True)
class RawItem:
    """One element of a reply as it came, not yet believed."""

    index: object
    dense: object = None
    sparse: object = None


@dataclass(frozen=True, slots=True)
class RawReply:
    """A reply taken apart by its provider's decoder, not yet believed."""

    items: Sequence[RawItem]
    total_tokens: int | None = None
    request_id: str | None = None
    model: str | None = None
    """The model that the server names in its answer, where it names one."""


FaultKind: TypeAlias = Literal[
    "authentication", "permission", "quota", "model", "tls", "proxy", "redirect",  # fatal for the whole call
    "rate_limit", "server", "timeout", "connection", "malformed",  # may pass: tried again
    "invalid",  # never tried again
    "too_many_items", "request_too_large",  # split and sent again
    "too_long", "invalid_or_too_long", "content",  # one text's fault: split until it stands alone
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """The judgement of a reply that is no success."""

    kind: FaultKind
    code: str | None = None
    message: str | None = None
    request_id: str | None = None
    cap: int | None = None
    """The number of texts per request that the provider's words name."""
    quota: Quota | None = None
    """Of what the account has used too much, where the provider's words tell."""
    token_limit: int | None = None
    """The number of tokens of one text that the provider's words name, where they say that a text is too long."""
    local: bool = False
    """This machine or the user's own options are the cause: it says nothing of the provider."""
    bad_rows: tuple[int, ...] = ()
    """Positions, in the request, of the vectors that are not usable; only where the other vectors are."""
    form: str | None = None
    """What is wrong with the form of a complete answer. A server that answers so twice will always do."""


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
class Report:
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


LocalEmbedder: TypeAlias = "Callable[[Sequence[str], int | None], Vectors]"
