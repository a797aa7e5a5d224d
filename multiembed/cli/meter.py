"""How far a run is: a bar where someone looks at it, a line every few seconds where it goes to a log."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from multiembed import Usage

_WINDOW = 30.0
"""Seconds over which the rate is taken, so that what a cache gave at once promises nothing for long."""
_LINE_EVERY = 5.0
"""Seconds between two lines in a log."""


class Rate:
    """Texts a second, by what was done lately. The clock is the caller's."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, done: int) -> None:
        """Note how many are done at this moment."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW:
            self._marks.popleft()

    def per_second(self, now: float) -> float | None:
        """The rate; None before anything was done."""
        if not self._marks:
            return None
        (begun, before), (_, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - begun) if done > before and now > begun else None


class Meter:
    """What is shown while texts are embedded.

    Args:
        console: where; best that of stderr.
        total: texts in all.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._usage: Usage | None = None
        self._rate = Rate()
        self._rate.mark(time.monotonic(), 0)
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._bar: Progress | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.percentage:>3.0f} %"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[said]}"),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task("", total=self._total, said="")
        else:
            self._thread = threading.Thread(target=self._tell, name="multiembed-meter", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._bar is not None:
            self._bar.stop()
        if self._thread is not None:
            self._thread.join()

    def update(self, done: int, usage: Usage) -> None:
        """Show that so many texts are done, and what they took."""
        with self._lock:
            self._done, self._usage = done, usage
            self._rate.mark(time.monotonic(), done)
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=done, said=self._said(short=True))

    def _tell(self) -> None:
        while not self._end.wait(_LINE_EVERY):
            with self._lock:
                line = self._said(short=False)
            self._console.print(line, highlight=False, soft_wrap=True)

    def _said(self, *, short: bool) -> str:
        rate = self._rate.per_second(time.monotonic())
        left = "" if rate is None else f"{duration((self._total - self._done) / rate)} left"
        speed = "" if rate is None else f"{rate:,.0f}/s" if short else f"{rate:,.0f} texts a second"
        tokens = "" if self._usage is None else told_tokens(self._usage.total_tokens)
        money = "" if self._usage is None else told_money(self._usage.cost)
        texts = f"{self._done:,}/{self._total:,}" if short else f"{self._done:,} of {self._total:,} texts"
        return ("  " if short else ", ").join(filter(None, (texts, tokens, speed, money, left)))


class Spinner:
    """What is shown while files are read; nothing in a log, where it says nothing worth a line."""

    def __init__(self, console: Console, doing: str) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn(f"{doing}: {{task.completed:,}} texts"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int) -> None:
        """Show that so many texts are read."""
        self._bar.update(self._task, completed=done)


def told_tokens(tokens: int | None) -> str:
    """A number of tokens, shortly; what the provider does not tell stays unknown."""
    if tokens is None:
        return "tokens unknown"
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if tokens >= size:
            return f"{tokens / (1000 if letter == 'k' else size):,.1f}{letter} tokens"
    return f"{tokens:,} tokens"


def told_money(cost: float | None) -> str:
    """An amount in CNY; an unknown one is not none."""
    if cost is None:
        return "cost unknown"
    return f"{cost:,.2f} CNY" if cost >= 1 or cost == 0 else f"{cost:.4f} CNY"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"
