"""One call: what its batches share, the blocks of texts that are open in it, and what it has cost."""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections import deque
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from multiembed.batching.inputs import check_texts
from multiembed.batching.packing import pack_batches
from multiembed.batching.token_count import checked_counter, estimate_tokens
from multiembed.cache.base import CacheEntry
from multiembed.errors import InvalidRequestError
from multiembed.execution.chunk import Chunk, measure, usage_of_outcome
from multiembed.execution.io_thread import in_thread, io_thread, run_in
from multiembed.execution.workers import WorkerPool
from multiembed.flow.context import MAX_RETRIES, PATIENCE, CallContext
from multiembed.observability.log import log_call
from multiembed.observability.progress import Progress, shared
from multiembed.observability.tracing import Span
from multiembed.ratelimit.pacer import FIRST_IN_FLIGHT, MOST_IN_FLIGHT
from multiembed.testing import apply_test_mode
from multiembed.types import Estimate, Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType

    from multiembed.cache.checked_cache import CheckedCache
    from multiembed.config.options import EmbeddingOptions
    from multiembed.config.request_config import RequestConfig
    from multiembed.execution.runtime import Runtime
    from multiembed.flow.context import Batch, BatchOutcome, LearnedLimits, TransportResult
    from multiembed.ratelimit.pacer import AccountLimits
    from multiembed.transport.types import HttpRequest
    from multiembed.types import Limits, Role


DROP_EMPTY = "texts = [text for text in texts if text.strip()]"
_DRAW_INTERVAL = 0.1
"""Seconds between two looks at whether a progress bar has to be drawn."""
_FEW = 8
"""Requests in flight, below which a call has no more workers than that."""
_SHOWN = 5
"""Positions of empty texts that an error lists."""


