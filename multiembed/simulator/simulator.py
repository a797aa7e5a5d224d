"""The simulator as its users hold it: start, stop, addresses, and what was asked of it."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import threading
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from multiembed.providers import PROVIDERS
from multiembed.simulator.answers import FORMS, Answerer, form_at
from multiembed.simulator.recorder import Recorder
from multiembed.simulator.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType
    from typing import Self

    from multiembed.simulator.connection import Connection
    from multiembed.simulator.exchange import Answer, Request
    from multiembed.simulator.recorder import RecordedRequest

# Above this many bytes of request, the vectors are computed in another thread and the loop stays free.
_HEAVY = 64 * 1024
# How often a waiting main thread looks up: on Windows, nothing else lets Ctrl-C through.
_LOOK_UP = 0.5


class Simulator:
    """A local server that speaks the wire forms of all five remote providers.

    It runs in a daemon thread of its own while it is a context manager, or between `start` and `stop`; with
    `serve_forever` it holds the foreground. It listens on loopback only.

    Args:
        port: TCP port; 0 takes a free one.
        api_key: the one key that is accepted.
        latency: seconds to wait before each answer.
        host: a loopback address.
        record: whether to keep requests for `requests`: the last 10,000, and no more than 128 MiB of them.

    Raises:
        ValueError: the host is not a loopback address, the key fits no header, or the latency is negative.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        api_key: str = "sk-simulator",
        latency: float = 0.0,
        host: str = "127.0.0.1",
        record: bool = True,
    ) -> None:
        self._host = _loopback(host)
        if not api_key.isascii() or not api_key.isprintable() or api_key != api_key.strip() or not api_key:
            raise ValueError("api_key must be printable ASCII, without blanks around it, and not empty.")
        if not latency >= 0.0:
            raise ValueError(f"latency must be 0 or more seconds, not {latency!r}.")
        self._asked_port = port
        self._api_key = api_key
        self._latency = latency
        self._recorder = Recorder(keep=record)
        self._answer: Callable[[Request], Answer] = Answerer(api_key)
        self._port: int | None = None
        self._thread: threading.Thread | None = None
        self._end: Callable[[], None] | None = None
        self._stopped = threading.Event()

    def start(self) -> Self:
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
        return self

    def stop(self) -> None:
        """Break off all connections and end the thread. Stopping twice is no mistake."""
        thread, end = self._thread, self._end
        if thread is None or end is None:
            return
        self._thread = self._end = None
        end()
        thread.join()
        self._stopped.set()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def serve_forever(self, on_ready: Callable[[Simulator], object] | None = None) -> None:
        """Serve in the foreground until Ctrl-C, SIGTERM, or `stop` from another thread; then return.

        Args:
            on_ready: called once it listens, for instance to show its address.
        """
        with self, _signals(self._stopped.set):
            if on_ready is not None:
                on_ready(self)
            while not self._stopped.wait(_LOOK_UP):
                pass

    def _run(self, listener: socket.socket, ready: Future[Callable[[], None]]) -> None:
        try:
            with listener, asyncio.Runner() as runner:
                runner.run(Server(self._behave).run(listener, ready.set_result))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    @property
    def url(self) -> str:
        """The server's root, for instance "http://127.0.0.1:50123".

        Raises:
            RuntimeError: it has not been started, so it has no port yet.
        """
        if self._port is None:
            raise RuntimeError("This simulator has no address before it is started.")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def api_key(self) -> str:
        """The one key that is accepted."""
        return self._api_key

    @property
    def providers(self) -> tuple[str, ...]:
        """The ids of the providers whose forms it speaks."""
        return tuple(FORMS)

    def base_url(self, provider: str) -> str:
        """What to give a client of that provider as its base URL.

        Raises:
            ValueError: the simulator does not speak for that provider.
        """
        if provider not in FORMS:
            raise ValueError(f"The simulator has no provider {provider!r}; it has {', '.join(FORMS)}.")
        return self.url + FORMS[provider].path.removesuffix(PROVIDERS[provider].path)

    def environment(self) -> dict[str, str]:
        """The environment variables that make clients find their keys, and the gateway's address."""
        keys = {PROVIDERS[name].key_env[0]: self._api_key for name in FORMS}
        urls = {env: self.base_url(name) for name in FORMS if (env := PROVIDERS[name].base_url_env)}
        return {**keys, **urls}

    @property
    def requests(self) -> list[RecordedRequest]:
        """The requests so far, in order of arrival; a copy."""
        return self._recorder.requests()

    @property
    def peak_in_flight(self) -> int:
        """The highest number of embedding requests that were being answered at once, so far."""
        return self._recorder.peak

    def clear(self) -> None:
        """Forget the requests so far, and the peak."""
        self._recorder.clear()

    async def _behave(self, request: Request, connection: Connection) -> None:
        form = form_at(request.path)
        number = self._recorder.arrived(request, form.provider if form else None)
        counted = form is not None and request.method == "POST"
        with self._recorder.in_flight() if counted else nullcontext():
            answer = await self._computed(request)
            if self._latency:
                await asyncio.sleep(self._latency)
            # Noted before it is sent, so that a client which has its answer finds it noted.
            self._recorder.answered(number, answer.status)
            await connection.send(answer)

    async def _computed(self, request: Request) -> Answer:
        if len(request.raw) < _HEAVY:
            return self._answer(request)
        return await asyncio.get_running_loop().run_in_executor(None, self._answer, request)


def serve(port: int = 0, *, on_ready: Callable[[Simulator], object] | None = None, **options: Any) -> None:
    """Run a simulator in the foreground until Ctrl-C or SIGTERM; the options are those of `Simulator`."""
    Simulator(port, **options).serve_forever(on_ready)


def _loopback(host: str) -> str:
    """The address to listen on.

    Raises:
        ValueError: it would be reachable from another machine.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass  # a name: refused like a public address
    raise ValueError(f"The simulator listens on loopback only: 127.0.0.1, ::1 or localhost, not {host!r}.")


@contextmanager
def _signals(end: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `end` meanwhile; only the main thread can be asked for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        end()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
