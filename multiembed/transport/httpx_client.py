"""Requests through the user's own httpx clients. The only file that imports httpx."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

import httpx

from multiembed.errors import ConfigurationError
from multiembed.transport.body import BROKEN_COMPRESSION, Body, BodyError
from multiembed.transport.failures import describe, failure_of, proxy_refused, timed_out, unsendable
from multiembed.transport.settings import HEADERS
from multiembed.transport.types import HttpResponse, TransportFailure

if TYPE_CHECKING:
    from multiembed.transport.types import HttpRequest

_UNSENDABLE = (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError)
_UNUSABLE_ASYNC = (
    "http_async_client is closed, or was used in another event loop before: give an embedder for each loop its own, or "
    "leave it out."
)
_ERRORS = (*_UNSENDABLE, httpx.HTTPError, TimeoutError, BodyError, RuntimeError)

# A forked child shares its parent's connections, and would read the parent's responses from them.
_owner_pids: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()


def check_clients(client: object, async_client: object) -> None:
    """Check the user's clients.

    Raises:
        ConfigurationError: one is not of the right class, or was made before a fork.
    """
    classes = ("http_client", client, httpx.Client), ("http_async_client", async_client, httpx.AsyncClient)
    for name, given, expected in classes:
        if given is not None and not isinstance(given, expected):
            raise ConfigurationError(f"{name} must be an httpx.{expected.__name__}, not {type(given).__name__}.")
        if given is not None and _owner_pids.setdefault(given, os.getpid()) != os.getpid():
            raise ConfigurationError(
                f"{name} was made before this process was forked, and its connections are the parent's too: make the "
                "client and the embedder in the child, or leave the client out."
            )


def send(client: httpx.Client, request: HttpRequest) -> HttpResponse | TransportFailure:
    """Send one request.

    Headers that arrive byte by byte can outlast `request.timeout`: httpx bounds each read by itself.

    Raises:
        ConfigurationError: HTTP cannot carry the request, or the client is closed.
    """
    started = time.monotonic()
    try:
        with client.stream("POST", **_arguments(request)) as response:
            body = Body(request.max_reply_bytes)
            for data in response.iter_bytes():
                body.add(data)
                if time.monotonic() - started > request.timeout:
                    return timed_out(request.timeout)
            return _response(response, body, started)
    except _ERRORS as error:
        return _failure_of(error, request, "http_client is closed: keep it open for as long as the embedder is used.")


async def asend(client: httpx.AsyncClient, request: HttpRequest) -> HttpResponse | TransportFailure:
    """Send one request. The attempt ends within `request.timeout` seconds.

    Raises:
        ConfigurationError: HTTP cannot carry the request, or the client is closed or belongs to another event loop.
    """
    started = time.monotonic()
    try:
        async with asyncio.timeout(request.timeout), client.stream("POST", **_arguments(request)) as response:
            body = Body(request.max_reply_bytes)
            async for data in response.aiter_bytes():
                body.add(data)
            return _response(response, body, started)
    except _ERRORS as error:
        return _failure_of(error, request, _UNUSABLE_ASYNC)


def _arguments(request: HttpRequest) -> dict[str, Any]:
    return {
        "url": request.url,
        "content": request.body,
        "headers": {**HEADERS, **request.headers},
        "timeout": request.timeout,
        "follow_redirects": False,
    }


def _response(response: httpx.Response, body: Body, started: float) -> HttpResponse:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpResponse(response.status_code, headers, body.join(), time.monotonic() - started)


def _failure_of(error: Exception, request: HttpRequest, unusable: str) -> TransportFailure:
    """Return or raise what an exception of `_ERRORS` stands for. `unusable` explains a RuntimeError."""
    if isinstance(error, BodyError):
        return TransportFailure("malformed", str(error))
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return timed_out(request.timeout)
    if isinstance(error, _UNSENDABLE):
        raise unsendable() from None  # httpx's error repeats the header, and so the key
    if isinstance(error, RuntimeError):
        raise ConfigurationError(unusable) from None
    if isinstance(error, httpx.DecodingError):
        return TransportFailure("malformed", BROKEN_COMPRESSION)
    if isinstance(error, httpx.ProxyError) and str(error).startswith("407"):
        return proxy_refused(407)
    return failure_of(error, TransportFailure("connection", describe(error)))
