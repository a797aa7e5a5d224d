"""One call: what its batches share, the blocks of texts that are open in it, and what it has cost."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Self

from multiembed.block import Block, sizes, usage_of
from multiembed.drive import Work
from multiembed.errors import InvalidRequestError
from multiembed.job import MAX_RETRIES, PATIENCE, Job
from multiembed.log import log_call
from multiembed.pace import FIRST_IN_FLIGHT, MOST_IN_FLIGHT
from multiembed.plan import pack
from multiembed.progress import Progress, shared
from multiembed.records import Estimate, Usage
from multiembed.texts import check_texts
from multiembed.tokens import estimate_tokens, told_by
from multiembed.trace import Span
from multiembed.waits import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from multiembed.cache.contract import VectorCache
    from multiembed.job import Batch, Lessons, Outcome
    from multiembed.options import EmbeddingOptions
    from multiembed.pace import Ceilings
    from multiembed.records import Limits, Role
    from multiembed.runtime import Runtime
    from multiembed.target import Target


DROP_EMPTY = "texts = [text for text in texts if text.strip()]"
_SHOWN = 5
"""Positions of empty texts that an error lists."""


class Call:
    """What one call of `embed`, `stream` or an async twin is made of, but for the sending.

    Args:
        role: of all its texts.
        target: where they go.
        options: the embedder's.
        runtime: the embedder's, in this process.
        wake: called when a block is whole, and when one has no more texts to send.
        drop_empty: how the caller can leave empty texts out, in one line of Python.
    """

    def __init__(
        self,
        role: Role,
        *,
        target: Target,
        options: EmbeddingOptions,
        runtime: Runtime,
        wake: Callable[[], object] = bool,
        drop_empty: str = DROP_EMPTY,
    ) -> None:
        self._target = target
        self._drop_empty = drop_empty
        self._ended = False
        self._runtime = runtime
        self._wake = wake
        self._space = target.fingerprint(role) if runtime.caches else ""
        self._lock = threading.Lock()
        self._last: Block | None = None
        """The block that was handed out last; its texts are not paid for again."""
        self._open: deque[Block] = deque()
        """In order; the first is the next one to be handed out."""
        self._sending: deque[Block] = deque()
        """Those that have texts yet to send."""
        self._texts = 0
        self._usage = Usage()
        self._span = Span(target, role)
        self._began = time.monotonic()
        self._failed = 0
        self._own_bar = Progress(target.name) if options.show_progress and shared() is None else None
        self._bar = self._own_bar or shared()
        self.job = Job(
            target=target,
            role=role,
            lessons=runtime.lessons,
            gate=runtime.gate,
            ceilings=runtime.gate.ceilings(runtime.ceilings),
            count=told_by(options.token_counter) if options.token_counter else estimate_tokens,
            max_retries=MAX_RETRIES if options.max_retries is None else options.max_retries,
            patience=waiting(PATIENCE) if options.max_retries is None else 0.0,
            timeout=options.timeout,
            deadline_at=None if options.deadline is None else time.monotonic() + options.deadline,
            clock=time.monotonic,
            wall=time.time,
            chance=random.random,
            waits=waiting,
            asked_retries=options.max_retries or 0,
            event=self._span.event,
        )

    def open(self, texts: Iterable[str], *, keep_refused: bool = False, lists: bool = False) -> Block:
        """Take texts in, which become one block.

        Args:
            texts: of the block.
            keep_refused: a text that the API refuses unseen is a failure of that text alone.
            lists: the result is wanted as plain lists.

        Raises:
            ConfigurationError: a text is no text.
            InvalidRequestError: a text is empty and the API refuses such texts.
        """
        checked, refused = check_texts(texts, refuses=self._target.provider.refuses, first=self._texts)
        if refused and not keep_refused:
            raise _empty(refused, len(checked), self._target.provider.refuses, self._drop_empty)
        self._texts += len(checked)
        cache = self._runtime.cache
        limits = learned(self._target.limits, self.job.lessons, self.job.ceilings, self.job.clock())
        errors = {index: _empty([index], 1, self._target.provider.refuses) for index in refused}
        block = Block(checked, self.job, limits, errors, lists=lists)
        if cache is not None:
            self._describe(cache)
            block.fill(cache.get(self._space, block.texts))
        with self._lock:
            for other in ([] if self._last is None else [self._last]) + list(self._open):
                block.follow(other)
            self._usage += block.usage
            self._open.append(block)
            if block.has_unsent:  # all texts of a block may be known, or wait for those of another
                self._sending.append(block)
        self._runtime.tally.add(block.usage, texts=block.ahead, failed=len(refused))
        if self._bar is not None:
            self._bar.announce(len(block))
            self._bar.done(block.ahead)
        return block

    def end(self) -> None:
        """Give all texts that wait for an answer the error that ended the call."""
        error = self.job.fatal
        if error is None:
            return
        with self._lock:
            for block in self._open:
                block.fail_rest(error)
        self._wake()

    def _describe(self, cache: VectorCache) -> None:
        """Tell the cache what the space is, for people."""
        describe = getattr(cache, "describe", None)
        if describe is not None:
            target = self._target
            words = {"model": target.name, "role": self.job.role, "dimensions": target.expected_dimensions}
            describe(self._space, {**words, "output": target.output, "base_url": target.base_url})

    def work(self) -> Work:
        """What a crew is to do."""
        return Work(
            take=self._batch,
            job=self.job,
            workers=self.job.ceilings.in_flight or MOST_IN_FLIGHT,
            done=self._take,
            blocks=self.blocks,
            briefly=getattr(self._runtime.cache, "local", False),
            wake=self._wake,
            end=self.end,
            cancelled=self._count,
        )

    @property
    def blocks(self) -> bool:
        """Whether opening blocks and taking outcomes in may take long, because a cache is asked."""
        return self._runtime.caches

    def _batch(self) -> Batch | None:
        """The next texts to send, of the first block that has some; None when there are none now."""
        while self._sending:
            batch = self._sending[0].next_batch()
            if batch is not None:
                return batch
            self._sending.popleft()
            self._wake()
        return None

    def _take(self, batch: Batch, outcome: Outcome) -> None:
        """Put one batch's outcome where it belongs."""
        block, cache = batch.block, self._runtime.cache
        if block is None:
            return
        usage = usage_of(outcome, self._target)
        good = block.take(outcome)
        try:
            if cache is not None:
                for texts, believed in good:
                    cache.put(self._space, texts, believed.dense, believed.sparse)
        finally:
            with self._lock:
                others, failed = block.settle(batch, usage)
                self._usage += usage
                self._failed += block.times(outcome.failures)
                ended = self._ended
                # Within the lock, so that a stream's consumer who gets the block finds it counted.
                self._runtime.tally.add(
                    usage,
                    texts=block.times(batch.places),
                    failed=block.times(outcome.failures) + failed,
                    rate_errors=outcome.rate_errors,
                    seconds=outcome.seconds,
                )
            if ended:  # Ctrl-C has ended the call, and the answer came later
                self._runtime.usage_hook.report_soon(usage)
            if block.whole or others:
                self._wake()
        if self._bar is not None:
            with self._lock:
                self._bar.done(block.times(batch.places))

    def _count(self, batch: Batch, outcome: Outcome) -> None:
        """Count what a batch has cost whose results nobody takes any more."""
        if batch.block is None or not outcome.requests:
            return
        usage = usage_of(outcome, self._target)
        with self._lock:
            batch.block.usage += usage
            self._usage += usage
        self._runtime.tally.add(usage, rate_errors=outcome.rate_errors, seconds=outcome.seconds)

    def first(self) -> Block | None:
        """The first open block, if it is whole, which is then no longer open."""
        with self._lock:
            if not self._open or not self._open[0].whole:
                return None
            self._last = self._open.popleft()
            return self._last

    @property
    def opened(self) -> int:
        """Blocks that are open."""
        return len(self._open)

    @property
    def unsent(self) -> int:
        """Blocks that have texts yet to send."""
        return len(self._sending)

    # ── `on_usage`: each Usage once, a block's when the block is handed out, the rest when the call ends ──

    def report(self, block: Block) -> None:
        """Report the usage of a block that is handed out."""
        self._runtime.usage_hook.report(block.usage)

    async def areport(self, block: Block) -> None:
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
            What the blocks that are still open have cost; None if there are none.
        """
        if self._own_bar is not None:
            self._own_bar.close()
        with self._lock:
            self._ended = True
            costs = [block.usage for block in self._open]
        seconds = self.job.clock() - self._began
        self._span.end(self._usage, None if isinstance(error, GeneratorExit) else error, seconds)
        log_call(self._target, self._texts, self._usage, self._failed, seconds)
        return sum(costs, Usage()) if costs else None


def learned(limits: Limits, lessons: Lessons, ceilings: Ceilings, now: float) -> Limits:
    """The model's limits, with what the server has taught of them, in the measure of our estimate of tokens."""
    cap = lessons.max_items_at(now)
    most = min(limits.max_tokens_per_request or math.inf, ceilings.most_tokens)
    return replace(
        limits,
        max_items=limits.max_items if cap is None else min(cap, limits.max_items),
        max_tokens_per_request=None if most == math.inf else max(1, int(most / lessons.most_per_estimate)),
    )


