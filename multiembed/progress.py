"""A bar over texts: one for a call, or one for several calls together; right in a terminal, a notebook and a log."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
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
        from tqdm.auto import tqdm

        settings: dict[str, Any] = {}
        if sys.stderr is None:  # a program without a console
            settings = {"disable": True}
        elif not sys.stderr.isatty() and "ipykernel" not in sys.modules:
            settings = {"file": _Lines(sys.stderr), "mininterval": _EVERY, "ncols": 80}
        self._lock = threading.Lock()
        self._announced = total is None
        self._bar: Any = tqdm(total=total or 0, unit="text", desc=name, **settings)

    def announce(self, texts: int) -> None:
        """So many more texts are to come."""
        if self._announced:
            with self._lock:
                self._bar.total += texts

    def done(self, texts: int) -> None:
        """So many more texts are done with."""
        with self._lock:
            self._bar.update(texts)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


class _Lines:
    """Where there is no terminal, each state of the bar is a line, and an unchanged one is none."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self._last:
            self._out.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
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
