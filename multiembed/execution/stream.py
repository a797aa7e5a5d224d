"""Streams: any number of texts in chunks, in order and in constant memory. The read-ahead is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import aclosing, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from multiembed.errors import ConfigurationError
from multiembed.execution.chunk import Chunk, result_or_raise
from multiembed.execution.io_thread import Wakeup, caller_loop, in_thread, io_thread, run_in
from multiembed.execution.workers import make_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from multiembed.execution.call import EmbedCall
    from multiembed.types import EmbeddingResult

OnError: TypeAlias = Literal["raise", "keep"]

CHUNK_TEXTS = 1024
"""Maximum texts of one result, unless one request holds more."""
_CHUNK_CHARACTERS = 2_000_000
"""Maximum characters of one result's texts, unless its last text has more."""
_MAX_UNSENT = 2
"""Chunks with texts yet to send, at which reading stops."""
_MAX_OPEN = 8
"""Chunks that are not handed out, at which reading stops: one slow response may delay those after it."""


class _Stream:
    """State of one stream: the texts that were read, and the workers that send them."""

    def __init__(self, call: EmbedCall, loop: asyncio.AbstractEventLoop | None, wake: Callable[[], object]) -> None:
        self.io = io_thread()
        call.wake = wake
        self._call = call
        self._pool = make_pool(call, loop)
        per_request = call.config.limits.max_items
        self._max_texts = max(1, CHUNK_TEXTS // per_request) * per_request  # so that all requests are full
        self._texts: list[str] = []
        self._characters = 0
        self._ended = False
        self._error: Exception | None = None

    def next_step(self) -> Chunk | Literal["read", "wait", "end"]:
        """Decide what the caller does next: hand out a chunk, read, wait for responses, or end.

        Raises:
            MultiEmbedError: the stream cannot go on.
            Exception: of the source, after the results of all texts before it.
        """
        self.io.check()
        self._pool.check()
        chunk = self._call.pop_complete()
        if chunk is not None:
            return chunk
        chunks = self._call.chunks
        unsent = sum(chunk.has_unsent for chunk in chunks)
        if not self._ended and (not chunks or (unsent < _MAX_UNSENT and len(chunks) < _MAX_OPEN)):
            return "read"
        if not chunks and self._error is not None:
            raise self._error
        return "wait" if chunks else "end"

    def read(self, source: Iterator[str]) -> None:
        """Read the texts of a chunk. An error is raised after the results of all texts before it."""
        try:
            for text in source:
                if self._add(text):
                    return
            self._ended = True
        except Exception as error:  # noqa: BLE001 - raised again
            self._end(error)

    async def aread(self, source: Iterator[str] | AsyncIterator[str]) -> None:
        """As `read`."""
        if not isinstance(source, AsyncIterable):
            self.read(source)
            await asyncio.sleep(0)  # lets other tasks of the loop run
            return
        try:
            async for text in source:
                if self._add(text):
                    return
            self._ended = True
        except Exception as error:  # noqa: BLE001 - raised again
            self._end(error)

    def _add(self, text: str) -> bool:
        """Add a text. Returns: whether there are enough for a chunk."""
        self._texts.append(text)
        self._characters += len(text) if isinstance(text, str) else 0
        return len(self._texts) >= self._max_texts or self._characters >= _CHUNK_CHARACTERS

    def _end(self, error: Exception) -> None:
        self._ended = True
        self._error = self._error or error

    def send(self) -> None:
        """Send the texts that were read."""
        texts, self._texts, self._characters = self._texts, [], 0
        valid = next((index for index, text in enumerate(texts) if not isinstance(text, str)), len(texts))
        if valid:
            chunk = self._call.prepare(texts[:valid], keep_rejected=True)
            self.io.post(self._pool.add, partial(self._call.add_texts, chunk))
        if valid < len(texts):
            try:
                self._call.prepare(texts[valid:])
            except ConfigurationError as error:
                self._end(error)

    def result(self, chunk: Chunk, on_error: OnError) -> EmbeddingResult:
        """The result of a chunk, or its error."""
        context = self._call.context
        is_over = context.state.fatal_error is not None or context.is_past_deadline()
        return chunk.result() if on_error == "keep" and not is_over else result_or_raise(chunk)

    def close(self) -> None:
        """Send nothing more. The responses to what was sent are still counted and kept."""
        self._pool.stopped = True  # at once: Ctrl-C may come a second time
        self.io.post(self._pool.stop)

    async def aclose(self) -> None:
        """Cancel all requests, and wait until they are cancelled."""
        self.close()
        # Without a loop, the generator is garbage that its loop left: nothing can be waited for.
        if asyncio._get_running_loop() is not None and not self.io.is_inherited:
            await run_in(self.io.loop, self._pool.aclose)


def stream(make: Callable[[], EmbedCall], texts: Iterable[str], on_error: OnError) -> Iterator[EmbeddingResult]:
    """Yield results of consecutive texts, in order. The source is read in the caller's thread."""
    io_thread().check_caller()
    woken = Wakeup()
    source = iter(texts)
    with make() as call, closing(_Stream(call, None, woken.set)) as state:
        while (step := state.next_step()) != "end":
            if isinstance(step, Chunk):
                call.runtime.usage_hook.report(step.usage)
                yield state.result(step, on_error)
            elif step == "read":
                state.read(source)
                state.send()
            else:
                state.io.wait(woken)


async def astream(
    make: Callable[[], EmbedCall], texts: Iterable[str] | AsyncIterable[str], on_error: OnError
) -> AsyncIterator[EmbeddingResult]:
    """As `stream`, in an event loop; the source may be asynchronous, too."""
    woken, loop = asyncio.Event(), caller_loop()
    source = aiter(texts) if isinstance(texts, AsyncIterable) else iter(texts)

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    async with make() as call, aclosing(_Stream(call, loop, wake)) as state:
        while (step := state.next_step()) != "end":
            if isinstance(step, Chunk):
                await call.runtime.usage_hook.areport(step.usage)
                yield state.result(step, on_error)
            elif step == "read":
                await state.aread(source)
                await in_thread(state.send) if call.runtime.has_cache else state.send()
            else:
                await woken.wait()
                woken.clear()