def foresee(
    texts: Iterable[str],
    role: Role,
    *,
    target: Target,
    count: Callable[[str], int],
    expect: Callable[[str], float],
    runtime: Runtime,
) -> Estimate:
    """What a call would take, told without sending anything. What the cache knows costs nothing.

    Raises:
        ConfigurationError: a text is no text.
        InvalidRequestError: a text is empty and the API refuses such texts.
    """
    checked, refused = check_texts(texts, refuses=target.provider.refuses)
    if refused:
        raise _empty(refused, len(checked), target.provider.refuses)
    lessons, ceilings = runtime.lessons, runtime.gate.ceilings(runtime.ceilings)
    unique = list(dict.fromkeys(checked))
    if runtime.cache is not None:
        known = set(runtime.cache.get(target.fingerprint(role), unique).positions)
        unique = [text for place, text in enumerate(unique) if place not in known]
    measured = list(sizes(unique, role, target, count))
    requests = sum(1 for _ in pack(measured, learned(target.limits, lessons, ceilings, time.monotonic())))
    if lessons.per_estimate is None:  # no bill has come yet that tells how far the estimate is off
        tokens = round(sum(map(expect, target.prepare(unique, role))))
    else:
        tokens = round(sum(its_tokens for its_tokens, _ in measured) * lessons.per_estimate)
    price = target.facts.price_cny_per_mtok
    return Estimate(
        texts=len(checked),
        requests=0 if target.provider.compute else requests,
        tokens=tokens,
        cost=None if price is None else tokens * price / 1e6,
        seconds=_seconds(requests, tokens, lessons, ceilings),
    )


def _seconds(requests: int, tokens: int, lessons: Lessons, ceilings: Ceilings) -> float | None:
    """How long it takes, by the latency seen and the ceilings told; None where neither is known."""
    told = [
        60.0 * amount / most
        for amount, most in ((requests, ceilings.requests_per_minute), (tokens, ceilings.tokens_per_minute))
        if most is not None
    ]
    if lessons.seconds is not None:
        told.append(math.ceil(requests / (ceilings.in_flight or FIRST_IN_FLIGHT)) * lessons.seconds)
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
