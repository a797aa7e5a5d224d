"""The flow of one batch, without I/O: what to send, when to split, and what to do about a text that is too long.

`batch_flow` is a generator. It yields effects (SendRequest, Sleep, RunInThread) and is sent their results. It never
sleeps, opens a socket or reads a clock that it was not given. `execution.workers` runs it.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from multiembed.batching.packing import pack_batches
from multiembed.batching.truncation import split_text, truncate
from multiembed.errors import InputTooLongError, MalformedResponseError, MultiEmbedError
from multiembed.flow.backoff import backoff_delay
from multiembed.flow.context import Batch, BatchOutcome, Sleep
from multiembed.flow.isolation import HALVES, FailureCount
from multiembed.flow.request import Isolate, ProbeShortest, Separate, Split, counted, request_flow
from multiembed.responses.validation import ValidatedVectors, weighted_mean

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from multiembed.flow.context import CallContext, Effect
    from multiembed.flow.request import RequestFlow, Result

logger = logging.getLogger("multiembed")
_SHRINK = 0.7
"""What is left of a text that the server still finds too long."""


def batch_flow(
    batch: Batch, job: CallContext, outcome: BatchOutcome | None = None
) -> Generator[Effect, Any, BatchOutcome]:
    """Embed one batch: every text of it has a vector or an error afterwards.

    Args:
        batch: its texts.
        job: what all batches of the call share.
        outcome: where results go as they come. It is complete only at the end, and correct also before.
    """
    outcome = BatchOutcome() if outcome is None else outcome
    compute = job.config.provider.compute
    if compute is None:
        yield from _settle(batch, job, outcome)
    else:
        yield Sleep(0)  # lets an event loop breathe between batches
        vectors = compute(job.config.format_texts(batch.texts, job.role), job.config.expected_dimensions)
        outcome.accepted.append((batch.positions, ValidatedVectors(vectors, None, 0, None)))
    return outcome


def _settle(
    part: Batch,
    job: CallContext,
    outcome: BatchOutcome,
    *,
    known_ill: bool = False,
    failing: FailureCount | None = None,
) -> Generator[Effect, Any, bool]:
    """Embed what can be embedded of a part. Returns: True if no text of it was refused or shortened.

    Args:
        part: some texts.
        job: what all parts share.
        outcome: where vectors and errors go.
        known_ill: one of the texts is known to be refused, so that they need not be sent together again.
        failing: how often these texts have failed already, alone or with others.
    """
    shortened = outcome.shortened
    came = yield from _embed(part, job, outcome, known_ill=known_ill, failing=failing)
    well = yield from _follow(part, came, job, outcome)
    return well and outcome.shortened == shortened


def _embed(
    part: Batch,
    job: CallContext,
    outcome: BatchOutcome,
    *,
    known_ill: bool = False,
    failing: FailureCount | None = None,
) -> RequestFlow:
    """Send a part, unless it is known already what would come of it."""
    count = len(part.texts)
    cap = job.learned.max_items_at(job.clock())
    if job.fatal_error is not None:
        return job.fatal_error
    if known_ill and count > 1:
        return Split(count // 2, one_culprit=True)
    if cap is not None and count > cap:
        return Split(cap, one_culprit=False)
    return (yield from (request_flow if count > 1 else _alone)(part, job, outcome, failing))


def _follow(part: Batch, came: Result, job: CallContext, outcome: BatchOutcome) -> Generator[Effect, Any, bool]:
    """Do what follows from what came of a part; True when no text of it was ill."""
    if isinstance(came, ValidatedVectors):
        outcome.accepted.append((part.positions, came))
        job.any_success, job.lost_batches, job.isolated_in_vain = True, 0, False
        return True
    if isinstance(came, MultiEmbedError):
        outcome.failures.update(dict.fromkeys(part.positions, came))
        return False
    if isinstance(came, Isolate):
        yield from _isolate(part, came, job, outcome)
        return False
    if isinstance(came, Separate):
        others = part.select(at for at in range(len(part.texts)) if at not in came.rows)
        yield from _settle(others, job, outcome, failing=FailureCount(separations=came.failing.separations + 1))
        yield from _settle(
            part.select(came.rows), job, outcome, failing=came.failing.divided(probing=False, isolated=True)
        )
        return False
    if isinstance(came, ProbeShortest):
        shortest, pieces = _around_the_shortest(part)
        one_culprit = yield from _settle(shortest, job, outcome)
    else:
        pieces, one_culprit = _pieces(part, came.size, halves=came.one_culprit), came.one_culprit
    well = True
    for piece in pieces:
        ill = one_culprit and well and piece is pieces[-1]
        well = (yield from _settle(piece, job, outcome, known_ill=ill)) and well
    return well


def _isolate(part: Batch, found: Isolate, job: CallContext, outcome: BatchOutcome) -> Generator[Effect, Any, None]:
    """Halve a failing part, and the halves that fail, until the texts that make requests fail stand alone.

    The halves of a round go out one after another, each once and without a back-off: one bad text of n takes about
    2 * log2(n) requests. Where both halves fail and no other request of the account succeeds meanwhile, the shortest
    text alone is tried. If that fails too, it is an outage, and the part goes on with its retries.
    """
    logger.info("%s: %d texts fail together and are halved", job.config.name, len(part.texts))
    job.event("halved", multiembed__texts=len(part.texts))
    if found.delay:
        yield Sleep(found.delay)
    suspects, failing, successes = [part], found.failing, job.limiter.successes
    while suspects:
        failing = failing.divided(probing=True)
        suspects = yield from _probe(suspects, failing, job, outcome)
        failing = replace(failing, failures=1)
        if suspects and job.limiter.successes == successes:
            suspects = yield from _try_shortest(_joined(suspects), found, job, outcome)
        job.isolating_blindly = job.isolating_blindly and not found.blindly
        for each in [each for each in suspects if len(each.texts) == 1]:
            suspects.remove(each)
            yield from _settle(each, job, outcome, failing=failing.divided(probing=False, isolated=True))


def _try_shortest(
    part: Batch, found: Isolate, job: CallContext, outcome: BatchOutcome
) -> Generator[Effect, Any, list[Batch]]:
    """Send the shortest text of a failing part alone, to tell bad texts from an outage.

    Returns:
        The suspects that are left; none after an outage, in which the part has gone on with its retries.
    """
    failing = found.failing
    failures = failing.failures + HALVES
    if not found.blindly or failures < job.max_retries:
        shortest, others = _around_the_shortest(part)
        yield Sleep(_pause(failures, job))
        failures += 1
        came = yield from _embed(shortest, job, outcome, failing=failing.divided(probing=True))
        if not isinstance(came, Isolate):
            yield from _follow(shortest, came, job, outcome)
            return others
    job.isolated_in_vain = True
    yield Sleep(_pause(failures, job))
    again = replace(
        failing, failures=failures, successes_before=job.limiter.successes, failures_before=job.limiter.failures
    )
    yield from _settle(part, job, outcome, failing=again)
    return []


def _pause(failures: int, job: CallContext) -> float:
    """The seconds of a back-off; 0 where the deadline leaves no time: one more request then tells the reason."""
    seconds = job.sleep_filter(backoff_delay(failures, job.random()))
    return 0.0 if job.no_time_left(seconds) else seconds


def _probe(
    suspects: Sequence[Batch], failing: FailureCount, job: CallContext, outcome: BatchOutcome
) -> Generator[Effect, Any, list[Batch]]:
    """Send the halves of each part once; those that fail again, as one of their texts may be the cause."""
    failed = []
    for suspect in suspects:
        for half in _pieces(suspect, len(suspect.texts) // 2, halves=True):
            came = yield from _embed(half, job, outcome, failing=replace(failing))
            if isinstance(came, Isolate):
                failed.append(half)
            else:
                yield from _follow(half, came, job, outcome)
    return failed


def _alone(part: Batch, job: CallContext, outcome: BatchOutcome, failing: FailureCount | None = None) -> RequestFlow:
    """Embed one text, which may be longer than the model takes."""
    if job.config.on_too_long == "error":
        return (yield from request_flow(part, job, outcome, failing))
    (text,) = part.texts
    most = job.config.limits.max_tokens_per_item
    if most is not None:
        most = max(1, most - (yield from counted(job, job.config.prompt_tokens, job.role, job.count_tokens)))
    while True:
        if most is not None and (yield from counted(job, job.count_tokens, text)) > most:
            if job.config.on_too_long == "split" and len(text) > 1:  # one character is as short as it gets
                pieces = yield from counted(job, split_text, text, most, job.count_tokens)
                return (yield from _in_pieces(pieces, part, job, outcome))
            text = yield from counted(job, truncate, text, most, job.count_tokens)
        came = yield from request_flow(Batch(part.positions, (text,)), job, outcome, failing)
        # What no quota has room for has no status, and is not cut for it: a vector must not tell of its account.
        if not isinstance(came, InputTooLongError) or came.status is None or len(text) == 1:
            return came
        # The estimate was too low, or the limit is not known: what was refused is the measure now.
        outcome.shortened += 1
        text, most = yield from counted(job, _less, text, job)


def _less(text: str, job: CallContext) -> tuple[str, int]:
    """A text to go on with after it was refused as too long, and the tokens that it, or its pieces, may have."""
    most = max(1, min(int(job.count_tokens(text) * _SHRINK), job.learned.token_limit or sys.maxsize))
    if (
        job.config.on_too_long == "truncate" and job.count_tokens(text) <= most
    ):  # a counter that cannot tell: go by characters
        return text[: max(1, int(len(text) * _SHRINK))], most
    return text, most


def _in_pieces(pieces: Sequence[str], part: Batch, job: CallContext, outcome: BatchOutcome) -> RequestFlow:
    """Embed the pieces of one text: their mean, weighted by length, is its vector."""
    inner = BatchOutcome()
    sizes = yield from counted(job, lambda: [(job.count_tokens(piece), len(piece.encode())) for piece in pieces])
    for bin_ in pack_batches(sizes, job.config.limits):
        yield from _settle(Batch(bin_.positions, [pieces[place] for place in bin_.positions]), job, inner)
        if inner.failures:
            break  # without this piece there is no mean, so the others need not be paid for
    outcome.requests += inner.requests
    outcome.retries += inner.retries
    outcome.rate_errors += inner.rate_errors
    outcome.seconds += inner.seconds
    if inner.failures:
        error = inner.failures[min(inner.failures)]
        error.indices = tuple(part.positions)
        return error
    mean = weighted_mean(inner.accepted, [tokens for tokens, _ in sizes])
    return mean or MalformedResponseError(
        "The vectors of a long text's pieces cancel each other out: there is no mean. Take on_too_long='truncate'.",
        **job.details(part),
    )


def _around_the_shortest(part: Batch) -> tuple[Batch, list[Batch]]:
    """The shortest text, and the texts before and after it."""
    count = len(part.texts)
    at = min(range(count), key=lambda each: len(part.texts[each]))
    return part.select([at]), [part.select(side) for side in (range(at), range(at + 1, count)) if side]


def _pieces(part: Batch, size: int, *, halves: bool) -> list[Batch]:
    """The part in pieces of `size` texts; as two when `halves`."""
    count = len(part.texts)
    starts = (0, size) if halves else range(0, count, size)
    return [part.select(range(start, end)) for start, end in zip(starts, [*starts[1:], count], strict=True)]


def _joined(parts: Sequence[Batch]) -> Batch:
    return Batch([place for part in parts for place in part.positions], [text for part in parts for text in part.texts])
