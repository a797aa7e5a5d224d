"""The HTTP client: aiohttp, used from one event loop.

An attempt ends within its time whatever the server does. Its outcome is a value: an answer, or the kind of failure.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from aiohttp.http_exceptions import LineTooLong
from yarl import URL

from multiembed.transport.body import Body
from multiembed.transport.connection import Request, StaleConnectionError, UnansweredError, Upload, make_socket
from multiembed.transport.failures import failure_of, not_http, proxy_refused, timed_out, too_large, unsendable
from multiembed.transport.proxies import PORTS, find_proxy
from multiembed.transport.resolver import Resolver
from multiembed.transport.settings import HEADERS, TransportSettings
from multiembed.transport.tls import ssl_context
from multiembed.transport.types import HttpResponse, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.transport.types import HttpRequest

KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept; servers commonly close theirs after 60."""
_READ_BUFFER = 1 << 20
"""Bytes of a response that may wait to be read. Most bodies fit, and are read in one piece when they are whole."""
_MAX_HEADER = 1 << 16
"""Bytes of a status line or a header; aiohttp's default of 8,190 is too little for some gateways."""
# CPython issue 113214: a TLS connection that is closed and not answered stayed open. aiohttp warns where it is mended.
_CLOSES_TLS_LATE = sys.version_info < (3, 12, 8) or (3, 13) <= sys.version_info < (3, 13, 1)

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
_URL = re.compile(r"[\x21-\x7e]+")


class Transport:
    """The connections for one set of settings. Used from one event loop and its thread.

    They are opened when a request needs them and kept for later ones.
    """

    def __init__(self, settings: TransportSettings | None = None) -> None:
        self._settings = settings or TransportSettings()
        self._pools: dict[tuple[str, str, int], _Pool] = {}
        """By scheme, host and port."""
        self._target = lru_cache(64)(partial(_target, self._settings))  # finding one takes 15 us of a request's 160
        self._resolver = Resolver()

    async def send(self, request: HttpRequest) -> HttpResponse | TransportFailure:
        """Send one request. The attempt ends within `request.timeout` seconds.

        A request that dies unanswered on a kept connection was not processed: it is sent again on another one, and
        counts once.

        Raises:
            ConfigurationError: HTTP cannot carry the request, or the settings name a file or a proxy that is unusable.
        """
        target = self._target(request.url)
        headers = _headers(request.headers, target)
        try:
            async with asyncio.timeout(request.timeout):
                return await self._send(request, target, headers)
        except TimeoutError:
            return timed_out(request.timeout)

    async def aclose(self) -> None:
        """Close all connections; those in use when their requests end. A later request opens new ones."""
        pools = list(self._pools.values())
        self._pools.clear()
        self._target.cache_clear()  # a URL may hold a key
        self._resolver = Resolver()
        for pool in pools:
            await pool.release()

    async def _send(
        self, request: HttpRequest, target: _Target, headers: Mapping[str, str]
    ) -> HttpResponse | TransportFailure:
        fresh, deaths = request.fresh, 0
        while True:
            if fresh:
                await self._drop(target.server)
            pool = self._pools.get(target.server)
            if pool is None:
                pool = self._pools[target.server] = _Pool(target, self._settings, self._resolver)
            # No wait from here to the choice of the connection: nothing else can use a new pool first.
            try:
                return await _exchange(request, target, headers, pool)
            except StaleConnectionError:
                pass
            except UnansweredError:
                # The other idle connections may be as dead. The first request that finds out replaces the pool. A
                # second death of the same request means that this server closes each kept connection.
                deaths += 1
                await self._drop(target.server, pool)
                fresh = deaths > 1
            finally:
                await pool.release()

    async def _drop(self, server: tuple[str, str, int], only: _Pool | None = None) -> None:
        """Take a server's pool out of use; with `only`, if it is that one."""
        while (pool := self._pools.get(server)) is not None and only in (None, pool):
            del self._pools[server]
            await pool.release()


async def _exchange(
    request: HttpRequest, target: _Target, headers: Mapping[str, str], pool: _Pool
) -> HttpResponse | TransportFailure:
    """Send one request on one connection.

    Raises:
        StaleConnectionError: it was a kept one, and nothing was sent.
        UnansweredError: it was a kept one and ended before any byte of an answer.
        ConfigurationError: HTTP cannot carry the request.
    """
    pool.users += 1
    upload = Upload(request.body, pool.connected)
    response: aiohttp.ClientResponse | None = None
    is_whole = False
    try:
        response = await pool.session.request(
            "POST",
            target.url,
            data=upload,
            headers=headers,
            proxy=target.proxy_url,
            proxy_headers=target.proxy_headers,
            allow_redirects=False,
        )
        if response.status < 200:  # another protocol (101), which nothing asked for
            return not_http("it changes the protocol")
        body = await _read(response, request.max_reply_bytes)
        if not isinstance(body, bytes):
            return body
        is_whole = True
        if target.proxy_url is not None and response.status == 407:
            return proxy_refused(407)
        seconds = time.monotonic() - upload.started
        return HttpResponse(response.status, _headers_of(response), body, seconds, reused=upload.reused)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Only the end of the connection is no reason to doubt the request.
        has_ended = isinstance(error, (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError))
        if has_ended and upload.reused and upload.is_unanswered:
            raise UnansweredError from error
        outcome = _failure(error)
    finally:
        if is_whole:
            upload.finish()
        else:
            upload.abort()
            if response is not None:
                response.close()
    if outcome is None:
        raise unsendable()  # outside of the block above: the error holds the headers, and so the key
    return outcome


