"""Host of the server: its loopback address, its thread, its start and its end."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.simulator.server import Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from multiembed.simulator.server import Handler

# Seconds between two checks of a waiting main thread: on Windows, nothing else lets Ctrl-C through.
_POLL_INTERVAL = 0.5


class Host:
    """Runs a server on a loopback address; it may be started and stopped several times.

    Raises:
        ConfigurationError: the host is not a loopback address.
    """

    def __init__(self, host: str, port: int, handle: Handler, tls: ssl.SSLContext | None) -> None:
        self._host = _loopback_address(host)
        self._requested_port = port
        self._handle = handle
        self._tls = tls
        self._port: int | None = None
        self._thread: threading.Thread | None = None
        self._end: Callable[[], None] | None = None
        self._stopped = threading.Event()

    @property
    def url(self) -> str:
        """The server's root.

        Raises:
            RuntimeError: it has not been started, so it has no port yet.
        """
        if self._port is None:
            raise RuntimeError("This simulator has no address before it is started.")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}"

    def start(self) -> None:
        """Listen, in a daemon thread. Returns when requests are accepted.

        Raises:
            OSError: the port is taken.
            RuntimeError: it runs already.
        """
        if self._thread is not None:
            raise RuntimeError("This simulator runs already.")
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        ready: Future[Callable[[], None]] = Future()
        with ExitStack() as undo:
            listener = undo.enter_context(socket.create_server((self._host, self._requested_port), family=family))
            thread = threading.Thread(
                target=self._run, args=(listener, ready), name="multiembed-simulator", daemon=True
            )
            thread.start()
            self._end = ready.result()
            undo.pop_all()
        self._port, self._thread = listener.getsockname()[1], thread
        self._stopped.clear()

    def stop(self) -> None:
        """Abort all connections and end the thread. Does nothing when it is stopped already."""
        thread, end = self._thread, self._end
        if thread is None or end is None:
            return
        self._thread = self._end = None
        end()
        thread.join()
        self._stopped.set()

    def serve_until_signal(self, on_ready: Callable[[], object]) -> None:
        """Call `on_ready`, and return after `stop`, Ctrl-C or SIGTERM."""
        with _on_signal(self._stopped.set):
            on_ready()
            while not self._stopped.wait(_POLL_INTERVAL):
                pass

    def _run(self, listener: socket.socket, ready: Future[Callable[[], None]]) -> None:
        try:
            with listener, asyncio.Runner() as runner:
                runner.run(Server(self._handle, self._tls).run(listener, ready.set_result))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)


def _loopback_address(host: str) -> str:
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass  # a name: refused like a public address
    raise ConfigurationError(f"The simulator listens on loopback only: 127.0.0.1, ::1 or localhost, not {host!r}.")


@contextmanager
def _on_signal(end: Callable[[], None]) -> Iterator[None]:
    """Call `end` on Ctrl-C and SIGTERM meanwhile; only the main thread can set that up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, lambda *_: end()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
