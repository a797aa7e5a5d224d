"""A stream of any length in blocks, in order and in constant memory: read ahead, but never far."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from contextlib import aclosing, closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from multiembed.errors import ConfigurationError
from multiembed.execution.chunk import Chunk, result_or_raise
from multiembed.execution.io_thread import Wakeup, caller_loop, in_thread, io_thread, run_in
from multiembed.execution.workers import WorkerPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from multiembed.execution.call import EmbedCall
    from multiembed.types import EmbeddingResult

OnError: TypeAlias = Literal["raise", "keep"]

BLOCK_TEXTS = 1024
"""Texts of one result, at most, unless one request holds more."""
_BLOCK_CHARACTERS = 2_000_000
"""Characters of one result's texts, unless its last text has more."""
_MOST_UNSENT = 2
"""Blocks with texts yet to send, with which nothing more is read."""
_MOST_OPEN = 8
"""Blocks not handed out yet, with which nothing more is read: one slow answer may hold up those behind it."""


class _Reading:
    """What was read of the source: the next block's texts, and why it ended."""

    def __init__(self, per_request: int) -> None:
        self._most = max(1, BLOCK_TEXTS // per_request) * per_request  # so that no request goes half empty
        self._texts: list[str] = []
        self._characters = 0
        self.ended = False
        self._error: Exception | None = None

    def add(self, text: str) -> bool:
        """Take a text; True when there are enough for a block."""
        self._texts.append(text)
        self._characters += len(text) if isinstance(text, str) else 0
        return len(self._texts) >= self._most or self._characters >= _BLOCK_CHARACTERS

    def end(self, error: Exception | None = None) -> None:
        """No more comes, perhaps because of an error, which is raised after all that came before it is handed out."""
        self.ended = True
        self._error = self._error or error

    def prepare(self, call: EmbedCall) -> list[Chunk]:
        """Make blocks of what was read."""
        texts, self._texts, self._characters = self._texts, [], 0
        good = next((place for place, text in enumerate(texts) if not isinstance(text, str)), len(texts))
        blocks = [call.prepare(texts[:good], keep_refused=True)] if good else []
        if good < len(texts):
            try:
                call.prepare(texts[good:])
            except ConfigurationError as error:
                self.end(error)
        return blocks

    async def aprepare(self, call: EmbedCall) -> list[Chunk]:
        """As `prepare`, without blocking the event loop where a cache is asked."""
        return await in_thread(self.prepare, call) if call.uses_cache else self.prepare(call)

    def check(self) -> None:
        """Raise what ended it."""
        if self._error is not None:
            raise self._error


class _Sending:
    """The workers of one stream, as the caller's thread sees them."""

    def __init__(self, call: EmbedCall, loop: asyncio.AbstractEventLoop | None) -> None:
        self._call = call
        self._io = io_thread()
        self._pool = WorkerPool(call, call.sender(loop))

    def check(self) -> None:
        """Raise what ends the stream at once."""
        self._io.check()
        self._pool.check()

    def add(self, blocks: list[Chunk]) -> None:
        """Have blocks sent."""
        for block in blocks:
            self._io.post(self._pool.add, partial(self._call.add_texts, block))

    def wait(self, woken: Wakeup) -> None:
        """Wait a tenth of a second at most."""
        self._io.wait(woken)

    def close(self) -> None:
        """Send nothing more. The answers to what was sent are still counted and kept."""
        self._pool.stopped = True  # at once: Ctrl-C may come a second time
        self._io.post(self._pool.stop)

    async def aclose(self) -> None:
        """Cancel what was sent, too, and wait until it is."""
        self.close()
        try:
            asyncio.get_running_loop()
        except RuntimeError:  # the generator is garbage that its event loop left behind: nothing can be waited for
            return
        if not self._io.is_inherited:
            await run_in(self._io.loop, self._pool.aclose)


def stream(
    make: Callable[[Callable[[], object]], EmbedCall], texts: Iterable[str], on_error: OnError
) -> Iterator[EmbeddingResult]:
    """Results of consecutive texts, in order. The source is read in the caller's thread.

    Args:
        make: makes the call, given what to call when there is something to see to.
        texts: the source.
        on_error: "raise", or "keep" what failed in the results' failures.
    """
    io_thread().check_caller()
    woken = Wakeup()
    source = iter(texts)
    with make(woken.set) as call, closing(_Sending(call, None)) as sending:
        reading = _Reading(call.config.limits.max_items)
        while (turn := _turn(call, reading)) != "end":
            sending.check()
            if isinstance(turn, Chunk):
                call.report(turn)
                yield _result(turn, call, on_error)
            elif turn == "read":
                _read(source, reading)
                sending.add(reading.prepare(call))
            else:
                sending.wait(woken)
        reading.check()


async def astream(
    make: Callable[[Callable[[], object]], EmbedCall], texts: Iterable[str] | AsyncIterable[str], on_error: OnError
) -> AsyncIterator[EmbeddingResult]:
    """As `stream`, in an event loop; the source may be asynchronous, too."""
    woken, loop = asyncio.Event(), caller_loop()
    source = aiter(texts) if isinstance(texts, AsyncIterable) else iter(texts)

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    async with make(wake) as call, aclosing(_Sending(call, loop)) as sending:
        reading = _Reading(call.config.limits.max_items)
        while (turn := _turn(call, reading)) != "end":
            sending.check()
            if isinstance(turn, Chunk):
                await call.areport(turn)
                yield _result(turn, call, on_error)
            elif turn == "read":
                await _aread(source, reading)
                sending.add(await reading.aprepare(call))
            else:
                await woken.wait()
                woken.clear()
        reading.check()


def _turn(call: EmbedCall, reading: _Reading) -> Chunk | Literal["read", "wait", "end"]:
    """What is to be done next: hand out a block, read on, wait for answers, or nothing any more."""
    block = call.pop_complete()
    if block is not None:
        return block
    far = call.unsent >= _MOST_UNSENT or call.opened >= _MOST_OPEN
    if not reading.ended and (not far or not call.opened):
        return "read"
    return "wait" if call.opened else "end"


def _result(block: Chunk, call: EmbedCall, on_error: OnError) -> EmbeddingResult:
    return block.result() if on_error == "keep" and not call.is_over else result_or_raise(block)


def _read(source: Iterator[str], reading: _Reading) -> None:
    try:
        for text in source:
            if reading.add(text):
                return
    except Exception as error:  # noqa: BLE001 - raised again once what was read before it is handed out
        reading.end(error)
    reading.end()


async def _aread(source: Iterator[str] | AsyncIterator[str], reading: _Reading) -> None:
    if not isinstance(source, AsyncIterable):
        _read(source, reading)
        await asyncio.sleep(0)  # lets other tasks of the loop run
        return
    try:
        async for text in source:
            if reading.add(text):
                return
    except Exception as error:  # noqa: BLE001 - as above
        reading.end(error)
    reading.end()
