"""The simulator as its users hold it: start, stop and addresses; the rest is its account's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiembed.errors import ConfigurationError
from multiembed.providers import PROVIDERS
from multiembed.simulator.account import Account
from multiembed.simulator.environment import signals
from multiembed.simulator.hosting import Host
from multiembed.simulator.request_handler import AccountBehaviour
from multiembed.simulator.responder import FORMS, Answerer
from multiembed.simulator.tls import certified

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from multiembed.simulator.tls import Tls


class Simulator(Account):
    """A local server that speaks the wire forms of all remote providers.

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
        ConfigurationError: the host is not a loopback address, the key fits no header, the latency is negative, or
            there is no such kind of certificate.
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
        if not api_key.isascii() or not api_key.isprintable() or api_key != api_key.strip() or not api_key:
            raise ConfigurationError("api_key must be printable ASCII, without blanks around it, and not empty.")
        if not latency >= 0.0:
            raise ConfigurationError(f"latency must be 0 or more seconds, not {latency!r}.")
        context: ssl.SSLContext | None = None
        self._authority: str | None = None
        if tls is not None:
            context, self._authority = certified(tls)
        self._api_key = api_key
        super().__init__(record=record)
        behaviour = AccountBehaviour(
            Answerer(api_key),
            latency,
            recorder=self._recorder,
            arrivals=self._arrivals,
            quotas=self._quotas,
            schedule=self._schedule,
        )
        self._host = Host(host, port, behaviour, context)

    def start(self) -> Self:
        """Listen, in a daemon thread. Returns when requests are taken.

        Raises:
            OSError: the port is taken.
            RuntimeError: it runs already.
        """
        self._host.start()
        return self

    def stop(self) -> None:
        """Break off all connections and end the thread. Stopping twice is no mistake."""
        self._host.stop()

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
        with self, signals(self._host.release):
            if on_ready is not None:
                on_ready(self)
            self._host.wait()

    @property
    def url(self) -> str:
        """The server's root, for instance "http://127.0.0.1:50123".

        Raises:
            RuntimeError: it has not been started, so it has no port yet.
        """
        return self._host.url

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
        """The environment variables that make clients find their keys, and send to this server."""
        keys = {PROVIDERS[name].key_env[0]: self._api_key for name in FORMS}
        urls: dict[str, str] = {}
        for name in FORMS:
            for variable in PROVIDERS[name].base_url_env:
                urls.setdefault(variable, self.base_url(name))
        return {**keys, **urls}


def serve(port: int = 0, *, on_ready: Callable[[Simulator], object] | None = None, **options: Any) -> None:
    """Run a simulator in the foreground until Ctrl-C or SIGTERM; the options are those of `Simulator`."""
    Simulator(port, **options).serve_forever(on_ready)
