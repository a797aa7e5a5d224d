"""One call of `embed`, `stream` or an async twin: its chunks of texts, progress and usage; and the dry-run estimate.

The caller's thread makes chunks of texts and takes results from chunks. Between that, chunks belong to the I/O thread.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import replace
from functools import cached_property, partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Self

from multiembed.batching.inputs import check_texts
from multiembed.batching.token_count import expected_tokens
from multiembed.cache.base import CacheEntry
from multiembed.errors import InvalidRequestError
from multiembed.execution.chunk import Chunk, pack_texts
from multiembed.execution.io_thread import in_thread, io_thread
from multiembed.flow.context import Batch
from multiembed.observability.log import log_call
from multiembed.observability.progress import Progress, shared
from multiembed.observability.tracing import Span
from multiembed.ratelimit.pacer import INITIAL_IN_FLIGHT, MAX_IN_FLIGHT
from multiembed.types import Estimate, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from multiembed.config.request_config import RequestConfig
    from multiembed.execution.runtime import Runtime
    from multiembed.flow.context import BatchOutcome, CallContext
    from multiembed.types import Role


_DRAW_INTERVAL = 0.1
"""Seconds between two updates of a progress bar."""
_FEW_IN_FLIGHT = 8
"""Requests in flight, below which a call has no more workers than that."""
_DROP_EMPTY = "texts = [text for text in texts if text.strip()]"
_MAX_LISTED = 5
"""Positions of empty texts that an error lists."""


class EmbedCall:
    """State of one call. The source of the batches that its worker pool runs.

    Args:
        role: of all its texts.
        runtime: of the client, in this process.
        drop_empty: how the caller can leave empty texts out, in one line of Python.
    """

    def __init__(self, role: Role, runtime: Runtime, drop_empty: str | None = None) -> None:
        self.config = config = runtime.config
        self.runtime = runtime
        self.wake: Callable[[], object] = bool
        """Wakes the caller: a chunk is complete, or all texts of one are sent. Called on the I/O thread."""
        self._role = role
        self._drop_empty = drop_empty
        runtime.find_account()
        self._namespace = config.fingerprint(role) if runtime.has_cache else ""
        self._texts = 0
        self._span = Span(config, role)
        self._started = time.monotonic()
        self._own_bar = Progress(config.name) if runtime.options.show_progress and shared() is None else None
        self._bar = self._own_bar or shared()
        self.chunks: list[Chunk] = []
        """In order; the first one is the next to be handed out. Changed in the caller's thread only."""
        self._last: Chunk | None = None
        """The chunk that was handed out last: its texts are not paid for again."""
        # After Ctrl-C the caller ends the call, while responses still come. Each is counted once.
        self._usage_lock = threading.Lock()
        self._ended = False
        self._failed = 0
        self._usage = Usage()

    # ── in the caller's thread ───────────────────────────────────────────────────────────────────

    def prepare(self, texts: Iterable[str], *, keep_rejected: bool = False, lists: bool = False) -> Chunk:
        """Make a chunk of texts, and look them up in the cache, which may take long.

        Args:
            texts: of the chunk.
            keep_rejected: whether a text that the API is known to reject fails alone.
            lists: whether the result is requested as plain lists.
        """
        config = self.config
        checked, rejected = check_texts(texts, refuses=config.provider.refuses, first=self._texts)
        if rejected and not keep_rejected:
            raise _empty_text_error(rejected, len(checked), config, self._drop_empty)
        self._texts += len(checked)
        errors = {index: _empty_text_error([index], 1, config) for index in rejected}
        chunk = Chunk(checked, config, errors, lists=lists)
        cache = self.runtime.cache
        if cache is not None:
            details = {"model": config.name, "role": self._role, "dimensions": config.expected_dimensions}
            cache.describe(self._namespace, {**details, "output": config.output, "base_url": config.base_url})
            chunk.looked_up_at = time.monotonic()
            found = chunk.add_cached(cache.get(self._namespace, chunk.texts))
            chunk.usage += Usage(cached_texts=chunk.count_of(found))
        if self._bar is not None:
            self._bar.announce(len(chunk), several=len(chunk) > config.limits.max_items)
        self.chunks.append(chunk)
        return chunk

    def pop_complete(self) -> Chunk | None:
        """Take the next chunk in order, if it is complete."""
        if not self.chunks or not self.chunks[0].is_complete:
            return None
        self._last = self.chunks[0]  # first: the I/O thread finds it in either place
        del self.chunks[0]
        return self._last

    # ── on the I/O thread, for the workers ────────────────────────────────────────────────────────

    @cached_property
    def context(self) -> CallContext:
        """State that all batches share. Created on the I/O thread, which owns the limiter."""
        deadline = self.runtime.options.deadline
        return replace(
            self.runtime.make_context(self._role),
            deadline_at=None if deadline is None else self._started + deadline,
            event=self._span.event,
        )

    @property
    def max_workers(self) -> int:
        """Maximum number of batches at once. As many again may have responses to read, while others send.

        Not with a cache, where kill -9 must cost no more than the requests in flight. Not where few are in flight: one
        more request would be ready before the responses to these show the server's limits.
        """
        in_flight = self.context.account_limits.in_flight or MAX_IN_FLIGHT
        return in_flight if self.runtime.has_cache or in_flight < _FEW_IN_FLIGHT else 2 * in_flight

    def add_texts(self, chunk: Chunk) -> None:
        """Make the batches of a chunk available. Texts that the chunks before it have are not sent again."""
        earlier = takewhile(lambda other: other is not chunk, tuple(self.chunks))
        for other in (*earlier, self._last):  # in this order: the caller may take a chunk meanwhile
            if other is not None:
                chunk.follow(other)
        with self._usage_lock:
            self._usage += chunk.usage
        self.runtime.stats.add(chunk.usage, texts=chunk.known_count, failed=len(chunk.rejected))
        self._advance(chunk.known_count)
        chunk.begin(self.context)
        self.wake()

    def next_batch(self) -> Batch | None:
        """Texts of the first chunk that has some left. Called in a thread if the context counts tokens in one."""
        for chunk in tuple(self.chunks):
            if chunk.has_unsent:
                batch = chunk.next_batch()
                if batch is not None:
                    return batch
                self.wake()
        return None

    def must_claim(self, batch: Batch) -> bool:
        """Whether a batch is claimed in the cache before it is sent."""
        cache, chunk = self.runtime.cache, batch.chunk
        return cache is not None and time.monotonic() - chunk.looked_up_at >= cache.claim_age

    async def claim(self, batch: Batch) -> tuple[Batch, Batch]:
        """Take vectors of a batch that the cache has by now, and claim its other texts.

        Returns: the texts to send, and those that another process embeds at this moment.
        """
        chunk: Chunk = batch.chunk
        claim = await in_thread(self.runtime.cache.claim, self._namespace, batch.texts)  # type: ignore[union-attr]
        found = chunk.add_cached(claim.found, batch)
        if found:
            count = chunk.count_of(found)
            self._count(chunk, Usage(cached_texts=count), texts=count)
            self._complete(Batch(found, ()), chunk)
        elif not claim.pending:
            return batch, Batch((), ())
        done, pending = set(found), {batch.positions[row] for row in claim.pending}
        rows = range(len(batch.texts))
        missing = batch.select(row for row in rows if batch.positions[row] not in done | pending)
        others = batch.select(row for row in rows if batch.positions[row] in pending - done)
        return replace(missing, chunk=chunk), replace(others, chunk=chunk)

    async def release(self, batch: Batch) -> None:
        """Give up the claims of the texts of a batch that got no vector."""
        await in_thread(self.runtime.cache.release, self._namespace, batch.texts)  # type: ignore[union-attr]

    async def complete_batch(self, batch: Batch, outcome: BatchOutcome) -> None:
        """Take the outcome of a batch. Vectors are kept in the cache before the caller gets them."""
        chunk: Chunk = batch.chunk
        accepted = chunk.add_outcome(outcome)
        writer = self.runtime.cache_writer
        try:
            if writer is not None and accepted:
                await writer.write([CacheEntry(self._namespace, texts, v.dense, v.sparse) for texts, v in accepted])
        finally:
            failed = chunk.count_of(outcome.failures)
            self._count_outcome(chunk, outcome, texts=chunk.count_of(batch.positions), failed=failed)
            self._complete(batch, chunk)  # last: from now on, the caller may take the chunk

    def _complete(self, batch: Batch, chunk: Chunk) -> None:
        failed_in_others = chunk.complete_batch(batch)
        if failed_in_others:
            self.runtime.stats.add(Usage(), failed=failed_in_others)
        if any(first.is_complete for first in self.chunks[:1]):
            self.wake()

    def count_cancelled(self, batch: Batch, outcome: BatchOutcome) -> None:
        """Count the cost of a batch that is cancelled."""
        if outcome.requests:
            self._count_outcome(batch.chunk, outcome)

    def _count_outcome(self, chunk: Chunk, outcome: BatchOutcome, *, texts: int = 0, failed: int = 0) -> None:
        tokens = outcome.total_tokens
        cost = None if tokens is None else self.config.cost_of(tokens)
        usage = Usage(total_tokens=tokens, requests=outcome.requests, retries=outcome.retries, cost=cost)
        self._count(chunk, usage, texts=texts, failed=failed, rate_errors=outcome.rate_errors, seconds=outcome.seconds)

    def _count(self, chunk: Chunk, usage: Usage, *, texts: int, failed: int = 0, **responses: Any) -> None:
        with self._usage_lock:
            chunk.usage += usage
            self._usage += usage
            self._failed += failed
            ended = self._ended
        self.runtime.stats.add(usage, texts=texts, failed=failed, **responses)
        if ended:  # Ctrl-C has ended the call, and the response came later
            self.runtime.usage_hook.report_soon(usage)
        self._advance(texts)

    def _advance(self, texts: int) -> None:
        if self._bar is not None and texts:
            self._bar.done(texts)
            if not self._bar.drawing:
                self._bar.drawing = True
                io_thread().spawn(partial(_draw, self._bar))

    def fail_rest(self) -> None:
        """Fail the texts that have no outcome: the call cannot go on, and no batch is in progress."""
        if self.context.state.fatal_error is not None:
            for chunk in tuple(self.chunks):
                chunk.fail_rest(self.context.state.fatal_error)
            self.wake()

    def count_workers(self, change: int) -> None:
        """Count a worker that started (1) or ended (-1)."""
        self.runtime.workers += change

    # ── `on_usage`: each Usage once, a chunk's when it is handed out, the rest when the call ends ────

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        usage = self._end(error)
        if usage is not None:
            self.runtime.usage_hook.report(usage)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        usage = self._end(error)
        if usage is not None and (error is None or isinstance(error, Exception)):
            await self.runtime.usage_hook.areport(usage)
        elif usage is not None:  # a cancelled task is not held up
            self.runtime.usage_hook.report_soon(usage)

    def _end(self, error: BaseException | None) -> Usage | None:
        """Close the progress bar, and end the span. Returns: the usage of chunks that are not handed out, if any."""
        if self._own_bar is not None:
            self._own_bar.close()
        with self._usage_lock:
            self._ended = True
            unreported = [chunk.usage for chunk in self.chunks if chunk.has_begun]
            usage = self._usage
        seconds = time.monotonic() - self._started
        self._span.end(usage, None if isinstance(error, GeneratorExit) else error, seconds)
        log_call(self.config, self._texts, usage, self._failed, seconds)
        return sum(unreported, Usage()) if unreported else None


