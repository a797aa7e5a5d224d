"""How far a run is: a bar where someone looks at it, a line now and then where it goes to a log."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console

    from multiembed import ClientStats

_WINDOW = 30.0
"""Seconds over which the rate is taken."""
_LOOK_EVERY = 0.2
"""Seconds between two looks at a bar."""
_LINE_EVERY, _LINE_AT_LAST = 5.0, 60.0
"""Seconds between two lines in a log: at first, and when it has run for long."""


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
        total: rows in all.
        report: tells what was embedded so far and what it took. It is asked time and again, because rows are written
            in large pieces, and a slow account lets minutes pass between two of them.
    """

    def __init__(self, console: Console, total: int, report: Callable[[], ClientStats]) -> None:
        self._console = console
        self._total = total
        self._report = report
        self._unsent = 0
        self._rate = Rate()
        self._begun = time.monotonic()
        self._rate.mark(self._begun, 0)
        self._end = threading.Event()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.percentage:>3.0f} %"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[said]}", markup=False),
                console=console,
                transient=True,
            )
            self._bar.add_task("", total=total, said="")
        self._thread = threading.Thread(target=self._watch, name="multiembed-meter", daemon=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    def pass_over(self, rows: int) -> None:
        """So many more rows are done with, of which the report knows nothing, because they were not sent."""
        self._unsent += rows

    def _watch(self) -> None:
        while not self._end.wait(self._pause()):
            report = self._report()
            done = report.texts + self._unsent
            self._rate.mark(time.monotonic(), done - report.cached_texts)  # what was known promises nothing
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=done, said=self._said(done, report, short=True))
            else:
                self._console.print(self._said(done, report, short=False), highlight=False, soft_wrap=True)

    def _pause(self) -> float:
        if self._bar is not None:
            return _LOOK_EVERY
        return min(_LINE_AT_LAST, max(_LINE_EVERY, (time.monotonic() - self._begun) / 20))

    def _said(self, done: int, report: ClientStats, *, short: bool) -> str:
        rate = self._rate.per_second(time.monotonic())
        left = "" if rate is None else f"{duration((self._total - done) / rate)} left"
        speed = "" if rate is None else f"{rate:,.0f}/s" if short else f"{rate:,.0f} texts a second"
        tokens = told_tokens(report.total_tokens) if report.requests else ""
        money = told_money(report.cost) if report.requests else ""
        texts = f"{done:,}/{self._total:,}" if short else f"{done:,} of {self._total:,} texts"
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


def counted(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"
