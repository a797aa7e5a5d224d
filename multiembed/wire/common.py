"""What the senders share: headers, TLS, proxies, and bodies read and unpacked up to a cap."""

from __future__ import annotations

import errno
import functools
import os
import re
import select
import ssl
import urllib.request
import zlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import certifi

from multiembed.address import is_loopback
from multiembed.errors import ConfigurationError
from multiembed.records import TransportFailure

if TYPE_CHECKING:
    import socket

    from multiembed.records import WireRequest

HEADERS = {"User-Agent": "multiembed", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
KEEP_ALIVE = 30.0
"""Seconds that an idle connection is kept; servers commonly close theirs after 60."""
_WORDS = 200
_LOCAL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
"""This machine is out of files, buffers, memory or ports."""
_LOGIN = re.compile(r"//[^/@\s]*@")


@functools.cache
def ssl_context() -> ssl.SSLContext:
    """One for all connections, since building one takes about 40 ms.

    It trusts what certifi lists, as httpx does, unless SSL_CERT_FILE or SSL_CERT_DIR name something else.
    """
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context()
    return ssl.create_default_context(cafile=certifi.where())


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL; none for loopback, which no proxy can reach."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if urlsplit(proxy).scheme not in ("http", "https"):
        raise ConfigurationError(
            "The environment names a proxy that is neither http nor https: pass your own http_client and "
            "http_async_client for it."
        )
    return proxy


def readable(sock: socket.socket) -> bool:
    """Whether something can be read from a socket now, be it its end."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([sock], [], [], 0)[0])  # Windows, where it takes any socket


class Body:
    """A reply's body as it arrives: unpacked, and never more than the cap."""

    def __init__(self, encoding: str, most: int) -> None:
        self._most = most
        self._size = 0
        self._parts: list[bytes] = []
        coding = encoding.strip().lower()
        # 47 reads gzip and zlib headers alike; anything else is taken as it is, and then fails as JSON.
        self._unpack = zlib.decompressobj(47) if coding in ("gzip", "x-gzip", "deflate") else None

    def add(self, data: bytes) -> TransportFailure | None:
        """Take a piece; a failure when the body is too large or its packing broken."""
        if self._unpack is not None:
            try:
                data = self._unpack.decompress(data, self._most + 1 - self._size)
            except zlib.error:
                return TransportFailure("malformed", "the answer's compression is broken")
        self._size += len(data)
        self._parts.append(data)
        return too_large(self._most) if self._size > self._most else None

    def whole(self) -> bytes | TransportFailure:
        """The body, after the last piece."""
        if self._unpack is not None and not self._unpack.eof and self._size:
            return TransportFailure("malformed", "the answer's compression breaks off")
        return b"".join(self._parts)


def too_large(most: int) -> TransportFailure:
    """The failure of an answer above the cap."""
    return TransportFailure("malformed", f"the answer is larger than {most:,} bytes")


def timed_out(request: WireRequest) -> TransportFailure:
    """The failure of an attempt that took too long."""
    return TransportFailure("timeout", f"no whole answer within {request.timeout:.3g} s")


def broken(error: BaseException) -> TransportFailure:
    """The failure behind an exception of a library: a certificate, a proxy, or a connection.

    Libraries put no header and no body into such exceptions' words; a proxy's whole address may be there.
    """
    chain = _chain(error)
    words = _LOGIN.sub("//…@", f"{type(error).__name__}: {error}")[:_WORDS]
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain):
        return TransportFailure("tls", words)
    if any(getattr(cause, "status", None) == 407 or "connection failed: 407" in str(cause) for cause in chain):
        return TransportFailure("proxy", "the proxy answers 407")
    return TransportFailure("connection", words, local=any(getattr(each, "errno", None) in _LOCAL for each in chain))


class TunnelRefusedError(OSError):
    """A proxy's no to CONNECT."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the proxy answers {status}")
        self.status = status


def unsendable() -> ConfigurationError:
    """The error for a request that HTTP cannot carry; a library's own words would repeat the header, and so the key."""
    return ConfigurationError("HTTP cannot carry this request: check base_url, headers and the key.")


def _chain(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        nested = [part for part in error.args if isinstance(part, BaseException)]
        error = error.__cause__ or error.__context__ or (nested[0] if nested else None)
    return causes
