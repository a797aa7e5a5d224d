"""Sending through the caller's own httpx clients; the only file that imports httpx."""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from typing import TYPE_CHECKING, Any

import httpx

from multiembed.errors import ConfigurationError
from multiembed.records import TransportFailure, WireReply
from multiembed.wire.common import HEADERS, Body, broken, timed_out, unsendable

if TYPE_CHECKING:
    from multiembed.records import WireRequest


# A forked child shares its parent's connections, and would read the parent's answers from them.
_homes: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()


def check_clients(client: object, async_client: object) -> None:
    """See that each is of the right kind, and belongs to this process.

    Raises:
        ConfigurationError: it is something else, for instance the one in the other's place, or was made before a fork.
    """
    for name, given, kind in (
        ("http_client", client, httpx.Client),
        ("http_async_client", async_client, httpx.AsyncClient),
    ):
        if given is not None and not isinstance(given, kind):
            raise ConfigurationError(f"{name} must be an httpx.{kind.__name__}, not {type(given).__name__}.")
        if given is not None and _homes.setdefault(given, os.getpid()) != os.getpid():
            raise ConfigurationError(
                f"{name} was made before this process was forked, and its connections are the parent's too: make the "
                "client and the embedder in the child, or leave the client out."
            )


def send(client: httpx.Client, request: WireRequest) -> WireReply | TransportFailure:
    """One attempt. Headers that come byte by byte can outlast `request.timeout`: httpx counts each read for itself."""
    begun = time.monotonic()
    try:
        with client.stream("POST", **_arguments(request)) as response:
            body = Body("", request.max_reply_bytes)  # httpx unpacks
            for data in response.iter_bytes():
                failure = body.add(data)
                if failure is not None:
                    return failure
                if time.monotonic() - begun > request.timeout:
                    return timed_out(request)
            return _reply(response, body, begun)
    except httpx.TimeoutException:
        return timed_out(request)
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError):
        pass  # told below, outside of this block, so that httpx's words are no context of ours
    except httpx.DecodingError:
        return TransportFailure("malformed", "the answer's compression is broken")
    except httpx.HTTPError as error:
        return broken(error)
    except RuntimeError:
        raise ConfigurationError("http_client is closed: keep it open for as long as the embedder is used.") from None
    raise unsendable()


async def asend(client: httpx.AsyncClient, request: WireRequest) -> WireReply | TransportFailure:
    """One attempt, which ends within `request.timeout` seconds."""
    begun = time.monotonic()
    try:
        async with asyncio.timeout(request.timeout), client.stream("POST", **_arguments(request)) as response:
            body = Body("", request.max_reply_bytes)
            async for data in response.aiter_bytes():
                failure = body.add(data)
                if failure is not None:
                    return failure
            return _reply(response, body, begun)
    except (httpx.TimeoutException, TimeoutError):
        return timed_out(request)
    except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError):
        pass
    except httpx.DecodingError:
        return TransportFailure("malformed", "the answer's compression is broken")
    except httpx.HTTPError as error:
        return broken(error)
    except RuntimeError:
        raise ConfigurationError(
            "http_async_client is closed, or was used in another event loop before: give an embedder for each loop "
            "its own, or leave it out."
        ) from None
    raise unsendable()


def _arguments(request: WireRequest) -> dict[str, Any]:
    return {
        "url": request.url,
        "content": request.body,
        "headers": {**HEADERS, **request.headers},
        "timeout": request.timeout,
        "follow_redirects": False,
    }


def _reply(response: httpx.Response, body: Body, begun: float) -> WireReply | TransportFailure:
    whole = body.whole()
    if not isinstance(whole, bytes):
        return whole
    headers = {name.lower(): value for name, value in response.headers.items()}
    return WireReply(response.status_code, headers, whole, time.monotonic() - begun)
