"""Values that the flow of a batch works on: call context, effects, learned limits and outcome. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from multiembed.responses.validation import sum_tokens
from multiembed.transport.types import HttpRequest, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from multiembed.config.request_config import RequestConfig
    from multiembed.errors import MultiEmbedError
    from multiembed.ratelimit.limiter import AccountLimiter, Permit
    from multiembed.ratelimit.pacer import AccountLimits
    from multiembed.responses.validation import ValidatedVectors
    from multiembed.transport.types import HttpResponse
    from multiembed.types import ErrorKind, Role

MAX_RETRIES = 5
"""Default retries of one request."""
MAX_ITEMS_TTL = 300.0
"""Seconds for which a maximum of texts that a rejection named is kept: a server may name it in error."""
PATIENCE = 60.0
"""Seconds beyond the retries that a request outlasts an outage or a rate limit, where the account once worked."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts of one request."""

    positions: Sequence[int]
    """Position of each text among the texts of its chunk."""
    texts: Sequence[str]
    tokens: int | None = None
    """Token estimate of all texts; None if not counted."""
    chunk: Any = None
    """The `execution.chunk.Chunk` of the texts. The flow does not use it."""

    def select(self, rows: Iterable[int]) -> Batch:
        """Return the texts at some rows, in that order."""
        rows = list(rows)
        return Batch([self.positions[row] for row in rows], [self.texts[row] for row in rows])

    def split_at(self, row: int) -> list[Batch]:
        """Return the texts before a row, and the others."""
        return [self.select(range(row)), self.select(range(row, len(self.texts)))]

    def pieces(self, size: int) -> list[Batch]:
        """Return the texts in pieces of at most `size`."""
        rows = range(len(self.texts))
        return [self.select(rows[start : start + size]) for start in rows[::size]]

    def around_shortest(self) -> list[Batch]:
        """Return the shortest text, then the texts before and after it."""
        rows = range(len(self.texts))
        shortest = min(rows, key=lambda row: len(self.texts[row]))
        return [self.select(part) for part in ([shortest], rows[:shortest], rows[shortest + 1 :]) if part]


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Effect: send the request once the permit is granted, and return the response."""

    request: HttpRequest
    permit: Permit


@dataclass(frozen=True, slots=True)
class Sleep:
    """Effect: wait some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RunInThread:
    """Effect: call a function in a thread (key, token counter, local model); return its result or raise its error."""

    function: Callable[[], Any]


NOT_SENT = TransportFailure("connection", "not sent, because the call had failed meanwhile")

Effect: TypeAlias = SendRequest | Sleep | RunInThread
TransportResult: TypeAlias = "HttpResponse | TransportFailure"
if TYPE_CHECKING:
    Flow: TypeAlias = Generator[Effect, Any, _T]


@dataclass(slots=True)
class LearnedLimits:
    """What the responses of the server showed, for the life of a client in this process."""

    dimensions: int | None = None
    """Length of the vectors, once one was validated."""
    max_items: int | None = None
    """Texts per request that a rejection named; see `max_items_at`."""
    max_items_until: float = 0.0
    token_limit: int | None = None
    """Tokens of one text that the last rejection of a long text named."""
    mean_latency: float | None = None
    """Running mean of the seconds from request to response."""
    billed_ratio: float | None = None
    """Running mean of billed tokens per estimated token; None before the first bill."""
    max_billed_ratio: float = 1.0
    """Recent maximum of that ratio. Requests are packed and permits requested by it."""

    def learn_max_items(self, maximum: int, now: float) -> None:
        """Note that the server accepts at most `maximum` texts per request."""
        self.max_items, self.max_items_until = min(maximum, self.max_items_at(now) or maximum), now + MAX_ITEMS_TTL

    def max_items_at(self, now: float) -> int | None:
        """Return the maximum of texts per request that the server named; None if it named none in the last minutes."""
        return self.max_items if now < self.max_items_until else None

    def record_latency(self, seconds: float) -> None:
        """Add one response to the mean latency."""
        self.mean_latency = seconds if self.mean_latency is None else 0.9 * self.mean_latency + 0.1 * seconds

    def record_billing(self, tokens: int, estimated: int) -> None:
        """Compare the billed tokens of a request with their estimate."""
        if tokens > 0 and estimated > 0:
            ratio = tokens / estimated
            self.billed_ratio = ratio if self.billed_ratio is None else 0.95 * self.billed_ratio + 0.05 * ratio
            self.max_billed_ratio = max(ratio, 0.99 * self.max_billed_ratio + 0.01 * ratio)


