"""The wire: the only file that imports httpx. One request in, one answer or one failure out, as values."""

from __future__ import annotations

import asyncio
import functools
import ssl
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import httpx

from multiembed.errors import ConfigurationError
from multiembed.records import TransportFailure, WireReply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from multiembed.records import WireRequest

_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=200, keepalive_expiry=30.0)
# A proxy of the environment cannot reach this machine's own loopback.
_UNPROXIED = {f"all://{host}": None for host in ("127.0.0.1", "localhost", "[::1]")}
_HEADERS = {"User-Agent": "multiembed", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}


class Wire:
    """The HTTP clients of one embedder in one process: one for threads, one for each event loop.

    They are made when first needed. A loop's client is closed when the loop ends, the threads' one when the embedder
    goes; `close` and `aclose` do it sooner, and a later call opens new ones. The caller's own clients stay his.
    """

    def __init__(self, client: httpx.Client | None = None, async_client: httpx.AsyncClient | None = None) -> None:
        if client is not None and not isinstance(client, httpx.Client):
            raise ConfigurationError(f"http_client must be an httpx.Client, not {type(client).__name__}.")
        if async_client is not None and not isinstance(async_client, httpx.AsyncClient):
            raise ConfigurationError(
                f"http_async_client must be an httpx.AsyncClient, not {type(async_client).__name__}."
            )
        self._given = client
        self._given_async = async_client
        self._lock = threading.Lock()
        self._own: httpx.Client | None = None
        self._finalizer: weakref.finalize[[], Wire] | None = None
        self._leases: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lease] = weakref.WeakKeyDictionary()

    def send(self, request: WireRequest) -> WireReply | TransportFailure:
        """Send from a thread."""
        begun = time.monotonic()
        try:
            with self._client().stream(
                "POST",
                request.url,
                content=request.body,
                headers=request.headers,
                timeout=request.timeout,
                follow_redirects=False,
            ) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > request.max_reply_bytes:
                        return _too_large(request)
                    if time.monotonic() - begun > request.timeout:
                        return _timeout(request)
                return _reply(response, body, begun)
        except httpx.HTTPError as error:
            failure = _failure(error, request)
        except (httpx.InvalidURL, UnicodeError):
            failure = None
        if failure is None:
            raise _unsendable()
        return failure

    async def asend(self, request: WireRequest) -> WireReply | TransportFailure:
        """Send from a task."""
        client = await self._async_client()
        begun = time.monotonic()
        try:
            async with (
                asyncio.timeout(request.timeout),
                client.stream(
                    "POST",
                    request.url,
                    content=request.body,
                    headers=request.headers,
                    timeout=request.timeout,
                    follow_redirects=False,
                ) as response,
            ):
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > request.max_reply_bytes:
                        return _too_large(request)
                return _reply(response, body, begun)
        except httpx.HTTPError as error:
            failure = _failure(error, request)
        except TimeoutError:
            failure = _timeout(request)
        except (httpx.InvalidURL, UnicodeError):
            failure = None
        if failure is None:
            raise _unsendable()
        return failure

    def close(self) -> None:
        """Close the threads' connections."""
        with self._lock:
            finalizer, self._own, self._finalizer = self._finalizer, None, None
        if finalizer is not None:
            finalizer()

    async def aclose(self) -> None:
        """Close the connections of this loop and of threads."""
        lease = self._leases.pop(asyncio.get_running_loop(), None)
        if lease is not None:
            await lease.keeper.aclose()
        self.close()

    def _client(self) -> httpx.Client:
        if self._given is not None:
            return self._given
        with self._lock:
            if self._own is None:
                self._own = httpx.Client(**_settings())
                self._finalizer = weakref.finalize(self, self._own.close)
            return self._own

    async def _async_client(self) -> httpx.AsyncClient:
        if self._given_async is not None:
            return self._given_async
        loop = asyncio.get_running_loop()
        lease = self._leases.get(loop)
        if lease is None:
            lease = self._leases[loop] = _Lease()
        if lease.client is None:
            lease.client = await anext(lease.keeper)
        return lease.client


class _Lease:
    """An async client, held by a started async generator, which its loop closes when it shuts down."""

    def __init__(self) -> None:
        self.client: httpx.AsyncClient | None = None
        self.keeper = self._keep()

    @staticmethod
    async def _keep() -> AsyncGenerator[httpx.AsyncClient, None]:
        client = httpx.AsyncClient(**_settings())
        try:
            yield client
        finally:
            await client.aclose()


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """One for all clients: building one takes about 38 ms."""
    return httpx.create_ssl_context()


def _settings() -> dict[str, Any]:
    return {"verify": _ssl_context(), "limits": _LIMITS, "headers": _HEADERS, "mounts": _UNPROXIED}


def _reply(response: httpx.Response, body: bytearray, begun: float) -> WireReply:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return WireReply(response.status_code, headers, bytes(body), time.monotonic() - begun)


def _timeout(request: WireRequest) -> TransportFailure:
    return TransportFailure("timeout", f"no whole answer within {request.timeout:.3g} s")


def _too_large(request: WireRequest) -> TransportFailure:
    return TransportFailure("malformed", f"the answer is larger than {request.max_reply_bytes} bytes")


def _failure(error: httpx.HTTPError, request: WireRequest) -> TransportFailure | None:
    """What broke, in words of ours and httpx's; None when the request itself cannot be sent."""
    if isinstance(error, (httpx.LocalProtocolError, httpx.UnsupportedProtocol)):
        return None  # its text repeats the header it dislikes, and that may be the key
    if isinstance(error, httpx.TimeoutException):
        return _timeout(request)
    if isinstance(error, httpx.DecodingError):
        return TransportFailure("malformed", "the answer's compression is broken")
    words = f"{type(error).__name__}: {str(error)[:200]}"
    untrusted = any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _chain(error))
    return TransportFailure("tls" if untrusted else "connection", words)


def _chain(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return causes


def _unsendable() -> ConfigurationError:
    return ConfigurationError("HTTP cannot carry this request: check base_url, headers and the key.")
