"""A stream of any length in blocks, in order and in constant memory: read ahead, but never far."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterable
from contextlib import aclosing, closing
from typing import TYPE_CHECKING, Literal, TypeAlias

from multiembed.block import Block, whole
from multiembed.drive import Crew, TaskCrew, aside
from multiembed.errors import ConfigurationError
from multiembed.reactor.tasks import running_loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator

    from multiembed.call import Call
    from multiembed.job import Answer
    from multiembed.reactor.contract import Reactor
    from multiembed.records import EmbeddingResult, WireRequest

OnError: TypeAlias = Literal["raise", "keep"]

BLOCK_TEXTS = 1024
"""Texts of one result, at most, unless one request holds more."""
_BLOCK_CHARACTERS = 2_000_000
"""Characters of one result's texts, unless its last text has more."""
_MOST_UNSENT = 2
"""Blocks with texts yet to send, with which nothing more is read."""
_LOOK_UP = 1.0
"""Seconds after which whoever waits looks again: on Windows Ctrl-C breaks no wait off."""
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

    def open(self, call: Call) -> None:
        """Make a block of what was read."""
        texts, self._texts, self._characters = self._texts, [], 0
        good = next((place for place, text in enumerate(texts) if not isinstance(text, str)), len(texts))
        if good:
            call.open(texts[:good], keep_refused=True)
        if good < len(texts):
            try:
                call.open(texts[good:])
            except ConfigurationError as error:
                self.end(error)

    def check(self) -> None:
        """Raise what ended it."""
        if self._error is not None:
            raise self._error


def stream(
    make: Callable[[Callable[[], object]], Call],
    send: Callable[[WireRequest, Reactor], Awaitable[Answer]],
    texts: Iterable[str],
    on_error: OnError,
) -> Iterator[EmbeddingResult]:
    """Results of consecutive texts, in order. The source is read in the caller's thread.

    Args:
        make: makes the call, given what to call when there is something to see to.
        send: sends one request.
        texts: the source.
        on_error: "raise", or "keep" what failed in the results' failures.
    """
    woken, here = threading.Event(), os.getpid()
    source = iter(texts)
    with make(woken.set) as call, closing(Crew(call.work(), send)) as crew:
        reading = _Reading(call.job.target.limits.max_items)
        while (turn := _turn(call, reading)) != "end":
            crew.check()
            if os.getpid() != here:  # its threads are the parent's, and nobody would ever answer
                raise ConfigurationError("The stream was begun before this process was forked: begin one here.")
            if isinstance(turn, Block):
                call.report(turn)
                yield _result(turn, call, on_error)
            elif turn == "read":
                _read(source, reading)
                reading.open(call)
                crew.hire()
            elif not crew.alone():
                woken.wait(_LOOK_UP)
                woken.clear()
        reading.check()


async def astream(
    make: Callable[[Callable[[], object]], Call],
    send: Callable[[WireRequest, Reactor], Awaitable[Answer]],
    texts: Iterable[str] | AsyncIterable[str],
    on_error: OnError,
) -> AsyncIterator[EmbeddingResult]:
    """As `stream`, in tasks; the source may be asynchronous, too."""
    woken, loop = asyncio.Event(), running_loop()
    source = aiter(texts) if isinstance(texts, AsyncIterable) else iter(texts)
    async with make(lambda: loop.call_soon_threadsafe(woken.set)) as call:
        reading = _Reading(call.job.target.limits.max_items)
        async with aclosing(TaskCrew(call.work(), send)) as crew:
            while (turn := _turn(call, reading)) != "end":
                crew.check()
                if isinstance(turn, Block):
                    await call.areport(turn)
                    yield _result(turn, call, on_error)
                elif turn == "read":
                    await _aread(source, reading)
                    await aside(reading.open, call, blocks=call.blocks)
                    crew.hire()
                else:
                    await woken.wait()
                    woken.clear()
            reading.check()


def _turn(call: Call, reading: _Reading) -> Block | Literal["read", "wait", "end"]:
    """What is to be done next: hand out a block, read on, wait for the crew, or nothing any more."""
    block = call.first()
    if block is not None:
        return block
    far = call.unsent >= _MOST_UNSENT or call.opened >= _MOST_OPEN
    if not reading.ended and (not far or not call.opened):
        return "read"
    return "wait" if call.opened else "end"


def _result(block: Block, call: Call, on_error: OnError) -> EmbeddingResult:
    job = call.job
    late = job.deadline_at is not None and job.clock() >= job.deadline_at
    return block.result() if on_error == "keep" and job.fatal is None and not late else whole(block)


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
        await asyncio.sleep(0)  # lets the hands send what was read before
        return
    try:
        async for text in source:
            if reading.add(text):
                return
    except Exception as error:  # noqa: BLE001 - as above
        reading.end(error)
    reading.end()
