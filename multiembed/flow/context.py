"""What the batches of one call share, what a batch asks of its driver, and what becomes of it. No behaviour of note."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from multiembed.transport.types import TransportFailure, WireRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from multiembed.config.request_config import Target
    from multiembed.errors import MultiEmbedError
    from multiembed.ratelimit.limiter import AccountLimiter, Permit
    from multiembed.ratelimit.pacer import Ceilings
    from multiembed.responses.validation import Believed
    from multiembed.transport.types import WireReply
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

    places: Sequence[int]
    """The position of each text among its block's texts."""
    texts: Sequence[str]
    tokens: int | None = None
    """Of all texts, as estimated; None where it was not counted."""
    block: Any = None
    """The `execution.chunk.Block` whose texts they are. The flow does not look into it."""

    def select(self, positions: Iterable[int]) -> Batch:
        """The texts at some positions, in that order."""
        positions = list(positions)
        return Batch([self.places[at] for at in positions], [self.texts[at] for at in positions])


@dataclass(frozen=True, slots=True)
class Send:
    """Send this once there is permission, and return the answer."""

    request: WireRequest
    permit: Permit


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RunInThread:
    """Call the user's code (a key function, a token counter) in a thread, and return or raise what it does."""

    function: Callable[[], Any]


WITHHELD = TransportFailure("connection", "not sent, because the call had failed meanwhile")

Step: TypeAlias = Send | Wait | RunInThread
Answer: TypeAlias = "WireReply | TransportFailure"


@dataclass(slots=True)
class Lessons:
    """What the server has taught, for the life of an embedder in this process."""

    dimensions: int | None = None
    """The length of its vectors, once one was believed."""
    max_items: int | None = None
    """The texts per request that it named when it refused more; see `max_items_at`."""
    max_items_until: float = 0.0
    """When that is forgotten: a server that named it in error must not be believed for ever."""
    token_limit: int | None = None
    """The tokens of one text that it named when it last refused a longer one."""
    seconds: float | None = None
    """A running mean of the time from request to answer."""
    per_estimate: float | None = None
    """Tokens billed for each one estimated: a running mean, None before the first bill."""
    most_per_estimate: float = 1.0
    """The most of them lately: what is reserved and packed by."""

    def learn_max_items(self, cap: int, now: float) -> None:
        """The server refused more texts than `cap` in one request."""
        self.max_items, self.max_items_until = min(cap, self.max_items_at(now) or cap), now + CAP_SECONDS

    def max_items_at(self, now: float) -> int | None:
        """The most texts in one request as the server named it; None when it did not, or some minutes ago."""
        return self.max_items if now < self.max_items_until else None

    def saw(self, seconds: float) -> None:
        """Take one answered request into the mean."""
        self.seconds = seconds if self.seconds is None else 0.9 * self.seconds + 0.1 * seconds

    def billed(self, tokens: int, estimated: int) -> None:
        """Compare a bill with its estimate."""
        if tokens > 0 and estimated > 0:
            share = tokens / estimated
            self.per_estimate = share if self.per_estimate is None else 0.95 * self.per_estimate + 0.05 * share
            self.most_per_estimate = max(share, 0.99 * self.most_per_estimate + 0.01 * share)


def _no_event(_: str, **__: object) -> None:
    """There is no span."""


@dataclass(slots=True)
class Job:
    """What all batches of one call share."""

    target: Target
    role: Role
    lessons: Lessons
    limiter: AccountLimiter
    ceilings: Ceilings
    count: Callable[[str], int]
    """Tokens of a text."""
    max_retries: int
    patience: float
    """Seconds beyond the retries that an outage or a rate limit of a known account is waited out."""
    timeout: float
    deadline_at: float | None
    """On `clock`; None for no deadline."""
    clock: Callable[[], float]
    wall: Callable[[], float]
    """Seconds since the epoch, for dates in headers."""
    chance: Callable[[], float]
    """A random number in [0, 1)."""
    waits: Callable[[float], float] = float
    """What becomes of a wait; tests make it zero."""
    served: bool = False
    """Whether any text of the call has a vector."""
    doubtful: int = 0
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
    lost: int = 0
    """Batches given up as unreachable since one was served."""
    trouble: MultiEmbedError | None = None
    """The last reason why a batch was given up though it might have passed: what kept the others from being sent."""
    fatal: MultiEmbedError | None = None
    """Set once by the batch that found that no other can succeed."""

    def no_time_left(self, delay: float = 0.0) -> bool:
        """Whether the call's deadline comes before a delay is over."""
        return self.deadline_at is not None and self.clock() + delay >= self.deadline_at

    def details(self, part: Batch) -> dict[str, Any]:
        """What an error of these texts says of itself besides its message."""
        return {"provider": self.target.provider.id, "model": self.target.facts.name, "indices": part.places}


@dataclass(slots=True)
class Outcome:
    """What became of one batch."""

    believed: list[tuple[Sequence[int], Believed]] = field(default_factory=list)
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
        done = {place for places, _ in self.believed for place in places} | self.failures.keys()
        self.failures.update(dict.fromkeys((place for place in batch.places if place not in done), error))

    @property
    def total_tokens(self) -> int | None:
        """Tokens billed; None when a reply did not tell."""
        told = [vectors.total_tokens for _, vectors in self.believed]
        return None if None in told else sum(filter(None, told))
