"""Flow of one batch, without I/O: what to send, when to split, isolate or truncate.

`batch_flow` is a generator. It yields effects (SendRequest, Sleep, RunInThread) and is sent their results. It never
sleeps, opens a socket or reads a clock that it was not given. `execution.workers` runs it.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

from multiembed.batching.packing import pack_batches
from multiembed.batching.truncation import split_text, truncate
from multiembed.errors import InputTooLongError, MalformedResponseError, MultiEmbedError
from multiembed.flow.backoff import backoff_delay
from multiembed.flow.context import Batch, BatchOutcome, RunInThread, Sleep
from multiembed.flow.isolation import HALVES
from multiembed.flow.request import Isolate, RequestFlow, Split, counted
from multiembed.responses.validation import ValidatedVectors, weighted_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.flow.context import CallContext, Flow
    from multiembed.flow.isolation import FailureCount
    from multiembed.flow.request import Result

logger = logging.getLogger("multiembed")
_SHRINK = 0.7
"""Share that is kept of a text that the server still finds too long."""


def batch_flow(batch: Batch, context: CallContext, outcome: BatchOutcome | None = None) -> Flow[BatchOutcome]:
    """Embed one batch: afterwards every text of it has a vector or an error.

    The outcome gets the results as they come. It is complete only at the end, and correct also before.
    """
    outcome = BatchOutcome() if outcome is None else outcome
    yield from _BatchFlow(context, outcome).embed(batch)
    return outcome


class _BatchFlow:
    """Embeds parts of a batch, and splits them where needed. The outcome gets vectors and errors."""

    def __init__(self, context: CallContext, outcome: BatchOutcome) -> None:
        self._context = context
        self._outcome = outcome

    def embed(self, part: Batch, failing: FailureCount | None = None, *, must_fail: bool = False) -> Flow[bool | None]:
        """Embed a part, whose texts have failed before, alone or with others, as often as `failing` says.

        With `must_fail`, one of the texts will be rejected, so that they need not be sent together again. Returns True
        if no text was rejected or shortened; None for a probe that failed, whose texts have no result yet.
        """
        context, outcome = self._context, self._outcome
        shortened = outcome.shortened
        result = yield from self._request(part, failing, must_fail=must_fail)
        match result:
            case ValidatedVectors():
                outcome.accepted.append((part.positions, result))
                context.state.any_success, context.state.lost_batches = True, 0
                if context.state.blind_isolation == "failed":
                    context.state.blind_isolation = "allowed"
                return outcome.shortened == shortened
            case MultiEmbedError():
                outcome.failures.update(dict.fromkeys(part.positions, result))
                return False
            case Isolate():
                if result.failing.probing:
                    return None
                yield from self._isolate_bad_texts(part, result)
                return False
            case Split(parts, one_bad_text):
                all_good = True
                for each, failing in zip_longest(parts, result.failing):
                    must_fail = one_bad_text and all_good and each is parts[-1]
                    is_good = yield from self.embed(each, failing, must_fail=must_fail)
                    all_good = all_good and bool(is_good)
                return all_good and outcome.shortened == shortened

    def _request(self, part: Batch, failing: FailureCount | None, *, must_fail: bool) -> Flow[Result]:
        """Send a part, unless its result is known."""
        context = self._context
        count, maximum = len(part.texts), context.learned.max_items_at(context.environment.clock())
        if context.state.fatal_error is not None:
            return context.state.fatal_error
        if must_fail and count > 1:
            return Split(part.split_at(count // 2), one_bad_text=True)
        if maximum is not None and count > maximum:
            return Split(part.pieces(maximum))
        if count == 1 and context.config.on_too_long != "error":
            return (yield from self._embed_single(part, failing))
        return (yield from self._send(part, failing))

    def _send(self, part: Batch, failing: FailureCount | None) -> Flow[Result]:
        """Send a part as one request, or compute its vectors in a thread where the model is a local one."""
        context, config = self._context, self._context.config
        if config.provider.compute is None:
            return (yield from RequestFlow(part, context, self._outcome, failing).run())
        texts, maximum = config.format_texts(part.texts, context.role), config.limits.max_tokens_per_item
        if maximum is not None and len(texts) == 1 and config.on_too_long == "error":  # a longer text is alone
            tokens = yield from counted(context, context.count_tokens, texts[0])
            if tokens > maximum:
                return InputTooLongError(
                    f"The text has about {tokens:,} tokens, and {config.name} takes {maximum:,}. Shorten it, or set "
                    "on_too_long='truncate' or 'split'.",
                    **context.error_details(part),
                )
        compute = config.provider.compute(config.model.name)
        vectors = yield RunInThread(partial(compute, texts, config.expected_dimensions))
        return ValidatedVectors(vectors, None, 0, None)

    def _isolate_bad_texts(self, part: Batch, found: Isolate) -> Flow[None]:
        """Halve a failing part, and the halves that fail, until the texts that make requests fail are alone.

        The halves of a round are sent one after another, each once and without backoff: one bad text of n takes about
        2 * log2(n) requests. Where both halves fail and no other request of the account succeeds meanwhile, the
        shortest text is sent alone. If that fails too, it is an outage, and the part goes on with its retries.
        """
        context = self._context
        logger.info("%s: %d texts fail together and are halved", context.config.name, len(part.texts))
        context.event("halved", multiembed__texts=len(part.texts))
        if found.delay:
            yield Sleep(found.delay)
        suspects, failing, successes = [part], found.failing, context.limiter.successes
        while suspects:
            failing = failing.divided(probing=True)
            failed: list[Batch] = []
            for half in [half for suspect in suspects for half in suspect.split_at(len(suspect.texts) // 2)]:
                is_decided = yield from self.embed(half, replace(failing))
                failed += [half] if is_decided is None else []
            failing = replace(failing, failures=1)
            if failed and context.limiter.successes == successes:
                failed = yield from self._probe_shortest(failed, found)
            if found.blindly and context.state.blind_isolation == "running":
                context.state.blind_isolation = "allowed"
            suspects = [each for each in failed if len(each.texts) > 1]
            for single in [each for each in failed if len(each.texts) == 1]:
                yield from self.embed(single, failing.divided(probing=False))

    def _probe_shortest(self, suspects: Sequence[Batch], found: Isolate) -> Flow[list[Batch]]:
        """Send the shortest text of a failing part alone, to tell bad texts from an outage.

        Returns the suspects that are left; none after an outage, in which the part has gone on with its retries.
        """
        context, failing, limiter = self._context, found.failing, self._context.limiter

        def pause() -> Sleep:
            seconds = context.environment.sleep_filter(backoff_delay(failures, context.environment.random()))
            # Without time before the deadline, one more request at once tells the reason.
            return Sleep(0.0 if context.is_past_deadline(seconds) else seconds)

        part = Batch(
            [each for part in suspects for each in part.positions], [each for part in suspects for each in part.texts]
        )
        failures = failing.failures + HALVES
        if not found.blindly or failures < context.max_retries:
            shortest, *others = part.around_shortest()
            yield pause()
            failures += 1
            if (yield from self.embed(shortest, failing.divided(probing=True))) is not None:
                return others
        context.state.blind_isolation = "failed"
        yield pause()
        yield from self.embed(part, failing.restarted(failures, limiter))
        return []

    def _embed_single(self, part: Batch, failing: FailureCount | None) -> Flow[Result]:
        """Embed one text; truncate or split it where it is longer than the model takes."""
        context, config, count_tokens = self._context, self._context.config, self._context.count_tokens
        (text,) = part.texts
        maximum = config.limits.max_tokens_per_item
        if maximum is not None:
            maximum = max(1, maximum - (yield from counted(context, config.prompt_tokens, context.role, count_tokens)))
        while True:
            if maximum is not None and (yield from counted(context, count_tokens, text)) > maximum:
                if config.on_too_long == "split" and len(text) > 1:
                    pieces = yield from counted(context, split_text, text, maximum, count_tokens)
                    return (yield from self._embed_pieces(pieces, part))
                text = yield from counted(context, truncate, text, maximum, count_tokens)
            result = yield from self._send(Batch(part.positions, (text,)), failing)
            # A rejection by the account's quota has no status. The text is not shortened for it: vectors must not
            # depend on the account.
            if not isinstance(result, InputTooLongError) or result.status is None or len(text) == 1:
                return result
            # The estimate was too low, or the limit is not known: the rejected length is the measure now.
            self._outcome.shortened += 1
            tokens = yield from counted(context, count_tokens, text)
            maximum = max(1, min(int(tokens * _SHRINK), context.learned.token_limit or sys.maxsize))
            if config.on_too_long == "truncate" and tokens <= maximum:  # the counter cannot tell: cut by characters
                text = text[: max(1, int(len(text) * _SHRINK))]

    def _embed_pieces(self, pieces: Sequence[str], part: Batch) -> Flow[Result]:
        """Embed the pieces of one text: their mean, weighted by length, is its vector."""
        context, outcome, inner = self._context, self._outcome, BatchOutcome(seconds=self._outcome.seconds)
        tokens = yield from counted(context, lambda: list(map(context.count_tokens, pieces)))
        sizes = [(count, len(piece.encode())) for count, piece in zip(tokens, pieces, strict=True)]
        for packed in pack_batches(sizes, context.config.limits):
            batch = Batch(packed.positions, [pieces[position] for position in packed.positions])
            yield from _BatchFlow(context, inner).embed(batch)
            if inner.failures:
                break  # the mean needs every piece, so the others need not be paid for
        outcome.requests += inner.requests
        outcome.retries += inner.retries
        outcome.rate_errors += inner.rate_errors
        if inner.failures:
            error = inner.failures[min(inner.failures)]
            error.indices = tuple(part.positions)
            return error
        return weighted_mean(inner.accepted, tokens) or MalformedResponseError(
            "The vectors of a long text's pieces cancel each other out, so they have no mean. Take "
            "on_too_long='truncate'.",
            **context.error_details(part),
        )
