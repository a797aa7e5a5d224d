"""The story of one batch, told once: what to send, when to wait, when to split, and when to give up.

`exchange` is a generator. It yields what it wants done (Send, Wait) and is sent what came of it; it never sleeps, never
opens a socket and never reads a clock that it was not given. A driver plays it, one for threads and one for tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

import orjson

from multiembed.believe import Believed, mean_of
from multiembed.errors import DeadlineExceededError, InputTooLongError, MalformedResponseError, MultiEmbedError
from multiembed.judge import MEANINGS, error_of, judge
from multiembed.lengths import cut_up, shorten
from multiembed.plan import pack
from multiembed.records import Fault, TransportFailure, WireRequest
from multiembed.retry import LONGEST_ASKED, LONGEST_WAIT, back_off, retry_after
from multiembed.tokens import most_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from multiembed.gate import Gate
    from multiembed.records import FaultKind, Role, WireReply
    from multiembed.target import Target

MAX_RETRIES = 5
"""Retries of one request, unless the user says."""
PATIENCE = 60.0
"""Seconds that a request outlasts an outage or a rate limit beyond these, where the account once worked."""

# A number on the wire takes at most about 25 bytes; four times that for names and escapes, and room for an error page.
_BYTES_PER_NUMBER = 100
_BYTES_ROOM = 1_000_000
_UNKNOWN_DIMENSIONS = 8192

_SHRINK = 0.7
"""What is left of a text that the server still finds too long."""


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


WITHHELD = TransportFailure("connection", "not sent, because the call had failed meanwhile")

Step: TypeAlias = Send | Wait
Answer: TypeAlias = "WireReply | TransportFailure"
Story: TypeAlias = "Generator[Step, Answer, Believed | MultiEmbedError | _Split | _Doubt]"


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
    gate: Gate
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


@dataclass(frozen=True, slots=True)
class _Split:
    """A refusal that smaller requests may escape."""

    size: int
    """The most texts that the next request should hold."""
    one_culprit: bool
    """It is one text's fault: when one half is well, the other is known to be ill without being sent."""


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A refusal that may be one text's fault or the whole call's: the shortest text alone tells."""


def exchange(batch: Batch, job: Job) -> Generator[Step, Answer, Outcome]:
    """Play one batch to its end: every text of it has a vector or an error afterwards."""
    outcome = Outcome()
    compute = job.target.provider.compute
    if compute is None:
        yield from _settle(batch, job, outcome)
    else:
        yield Wait(0)  # lets an event loop breathe between batches
        vectors = compute(job.target.prepare(batch.texts, job.role), job.target.expected_dimensions)
        outcome.believed.append((batch.places, Believed(vectors, None, 0, None)))
    return outcome


def _settle(part: Batch, job: Job, outcome: Outcome, *, known_ill: bool = False) -> Generator[Step, Answer, bool]:
    """Embed what can be embedded of a part; True when all of it was.

    Args:
        part: some texts.
        job: what all parts share.
        outcome: where vectors and errors go.
        known_ill: one of the texts is known to be refused, so that they need not be sent together again.
    """
    count = len(part.texts)
    cap = job.lessons.max_items
    came: Believed | MultiEmbedError | _Split | _Doubt
    if job.fatal is not None:
        came = job.fatal
    elif known_ill and count > 1:
        came = _Split(count // 2, one_culprit=True)
    elif cap is not None and count > cap:
        came = _Split(cap, one_culprit=False)
    else:
        came = yield from (_attempts if count > 1 else _alone)(part, job, outcome)
    if isinstance(came, Believed):
        outcome.believed.append((part.places, came))
        job.served = True
        return True
    if isinstance(came, MultiEmbedError):
        outcome.failures.update(dict.fromkeys(part.places, came))
        return False
    if isinstance(came, _Doubt):
        before, shortest, after = _around_the_shortest(part)
        yield from _settle(shortest, job, outcome)  # if it is refused too, it is the call's fault, and fatal
        pieces, one_culprit = [each for each in (before, after) if each.texts], True
    else:
        pieces, one_culprit = _pieces(part, came.size, halves=came.one_culprit), came.one_culprit
    well = True
    for piece in pieces:
        ill = one_culprit and well and piece is pieces[-1]
        well = (yield from _settle(piece, job, outcome, known_ill=ill)) and well
    return well


def _alone(part: Batch, job: Job, outcome: Outcome) -> Story:
    """Embed one text, which may be longer than the model takes."""
    if job.target.on_too_long == "error":
        return (yield from _attempts(part, job, outcome))
    (text,) = part.texts
    most = job.target.limits.max_tokens_per_item
    if most is not None:
        most = max(1, most - job.target.overhead(job.role, job.count))
    while True:
        if most is not None and job.count(text) > most:
            if job.target.on_too_long == "split":
                return (yield from _in_pieces(cut_up(text, most, job.count), part, job, outcome))
            text = shorten(text, most, job.count)
        came = yield from _attempts(Batch(part.places, (text,)), job, outcome)
        if not isinstance(came, InputTooLongError) or len(text) == 1:
            return came
        # The estimate was too low, or the limit is not known: what was refused is the measure now.
        text, most = _less(text, job)


def _less(text: str, job: Job) -> tuple[str, int]:
    """A text to go on with after it was refused as too long, and the tokens that it, or its pieces, may have."""
    most = max(1, int(job.count(text) * _SHRINK))
    if job.target.on_too_long == "truncate" and job.count(text) <= most:  # a counter that cannot tell: go by characters
        return text[: max(1, int(len(text) * _SHRINK))], most
    return text, most


def _in_pieces(pieces: Sequence[str], part: Batch, job: Job, outcome: Outcome) -> Story:
    """Embed the pieces of one text: their mean, weighted by length, is its vector."""
    inner = Outcome()
    sizes = [(job.count(piece), len(piece.encode())) for piece in pieces]
    for run in pack(sizes, job.target.limits):
        yield from _settle(Batch(run, pieces[run.start : run.stop]), job, inner)
    outcome.requests += inner.requests
    outcome.retries += inner.retries
    if inner.failures:
        error = inner.failures[min(inner.failures)]
        error.indices = tuple(part.places)
        return error
    return mean_of(inner.believed, [tokens for tokens, _ in sizes]) or _no_mean(part, job)


def _attempts(part: Batch, job: Job, outcome: Outcome) -> Story:
    """Send a part until it is answered for good."""
    failures = 0
    first_failure = 0.0
    while True:
        request = _write(part, job)
        if request is None:
            return _too_late(part, job)
        answer = yield Send(request)
        if answer is WITHHELD:
            return job.fatal or _too_late(part, job)
        outcome.requests += 1
        outcome.retries += failures > 0
        if not isinstance(answer, TransportFailure):
            job.lessons.saw(answer.seconds)
        dimensions = job.target.expected_dimensions or job.lessons.dimensions
        judged = judge(answer, job.target, texts=len(part.texts), dimensions=dimensions)
        if isinstance(judged, Believed):
            job.gate.answered()
            if judged.dense is not None:
                job.lessons.dimensions = judged.dense.shape[1]
            return judged
        meaning = MEANINGS[judged.kind]
        if not meaning.retry:
            return _refused(judged, part, job, answer)
        failures += 1
        first_failure = first_failure or job.clock()
        asked = None if isinstance(answer, TransportFailure) else retry_after(answer.headers, job.wall())
        delay = _delay(failures, asked, job)
        job.gate.slowed(delay) if judged.kind == "rate_limit" else job.gate.failed(delay)
        if _hopeless(judged, failures, first_failure, delay, job):
            late = job.deadline_at is not None and judged.kind == "timeout" and job.clock() + delay >= job.deadline_at
            return _too_late(part, job) if late else _give_up(judged, part, job, answer=answer, asked=asked)
        yield Wait(delay)
        if job.fatal is not None:
            return job.fatal


def _refused(fault: Fault, part: Batch, job: Job, answer: Answer) -> MultiEmbedError | _Split | _Doubt:
    """What follows from a refusal that would come again: smaller requests, or an error."""
    meaning = MEANINGS[fault.kind]
    if not meaning.fatal:
        job.gate.answered()
    count = len(part.texts)
    if fault.kind == "too_many_items" and fault.cap:
        job.lessons.max_items = min(fault.cap, job.lessons.max_items or fault.cap)
    if fault.kind == "invalid_or_too_long":
        fault = replace(fault, kind=_what_may_be_too_long(part, job))
        meaning = MEANINGS[fault.kind]
    if count > 1 and meaning.one_text:
        return _Split(count // 2, one_culprit=True)
    if count > 1 and fault.kind == "invalid":
        return _Split(count // 2, one_culprit=True) if job.served else _Doubt()
    if count > 1 and meaning.split:
        return _Split(min(fault.cap or count, (count + 1) // 2), one_culprit=False)
    return _give_up(fault, part, job, answer=answer, asked=None)


def _what_may_be_too_long(part: Batch, job: Job) -> FaultKind:
    """What a refusal means that may be for length or for anything: a text, all of them together, or neither."""
    limits = job.target.limits
    most = [most_tokens(text) for text in part.texts]
    if limits.max_tokens_per_item is not None and max(most) > limits.max_tokens_per_item:
        return "too_long"
    if limits.max_tokens_per_request is not None and sum(most) > limits.max_tokens_per_request:
        return "request_too_large"
    return "invalid"


def _delay(failures: int, asked: float | None, job: Job) -> float:
    """Seconds before the next attempt: the server's wish or a jittered back-off, and more once the budget is spent."""
    delay = back_off(failures, job.chance()) if job.gate.may_retry() else LONGEST_WAIT
    return job.waits(max(delay, min(asked or 0.0, LONGEST_ASKED)))