@dataclass(frozen=True, slots=True)
class Environment:
    """Time and randomness, which the flow takes as functions: it reads no clock of its own."""

    clock: Callable[[], float]
    """Seconds of a clock that never goes back."""
    wall_time: Callable[[], float]
    """Seconds since the epoch, for dates in headers."""
    random: Callable[[], float]
    """Random number in [0, 1)."""
    sleep_filter: Callable[[float], float] = float
    """Maps the seconds of a backoff; the test mode makes them zero."""


@dataclass(slots=True)
class CallState:
    """What the batches of one call have found so far, for each other."""

    any_success: bool = False
    """Whether any text of the call has a vector."""
    early_failures: Counter[ErrorKind] = field(default_factory=Counter)
    """Before any success: texts that were rejected alone, and batches that failed by the format of the responses."""
    lost_batches: int = 0
    """Batches that failed in an outage since the last success."""
    response_model: str | None = None
    """Model that the first response of the call named."""
    blind_isolation: Literal["allowed", "running", "failed"] = "allowed"
    """Whether a failing batch may be halved to find out whether the provider works. One at a time; none after a failure
    until a request succeeds."""
    last_retryable_error: MultiEmbedError | None = None
    """Error of the last batch that failed for a temporary reason: why the others were not sent."""
    fatal_error: MultiEmbedError | None = None
    """Error of the whole call; set once, by the batch that found that no other can succeed."""

    def fail_call(self, error: MultiEmbedError) -> MultiEmbedError:
        """Fail the whole call. Returns: its error, which is the first one."""
        self.fatal_error = self.fatal_error or error
        return self.fatal_error


@dataclass(frozen=True, slots=True)
class CallContext:
    """What all batches of one call share."""

    config: RequestConfig
    role: Role
    learned: LearnedLimits
    limiter: AccountLimiter
    account_limits: AccountLimits
    count_tokens: Callable[[str], int]
    max_retries: int
    outage_patience: float
    timeout: float
    deadline_at: float | None
    """On the environment's clock; None without a deadline."""
    environment: Environment
    event: Callable[..., object] = lambda *_, **__: None
    """Adds an event to the span of the call: its name, and attributes."""
    configured_retries: int = 0
    """`max_retries` where the user configured it."""
    counts_in_thread: bool = False
    """Whether `count_tokens` is the user's, and must not run on the I/O loop."""
    state: CallState = field(default_factory=CallState)

    def time_left(self) -> float:
        """Return the seconds before the deadline of the call."""
        return math.inf if self.deadline_at is None else self.deadline_at - self.environment.clock()

    def is_past_deadline(self, delay: float = 0.0) -> bool:
        """Whether the deadline of the call passes within `delay` seconds."""
        return delay >= self.time_left()

    def error_details(self, part: Batch) -> dict[str, Any]:
        """Return the attributes of an error of these texts."""
        return {"provider": self.config.provider.id, "model": self.config.model.name, "indices": part.positions}


@dataclass(slots=True)
class BatchOutcome:
    """Vectors, failures and cost of one batch."""

    accepted: list[tuple[Sequence[int], ValidatedVectors]] = field(default_factory=list)
    failures: dict[int, MultiEmbedError] = field(default_factory=dict)
    requests: int = 0
    retries: int = 0
    rate_errors: int = 0
    """Responses that reported a rate limit."""
    seconds: list[float] = field(default_factory=list)
    """Latency of each response."""
    shortened: int = 0
    """Texts that the server found too long and that were truncated or split."""

    def fail_rest(self, batch: Batch, error: MultiEmbedError) -> None:
        """Fail the texts of the batch that have neither vector nor error."""
        done = {position for positions, _ in self.accepted for position in positions} | self.failures.keys()
        self.failures.update((position, error) for position in batch.positions if position not in done)

    @property
    def total_tokens(self) -> int | None:
        """Tokens billed; None if a response did not name them."""
        return sum_tokens(self.accepted)
