"""Simulator: start, stop and addresses of the server; its account has the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiembed.errors import ConfigurationError
from multiembed.providers import PROVIDERS
from multiembed.simulator.account import Account
from multiembed.simulator.formats import API_FORMATS
from multiembed.simulator.hosting import Host
from multiembed.simulator.request_handler import RequestHandler
from multiembed.simulator.tls import certified

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from multiembed.simulator.tls import Tls


class Simulator(Account):
    """A local server with the APIs of all remote providers.

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
        ConfigurationError: the host is not a loopback address, the key does not fit into a header, the latency is
            negative, or there is no such kind of certificate.
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
        self._host = Host(host, port, RequestHandler(self._state, api_key, latency), context)

    def start(self) -> Self:
        """Listen, in a daemon thread. Returns when requests are accepted.

        Raises:
            OSError: the port is taken.
            RuntimeError: it runs already.
        """
        self._host.start()
        return self

    def stop(self) -> None:
        """Abort all connections and end the thread. Does nothing when it is stopped already."""
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
        with self:
            self._host.serve_until_signal(lambda: on_ready(self) if on_ready else None)

    @property
    def url(self) -> str:
        """The server's root, for instance "http://127.0.0.1:50123".

        Raises:
            RuntimeError: it has not been started, so it has no port yet.
        """
        return self._host.url

    @property
    def authority(self) -> str | None:
        """The certificate, in PEM, of the authority that a client must trust.

        None without TLS, and for a certificate that has no such authority: a self-signed one, or your own.
        """
        return self._authority

    @property
    def api_key(self) -> str:
        """The one key that is accepted."""
        return self._api_key

    @property
    def providers(self) -> tuple[str, ...]:
        """The ids of the providers whose APIs it has."""
        return tuple(API_FORMATS)

    def base_url(self, provider: str) -> str:
        """The base URL for a client of that provider.

        Raises:
            ValueError: the simulator has no such provider.
        """
        if provider not in API_FORMATS:
            raise ValueError(f"The simulator has no provider {provider!r}; it has {', '.join(API_FORMATS)}.")
        return self.url + API_FORMATS[provider].path.removesuffix(PROVIDERS[provider].path)

    def environment(self) -> dict[str, str]:
        """Environment variables with which clients find their keys, and send to this server."""
        keys = {PROVIDERS[name].key_env[0]: self._api_key for name in API_FORMATS}
        urls: dict[str, str] = {}
        for name in API_FORMATS:
            for variable in PROVIDERS[name].base_url_env:
                urls.setdefault(variable, self.base_url(name))
        return {**keys, **urls}


def serve(port: int = 0, *, on_ready: Callable[[Simulator], object] | None = None, **options: Any) -> None:
    """Run a simulator in the foreground until Ctrl-C or SIGTERM; the options are those of `Simulator`."""
    Simulator(port, **options).serve_forever(on_ready)
