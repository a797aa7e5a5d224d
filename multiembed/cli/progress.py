"""Progress of a run: a bar on a terminal, a line from time to time in a log."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from multiembed.cli.console import print_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from multiembed import ClientStats

_WINDOW = 30.0
"""Seconds over which the rate is taken."""
_BAR_INTERVAL = 0.2
"""Seconds between two updates of a bar."""
_BAR, _WIDE = 20, 80
"""Columns of the bar, and the columns of a terminal that is wide enough for it."""
_LINE_INTERVAL, _MAX_LINE_INTERVAL = 5.0, 60.0
"""Seconds between two lines in a log: at first, and in a long run."""


class Rate:
    """Texts per second over the last half minute. The caller passes the time."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def mark(self, now: float, done: int) -> None:
        """Record the number of texts that are done."""
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] > _WINDOW:
            self._marks.popleft()

    def per_second(self, now: float) -> float | None:
        """The rate; None before any text was done."""
        if not self._marks:
            return None
        (started, before), (_, done) = self._marks[0], self._marks[-1]
        return (done - before) / (now - started) if done > before and now > started else None


class ProgressMeter:
    """Shows the progress of embedding.

    Args:
        console: where it is shown; best that of stderr.
        total: number of rows.
        stats: returns the client's statistics. It is polled, because rows are written in large chunks, and with a slow
            account minutes pass between two of them.
        quiet: whether nothing is shown.
    """

    def __init__(self, console: Console, total: int, stats: Callable[[], ClientStats], *, quiet: bool = False) -> None:
        self._console = console
        self._total = total
        self._stats = stats
        self._unsent = 0
        self._rate = Rate()
        self._started = time.monotonic()
        self._rate.mark(self._started, 0)
        self._end = threading.Event()
        self._quiet = quiet
        self._bar: Progress | None = None
        if console.is_terminal and not quiet:
            status = TextColumn("{task.percentage:>3.0f} %{task.fields[status]}", markup=False)
            bar = (BarColumn(bar_width=_BAR),) if console.width >= _WIDE else ()
            self._bar = Progress(*bar, status, console=console, transient=True)
            self._bar.add_task("", total=total, status="")
        self._thread = threading.Thread(target=self._watch, name="multiembed-meter", daemon=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if not self._quiet:
            self._thread.join()
        if self._bar is not None:
            self._bar.stop()

    def add_unsent(self, rows: int) -> None:
        """Count rows that are done and not in the statistics, because they were not sent."""
        self._unsent += rows

    def _watch(self) -> None:
        while not self._end.wait(self._interval()):
            stats = self._stats()
            done = stats.texts + self._unsent
            self._rate.mark(time.monotonic(), done - stats.cached_texts)  # cached texts say nothing about the rate
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], completed=done, status=self._short_status(done, stats))
            else:
                print_plain(self._console, ", ".join(filter(None, self._status(done, stats).values())))

    def _interval(self) -> float:
        line = min(_MAX_LINE_INTERVAL, max(_LINE_INTERVAL, (time.monotonic() - self._started) / 20))
        return line if self._bar is None else _BAR_INTERVAL

    def _status(self, done: int, stats: ClientStats) -> dict[str, str]:
        rate = self._rate.per_second(time.monotonic())
        return {
            "texts": f"{done:,} of {self._total:,} texts",
            "tokens": format_tokens(stats.total_tokens) if stats.requests else "",
            "rate": "" if rate is None else f"{rate:,.0f} texts a second",
            "cost": format_cost(stats.cost) if stats.requests else "",
            "left": "" if rate is None else f"{duration((self._total - done) / rate)} left",
        }

    def _short_status(self, done: int, stats: ClientStats) -> str:
        """What fits after the per cent: money and time first, then texts, rate and tokens."""
        status = self._status(done, stats)
        status["texts"] = f"{done:,}/{self._total:,}"
        status["rate"] = status["rate"].replace(" texts a second", "/s")
        room = self._console.width - len("100 %") - (_BAR + 1 if self._console.width >= _WIDE else 0)
        shown = []
        for name in ("left", "cost", "texts", "rate", "tokens"):
            if status[name] and len(status[name]) + 2 <= room:
                shown.append(name)
                room -= len(status[name]) + 2
        return "".join(f"  {status[name]}" for name in status if name in shown)


class Spinner:
    """Shows the number of texts read; nothing in a log or if `quiet`."""

    def __init__(self, console: Console, doing: str, *, quiet: bool = False) -> None:
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn(f"{doing}: {{task.completed:,}} texts"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, done: int) -> None:
        """Show the number of texts."""
        self._bar.update(self._task, completed=done)


def format_tokens(tokens: int | None) -> str:
    """A short number of tokens; None is unknown."""
    if tokens is None:
        return "tokens unknown"
    for minimum, unit, letter in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if tokens >= minimum:
            return f"{tokens / unit:,.1f}{letter} tokens"
    return f"{tokens:,} tokens"


def format_cost(cost: float | None) -> str:
    """An amount in CNY; None is unknown."""
    if cost is None:
        return "cost unknown"
    if 0 < cost < 0.00005:
        return "under 0.0001 CNY"
    return f"{cost:,.2f} CNY" if cost >= 1 or cost == 0 else f"{cost:.4f} CNY"


def counted(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as text, in seconds, minutes or hours."""
    rounded = round(seconds)
    if not rounded and seconds:
        return "under 1 s"
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02} s"
    return f"{rounded // 3600:,} h {rounded % 3600 // 60:02} min"
