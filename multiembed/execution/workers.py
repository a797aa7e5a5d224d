"""Worker pool of one call: tasks of the I/O loop, each of which runs the flow of one batch after another.

A call gets one more worker when none of its workers waits for a permit. So it has no more workers than the rate limiter
admits requests.
"""

from __future__ import annotations

import asyncio
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from multiembed.errors import MultiEmbedError, unexpected
from multiembed.execution.io_thread import in_thread, io_thread, run_in
from multiembed.flow.batch import batch_flow
from multiembed.flow.context import NOT_SENT, BatchOutcome, RunInThread, SendRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

    from multiembed.execution.call import EmbedCall
    from multiembed.execution.chunk import Chunk
    from multiembed.flow.context import Batch, Effect, TransportResult
    from multiembed.ratelimit.limiter import Permit
    from multiembed.transport.types import HttpRequest


_LARGE_BYTES = 20_000
"""Of a response that takes longer to read than the next request takes to send. With 10 x 1,024 numbers (220 KB), 50 in
flight and 50 ms, sending first takes 1.20 instead of 1.34 s for 10,000 texts (2026-11-28)."""

_FIRST_LOOK, _LAST_LOOK = 0.05, 1.0
"""Seconds between looks for vectors that another process embeds: the first wait, and the longest after doublings."""

_INTERRUPTED = "The call was interrupted before this text had a response. Call again."


