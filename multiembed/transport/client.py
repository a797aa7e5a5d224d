"""HTTP client: aiohttp with its connection pool and keep-alive, used from one event loop.

An attempt ends within its time whatever the server does. Its result is a value: a response, or the kind of failure.
"""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from typing import TYPE_CHECKING

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from multiembed.transport.body import Body, BodyError, decompress
from multiembed.transport.connection import Attempt, KeptConnections, Request, current_attempt, make_socket
from multiembed.transport.failures import failure_of, invalid_http, proxy_refused, timed_out, unsendable
from multiembed.transport.proxies import SCHEMES, find_proxy
from multiembed.transport.resolver import Resolver
from multiembed.transport.settings import HEADERS, TransportSettings
from multiembed.transport.tls import ssl_context
from multiembed.transport.types import HttpResponse, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from ssl import SSLContext

    from multiembed.transport.types import HttpRequest

KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept; servers commonly close theirs after 60."""
_READ_BUFFER = 1 << 20
"""Bytes of a response that may wait to be read. Most bodies fit."""
_MAX_HEADER = 1 << 16
"""Bytes of a status line or a header; aiohttp's default of 8,190 is too little for some gateways."""
# CPython issue 113214: a TLS connection that is closed and not answered stayed open. aiohttp warns where it is mended.
_CLOSES_TLS_LATE = sys.version_info < (3, 12, 8) or (3, 13) <= sys.version_info < (3, 13, 1)
_CONNECTION_ENDED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError)


class Transport:
    """HTTP connections for one set of settings, opened on demand. Used from one event loop and its thread."""

    def __init__(self, settings: TransportSettings | None = None) -> None:
        # Without the cache, finding a route takes 15 us of a request's 160.
        self._route = lru_cache(64)(partial(_find_route, settings or TransportSettings()))
        self._session: _Session | None = None

    async def send(self, request: HttpRequest) -> HttpResponse | TransportFailure:
        """Send one request. The attempt ends within `request.timeout` seconds.

        A request that dies unanswered on a kept connection was not processed: it is sent again on another one, and
        counts once.

        Raises:
            ConfigurationError: HTTP cannot carry the request, or the settings name a file or a proxy that is unusable.
        """
        route = self._route(request.url)
        session = self._session = self._session or _Session()
        session.users += 1
        try:
            async with asyncio.timeout(request.timeout):
                return await session.send(request, route)
        except TimeoutError:
            return timed_out(request.timeout)
        finally:
            await session.release()

    async def aclose(self) -> None:
        """Close all connections; those in use when their requests end. A later request opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.release()


class _Session:
    """A session of aiohttp, closed by the last of its users: the requests in flight and the transport."""

    def __init__(self) -> None:
        self.users = 1
        self._resolver = Resolver()
        self._kept: defaultdict[URL, KeptConnections] = defaultdict(KeptConnections)
        """By the server's origin."""
        connector = aiohttp.TCPConnector(
            limit=0,  # the rate limiter limits
            keepalive_timeout=KEEP_ALIVE,
            resolver=self._resolver,
            use_dns_cache=False,  # the resolver has one that keeps the order of the addresses
            enable_cleanup_closed=_CLOSES_TLS_LATE,
            socket_factory=make_socket,
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            request_class=Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(),  # none: one timeout, ours, bounds the attempt as a whole
            auto_decompress=False,  # aiohttp 3.14.5 accepts a gzip body that is cut
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            max_headers=1000,
        )

    async def release(self) -> None:
        self.users -= 1
        if not self.users:
            await self._http.close()

    async def send(self, request: HttpRequest, route: _Route) -> HttpResponse | TransportFailure:
        kept = self._kept[route.origin]
        if request.fresh:
            kept.generation += 1
        deaths = 0
        while True:
            attempt = Attempt(kept, fresh=request.fresh or deaths > 1)
            result = await self._exchange(request, route, attempt)
            if result is not None:
                return result
            if attempt.watch is not None:
                # The other idle connections may be as dead. A second death of the same request means that this server
                # closes each kept connection.
                deaths += 1
                kept.generation = max(kept.generation, attempt.watch.generation + 1)

    async def _exchange(
        self, request: HttpRequest, route: _Route, attempt: Attempt
    ) -> HttpResponse | TransportFailure | None:
        """Send one request on one connection. Returns None if a kept connection ended before any byte of a response."""
        response: aiohttp.ClientResponse | None = None
        is_whole = False
        current_attempt.set(attempt)
        try:
            headers = CIMultiDict(route.headers)
            headers.update(request.headers)
            response = await self._http.request(
                "POST",
                route.url,
                data=BytesIO(request.body),  # aiohttp warns of bytes above 1 MiB
                headers=headers,
                ssl=route.ssl,
                proxy=route.proxy,
                proxy_headers=route.proxy_headers,
                allow_redirects=False,
            )
            if response.status < 200:  # another protocol (101), which was not asked for
                return TransportFailure("connection", "the response changes the protocol")
            body = await _read(response, request.max_reply_bytes)
            is_whole = True
        except (aiohttp.ClientError, OSError, ValueError, BodyError) as error:
            if isinstance(error, _CONNECTION_ENDED) and attempt.reused and not attempt.is_answered:
                return None
            return _failure_of(error)
        finally:
            attempt.finish(is_whole=is_whole)
            if response is not None and not is_whole:
                response.close()
        if attempt.address:
            self._resolver.preferred[(route.proxy or route.url).raw_host or ""] = attempt.address
        if route.proxy is not None and response.status == 407:
            return proxy_refused(407)
        seconds = time.monotonic() - attempt.started
        return HttpResponse(response.status, _headers_of(response), body, seconds, reused=attempt.reused)


