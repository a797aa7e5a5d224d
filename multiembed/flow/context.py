"""What the batches of one call share, what a batch asks of its driver, and what becomes of it. No behaviour of note."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from multiembed.transport.types import HttpRequest, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from multiembed.config.request_config import RequestConfig
    from multiembed.errors import MultiEmbedError
    from multiembed.ratelimit.limiter import AccountLimiter, Permit
    from multiembed.ratelimit.pacer import AccountLimits
    from multiembed.responses.validation import ValidatedVectors
    from multiembed.transport.types import HttpResponse
    from multiembed.types import Role

MAX_RETRIES = 5
"""Retries of one request, unless the user says."""
CAP_SECONDS = 300.0
"""Seconds for which a number of texts that a refusal named is kept to."""
PATIENCE = 60.0
"""Seconds that a request outlasts an outage or a rate limit beyond these, where the account once worked."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that go out in one request."""

    positions: Sequence[int]
    """The position of each text among its block's texts."""
    texts: Sequence[str]
    tokens: int | None = None
    """Of all texts, as estimated; None where it was not counted."""
    chunk: Any = None
    """The `execution.chunk.Block` whose texts they are. The flow does not look into it."""

    def select(self, positions: Iterable[int]) -> Batch:
        """The texts at some positions, in that order."""
        positions = list(positions)
        return Batch([self.positions[at] for at in positions], [self.texts[at] for at in positions])


@dataclass(frozen=True, slots=True)
class SendRequest:
    """Send this once there is permission, and return the answer."""

    request: HttpRequest
    permit: Permit


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RunInThread:
    """Call the user's code (a key function, a token counter) in a thread, and return or raise what it does."""

    function: Callable[[], Any]


NOT_SENT = TransportFailure("connection", "not sent, because the call had failed meanwhile")

Effect: TypeAlias = SendRequest | Sleep | RunInThread
TransportResult: TypeAlias = "HttpResponse | TransportFailure"


@dataclass(slots=True)
class LearnedLimits:
    """What the server has taught, for the life of an embedder in this process."""

    dimensions: int | None = None
    """The length of its vectors, once one was believed."""
    max_items: int | None = None
    """The texts per request that it named when it refused more; see `max_items_at`."""
    max_items_until: float = 0.0
    """When that is forgotten: a server that named it in error must not be believed for ever."""
    token_limit: int | None = None
    """The tokens of one text that it named when it last refused a longer one."""
    mean_latency: float | None = None
    """A running mean of the time from request to answer."""
    billed_ratio: float | None = None
    """Tokens billed for each one estimated: a running mean, None before the first bill."""
    max_billed_ratio: float = 1.0
    """The most of them lately: what is reserved and packed by."""

    def learn_max_items(self, cap: int, now: float) -> None:
        """The server refused more texts than `cap` in one request."""
        self.max_items, self.max_items_until = min(cap, self.max_items_at(now) or cap), now + CAP_SECONDS

    def max_items_at(self, now: float) -> int | None:
        """The most texts in one request as the server named it; None when it did not, or some minutes ago."""
        return self.max_items if now < self.max_items_until else None

    def record_latency(self, seconds: float) -> None:
        """Take one answered request into the mean."""
        self.mean_latency = seconds if self.mean_latency is None else 0.9 * self.mean_latency + 0.1 * seconds

    def record_billing(self, tokens: int, estimated: int) -> None:
        """Compare a bill with its estimate."""
        if tokens > 0 and estimated > 0:
            share = tokens / estimated
            self.billed_ratio = share if self.billed_ratio is None else 0.95 * self.billed_ratio + 0.05 * share
            self.max_billed_ratio = max(share, 0.99 * self.max_billed_ratio + 0.01 * share)


def _no_event(_: str, **__: object) -> None:
    """There is no span."""


@dataclass(slots=True)
class CallContext:
    """What all batches of one call share."""

    config: RequestConfig
    role: Role
    learned: LearnedLimits
    limiter: AccountLimiter
    account_limits: AccountLimits
    count_tokens: Callable[[str], int]
    """Tokens of a text."""
    max_retries: int
    outage_patience: float
    """Seconds beyond the retries that an outage or a rate limit of a known account is waited out."""
    timeout: float
    deadline_at: float | None
    """On `clock`; None for no deadline."""
    clock: Callable[[], float]
    wall_time: Callable[[], float]
    """Seconds since the epoch, for dates in headers."""
    random: Callable[[], float]
    """A random number in [0, 1)."""
    sleep_filter: Callable[[float], float] = float
    """What becomes of a wait; tests make it zero."""
    any_success: bool = False
    """Whether any text of the call has a vector."""
    single_rejections: int = 0
    """Texts that were refused alone, for whatever reason, before any was served."""
    malformed: int = 0
    """Batches given up for a fault of the answers' form before any text was served."""
    answering_model: str | None = None
    """The model that the call's first answer named."""
    event: Callable[..., object] = _no_event
    """Notes a decision in the call's span: its name, and attributes."""
    asked_retries: int = 0
    """`max_retries` where the user gave it."""
    counts_in_thread: bool = False
    """Whether `count` is the user's, and must not run on the I/O loop."""
    isolating_blindly: bool = False
    """Whether a batch is being divided to find out whether the provider works. One of the call will do."""
    isolated_in_vain: bool = False
    """Whether a failing batch was divided without any part of it, or any other request, succeeding."""
    lost_batches: int = 0
    """Batches given up as unreachable since one was served."""
    last_retryable_error: MultiEmbedError | None = None
    """The last reason why a batch was given up though it might have passed: what kept the others from being sent."""
    fatal_error: MultiEmbedError | None = None
    """Set once by the batch that found that no other can succeed."""

    def no_time_left(self, delay: float = 0.0) -> bool:
        """Whether the call's deadline comes before a delay is over."""
        return self.deadline_at is not None and self.clock() + delay >= self.deadline_at

    def details(self, part: Batch) -> dict[str, Any]:
        """What an error of these texts says of itself besides its message."""
        return {"provider": self.config.provider.id, "model": self.config.model.name, "indices": part.positions}


@dataclass(slots=True)
class BatchOutcome:
    """What became of one batch."""

    accepted: list[tuple[Sequence[int], ValidatedVectors]] = field(default_factory=list)
    failures: dict[int, MultiEmbedError] = field(default_factory=dict)
    requests: int = 0
    retries: int = 0
    rate_errors: int = 0
    """Refusals for being too fast."""
    seconds: list[float] = field(default_factory=list)
    """From request to answer, of each request that was answered."""
    shortened: int = 0
    """Texts that the server found too long and that went on cut or in pieces."""

    def fail_rest(self, batch: Batch, error: MultiEmbedError) -> None:
        """Give the texts of the batch that have neither vector nor error this error."""
        done = {place for places, _ in self.accepted for place in places} | self.failures.keys()
        self.failures.update(dict.fromkeys((place for place in batch.positions if place not in done), error))

    @property
    def total_tokens(self) -> int | None:
        """Tokens billed; None when a reply did not tell."""
        told = [vectors.total_tokens for _, vectors in self.accepted]
        return None if None in told else sum(filter(None, told))