async def _draw(bar: Progress) -> None:
    """Draw a progress bar in a thread: a terminal that is stopped must not stop the I/O thread."""
    while not bar.is_drawn:
        await in_thread(bar.draw)
        await asyncio.sleep(_DRAW_INTERVAL)
    bar.drawing = False


def _empty_text_error(
    rejected: Sequence[int], count: int, config: RequestConfig, drop_empty: str | None = None
) -> InvalidRequestError:
    """Error of texts that the API rejects because they are empty: their indices among `count` texts."""
    kind = "empty or blank" if config.provider.refuses == "blank" else "empty"
    if count == 1:
        message = f"The text is {kind}, and the API rejects such texts: leave it out. It was not sent."
    else:
        more = len(rejected) - _MAX_LISTED
        listed = ", ".join(map(str, rejected[:_MAX_LISTED])) + (f" and {more} more" if more > 0 else "")
        message = (
            f"{len(rejected)} of {count} texts are {kind}, and the API rejects such texts. Nothing was sent. "
            f"Positions, counted from 0: {listed}. To leave them out: {drop_empty or _DROP_EMPTY}"
        )
    return InvalidRequestError(message, indices=rejected)


def estimate_call(texts: Iterable[str], role: Role, runtime: Runtime) -> Estimate:
    """Estimate requests, tokens, cost and time of a call. Nothing is sent, and texts in the cache cost nothing."""

    async def make_context() -> CallContext:
        return runtime.make_context(role)

    config = runtime.config
    runtime.find_account()
    context = io_thread().run(make_context)
    checked, rejected = check_texts(texts, refuses=config.provider.refuses)
    if rejected:
        raise _empty_text_error(rejected, len(checked), config)
    unique = list(dict.fromkeys(checked))
    if runtime.cache is not None:
        cached = set(runtime.cache.get(config.fingerprint(role), unique).positions)
        unique = [text for position, text in enumerate(unique) if position not in cached]
    batches, learned, limits = list(pack_texts(unique, context)), context.learned, context.account_limits
    if learned.billed_ratio is None:  # no bill has shown yet how far the estimate is off
        count = context.count_tokens if context.counts_in_thread else expected_tokens
        tokens = round(sum(map(count, config.format_texts(unique, role))))
    else:
        tokens = round(sum(batch.tokens for batch in batches) * learned.billed_ratio)
    quotas = ((len(batches), limits.requests_per_minute), (tokens, limits.tokens_per_minute))
    seconds = [60.0 * amount / per_minute for amount, per_minute in quotas if per_minute is not None]
    if learned.mean_latency is not None:
        seconds.append(math.ceil(len(batches) / (limits.in_flight or INITIAL_IN_FLIGHT)) * learned.mean_latency)
    return Estimate(
        texts=len(checked),
        requests=0 if config.provider.compute else len(batches),
        tokens=tokens,
        cost=config.cost_of(tokens),
        seconds=max(seconds, default=None),
    )
