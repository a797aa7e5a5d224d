"""Sending from threads, by urllib3: its pool is fast at hundreds of connections, where httpx's own is not."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, InvalidHeader, LocationValueError, NewConnectionError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from multiembed.records import WireReply
from multiembed.wire.common import (
    CHUNK,
    HEADERS,
    Body,
    broken,
    proxy_for,
    ssl_context,
    timed_out,
    too_large,
    unsendable,
)

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

    from multiembed.records import TransportFailure, WireRequest

_MOST_KEPT = 200


class _Clock(threading.local):
    ends = float("inf")
    """When this thread's attempt must be over; a socket's own timeout would begin anew with every byte."""

    def left(self) -> float:
        seconds = self.ends - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the attempt's time is over")
        return seconds


_clock = _Clock()


class _TimedSocket(socket.socket):
    def recv_into(self, *args: Any, **options: Any) -> int:
        self.settimeout(_clock.left())
        return super().recv_into(*args, **options)

    def __del__(self) -> None:
        self.close()  # an idle connection may be left to the collector, and is no leak to warn of


class _TimedTLSSocket(ssl.SSLSocket):
    def recv_into(self, *args: Any, **options: Any) -> int:
        self.settimeout(_clock.left())
        return super().recv_into(*args, **options)

    def __del__(self) -> None:
        self.close()


def _timed(plain: socket.socket) -> socket.socket:
    timeout = plain.gettimeout()
    timed = _TimedSocket(plain.family, plain.type, plain.proto, fileno=plain.detach())
    timed.settimeout(timeout)
    return timed


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _timed(super()._new_conn())


class _TLSConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _timed(super()._new_conn())


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


class Pool:
    """The connections of one embedder's threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._managers: dict[str, urllib3.PoolManager] = {}

    def send(self, request: WireRequest) -> WireReply | TransportFailure:
        """One attempt, which ends within `request.timeout` seconds whatever the server does."""
        manager = self._manager(request.url)
        begun = time.monotonic()
        _clock.ends = begun + request.timeout
        response: BaseHTTPResponse | None = None
        try:
            response = manager.urlopen(
                "POST",
                request.url,
                body=request.body,
                headers={**HEADERS, **request.headers},
                timeout=urllib3.Timeout(request.timeout),
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            return _read(response, request, begun)
        except NewConnectionError as error:  # ahead of the timeouts, of which urllib3 makes it one
            return broken(error)
        except (Urllib3TimeoutError, TimeoutError):
            return timed_out(request)
        except (InvalidHeader, LocationValueError):
            pass  # told below, outside of this block, so that the library's words are no context of ours
        except (HTTPError, http.client.HTTPException, OSError) as error:
            return timed_out(request) if time.monotonic() >= _clock.ends else broken(error)
        except ValueError:
            pass
        finally:
            if response is not None:
                response.close()  # a connection whose answer was read to its end is back in the pool already
        raise unsendable()

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            manager.clear()

    def _manager(self, url: str) -> urllib3.PoolManager:
        origin = urlsplit(url).netloc
        manager = self._managers.get(origin)
        if manager is None:
            with self._lock:
                manager = self._managers.setdefault(origin, _manager_for(url))
        return manager


def _manager_for(url: str) -> urllib3.PoolManager:
    context = ssl_context()
    context.sslsocket_class = _TimedTLSSocket
    proxy = proxy_for(url)
    settings: dict[str, Any] = {"maxsize": _MOST_KEPT, "block": False, "ssl_context": context}
    if proxy is None:
        manager = urllib3.PoolManager(**settings)
    else:
        parts = urlsplit(proxy)
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
        headers = urllib3.make_headers(proxy_basic_auth=login) if login else None
        manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **settings)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return manager


def _read(response: BaseHTTPResponse, request: WireRequest, begun: float) -> WireReply | TransportFailure:
    headers = {name.lower(): value for name, value in response.headers.items()}
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > request.max_reply_bytes:
        return too_large(request.max_reply_bytes)
    body = Body(headers.get("content-encoding", ""), request.max_reply_bytes)
    while data := response.read(CHUNK, decode_content=False):
        failure = body.add(data)
        if failure is not None:
            return failure
    whole = body.whole()
    if not isinstance(whole, bytes):
        return whole
    return WireReply(response.status, headers, whole, time.monotonic() - begun)
