"""Signals that end a run: the first raises KeyboardInterrupt, later ones do not."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a run; Windows has no SIGHUP."""
INTERRUPTED = 130
"""Exit status of a run that a signal ended."""


def ignore_signals() -> None:
    """Ignore signals, so that a process which is done ends with its own status."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class Interrupts:
    """Handlers of SIGINT, SIGTERM and SIGHUP during one run. A signal that is ignored, as under nohup, stays ignored.

    After an interrupt they stay ignored, because the process is about to end: a second Ctrl-C would end in a traceback.

    Attributes:
        count: signals received.
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
        """Let no signal raise from now on."""
        self._deferred = True

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Raise for a signal in this context at its end."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt after a signal: other code may have caught the exception that the signal raised."""
        if self.count:
            self._raised = True
            raise KeyboardInterrupt

    def _on_signal(self, *_: object) -> None:
        self.count += 1
        if not self._deferred and not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    def _on_unraisable(self, unraisable: Any) -> None:
        """Let `check` or the next signal raise, because a finalizer that was interrupted cannot."""
        if unraisable.exc_type is KeyboardInterrupt:
            self._raised = False
        else:
            self._hook(unraisable)
