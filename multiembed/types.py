"""Public types: results, usage, statistics, and the facts of a model."""

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
"""What an account limits: requests in flight, or requests or tokens per minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of one request to a model. None: no limit is documented."""

    max_items: int
    """Texts in one request."""
    max_tokens_per_item: int | None = None
    """Tokens in one text."""
    max_tokens_per_request: int | None = None
    """Tokens in all texts of one request together."""
    max_bytes_per_request: int | None = None
    """Bytes of one request's body."""

    def __repr__(self) -> str:
        parts = [f"{_counted(self.max_items, 'text')} a request"]
        if self.max_tokens_per_item is not None:
            parts.append(f"{self.max_tokens_per_item:,} tokens a text")
        if self.max_tokens_per_request is not None:
            parts.append(f"{self.max_tokens_per_request:,} tokens a request")
        if self.max_bytes_per_request is not None:
            parts.append(f"{self.max_bytes_per_request:,} bytes a request")
        return f"Limits({', '.join(parts)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """Facts of one model, with their source and date. Account quotas are not among them."""

    name: str
    limits: Limits
    dimensions: tuple[int, ...] | None
    """Sizes that may be requested, ascending; None: no list is known, and any positive size may be tried."""
    default_dimensions: int | None
    """Size of the vectors when none is requested; None: unknown."""
    dimensions_on_wire: bool = True
    """False: the API has no dimensions parameter for this model."""
    role_parameter: bool = False
    """True: the API distinguishes queries and documents."""
    instruct: str | None = None
    """"parameter": a field of the API; a template with {instruct} and {text}; None: the model takes no instruction."""
    sparse: bool = False
    base64: bool = False
    query_prefix: str | None = None
    """Prefix that its authors recommend for queries; used only on request."""
    price_cny_per_mtok: float | None = None
    """CNY per million tokens; None: unknown, 0: free."""
    source: str = ""
    checked: str = ""
    """Day on which the source was read, as YYYY-MM-DD."""
    notes: str = ""
    revision: str = ""
    """Package and version that compute a local model. Part of the cache namespace."""
    known: bool = True
    """False: the model is not in the catalog and has its provider's careful defaults."""

    def __repr__(self) -> str:
        sizes, default = self.dimensions or (), self.default_dimensions
        shown = " ".join(map(str, sizes)) or "any"
        parts = [repr(self.name), f"dimensions {shown}{'' if default is None else f' (default {default})'}"]
        parts.append(repr(self.limits).removeprefix("Limits(").removesuffix(")"))
        price = self.price_cny_per_mtok
        parts.append("price unknown" if price is None else f"{price:g} CNY per million tokens")
        return f"ModelInfo({', '.join(parts)}{'' if self.known else ', not in the catalog'})"


