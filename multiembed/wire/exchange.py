"""One request to bytes and bytes to one answer, by httptools: no socket and no clock."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from multiembed.records import TransportFailure, WireReply
from multiembed.wire.common import HEADERS, Body, broken, too_large, unsendable
from multiembed.wire.route import path_of, route_to

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiembed.records import WireRequest
    from multiembed.wire.route import Route

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_UNFIT_TARGET = re.compile(r"[^\x21-\x7e]")
_MOST_HEAD = 1 << 17
"""Bytes of status lines and headers; llhttp itself would take them without end."""


class Writer:
    """Writes requests as they go out, each by its way; what they have in common with the last one is not made anew."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}
        self._last: tuple[str, tuple[tuple[str, str], ...], bytes] = ("", (), b"")

    def write(self, request: WireRequest) -> tuple[Route, bytes]:
        """The way to its server, and what is sent there.

        Raises:
            ConfigurationError: HTTP cannot carry it.
        """
        url, headers = request.url, tuple(request.headers.items())
        route = self._routes.get(url) or self._routes.setdefault(url, route_to(url))
        last_url, last_headers, head = self._last
        if url != last_url or headers != last_headers:
            head = _head("POST", route.base + path_of(url), _headers(request, route))
            self._last = url, headers, head
        return route, b"%bContent-Length: %d\r\n\r\n%b" % (head, len(request.body), request.body)


def _headers(request: WireRequest, route: Route) -> Iterable[tuple[str, str]]:
    headers = {"host": ("Host", route.authority)}
    for name, value in (*HEADERS.items(), *request.headers.items()):
        headers[name.lower()] = (name, value)
    if route.login is not None and not route.tunnel:
        headers["proxy-authorization"] = ("Proxy-Authorization", route.login)
    headers.pop("content-length", None)
    return headers.values()


def asking_for_tunnel(route: Route) -> bytes:
    """What a proxy is told before a server can be spoken to through it."""
    host = f"[{route.server}]" if ":" in route.server else route.server
    target = f"{host}:{route.server_port}"
    headers = [("Host", target), ("User-Agent", HEADERS["User-Agent"])]
    if route.login is not None:
        headers.append(("Proxy-Authorization", route.login))
    return _head("CONNECT", target, headers) + b"\r\n"


def _head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """A request's first lines, without the empty one that ends them."""
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers:
        if not _NAME.fullmatch(name) or _UNFIT.search(value):
            raise unsendable()
        lines.append(f"{name}: {value}")
    text = "\r\n".join((*lines, ""))
    if _UNFIT_TARGET.search(target):
        raise unsendable()
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        pass  # told below, outside of this block: the error holds the header, and so the key
    raise unsendable()


class _Enough(Exception):  # noqa: N818 - it is none
    """Ends the parser's work from within one of its calls."""


class Answer:
    """One answer, as its bytes come in."""

    def __init__(self, most_bytes: int) -> None:
        self.over = False
        """Nothing more is awaited: the answer is whole, or it can never be."""
        self.status = 0
        self._most_bytes = most_bytes
        self._headers: dict[str, str] = {}
        self._headed = False
        self._head_bytes = 0
        self._body = Body("", most_bytes)
        self._failure: TransportFailure | None = None
        self._keep_alive = False
        self._strange = False
        # It holds this object's methods: the two would wait for the collector if it were not let go in the end.
        self._parser: Any = HttpResponseParser(self)
        # As aiohttp has it for answers: servers do send these, and they leave no doubt about where an answer ends.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request: the answer was whole, and nothing came after it."""
        return self._keep_alive and not self._strange

    def feed(self, data: bytes | memoryview) -> bool:
        """Take bytes; True when the answer is over."""
        if self.over:
            self._strange = True
        else:
            self._parse(data)
        return self.over

    def end(self, why: OSError | None = None) -> None:
        """The connection is at its end, and so is an answer that told no length."""
        told = "content-length" in self._headers or "chunked" in self._headers.get("transfer-encoding", "").lower()
        if why is not None and not self.over:
            self._fail(broken(why))
        elif not self.over and (told or not self._headed):
            self._fail("the connection was closed before the answer was whole")
        self.over, self._strange, self._parser = True, True, None

    def result(self, seconds: float, *, reused: bool) -> WireReply | TransportFailure:
        """What came of it, once it is over, on a connection that carried an answer before or did not."""
        if self._failure is not None:
            return self._failure
        whole = self._body.whole()
        if not isinstance(whole, bytes):
            return whole
        return WireReply(self.status, self._headers, whole, seconds, reused=reused)

    def _parse(self, data: bytes | memoryview) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            cause = error.__context__
            if cause is not None and not isinstance(cause, _Enough):
                raise cause from None  # Ctrl-C, for instance
            self._strange = True
            if not self.over:
                self._fail(f"the answer is no HTTP: {error}")
        self._head_bytes += 0 if self._headed else len(data)
        if self._head_bytes > _MOST_HEAD and not self.over:
            self._fail("the answer's headers do not end")
        if self.over:
            self._parser = None

    def _fail(self, why: str | TransportFailure) -> None:
        self._failure = TransportFailure("connection", why) if isinstance(why, str) else why
        self.over = True

    # ── what the parser calls ────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        """An answer begins."""
        if self.over:  # a second answer, which nobody has asked for
            raise _Enough

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or what follows a body in chunks."""
        if not self._headed:  # what follows the body is no header of it
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        """The empty line after the headers."""
        self.status = self._parser.get_status_code()
        if self.status < 200:  # "100 Continue" and its like: the answer is yet to come
            self._headers.clear()
            return
        self._headed = True
        self._body = Body(self._headers.get("content-encoding", ""), self._most_bytes)
        length = self._headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._most_bytes:
            self._fail(too_large(self._most_bytes))
            raise _Enough

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        failure = self._body.add(data)
        if failure is not None:
            self._fail(failure)
            raise _Enough

    def on_message_complete(self) -> None:
        """The end, where the answer told it."""
        if self._headed:
            self.over = True
            self._keep_alive = self._parser.should_keep_alive()


class Tunnel(Answer):
    """A proxy's answer to CONNECT, which ends with its headers: what follows is the server's."""

    def __init__(self) -> None:
        super().__init__(0)

    @property
    def open(self) -> bool:
        """Whether the server can be spoken to now."""
        return 200 <= self.status < 300 and self._failure is None and not self._strange

    def on_headers_complete(self) -> None:
        """The empty line after the headers."""
        self.status = self._parser.get_status_code()
        self.over = self._headed = self.status >= 200

    def on_body(self, _: bytes) -> None:
        """The server speaks, or the proxy goes on."""
        raise _Enough  # before the server was asked anything