@dataclass(frozen=True, slots=True, repr=False)
class _Route:
    """How requests reach one URL. Without a repr: URL and headers may hold a key or a password."""

    url: URL
    origin: URL
    ssl: SSLContext | bool
    headers: Mapping[str, str]
    proxy: URL | None
    proxy_headers: Mapping[str, str] | None
    """Headers for the proxy that opens a tunnel."""


def _find_route(settings: TransportSettings, text: str) -> _Route:
    try:
        url = URL(text, encoded=True)
        is_valid = url.scheme in SCHEMES and url.host and url.port and url.user is None
    except ValueError:
        is_valid = False
    if not is_valid:
        raise unsendable()
    proxy = find_proxy(text, settings.proxy)
    login = {}
    if proxy is not None and proxy.user:
        credentials = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode())
        login["Proxy-Authorization"] = f"Basic {credentials.decode()}"
    is_tunnel = proxy is not None and url.scheme == "https"
    needs_tls = url.scheme == "https" or (proxy is not None and proxy.scheme == "https")
    return _Route(
        url=url,
        origin=url.origin(),
        ssl=ssl_context(settings.ca_bundle, settings.client_cert) if needs_tls else True,
        headers=HEADERS if is_tunnel else {**HEADERS, **login},
        proxy=None if proxy is None else proxy.origin(),
        proxy_headers={"User-Agent": HEADERS["User-Agent"], **login} if is_tunnel else None,
    )


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Read and decompress the body, under the response cap."""
    body = Body(max_bytes)
    while data := await response.content.readany():
        body.add(data)
    return decompress(body.join(), response.headers.get("Content-Encoding", ""), max_bytes)


def _headers_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Headers by lower-case name; those that stand there more than once are joined (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for name, value in response.raw_headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _failure_of(error: Exception) -> TransportFailure:
    if isinstance(error, BodyError):
        return TransportFailure("malformed", str(error))
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(error.status)
    if isinstance(error, aiohttp.ClientResponseError):
        return invalid_http(error.message)
    if isinstance(error, aiohttp.InvalidURL) or not isinstance(error, (aiohttp.ClientError, OSError)):
        raise unsendable() from None  # aiohttp's error holds the headers, and so the key
    return failure_of(error)
