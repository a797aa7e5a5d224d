"""What the senders make of proxies, odd headers and addresses: the same for threads and for tasks."""

from __future__ import annotations

import asyncio
import base64
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from multiembed.errors import ConfigurationError
from multiembed.records import TransportFailure, WireReply, WireRequest
from multiembed.wire import Wire
from multiembed.wire.common import Body, broken, proxy_for


def send(door, url, **changes):
    request = WireRequest(url=url, headers={}, body=b"{}", timeout=5.0, max_reply_bytes=10_000, **changes)
    wire = Wire()
    try:
        if door == "sync":
            return wire.send(request)

        async def later():
            try:
                return await wire.asend(request)
            finally:
                await wire.aclose()

        return asyncio.run(later())
    finally:
        wire.close()


@pytest.fixture(params=["sync", "async"])
def door(request):
    return request.param


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append(dict(self.headers))
        self.wfile.write(self.server.answer)
        self.close_connection = True

    def do_CONNECT(self):
        self.do_POST()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.daemon_threads = True
        running.seen, running.answer = [], b""
        running.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def http(status, body=b"", **headers):
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def test_an_answer_comes_as_it_is(server, door):
    server.answer = http(200, b"hello", content_length=5, X_Request_Id="r-1")
    answer = send(door, server.url)
    assert isinstance(answer, WireReply)
    assert (answer.status, answer.body, answer.headers["x-request-id"]) == (200, b"hello", "r-1")


@pytest.mark.parametrize("length", ["abc", "-", "-5", "1e3", "二"], ids=ascii)
def test_a_length_that_is_no_number_is_a_broken_answer_and_no_mistake_of_the_caller(server, door, length):
    server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: " + length.encode() + b"\r\n\r\nhello"
    assert isinstance(send(door, server.url), (TransportFailure, WireReply))


def test_a_login_for_the_proxy_is_decoded_and_never_told(server, door, monkeypatch):
    server.answer = http(502, content_length=0)
    monkeypatch.setenv("HTTPS_PROXY", f"http://us%40er:p%40ss@127.0.0.1:{server.server_port}")
    answer = send(door, "https://api.example/v1")
    assert isinstance(answer, TransportFailure)
    assert answer.kind == "connection"
    assert "p%40ss" not in answer.detail
    assert "p@ss" not in answer.detail
    headers = {name.lower(): value for name, value in server.seen[0].items()}
    assert base64.b64decode(headers["proxy-authorization"].split()[1]) == b"us@er:p@ss"


def test_a_proxy_that_wants_a_login_is_told_apart(server, door, monkeypatch):
    server.answer = http(407, content_length=0)
    monkeypatch.setenv("HTTPS_PROXY", server.url)
    assert send(door, "https://api.example/v1").kind == "proxy"


def test_a_port_that_holds_407_is_no_proxy():
    assert broken(ConnectionRefusedError("connect to 127.0.0.1:40701 failed")).kind == "connection"


def test_a_socks_proxy_is_a_clear_error(door, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:7890")
    with pytest.raises(ConfigurationError, match="neither http nor https"):
        send(door, "https://api.example/v1")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_no_proxy_is_asked_for_this_machine(host, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:1")
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:1")
    assert proxy_for(f"http://{host}:8756/v1") is None
    assert proxy_for("http://api.example/v1") == "http://proxy.example:1"


def test_a_body_stops_at_its_cap_packed_or_not():
    import gzip

    packed = gzip.compress(b"x" * 1000)
    for encoding, data in (("", b"x" * 1000), ("gzip", packed)):
        assert Body(encoding, 999).add(data).kind == "malformed"
        body = Body(encoding, 1000)
        assert body.add(data) is None
        assert body.whole() == b"x" * 1000
    cut = Body("gzip", 1000)
    assert cut.add(packed[:-9]) is None
    assert cut.whole().kind == "malformed"