class EmbedCall:
    """What one call of `embed`, `stream` or an async twin is made of, but for the sending.

    Texts become blocks, and blocks become results, in the caller's thread. In between they belong to the I/O thread.

    Args:
        role: of all its texts.
        target: where they go.
        options: the embedder's.
        runtime: the embedder's, in this process.
        wake: called, on the I/O thread, when a block is whole, and when one has no more texts to send.
        drop_empty: how the caller can leave empty texts out, in one line of Python.
    """

    def __init__(
        self,
        role: Role,
        *,
        target: RequestConfig,
        options: EmbeddingOptions,
        runtime: Runtime,
        wake: Callable[[], object] = bool,
        drop_empty: str = DROP_EMPTY,
    ) -> None:
        self.config = target
        self._role = role
        self._options = options
        self._drop_empty = drop_empty
        self._runtime = runtime
        runtime.find_account()
        self._wake = wake
        self._space = target.fingerprint(role) if runtime.has_cache else ""
        self._texts = 0
        self._span = Span(target, role)
        self._began = time.monotonic()
        self._deadline_at = None if options.deadline is None else self._began + options.deadline
        self._own_bar = Progress(target.name) if options.show_progress and shared() is None else None
        self._bar = self._own_bar or shared()
        self.opened = 0
        """Blocks that are not handed out yet."""
        self._prepared = 0
        # Of the I/O thread:
        self._job: CallContext | None = None
        self._last: Chunk | None = None
        """The last block that was whole; its texts are not paid for again."""
        self._open: deque[Chunk] = deque()
        """In order; the first is the next one to be handed out."""
        self._sending: deque[Chunk] = deque()
        """Those that have texts yet to send."""
        self._whole: deque[Chunk] = deque()
        """Those that may be handed out."""
        self._taken = 0
        """Blocks that have no more texts to send."""
        # Ctrl-C ends a call while answers still come, and each is to be counted once.
        self._counting = threading.Lock()
        self._ended = False
        self._failed = 0
        self._usage = Usage()

    # ── in the caller's thread ───────────────────────────────────────────────────────────────────

    def prepare(self, texts: Iterable[str], *, keep_refused: bool = False, lists: bool = False) -> Chunk:
        """Make a block of texts, and look them up in the cache.

        Args:
            texts: of the block.
            keep_refused: a text that the API refuses unseen is a failure of that text alone.
            lists: the result is wanted as plain lists.

        Raises:
            ConfigurationError: a text is no text.
            InvalidRequestError: a text is empty and the API refuses such texts.
        """
        checked, refused = check_texts(texts, refuses=self.config.provider.refuses, first=self._texts)
        if refused and not keep_refused:
            raise _empty(refused, len(checked), self.config.provider.refuses, self._drop_empty)
        self._texts += len(checked)
        self.opened += 1
        self._prepared += 1
        cache = self._runtime.cache
        errors = {index: _empty([index], 1, self.config.provider.refuses) for index in refused}
        block = Chunk(checked, self.config, errors, lists=lists)
        if cache is not None:
            self._describe(cache)
            block.add_cached(cache.get(self._space, block.texts))
        if self._bar is not None:
            self._bar.announce(len(block))
        return block

    def _describe(self, cache: CheckedCache) -> None:
        """Tell the cache what the space is, for people."""
        target = self.config
        words = {"model": target.name, "role": self._role, "dimensions": target.expected_dimensions}
        cache.describe(self._space, {**words, "output": target.output, "base_url": target.base_url})

    def pop_complete(self) -> Chunk | None:
        """The next block in order, if it is whole."""
        if not self._whole:
            return None
        self.opened -= 1
        return self._whole.popleft()

    @property
    def unsent(self) -> int:
        """Blocks that have texts yet to send, those on their way to the I/O thread included."""
        return self._prepared - self._taken

    @property
    def uses_cache(self) -> bool:
        """Whether `prepare` may take long, because a cache is asked."""
        return self._runtime.has_cache

    @property
    def is_over(self) -> bool:
        """Whether no more texts can be embedded: the call has failed, or its deadline has passed."""
        late = self._deadline_at is not None and time.monotonic() >= self._deadline_at
        return late or (self._job is not None and self._job.fatal_error is not None)

    def sender(self, loop: asyncio.AbstractEventLoop | None) -> Callable[[HttpRequest], Awaitable[TransportResult]]:
        """What sends one request of the call, on the I/O thread.

        Args:
            loop: of the async caller; None for a sync one.
        """

        async def send(request: HttpRequest) -> TransportResult:
            if loop is not None and loop.is_closed():
                raise asyncio.CancelledError("the caller's event loop was closed in the middle of the call")
            return await self._runtime.send(request, loop)

        return send

    def run(self, block: Chunk) -> None:
        """Send all texts of a block, and wait for the answers.

        Ctrl-C reaches the caller at once. Then nothing more is sent, and the answers to what was sent are still counted
        and kept.
        """
        pool, io = WorkerPool(self, self.sender(None)), io_thread()

        def stop() -> None:
            pool.stopped = True  # at once: Ctrl-C may come a second time
            io.post(pool.stop)

        io.run(partial(pool.run, partial(self.add_texts, block)), on_interrupt=stop)
        pool.check()

    async def arun(self, block: Chunk, loop: asyncio.AbstractEventLoop) -> None:
        """As `run`, without blocking the event loop. A cancelled call is cancelled with all that it sent."""
        pool = WorkerPool(self, self.sender(loop))
        await run_in(io_thread().loop, partial(pool.run, partial(self.add_texts, block)))
        pool.check()

    # ── on the I/O thread: a BatchSource ─────────────────────────────────────────────────────────

    @property
    def job(self) -> CallContext:
        """What all batches share."""
        if self._job is None:
            self._job = self._new_job()
        return self._job

    def _new_job(self) -> CallContext:
        options, runtime = self._options, self._runtime
        return CallContext(
            config=self.config,
            role=self._role,
            learned=runtime.learned,
            limiter=runtime.limiter,
            account_limits=runtime.limiter.effective_limits(runtime.account_limits),
            count_tokens=checked_counter(options.token_counter) if options.token_counter else estimate_tokens,
            max_retries=MAX_RETRIES if options.max_retries is None else options.max_retries,
            outage_patience=apply_test_mode(PATIENCE) if options.max_retries is None else 0.0,
            timeout=options.timeout,
            deadline_at=self._deadline_at,
            clock=time.monotonic,
            wall_time=time.time,
            random=random.random,
            sleep_filter=apply_test_mode,
            asked_retries=options.max_retries or 0,
            event=self._span.event,
            counts_in_thread=self.counts_in_thread,
        )

    def add_texts(self, block: Chunk) -> None:
        """Take a block, whose batches are available from now on."""
        job = self.job
        block.begin(job, effective_limits(self.config.limits, job.learned, job.account_limits, job.clock()))
        for other in ([] if self._last is None else [self._last]) + list(self._open):
            block.follow(other)
        with self._counting:
            self._usage += block.usage
            self._open.append(block)
        self._runtime.stats.add(block.usage, texts=block.known_count, failed=block.refused)
        self._advance(block.known_count)
        if block.has_unsent:  # all texts of a block may be known, or wait for those of another
            self._sending.append(block)
        else:
            self._taken += 1
            self._wake()
        self._hand_out()

    @property
    def max_workers(self) -> int:
        """See BatchSource. As many again may hold answers to read, so that others send meanwhile.

        Not with a cache, of which kill -9 must cost no more than what was in flight; nor where few are in flight: one
        more request would be ready before the answers to these have taught what the server takes.
        """
        in_flight = self.job.account_limits.in_flight or MOST_IN_FLIGHT
        return in_flight if self._runtime.has_cache or in_flight < _FEW else 2 * in_flight

    @property
    def counts_in_thread(self) -> bool:
        """See BatchSource."""
        return self._options.token_counter is not None

    def next_batch(self) -> Batch | None:
        """See BatchSource: texts of the first block that has some left."""
        while self._sending:
            batch = self._sending[0].next_batch()
            if batch is not None:
                return batch
            self._sending.popleft()
            self._taken += 1
            self._wake()
        return None

    async def complete_batch(self, batch: Batch, outcome: BatchOutcome) -> None:
        """See BatchSource: vectors are kept in the cache before the caller gets them."""
        block: Chunk | None = batch.chunk
        if block is None:
            return
        usage = usage_of_outcome(outcome, self.config)
        good = block.add_outcome(outcome)
        writer = self._runtime.cache_writer
        try:
            if writer is not None and good:
                await writer.write([CacheEntry(self._space, texts, found.dense, found.sparse) for texts, found in good])
        finally:
            self._settle(block, batch, outcome, usage)

    def _settle(self, block: Chunk, batch: Batch, outcome: BatchOutcome, usage: Usage) -> None:
        with self._counting:
            failed = block.settle(batch, usage)
            self._usage += usage
            self._failed += block.count_of(outcome.failures)
            ended = self._ended
        self._runtime.stats.add(
            usage,
            texts=block.count_of(batch.positions),
            failed=block.count_of(outcome.failures) + failed,
            rate_errors=outcome.rate_errors,
            seconds=outcome.seconds,
        )
        if ended:  # Ctrl-C has ended the call, and the answer came later
            self._runtime.usage_hook.report_soon(usage)
        self._advance(block.count_of(batch.positions))
        self._hand_out()

    def _advance(self, texts: int) -> None:
        if self._bar is not None:
            self._bar.done(texts)
            if not self._bar.drawing:
                self._bar.drawing = True
                io_thread().spawn(partial(_draw, self._bar))

    def count_cancelled(self, batch: Batch, outcome: BatchOutcome) -> None:
        """See BatchSource."""
        if batch.chunk is None or not outcome.requests:
            return
        usage = usage_of_outcome(outcome, self.config)
        with self._counting:
            batch.chunk.usage += usage
            self._usage += usage
            ended = self._ended
        if ended:
            self._runtime.usage_hook.report_soon(usage)
        self._runtime.stats.add(usage, rate_errors=outcome.rate_errors, seconds=outcome.seconds)

    def fail_rest(self) -> None:
        """See BatchSource."""
        if self.job.fatal_error is not None:
            for block in self._open:
                block.fail_rest(self.job.fatal_error)
            self._hand_out()

    def count_workers(self, change: int) -> None:
        """See BatchSource."""
        self._runtime.workers += change

    def wake(self) -> None:
        """See BatchSource."""
        self._wake()

    def _hand_out(self) -> None:
        """Let the caller have the blocks that are whole, in order."""
        with self._counting:
            found = bool(self._open) and self._open[0].is_complete
            while self._open and self._open[0].is_complete:
                self._last = self._open.popleft()
                self._whole.append(self._last)
        if found:
            self._wake()

    # ── `on_usage`: each Usage once, a block's when the block is handed out, the rest when the call ends ──

    def report(self, block: Chunk) -> None:
        """Report the usage of a block that is handed out."""
        self._runtime.usage_hook.report(block.usage)

    async def areport(self, block: Chunk) -> None:
        """As `report`, without blocking the event loop."""
        await self._runtime.usage_hook.areport(block.usage)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        usage = self._end(error)
        if usage is not None:
            self._runtime.usage_hook.report(usage)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        usage = self._end(error)
        if usage is not None and (error is None or isinstance(error, Exception)):
            await self._runtime.usage_hook.areport(usage)
        elif usage is not None:  # a cancelled task is not held up
            self._runtime.usage_hook.report_soon(usage)

    def _end(self, error: BaseException | None) -> Usage | None:
        """Take the progress bar off the screen, and end the span.

        Returns:
            What the blocks that are not handed out have cost; None if there are none.
        """
        if self._own_bar is not None:
            self._own_bar.close()
        with self._counting:
            self._ended = True
            costs = [block.usage for block in (*self._whole, *self._open)]
            usage = self._usage
        seconds = time.monotonic() - self._began
        self._span.end(usage, None if isinstance(error, GeneratorExit) else error, seconds)
        log_call(self.config, self._texts, usage, self._failed, seconds)
        return sum(costs, Usage()) if costs else None


