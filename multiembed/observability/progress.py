"""Progress bar over texts, for one call or several calls together, in a terminal, a notebook and a log."""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG_INTERVAL = 10.0  # seconds between two lines in a log
_shared: ContextVar[Progress | None] = ContextVar("progress", default=None)


class Progress:
    """Progress bar that is shown until it is closed. Without a total, it grows with each `announce`.

    It is shown where there is something to see: at once if `several` requests are known to be needed, otherwise when
    some texts are done and others are not.

    Args:
        name: shown before the bar.
        total: number of texts.
        several: whether they take more than one request for certain.
    """

    def __init__(self, name: str, total: int | None = None, *, several: bool = False) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._grows = total is None
        self._total = total or 0
        self._done = 0
        self._undrawn: deque[int] = deque()
        self.drawing = False
        """Whether a task of the I/O thread calls `draw` at intervals."""
        self._bar: Any = _make_bar(name, self._total) if several else None

    def announce(self, texts: int, *, several: bool) -> None:
        """Add texts to the total of a bar that grows."""
        if not self._grows:
            return
        with self._lock:
            self._total += texts
            if self._bar is not None:
                self._bar.total = self._total
                widget = getattr(self._bar, "container", None)
                if widget is not None:  # a notebook's, which does not follow the total by itself
                    widget.children[1].max = self._total
            elif several:  # not earlier: without a total, tqdm draws no bar in a notebook
                self._bar = _make_bar(self._name, self._total)

    def done(self, texts: int) -> None:
        """Count finished texts, for `draw` to show."""
        self._undrawn.append(texts)

    @property
    def is_drawn(self) -> bool:
        """Whether the bar shows all finished texts."""
        return not self._undrawn

    def draw(self) -> None:
        """Show the finished texts. It blocks as long as the terminal does."""
        with self._lock:
            while self._undrawn:
                texts = self._undrawn.popleft()
                self._done += texts
                if self._bar is None and self._done < self._total:
                    self._bar, texts = _make_bar(self._name, self._total), self._done
                if self._bar is not None:
                    self._bar.update(texts)

    def close(self) -> None:
        """Draw, and leave the bar as it stands."""
        self.draw()
        if self._bar is not None:
            self._bar.close()


def _make_bar(name: str, total: int) -> Any:
    # In a notebook without ipywidgets, tqdm.auto warns and draws a bar of text, as tqdm does.
    tqdm = import_module("tqdm.auto" if find_spec("ipywidgets") else "tqdm").tqdm
    settings: dict[str, Any] = {}
    if sys.stderr is None or getattr(sys.stderr, "closed", False):  # a program without a console
        settings = {"disable": True}
    elif not sys.stderr.isatty() and "ipykernel" not in sys.modules:
        settings = {"file": _LineWriter(sys.stderr), "mininterval": _LOG_INTERVAL, "ncols": 80}
    bar = tqdm(total=total, unit="text", desc=name, **settings)
    widget = getattr(bar, "container", None)
    if widget is not None:
        widget.children[0].layout.min_width = "max-content"  # otherwise the label is broken into several lines
    return bar


class _LineWriter:
    """File for tqdm that writes each new state of the bar as a line of its own."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self._last:
            with suppress(OSError, ValueError):  # a closed or full log is no reason to lose vectors
                self._file.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._file.flush()


@contextmanager
def together(name: str, total: int, *, several: bool) -> Iterator[None]:
    """Show one bar for all calls inside, in this thread or task and those that it starts."""
    bar = Progress(name, total, several=several)
    token = _shared.set(bar)
    try:
        yield
    finally:
        _shared.reset(token)
        bar.close()


def shared() -> Progress | None:
    """The bar of several calls together; None outside of `together`."""
    return _shared.get()