class WorkerPool:
    """Runs the batch flows of one call as tasks of the running loop."""

    def __init__(self, call: EmbedCall, send: Callable[[HttpRequest], Awaitable[TransportResult]]) -> None:
        self.error: BaseException | None = None
        """The exception that ends the call at once."""
        self.stopped = False
        """Whether no further request may go out. May be set from any thread."""
        self._call = call
        self._send = send
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        """Workers that prepare a request, wait for a permit or handle a response."""
        self._awaiting_others = 0
        """Workers that wait for vectors which other processes embed."""
        self._permits: set[Permit] = set()
        """Those that workers wait for."""
        self._stop_event = asyncio.Event()
        self._count_lock = asyncio.Lock()
        """Held by the worker whose batch the user's token counter measures."""
        self._read_lock = asyncio.Lock()
        """Held by the worker that may read a large response."""
        self._closing = False

    # ── on the I/O loop ──────────────────────────────────────────────────────────────────────────

    async def run(self, start: Callable[[], object]) -> None:
        """Run all batches; see `add`. Afterwards, `check` raises the exception that ended the call."""
        try:
            self.add(start)
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            await self.aclose()

    def add(self, start: Callable[[], object]) -> None:
        """Run more batches, which `start` makes available."""
        try:
            start()
        except Exception as error:  # noqa: BLE001 - the caller raises it
            self._fail(error)
        self.grow()

    def grow(self) -> None:
        """Start one more worker, if there is a batch for it and no other worker waits for a permit."""
        if self.stopped or self._busy or len(self._tasks) - self._awaiting_others >= self._call.max_workers:
            return
        batch = None
        if not self._call.context.counts_in_thread:
            try:
                batch = self._call.next_batch()
            except Exception as error:  # noqa: BLE001 - the caller raises it
                self._fail(error)
            if batch is None:
                return
        self._busy += 1
        self._call.count_workers(1)
        task = asyncio.get_running_loop().create_task(self._work(batch))
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def stop(self) -> None:
        """Send no further request. The responses to those that were sent are still handled."""
        self.stopped = True
        self._end_waits()

    def _end_waits(self) -> None:
        """End the waits for permits and retries, now and later."""
        for permit in list(self._permits):
            permit.cancel()
        self._stop_event.set()

    async def aclose(self) -> None:
        """Cancel all workers and their requests."""
        self._closing = True
        self.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise the exception that ends the call at once, in any thread."""
        if self.error is not None:
            raise self.error

    # ── a worker ─────────────────────────────────────────────────────────────────────────────────

    async def _work(self, batch: Batch | None) -> None:
        try:
            batch = batch or await self._next_batch()
            while batch is not None:
                await self._run_batch(batch)
                batch = await self._next_batch()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self._fail(error)
        finally:
            self._busy -= 1

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._call.count_workers(-1)
        if task.cancelled() and not self._closing:
            self._fail(asyncio.CancelledError("one of the call's tasks was cancelled"))
        self._fail_rest_at_end()

    def _fail_rest_at_end(self) -> None:
        if self.stopped and not self._tasks and self.error is None and self._call.context.state.fatal_error is not None:
            self._call.fail_rest()

    async def _next_batch(self) -> Batch | None:
        if self.stopped:
            return None
        if not self._call.context.counts_in_thread:
            return self._call.next_batch()
        async with self._count_lock:
            return await in_thread(self._call.next_batch)

    async def _run_batch(self, batch: Batch) -> None:
        """Embed a batch, without what other processes that share the cache have embedded, or embed meanwhile."""
        if not self._call.must_claim(batch):
            await self._embed(batch)
            return
        context, delay = self._call.context, _FIRST_LOOK
        missing, others = await self._call.claim(batch)
        while True:
            if missing.texts:
                await self._embed_claimed(missing)
            if not others.texts:
                return
            if self.stopped or context.state.fatal_error is not None or context.is_past_deadline():
                await self._embed(others)  # sends nothing, and gives the texts their error
                return
            self._awaiting_others += 1
            try:
                with self._yield_turn():
                    await self._pause(min(delay, max(0.0, context.time_left())))
                    missing, others = await self._call.claim(others)
            finally:
                self._awaiting_others -= 1
            delay = min(2.0 * delay, _LAST_LOOK)

    async def _embed_claimed(self, batch: Batch) -> None:
        has_all = False
        try:
            has_all = await self._embed(batch)
        finally:
            if not has_all:
                await self._call.release(batch)

    async def _embed(self, batch: Batch) -> bool:
        """Run the flow of a batch. An exception in it does not end other batches: they are paid for.

        Returns: whether all texts have their vectors.
        """
        context, outcome = self._call.context, BatchOutcome()
        try:
            await self._run_flow(batch_flow(batch, context, outcome))
        except asyncio.CancelledError:
            self._call.count_cancelled(batch, outcome)
            raise
        except MultiEmbedError as error:  # raised instead of returned: nothing can be sent
            self._fail(error)
            outcome.fail_rest(batch, error)
        except Exception as error:  # noqa: BLE001 - it may be any exception
            outcome.fail_rest(batch, self._to_error(error))
        if context.state.fatal_error is not None:
            self._end_waits()  # of the other batches, which send nothing any more
        elif self.stopped and not outcome.requests:
            return False  # nothing was sent
        outcome.fail_rest(batch, context.state.fatal_error or MultiEmbedError(_INTERRUPTED))
        with self._yield_turn():
            await self._call.complete_batch(batch, outcome)
        return not outcome.failures

    async def _run_flow(self, flow: Generator[Effect, Any, BatchOutcome]) -> None:
        """Carry out the effects of a flow until it ends, or the pool is stopped."""
        with closing(flow), suppress(StopIteration):
            effect = next(flow)
            while not self.stopped:
                if isinstance(effect, SendRequest):
                    self._permits.add(effect.permit)
                    async with effect.permit as admitted:
                        self._permits.discard(effect.permit)
                        response = await self._request(effect) if admitted else NOT_SENT
                        try:
                            effect = flow.send(response)
                        finally:
                            if _is_large(response):
                                self._read_lock.release()
                elif isinstance(effect, RunInThread):
                    try:
                        result = await in_thread(effect.function)
                    except Exception as error:  # noqa: BLE001 - the flow handles it
                        effect = flow.throw(error)
                    else:
                        effect = flow.send(result)
                else:
                    await self._sleep(effect.seconds)
                    effect = next(flow)

    async def _request(self, effect: SendRequest) -> TransportResult:
        """Send a request. After a large response, the worker holds the lock to read it, and requests go out first."""
        if self.stopped or self._call.context.state.fatal_error is not None:  # while it waited for the permit
            return NOT_SENT
        with self._yield_turn():
            response = await self._send(effect.request)
            if _is_large(response):
                effect.permit.end_request()
                await self._read_lock.acquire()
                try:
                    # Until no worker is about to send; those that wait for a permit are not.
                    while self._busy > sum(not permit.is_decided for permit in self._permits):  # noqa: ASYNC110
                        await asyncio.sleep(0)
                except BaseException:
                    self._read_lock.release()
                    raise
        return response

    async def _sleep(self, seconds: float) -> None:
        if seconds <= 0.0:
            await asyncio.sleep(0)
            return
        with self._yield_turn():
            await self._pause(seconds)

    async def _pause(self, seconds: float) -> None:
        """Wait some seconds, or until the pool is stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop_event.wait()

    @contextmanager
    def _yield_turn(self) -> Iterator[None]:
        """Let another worker start while this one waits for anything but a permit."""
        self._busy -= 1
        self.grow()
        try:
            yield
        finally:
            self._busy += 1

    # ── errors ───────────────────────────────────────────────────────────────────────────────────

    def _fail(self, error: BaseException) -> None:
        """End the call. After an exception, it keeps the results that it has."""
        if isinstance(error, Exception):
            self._call.context.state.fail_call(self._to_error(error))
        else:
            self.error = self.error or error
        self.stop()
        self._fail_rest_at_end()
        self._call.wake()

    def _to_error(self, error: Exception) -> MultiEmbedError:
        if isinstance(error, MultiEmbedError):
            return error
        config = self._call.context.config
        return unexpected(error, provider=config.provider.id, model=config.model.name)


def make_pool(call: EmbedCall, loop: asyncio.AbstractEventLoop | None) -> WorkerPool:
    """Make the worker pool of a call; `loop` is the async caller's."""
    return WorkerPool(call, partial(call.runtime.send, loop=loop))


def run_chunk(call: EmbedCall, chunk: Chunk) -> None:
    """Send all texts of a chunk, and wait for the responses.

    Ctrl-C reaches the caller at once. Then nothing more is sent; responses to what was sent still count.
    """
    pool, io = make_pool(call, None), io_thread()

    def stop() -> None:
        pool.stopped = True  # at once: Ctrl-C may come a second time
        io.post(pool.stop)

    io.run(partial(pool.run, partial(call.add_texts, chunk)), on_interrupt=stop)
    pool.check()


async def arun_chunk(call: EmbedCall, chunk: Chunk, loop: asyncio.AbstractEventLoop) -> None:
    """As `run_chunk`, without blocking the event loop. A cancelled call cancels its requests."""
    pool = make_pool(call, loop)
    await run_in(io_thread().loop, partial(pool.run, partial(call.add_texts, chunk)))
    pool.check()


def _is_large(response: TransportResult) -> bool:
    """Whether requests go out before it is read. Not if it failed: its report may have to stop them."""
    return response.status == 200 and len(response.body) >= _LARGE_BYTES