async def _draw(bar: Progress) -> None:
    """Draw a bar in a thread now and then: a terminal that is stopped must not stop the I/O thread."""
    while not bar.is_drawn:
        await in_thread(bar.draw)
        await asyncio.sleep(_DRAW_INTERVAL)
    bar.drawing = False


def effective_limits(limits: Limits, lessons: LearnedLimits, ceilings: AccountLimits, now: float) -> Limits:
    """The model's limits, with what the server has taught of them, in the measure of our estimate of tokens."""
    cap = lessons.max_items_at(now)
    most = min(limits.max_tokens_per_request or math.inf, ceilings.max_tokens_per_request)
    return replace(
        limits,
        max_items=limits.max_items if cap is None else min(cap, limits.max_items),
        max_tokens_per_request=None if most == math.inf else max(1, int(most / lessons.max_billed_ratio)),
    )


def estimate_call(
    texts: Iterable[str],
    role: Role,
    *,
    target: RequestConfig,
    count: Callable[[str], int],
    expect: Callable[[str], float],
    runtime: Runtime,
    ceilings: AccountLimits,
) -> Estimate:
    """What a call would take, told without sending anything. What the cache knows costs nothing.

    Raises:
        ConfigurationError: a text is no text.
        InvalidRequestError: a text is empty and the API refuses such texts.
    """
    checked, refused = check_texts(texts, refuses=target.provider.refuses)
    if refused:
        raise _empty(refused, len(checked), target.provider.refuses)
    lessons = runtime.learned
    unique = list(dict.fromkeys(checked))
    if runtime.cache is not None:
        known = set(runtime.cache.get(target.fingerprint(role), unique).positions)
        unique = [text for place, text in enumerate(unique) if place not in known]
    measured = list(measure(unique, role, target, count))
    requests = sum(
        1 for _ in pack_batches(measured, effective_limits(target.limits, lessons, ceilings, time.monotonic()))
    )
    if lessons.billed_ratio is None:  # no bill has come yet that tells how far the estimate is off
        tokens = round(sum(map(expect, target.format_texts(unique, role))))
    else:
        tokens = round(sum(its_tokens for its_tokens, _ in measured) * lessons.billed_ratio)
    price = target.model.price_cny_per_mtok
    return Estimate(
        texts=len(checked),
        requests=0 if target.provider.compute else requests,
        tokens=tokens,
        cost=None if price is None else tokens * price / 1e6,
        seconds=_seconds(requests, tokens, lessons, ceilings),
    )