def _headers(given: Mapping[str, str], target: _Target) -> Mapping[str, str]:
    """The headers that go out, checked: aiohttp would send some that HTTP forbids."""
    for name, value in given.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise unsendable()
    own = {name.lower() for name in given}
    headers = {name: value for name, value in HEADERS.items() if name.lower() not in own}
    headers |= {name: value for name, value in given.items() if name.lower() != "content-length"}
    headers.update(target.headers)
    return headers


@dataclass(frozen=True, slots=True, repr=False)
class _Target:
    """Where one URL's requests go, and by which way. Without a repr: URL and headers may hold a key or a password."""

    url: URL
    server: tuple[str, str, int]
    proxy_url: URL | None
    proxy_headers: Mapping[str, str] | None
    """Headers for the proxy that opens a tunnel."""
    headers: Mapping[str, str]
    """Headers for a proxy without tunnel, in addition to the request's own."""


def _target(settings: TransportSettings, url: str) -> _Target:
    """The way to a URL.

    Raises:
        ConfigurationError: it is not the URL of an HTTP server, or the proxy is neither http nor https.
    """
    try:
        parts = urlsplit(url)
        host, port, scheme = parts.hostname, parts.port, parts.scheme
    except ValueError:
        host = port = scheme = None
    if not host or scheme not in PORTS or port == 0 or parts.username is not None or not _URL.fullmatch(url):
        raise unsendable()
    proxy = find_proxy(url, settings.proxy)
    login = {} if proxy is None or proxy.login is None else {"Proxy-Authorization": proxy.login}
    is_tunnel = scheme == "https"
    return _Target(
        url=URL(url, encoded=True),
        server=(scheme, host, port or PORTS[scheme]),
        proxy_url=None if proxy is None else URL(proxy.url, encoded=True),
        proxy_headers={"User-Agent": HEADERS["User-Agent"], **login} if proxy is not None and is_tunnel else None,
        headers={} if is_tunnel else login,
    )


class _Pool:
    """The connections to one server, until one of them turns out to be dead: a session of aiohttp and its users."""

    def __init__(self, target: _Target, settings: TransportSettings, resolver: Resolver) -> None:
        needs_tls = "https" in (target.url.scheme, target.proxy_url and target.proxy_url.scheme)
        connector = aiohttp.TCPConnector(
            ssl=ssl_context(settings.ca_bundle, settings.client_cert) if needs_tls else True,
            limit=0,  # the limiter of the account limits
            keepalive_timeout=KEEP_ALIVE,
            resolver=resolver,
            use_dns_cache=False,  # the resolver's is better: see there
            enable_cleanup_closed=_CLOSES_TLS_LATE,
            socket_factory=make_socket,
        )
        self.session = aiohttp.ClientSession(
            connector=connector,
            request_class=Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type", "User-Agent", "Accept", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(),  # none: one clock, ours, bounds the attempt as a whole
            auto_decompress=False,  # aiohttp 3.14.5 accepts a gzip body that is cut
            read_bufsize=_READ_BUFFER,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            max_headers=1000,
        )
        first_host = (target.proxy_url or target.url).raw_host or ""
        self.connected = partial(resolver.answered, first_host)
        self.users = 1
        """The requests in flight, and the transport while it offers the pool to new ones."""

    async def release(self) -> None:
        """Remove one user. The last one closes the connections, the idle ones too."""
        self.users -= 1
        if not self.users:
            await self.session.close()


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | TransportFailure:
    """The body, unpacked; a failure if it is larger than the cap or its compression is broken."""
    length = response.content_length
    if length is not None and length > max_bytes:
        return too_large(max_bytes)
    content, encoding = response.content, response.headers.get("Content-Encoding", "")
    body = Body(max_bytes)
    if length is not None and length <= _READ_BUFFER:
        # Without waking up for each piece of it.
        if content.exception() is None:
            await content.wait_eof()
        body.add(content.read_nowait())
        return body.whole(encoding)
    while piece := await content.readany():
        failure = body.add(piece)
        if failure is not None:
            return failure
    return body.whole(encoding)


def _headers_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    """The response's headers by lower-case name; those that stand there more than once are joined (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for name, value in response.raw_headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _failure(error: Exception) -> TransportFailure | None:
    """The failure that an exception stands for; None if HTTP cannot carry the request."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy_refused(error.status)
    if isinstance(error, aiohttp.ClientResponseError):
        if isinstance(error.__cause__, LineTooLong):
            return TransportFailure("connection", "the answer's headers are too long or do not end")
        return not_http(error.message)
    if isinstance(error, aiohttp.InvalidURL) or not isinstance(error, (aiohttp.ClientError, OSError)):
        return None
    return failure_of(error)
