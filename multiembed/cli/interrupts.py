"""Signals that end a run: the first raises KeyboardInterrupt, those that come while the run is ended do not."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""What ends a run; Windows has no SIGHUP."""


INTERRUPTED = 130
"""The status of a run that a signal ended."""


def ignore_signals() -> None:
    """Let a process that is done end with its own status."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Interrupts:
    """The signals SIGINT, SIGTERM and SIGHUP during one run. One that is ignored, as under nohup, stays ignored.

    After an interrupt they stay ignored, because the process is about to end: an impatient second Ctrl-C would end in a
    traceback.

    Attributes:
        count: signals that have come.
    """

    def __init__(self) -> None:
        self.count = 0
        self._deferred = False
        self._raised = False
        self._handlers: dict[int, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            known = {number: signal.getsignal(number) for number in SIGNALS}
            self._handlers = {each: known[each] for each in SIGNALS if known[each] not in (signal.SIG_IGN, None)}
            sys.unraisablehook = self._on_unraisable
            for number in self._handlers:
                signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._hook
        for number, handler in self._handlers.items():
            signal.signal(number, signal.SIG_IGN if self.count else handler)

    def defer(self) -> None:
        """From now on, no signal raises."""
        self._deferred = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise only at the end for a signal that comes meanwhile."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal has come: where it came, the exception may have been swallowed."""
        if self.count:
            self._raised = True
            raise KeyboardInterrupt

    def _on_signal(self, *_: object) -> None:
        self.count += 1
        if not self._deferred and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def _on_unraisable(self, unraisable: Any) -> None:
        """Note that a finalizer was interrupted, from which nothing is raised: `check` does it, or the next signal."""
        if unraisable.exc_type is KeyboardInterrupt:
            self._raised = False
        else:
            self._hook(unraisable)
