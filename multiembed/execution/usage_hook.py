"""Usage hook: calls the user's `on_usage` once for each Usage, never on an event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

from multiembed.execution.io_thread import in_thread, started_io_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.types import Usage

_log = logging.getLogger(__name__)


class UsageHook:
    """Calls `on_usage`. Its first exception is a warning: vectors that were paid for must not be lost for it."""

    def __init__(self, function: Callable[[Usage], object] | None) -> None:
        self._function = function
        self._warned = False
        self._lock = threading.Lock()
        self._pending: Usage | None = None
        self._running = False
        """Whether a thread reports what is pending."""

    def report(self, usage: Usage) -> None:
        """Call the function in this thread; in another one if this is the I/O thread, which may collect garbage."""
        if self._function is None:
            return
        io = started_io_thread()
        if io is not None and io.is_current:
            self.report_soon(usage)
            return
        try:
            self._function(usage)
        except Exception as error:  # noqa: BLE001 - the function is the user's, and may raise anything
            with self._lock:
                is_first, self._warned = not self._warned, True
            if is_first:
                self._warn(error)

    async def areport(self, usage: Usage) -> None:
        """Call the function in a worker thread, and wait for it. A cancelled caller does not stop the call."""
        if self._function is not None:
            await asyncio.shield(in_thread(self.report, usage))

    def report_soon(self, usage: Usage) -> None:
        """Call the function in a thread, without waiting. Usages that come meanwhile are added up to one."""
        if self._function is None:
            return
        with self._lock:
            self._pending = usage if self._pending is None else self._pending + usage
            if self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._report_pending, name="multiembed-on-usage").start()
        except RuntimeError:  # no thread can be started, for instance at the interpreter's end
            self._report_pending()

    def _report_pending(self) -> None:
        while True:
            with self._lock:
                usage, self._pending = self._pending, None
                if usage is None:
                    self._running = False
                    return
            with suppress(SystemExit):  # it ends this thread only, which has more to report
                self.report(usage)

    def _warn(self, error: Exception) -> None:
        message = (
            f"on_usage raised {type(error).__name__}. The vectors are returned all the same; this usage was not "
            "reported, and later errors of on_usage are not shown."
        )
        try:
            warnings.warn(message, UserWarning, stacklevel=3)
        except Warning:  # warnings are errors here
            _log.warning(message, exc_info=error)
