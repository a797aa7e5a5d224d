"""The story of one batch, told once: what to send, when to wait, when to split, and when to give up.

`exchange` is a generator. It yields what it wants done (Send, Wait) and is sent what came of it; it never sleeps, never
opens a socket and never reads a clock that it was not given. A driver plays it, one for threads and one for tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import orjson

from multiembed.believe import Believed
from multiembed.errors import DeadlineExceededError, InvalidRequestError, MultiEmbedError
from multiembed.judge import MEANINGS, error_of, judge
from multiembed.records import Fault, TransportFailure, WireRequest
from multiembed.retry import LONGEST_ASKED, back_off, retry_after
from multiembed.tokens import most_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from multiembed.records import Role, WireReply
    from multiembed.target import Target

# A number on the wire takes at most about 25 bytes; four times that for names and escapes, and room for an error page.
_BYTES_PER_NUMBER = 100
_BYTES_ROOM = 1_000_000
_UNKNOWN_DIMENSIONS = 8192


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that go out in one request."""

    places: Sequence[int]
    """The position of each text among the call's texts."""
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Send:
    """Send this, and tell what came back."""

    request: WireRequest


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait this many seconds."""

    seconds: float


Step: TypeAlias = Send | Wait
Answer: TypeAlias = "WireReply | TransportFailure"


@dataclass(slots=True)
class Lessons:
    """What the server has taught, for the life of an embedder in this process."""

    dimensions: int | None = None
    """The length of its vectors, once one was believed."""
    max_items: int | None = None
    """The texts per request that it named when it refused more."""
    seconds: float | None = None
    """A running mean of the time from request to answer."""

    def saw(self, seconds: float) -> None:
        """Take one answered request into the mean."""
        self.seconds = seconds if self.seconds is None else 0.9 * self.seconds + 0.1 * seconds


@dataclass(slots=True)
class Job:
    """What all batches of one call share."""

    target: Target
    role: Role
    lessons: Lessons
    max_retries: int
    timeout: float
    deadline_at: float | None
    """On `clock`; None for no deadline."""
    clock: Callable[[], float]
    wall: Callable[[], float]
    """Seconds since the epoch, for dates in headers."""
    chance: Callable[[], float]
    """A random number in [0, 1)."""
    fatal: MultiEmbedError | None = None
    """Set once by the batch that found that no other can succeed."""


@dataclass(slots=True)
class Outcome:
    """What became of one batch."""

    believed: list[tuple[Sequence[int], Believed]] = field(default_factory=list)
    failures: dict[int, MultiEmbedError] = field(default_factory=dict)
    requests: int = 0
    retries: int = 0

    @property
    def total_tokens(self) -> int | None:
        """Tokens billed; None when a reply did not tell."""
        told = [vectors.total_tokens for _, vectors in self.believed]
        return None if None in told else sum(filter(None, told))


def exchange(batch: Batch, job: Job) -> Generator[Step, Answer, Outcome]:
    """Play one batch to its end: every text of it has a vector or an error afterwards."""
    outcome = Outcome()
    compute = job.target.provider.compute
    if compute is not None:
        yield Wait(0)  # lets an event loop breathe between batches
        vectors = compute(batch.texts, job.target.expected_dimensions)
        outcome.believed.append((batch.places, Believed(vectors, None, 0, None)))
        return outcome
    pending = [batch]
    while pending:
        part = pending.pop()
        cap = job.lessons.max_items
        came_of_it: Believed | MultiEmbedError | int
        if job.fatal:
            came_of_it = job.fatal
        elif cap and len(part.texts) > cap:
            came_of_it = cap
        else:
            came_of_it = yield from _attempts(part, job, outcome)
        if isinstance(came_of_it, Believed):
            outcome.believed.append((part.places, came_of_it))
        elif isinstance(came_of_it, MultiEmbedError):
            outcome.failures.update(dict.fromkeys(part.places, came_of_it))
        else:
            pending.extend(reversed(_pieces(part, came_of_it)))
    return outcome


def _attempts(part: Batch, job: Job, outcome: Outcome) -> Generator[Step, Answer, Believed | MultiEmbedError | int]:
    """Send a batch until it is answered for good; an int asks for a split into pieces of at most so many texts."""
    failures = 0
    while True:
        request = _write(part, job)
        if request is None:
            return _too_late(part, job)
        outcome.requests += 1
        outcome.retries += failures > 0
        answer = yield Send(request)
        if not isinstance(answer, TransportFailure):
            job.lessons.saw(answer.seconds)
        judged = judge(
            answer, job.target, texts=len(part.texts), dimensions=job.target.dimensions or job.lessons.dimensions
        )
        if isinstance(judged, Believed):
            if judged.dense is not None:
                job.lessons.dimensions = judged.dense.shape[1]
            return judged
        size = _piece_size(judged, part, job)
        if size:
            return size
        asked = None if isinstance(answer, TransportFailure) else retry_after(answer.headers, job.wall())
        failures += 1
        meaning = MEANINGS[judged.kind]
        delay = max(back_off(failures, job.chance()), min(asked or 0.0, LONGEST_ASKED))
        late = job.deadline_at is not None and job.clock() + delay >= job.deadline_at
        if late and judged.kind == "timeout":
            return _too_late(part, job)
        if not meaning.retry or failures > job.max_retries or late:
            return _give_up(judged, part, job, answer=answer, asked=asked)
        yield Wait(delay)
        if job.fatal:
            return job.fatal


def _write(part: Batch, job: Job) -> WireRequest | None:
    """The request, or None when the deadline leaves no time for it."""
    target = job.target
    timeout = job.timeout
    if job.deadline_at is not None:
        timeout = min(timeout, job.deadline_at - job.clock())
        if timeout <= 0:
            return None
    dimensions = target.expected_dimensions or job.lessons.dimensions or _UNKNOWN_DIMENSIONS
    return WireRequest(
        url=target.url,
        headers={
            **target.headers,
            **target.authorization(),
            "Content-Type": "application/json",
        },
        body=orjson.dumps(target.provider.encode(target.request(part.texts, job.role))),
        timeout=timeout,
        max_reply_bytes=_BYTES_ROOM + len(part.texts) * dimensions * _BYTES_PER_NUMBER,
    )


def _piece_size(fault: Fault, part: Batch, job: Job) -> int | None:
    """The most texts that a next request should hold; None when a split cannot help."""
    meaning = MEANINGS[fault.kind]
    count = len(part.texts)
    if fault.cap and fault.kind == "too_many_items":
        job.lessons.max_items = min(fault.cap, job.lessons.max_items or fault.cap)
    if count == 1 or not (meaning.split or meaning.one_text):
        return None
    if fault.kind == "invalid_or_too_long" and not _could_be_too_long(part, job):
        return None
    half = (count + 1) // 2
    return min(fault.cap, half) if fault.cap and fault.cap < count else half


def _could_be_too_long(part: Batch, job: Job) -> bool:
    most = job.target.limits.max_tokens_per_item
    return most is not None and any(most_tokens(text) > most for text in part.texts)


def _pieces(part: Batch, size: int) -> list[Batch]:
    return [
        Batch(part.places[start : start + size], part.texts[start : start + size])
        for start in range(0, len(part.texts), size)
    ]


def _give_up(
    fault: Fault, part: Batch, job: Job, *, answer: WireReply | TransportFailure, asked: float | None
) -> MultiEmbedError:
    error = error_of(fault, job.target, answer=answer, indices=part.places, retry_after=asked)
    if fault.kind == "invalid_or_too_long" and not _could_be_too_long(part, job):
        error = _as_invalid(error)
    if MEANINGS[fault.kind].fatal and job.fatal is None:
        job.fatal = error
    return error


def _as_invalid(error: MultiEmbedError) -> MultiEmbedError:
    """The same refusal, said of the request: none of its texts can be too long."""
    invalid = InvalidRequestError(MEANINGS["invalid"].advice)
    invalid.__dict__.update({name: value for name, value in vars(error).items() if name != "message"})
    return invalid


def _too_late(part: Batch, job: Job) -> MultiEmbedError:
    return DeadlineExceededError(
        "The deadline of the call has passed. Raise deadline, or embed fewer texts in one call.",
        provider=job.target.provider.id,
        model=job.target.facts.name,
        indices=part.places,
    )
