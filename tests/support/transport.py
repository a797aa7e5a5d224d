"""What the transport's tests share: a loop of their own, requests, and servers that say bytes."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import traceback
from contextlib import suppress

from multiembed.transport.client import Transport
from multiembed.transport.settings import TransportSettings
from multiembed.transport.types import HttpRequest


def run(function, **settings):
    """What `await function(transport)` returns, in a new event loop, which must have nothing left to do afterwards."""

    async def main():
        transport = Transport(TransportSettings(**settings))
        try:
            return await function(transport)
        finally:
            await transport.aclose()
            for _ in range(3):
                await asyncio.sleep(0)  # callbacks of what was closed
            assert asyncio.all_tasks() == {asyncio.current_task()}

    problems = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: problems.append(context))
        result = runner.run(main())
    assert problems == []
    return result


def wire_request(url, **changes):
    given = {"headers": {}, "body": b"{}", "timeout": 5.0, "max_reply_bytes": 10_000, **changes}
    return HttpRequest(url=url, **given)


def send(url, *, settings=None, **changes):
    """The outcome of one request."""
    return send_often(url, 1, settings=settings, **changes)[0]


def send_often(url, times, *, settings=None, **changes):
    """The outcomes of requests one after another on one transport."""
    request = wire_request(url, **changes)

    async def one_by_one(transport):
        return [await transport.send(request) for _ in range(times)]

    return run(one_by_one, **(settings or {}))


def http(status, body=b"", **headers):
    """The bytes of a response."""
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


OK = http(200, b"ok", content_length=2)


class Server:
    """A TCP server on loopback.

    Args:
        serve: `serve(peer, number)` handles one connection in a thread of its own; `number` counts from 1. The
            connection is closed when it returns.
        context: an SSL context, for TLS.
        address: where it listens.
    """

    def __init__(self, serve, context=None, address="127.0.0.1"):
        self.connections = 0
        self._serve, self._context = serve, context
        self._listener = socket.create_server((address, 0), backlog=512)
        self._open = []
        self.port = self._listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://{address}:{self.port}/"
        self.threads = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def _accept(self):
        while True:
            try:
                peer = self._listener.accept()[0]
            except OSError:
                return
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.append(peer)
            self.threads.append(threading.Thread(target=self._handle, args=[peer, self.connections]))
            self.threads[-1].start()

    def _handle(self, peer, number):
        with suppress(OSError):
            if self._context is not None:
                peer = self._context.wrap_socket(peer, server_side=True, do_handshake_on_connect=False)
                self._open.append(peer)
                try:
                    peer.do_handshake()
                except ssl.SSLError:
                    _drain(peer)
                    return
        with peer, suppress(OSError):
            self._serve(peer, number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()


def _drain(peer):
    """Read to the end. A socket that is closed with bytes unread resets the connection, and the alert may be lost."""
    with socket.socket(fileno=peer.detach()) as plain:
        plain.settimeout(5)
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(65536):
            pass


def read_request(peer):
    """The head and the body of the next request; None at the end of the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = peer.recv(65536)
        if not data:
            return None
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while len(body) < (int(lengths[0].split(b":")[1]) if lengths else 0):
        data = peer.recv(1 << 20)
        if not data:
            return None
        body += data
    return head.decode("latin-1"), body


def responding(raw, *, closes=False, context=None):
    """A server that says the same bytes to every request."""

    def serve(peer, _):
        while read_request(peer) is not None:
            peer.sendall(raw)
            if closes:
                return

    return Server(serve, context)


def shown(error):
    """What a log shows of an error, with all that it shows of its causes."""
    return "".join(traceback.format_exception(error))