ErrorKind: TypeAlias = Literal[
    "authentication", "permission", "quota", "model", "tls", "proxy", "redirect",  # fatal for the whole call
    "rate_limit", "server", "timeout", "connection", "malformed",  # transient: retried
    "invalid",  # never retried
    "too_many_items", "request_too_large",  # split and sent again
    "too_long", "invalid_or_too_long", "content",  # of one text: split until it is alone
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Weights of one text by vocabulary index, from DashScope's text-embedding-v3 and -v4."""

    indices: tuple[int, ...]
    values: tuple[float, ...]
    tokens: tuple[str, ...] | None = None
    """Token of each index, where the provider names it."""

    def __repr__(self) -> str:
        return f"SparseVector({_counted(len(self.values), 'weight')})"

    def to_dict(self) -> dict[int, float]:
        """Weight by index, as Milvus and LlamaIndex's sparse stores take it."""
        return dict(zip(self.indices, self.values, strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens, requests and money spent. What the provider did not report is None, never 0."""

    total_tokens: int | None = 0
    """Tokens that the provider billed."""
    requests: int = 0
    """HTTP requests that were sent, retries among them."""
    retries: int = 0
    cached_texts: int = 0
    """Texts whose vectors came from the cache, at no cost."""
    cost: float | None = 0.0
    """CNY by the catalog's price; None where price or tokens are unknown."""

    def __repr__(self) -> str:
        parts = [_tokens(self.total_tokens), _cny(self.cost), _counted(self.requests, "request")]
        if self.retries:
            parts.append("1 retry" if self.retries == 1 else f"{self.retries:,} retries")
        if self.cached_texts:
            parts.append(f"{_counted(self.cached_texts, 'text')} from the cache")
        return f"Usage({', '.join(parts)})"

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{each.name: _sum(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)})


def _sum(left: Any, right: Any) -> Any:
    return None if left is None or right is None else left + right


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientStats:
    """Statistics of one client in this process. Usage describes the fields that it has, too."""

    texts: int
    """Finished texts: embedded, cached or failed. A text that occurs twice in a call counts twice."""
    cached_texts: int
    failed_texts: int
    """Texts without a vector."""
    total_tokens: int | None
    cost: float | None
    requests: int
    retries: int
    rate_errors: int
    """Requests that were rejected by a rate limit, and sent again later."""
    p50: float | None
    """Median latency of a request in seconds, within 1 %."""
    p99: float | None
    """99th percentile of the latency."""

    def __repr__(self) -> str:
        parts = [
            f"{_counted(self.texts, 'text')} ({self.cached_texts:,} cached, {self.failed_texts:,} failed)",
            *(_tokens(self.total_tokens), _cny(self.cost), _counted(self.requests, "request")),
            *(f"{self.retries:,} retried", f"{self.rate_errors:,} over a rate limit"),
        ]
        if self.p50 is not None and self.p99 is not None:
            parts.append(f"latency p50 {self.p50:.3g} s, p99 {self.p99:.3g} s")
        return f"ClientStats({', '.join(parts)})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Estimate of a call, made without sending anything."""

    texts: int
    requests: int
    tokens: int
    cost: float | None
    """CNY by the catalog's price; None: the price is unknown."""
    seconds: float | None
    """By the latency so far; None before the first request."""

    def __repr__(self) -> str:
        parts = [_counted(self.texts, "text"), _counted(self.requests, "request"), _tokens(self.tokens)]
        time = "time unknown" if self.seconds is None else f"{self.seconds:.3g} s"
        return f"Estimate({', '.join((*parts, _cny(self.cost), time))})"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _tokens(number: int | None) -> str:
    return "tokens unknown" if number is None else _counted(number, "token")


def _cny(cost: float | None) -> str:
    return "cost unknown" if cost is None else f"{cost:.3g} CNY" if cost < 1 else f"{cost:,.2f} CNY"


_VectorsT_co = TypeVar("_VectorsT_co", bound="Vectors | None", default="Vectors", covariant=True)


@dataclass(frozen=True, kw_only=True)
class EmbeddingResult(Generic[_VectorsT_co]):
    """Vectors of one call, one row per text, in the order of the texts.

    The type `EmbeddingResult` has dense vectors; `EmbeddingResult[Vectors | None]` is any result.
    """

    vectors: _VectorsT_co
    """float32, shape (len(texts), dimensions), not writeable. None for output="sparse", and for `lists=True` if no text
    failed."""
    sparse: list[SparseVector | None] | None
    """One per text, None where that text failed; None as a whole for output="dense"."""
    usage: Usage
    model: str
    """As provider:model."""
    failures: Mapping[int, MultiEmbedError] = field(default_factory=dict)
    """Empty, except in a PartialFailureError's `.result` and in a stream's results with `on_error="keep"`. The rows of
    these texts are NaN."""
    lists: list[list[float]] | None = field(default=None, repr=False)
    """Result of `to_list` for `lists=True` if no text failed; `vectors` is None then."""

    def __repr__(self) -> str:
        rows = self.lists if self.vectors is None else self.vectors
        parts = []
        if rows is not None:
            kind = "float" if self.vectors is None else "float32"
            parts.append(f"{_counted(len(rows), 'vector')} of {len(rows[0]) if len(rows) else 0:,} {kind}")
        if self.sparse is not None:
            parts.append(_counted(len(self.sparse), "sparse vector"))
        parts += [self.model, _tokens(self.usage.total_tokens), _cny(self.usage.cost)]
        if self.failures:
            parts.append(f"{len(self.failures):,} failed")
        return f"EmbeddingResult({', '.join(parts)})"

    @property
    def texts(self) -> int:
        """Number of texts."""
        kinds = (self.lists, self.vectors, self.sparse)
        return next((len(rows) for rows in kinds if rows is not None), 0)

    def to_sparse(self) -> list[SparseVector]:
        """Sparse vectors, one per text.

        Raises:
            ValueError: the result has no sparse vectors, or some texts failed.
        """
        if self.sparse is None:
            raise ValueError("The result has no sparse vectors: output was 'dense'. Read .vectors instead.")
        found = [vector for vector in self.sparse if vector is not None]
        if len(found) < len(self.sparse):
            missing = len(self.sparse) - len(found)
            raise ValueError(f"{missing} texts have no vector: read .failures, and take the others of .sparse.")
        return found

    def to_list(self) -> list[list[float]]:
        """Dense vectors as lists of Python floats.

        Raises:
            ValueError: the result has no dense vectors, or some texts failed.
        """
        if self.lists is not None:
            return self.lists
        if self.vectors is None:
            raise ValueError("The result has no dense vectors: output was 'sparse'. Read .sparse instead.")
        if self.failures:
            missing = len(self.failures)
            raise ValueError(f"{missing} texts have no vector: read .failures, and take the other rows of .vectors.")
        rows: list[list[float]] = self.vectors.tolist()
        return rows


class PartialFailureError(MultiEmbedError):
    """Some texts failed; the vectors of the others are kept.

    Attributes:
        result: the EmbeddingResult, one row per text; a failed text's row is NaN.
        failures: the error of each failed text, by its position in the caller's list.
    """

    result: EmbeddingResult
    failures: Mapping[int, MultiEmbedError]
