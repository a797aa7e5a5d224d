"""Requests through the user's own httpx clients. The only file that imports httpx."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

import httpx

from multiembed.errors import ConfigurationError
from multiembed.transport.body import Body
from multiembed.transport.failures import BROKEN_COMPRESSION, failure_of, proxy_refused, timed_out, unsendable, words_of
from multiembed.transport.settings import HEADERS
from multiembed.transport.types import HttpResponse, TransportFailure

if TYPE_CHECKING:
    from multiembed.transport.types import HttpRequest

_UNSENDABLE = (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError)
_ERRORS = (*_UNSENDABLE, httpx.HTTPError, TimeoutError, RuntimeError)

# A forked child shares its parent's connections, and would read the parent's answers from them.
_owner_pids: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()


def check_clients(client: object, async_client: object) -> None:
    """Check that each client is of the right class, and belongs to this process.

    Raises:
        ConfigurationError: it is something else, for instance the client for the other calls, or was made before a
            fork.
    """
    for name, given, kind in (
        ("http_client", client, httpx.Client),
        ("http_async_client", async_client, httpx.AsyncClient),
    ):
        if given is not None and not isinstance(given, kind):
            raise ConfigurationError(f"{name} must be an httpx.{kind.__name__}, not {type(given).__name__}.")
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
                failure = body.add(data)
                if failure is not None:
                    return failure
                if time.monotonic() - started > request.timeout:
                    return timed_out(request.timeout)
            return _reply(response, body, started)
    except _ERRORS as error:
        outcome = _failure(error, request, "http_client is closed: keep it open for as long as the embedder is used.")
    if isinstance(outcome, ConfigurationError):
        raise outcome  # outside of the block above: httpx's error, which repeats the header, is no context
    return outcome


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
                failure = body.add(data)
                if failure is not None:
                    return failure
            return _reply(response, body, started)
    except _ERRORS as error:
        outcome = _failure(
            error,
            request,
            "http_async_client is closed, or was used in another event loop before: give an embedder for each loop "
            "its own, or leave it out.",
        )
    if isinstance(outcome, ConfigurationError):
        raise outcome  # outside of the block above: httpx's error, which repeats the header, is no context
    return outcome


def _arguments(request: HttpRequest) -> dict[str, Any]:
    return {
        "url": request.url,
        "content": request.body,
        "headers": {**HEADERS, **request.headers},
        "timeout": request.timeout,
        "follow_redirects": False,
    }


def _reply(response: httpx.Response, body: Body, started: float) -> HttpResponse | TransportFailure:
    whole = body.whole()
    if not isinstance(whole, bytes):
        return whole
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpResponse(response.status_code, headers, whole, time.monotonic() - started)


def _failure(error: Exception, request: HttpRequest, unusable: str) -> TransportFailure | ConfigurationError:
    """Return what an exception of `_ERRORS` stands for. `unusable` explains a RuntimeError."""
    if isinstance(error, (httpx.TimeoutException, TimeoutError)):
        return timed_out(request.timeout)
    if isinstance(error, _UNSENDABLE):
        return unsendable()
    if isinstance(error, RuntimeError):
        return ConfigurationError(unusable)
    if isinstance(error, httpx.DecodingError):
        return BROKEN_COMPRESSION
    if isinstance(error, httpx.ProxyError) and str(error).startswith("407"):
        return proxy_refused(407)
    return failure_of(error, TransportFailure("connection", words_of(error)))