def _hopeless(fault: Fault, failures: int, first_failure: float, delay: float, job: Job) -> bool:
    """Whether another attempt is out of the question.

    Beyond its retries, a request waits out an outage of everything, or a rate limit, for a while: but only where the
    account has been seen to work, because a wrong address never heals.
    """
    now = job.clock()
    if job.deadline_at is not None and now + delay >= job.deadline_at:
        return True
    if failures <= job.max_retries:
        return False
    weather = job.gate.weather
    general = fault.kind == "rate_limit" or not weather.trusted
    return not (general and weather.ever_trusted and now - first_failure < job.patience)


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
        headers={**target.headers, **target.authorization(), "Content-Type": "application/json"},
        body=orjson.dumps(target.provider.encode(target.request(part.texts, job.role))),
        timeout=timeout,
        max_reply_bytes=_BYTES_ROOM + len(part.texts) * dimensions * _BYTES_PER_NUMBER,
    )


def _around_the_shortest(part: Batch) -> tuple[Batch, Batch, Batch]:
    place = min(range(len(part.texts)), key=lambda each: len(part.texts[each]))
    cuts = (0, place, place + 1, len(part.texts))
    before, shortest, after = (Batch(part.places[start:end], part.texts[start:end]) for start, end in pairwise(cuts))
    return before, shortest, after


