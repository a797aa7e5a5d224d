"""The simulator as its users hold it: start, stop, addresses, and what was asked of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from multiembed.providers import PROVIDERS
from multiembed.simulator.answers import FORMS, Answerer, form_at
from multiembed.simulator.faults.schedule import Schedule, entry_of
from multiembed.simulator.recorder import Recorder
from multiembed.simulator.server import Server
from multiembed.simulator.surroundings import loopback, signals
from multiembed.simulator.tls import certified

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from multiembed.simulator.connection import Connection
    from multiembed.simulator.exchange import Answer, Request
    from multiembed.simulator.recorder import RecordedRequest
    from multiembed.simulator.tls import Tls

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
        tls: serve https: with a certificate that is "good", "self-signed", "expired" or for a "wrong-host", which
            needs the package cryptography; or with your own, as (certificate file, key file).

    Raises:
        ValueError: the host is not a loopback address, the key fits no header, the latency is negative, or there
            is no such kind of certificate.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        api_key: str = "sk-simulator",
        latency: float = 0.0,
        host: str = "127.0.0.1",
        record: bool = True,
        tls: Tls | None = None,
    ) -> None:
        self._host = loopback(host)
        if not api_key.isascii() or not api_key.isprintable() or api_key != api_key.strip() or not api_key:
            raise ValueError("api_key must be printable ASCII, without blanks around it, and not empty.")
        if not latency >= 0.0:
            raise ValueError(f"latency must be 0 or more seconds, not {latency!r}.")
        self._asked_port = port
        self._api_key = api_key
        self._latency = latency
        self._recorder = Recorder(keep=record)
        self._schedule = Schedule()
        self._answer: Callable[[Request], Answer] = Answerer(api_key)
        self._tls: ssl.SSLContext | None = None
        self._authority: str | None = None
        if tls is not None:
            self._tls, self._authority = certified(tls)
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
        with self, signals(self._stopped.set):
            if on_ready is not None:
                on_ready(self)
            while not self._stopped.wait(_LOOK_UP):
                pass

    def _run(self, listener: socket.socket, ready: Future[Callable[[], None]]) -> None:
        try:
            with listener, asyncio.Runner() as runner:
                runner.run(Server(self._behave, self._tls).run(listener, ready.set_result))
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
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}"

    @property
    def authority(self) -> str | None:
        """The certificate, in PEM, of the authority that a client must trust to find nothing else wrong.

        None without TLS, and for a certificate that has no such authority: a self-signed one, or your own.
        """
        return self._authority

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

    def fail(
        self,
        fault: str | Callable[[Request, Answer], Answer],
        *,
        times: int | None = None,
        probability: float | None = None,
        every: int | None = None,
        after: int = 0,
        seconds: float | None = None,
        provider: str | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        """Let embedding requests fail from now on, until `heal`. A request meets the first fault that is due.

        Args:
            fault: a name of `FAULTS`, or a function from the request and its good answer to the answer to send.
            times: how often; without it, always.
            probability: make it for this share of the requests it could be made for, at random.
            every: make it for each `every`-th of them only.
            after: leave out the first so many of them.
            seconds: for how long.
            provider: for this provider's requests only.
            seed: of the random numbers.
            settings: the fault's own, for instance `cap=8`.

        Raises:
            ConfigurationError: no such fault, provider or setting, or a number that makes no sense.
        """
        self._schedule.add(
            entry_of(
                fault,
                times=times,
                probability=probability,
                every=every,
                after=after,
                seconds=seconds,
                provider=provider,
                seed=seed,
                settings=settings,
            )
        )

    def heal(self) -> None:
        """Let nothing fail any more. An answer that fails already goes on failing."""
        self._schedule.clear()

    async def _behave(self, request: Request, connection: Connection) -> None:
        form = form_at(request.path)
        number = self._recorder.arrived(request, form.provider if form else None)
        counted = form is not None and request.method == "POST"
        with self._recorder.in_flight() if counted else nullcontext():
            answer = await self._computed(request)
            made = self._schedule.choose(request, form, answer, reused=connection.reused)
            if self._latency:
                await asyncio.sleep(self._latency)
            if made is not None:
                answer = made.fault.alter(made.occasion)
            # Noted before it is sent, so that a client which has its answer finds it noted.
            name, told = (None, True) if made is None else (made.fault.name, made.fault.tells_status)
            self._recorder.answered(number, answer.status if told else None, name)
            if made is not None and made.fault.act is not None:
                await made.fault.act(connection, answer, made.occasion.settings)
                return
        # No longer counted, for a client which has its answer may ask again at once.
        await connection.send(answer)

    async def _computed(self, request: Request) -> Answer:
        if len(request.raw) < _HEAVY:
            return self._answer(request)
        return await asyncio.get_running_loop().run_in_executor(None, self._answer, request)


def serve(port: int = 0, *, on_ready: Callable[[Simulator], object] | None = None, **options: Any) -> None:
    """Run a simulator in the foreground until Ctrl-C or SIGTERM; the options are those of `Simulator`."""
    Simulator(port, **options).serve_forever(on_ready)
