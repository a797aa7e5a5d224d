"""A server in a thread of its own: where it listens, when it starts and when it ends."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING

from multiembed.simulator.environment import loopback
from multiembed.simulator.server import Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from multiembed.simulator.server import Behaviour

# How often a waiting main thread looks up: on Windows, nothing else lets Ctrl-C through.
_LOOK_UP = 0.5


class Host:
    """Runs a server on a loopback address; started and stopped as often as one likes.

    Raises:
        ConfigurationError: the host is not a loopback address.
    """

    def __init__(self, host: str, port: int, behave: Behaviour, tls: ssl.SSLContext | None) -> None:
        self._host = loopback(host)
        self._asked_port = port
        self._behave = behave
        self._tls = tls
        self._port: int | None = None
        self._thread: threading.Thread | None = None
        self._end: Callable[[], None] | None = None
        self._stopped = threading.Event()

    @property
    def url(self) -> str:
        """The root of what it serves.

        Raises:
            RuntimeError: it has not been started, so it has no port yet.
        """
        if self._port is None:
            raise RuntimeError("This simulator has no address before it is started.")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}"

    def start(self) -> None:
        """Listen, in a daemon thread. Returns when requests are taken.

        Raises:
            OSError: the port is taken.
            RuntimeError: it runs already.
        """
        if self._thread is not None:
            raise RuntimeError("This simulator runs already.")
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        ready: Future[Callable[[], None]] = Future()
        with ExitStack() as undo:
            listener = undo.enter_context(socket.create_server((self._host, self._asked_port), family=family))
            thread = threading.Thread(
                target=self._run, args=(listener, ready), name="multiembed-simulator", daemon=True
            )
            thread.start()
            self._end = ready.result()
            undo.pop_all()
        self._port, self._thread = listener.getsockname()[1], thread
        self._stopped.clear()

    def stop(self) -> None:
        """Break off all connections and end the thread. Stopping twice is no mistake."""
        thread, end = self._thread, self._end
        if thread is None or end is None:
            return
        self._thread = self._end = None
        end()
        thread.join()
        self.release()

    def wait(self) -> None:
        """Return when it is stopped, or its waiters are released."""
        while not self._stopped.wait(_LOOK_UP):
            pass

    def release(self) -> None:
        """Let those who wait go on."""
        self._stopped.set()

    def _run(self, listener: socket.socket, ready: Future[Callable[[], None]]) -> None:
        try:
            with listener, asyncio.Runner() as runner:
                runner.run(Server(self._behave, self._tls).run(listener, ready.set_result))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)