def _pieces(part: Batch, size: int, *, halves: bool) -> list[Batch]:
    """The part in pieces of `size` texts; as two when `halves`."""
    starts = (0, size) if halves else range(0, len(part.texts), size)
    ends = [*starts[1:], len(part.texts)]
    return [Batch(part.places[start:end], part.texts[start:end]) for start, end in zip(starts, ends, strict=True)]


def _give_up(
    fault: Fault, part: Batch, job: Job, *, answer: WireReply | TransportFailure, asked: float | None
) -> MultiEmbedError:
    """The error of a part; when no other part can fare better, the error of the whole call."""
    error = error_of(fault, job.target, answer=answer, indices=part.places, retry_after=asked)
    meaning = MEANINGS[fault.kind]
    general = (meaning.retry and not job.gate.weather.trusted) or (fault.kind == "invalid" and not job.served)
    if meaning.fatal or general:
        job.fatal = job.fatal or error
    return error


def _no_mean(part: Batch, job: Job) -> MultiEmbedError:
    return MalformedResponseError(
        "The vectors of a long text's pieces cancel each other out: there is no mean. Take on_too_long='truncate'.",
        provider=job.target.provider.id,
        model=job.target.facts.name,
        indices=part.places,
    )


def _too_late(part: Batch, job: Job) -> MultiEmbedError:
    return DeadlineExceededError(
        "The deadline of the call has passed. Raise deadline, or embed fewer texts in one call.",
        provider=job.target.provider.id,
        model=job.target.facts.name,
        indices=part.places,
    )
