"""A bar over texts: one for a call, or one for several calls together; right in a terminal, a notebook and a log."""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_EVERY = 10.0
"""Seconds between two lines in a log."""

_shared: ContextVar[Progress | None] = ContextVar("progress", default=None)


class Progress:
    """A bar that is on the screen until it is closed.

    Args:
        name: of the model.
        total: texts, where they are known beforehand; else the bar grows with what is announced.
    """

    def __init__(self, name: str, total: int | None = None) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._announced = total is None
        self._undrawn: deque[int] = deque()
        self.drawing = False
        """Whether the I/O thread has it drawn now and then."""
        self._bar: Any = None if total is None else _bar(name, total)

    def announce(self, texts: int) -> None:
        """So many more texts are to come."""
        with self._lock:
            if self._bar is None:  # made now, because a notebook's bar that begins without a total is no bar
                self._bar = _bar(self._name, texts)
            elif self._announced:
                self._bar.total += texts
                widget = getattr(self._bar, "container", None)
                if widget is not None:  # a notebook's, which does not follow the total by itself
                    widget.children[1].max = self._bar.total

    def done(self, texts: int) -> None:
        """So many more texts are done with. They are drawn by `draw`."""
        self._undrawn.append(texts)

    @property
    def is_drawn(self) -> bool:
        """Whether the bar shows all that is done."""
        return not self._undrawn

    def draw(self) -> None:
        """Show what is done. It takes as long as the terminal takes, which may be stopped."""
        with self._lock:
            while self._undrawn:
                self._bar.update(self._undrawn.popleft())

    def close(self) -> None:
        """Draw, and leave the bar as it stands."""
        if self._bar is not None:
            self.draw()
            self._bar.close()


def _bar(name: str, total: int) -> Any:
    from tqdm.auto import tqdm

    settings: dict[str, Any] = {}
    if sys.stderr is None or getattr(sys.stderr, "closed", False):  # a program without a console
        settings = {"disable": True}
    elif not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        settings = {"file": _Lines(sys.stderr), "mininterval": _EVERY, "ncols": 80}
    return tqdm(total=total, unit="text", desc=name, **settings)


class _Lines:
    """Where there is no terminal, each state of the bar is a line, and an unchanged one is none."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self._last:
            with suppress(OSError, ValueError):  # a closed or full log is no reason to lose vectors
                self._out.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._out.flush()


@contextmanager
def together(name: str, total: int) -> Iterator[None]:
    """Let all calls inside, in this thread or task and those they start, show one bar."""
    bar = Progress(name, total)
    token = _shared.set(bar)
    try:
        yield
    finally:
        _shared.reset(token)
        bar.close()


def shared() -> Progress | None:
    """The bar of several calls together, where there is one."""
    return _shared.get()