def _seconds(requests: int, tokens: int, lessons: LearnedLimits, ceilings: AccountLimits) -> float | None:
    """How long it takes, by the latency seen and the ceilings told; None where neither is known."""
    told = [
        60.0 * amount / most
        for amount, most in ((requests, ceilings.requests_per_minute), (tokens, ceilings.tokens_per_minute))
        if most is not None
    ]
    if lessons.mean_latency is not None:
        told.append(math.ceil(requests / (ceilings.in_flight or FIRST_IN_FLIGHT)) * lessons.mean_latency)
    return max(told, default=None)


def _empty(
    refused: list[int], texts: int, refuses: Literal["empty", "blank"], drop_empty: str = DROP_EMPTY
) -> InvalidRequestError:
    kind = "empty or blank" if refuses == "blank" else "empty"
    if texts == 1:
        return InvalidRequestError(
            f"The text is {kind}, and the API refuses such texts: leave it out. It was not sent.", indices=refused
        )
    shown = ", ".join(map(str, refused[:_SHOWN])) + (f" and {len(refused) - _SHOWN} more" if refused[_SHOWN:] else "")
    return InvalidRequestError(
        f"{len(refused)} of {texts} texts are {kind}, and the API refuses such texts. Nothing was sent. Positions, "
        f"counted from 0: {shown}. To leave them out: {drop_empty}",
        indices=refused,
    )
