"""Proxies: which one is taken, what it is sent, and what its responses lead to."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from contextlib import contextmanager, suppress

import pytest
from support.transport import OK, Server, http, read_request, responding, run, send, send_often, wire_request
from yarl import URL

from multiembed.errors import ConfigurationError
from multiembed.simulator.tls import certified
from multiembed.transport.proxies import environment_proxies, find_proxy
from multiembed.transport.settings import TransportSettings
from multiembed.transport.types import TransportFailure

SECRET = {"Authorization": "Bearer sk-secret"}
LOGIN = f"Proxy-Authorization: Basic {base64.b64encode(b'us@er:p@ss').decode()}"


# ── which proxy ──────────────────────────────────────────────────────────────────────────────────

PROXY = "http://proxy.example:1"

NO_PROXY = {
    # entry: what is reached directly, what by the proxy
    "*": ("http://api.example/ https://10.1.2.3/ http://[fd00::1]/", ""),
    "api.example": ("http://api.example/ http://API.Example/ http://api.example./ https://v1.api.example/", ""),
    ".example": ("http://api.example/ http://a.b.example/", "http://example.org/ http://anexample/"),
    "*.corp.example": ("http://a.corp.example/ http://a.b.corp.example/", "http://acorp.example/"),
    "Corp.Example": ("http://a.corp.example/ http://corp.example/", "http://notcorp.example/"),
    "api.*.example": ("http://api.eu.example/", "http://web.eu.example/"),
    "api.example:8080": (
        "http://api.example:8080/",
        "http://api.example/ http://api.example:80/",
    ),
    "api.example:443": ("https://api.example/", "http://api.example/"),
    ".example:80": ("http://api.example/", "https://api.example/"),
    "10.0.0.0/8": ("http://10.0.0.1/ https://10.255.255.255:8443/", "http://11.0.0.1/ http://10.example/"),
    "192.168.1.7/16": ("http://192.168.200.1/", "http://192.169.0.1/"),
    "10.1.2.3": ("http://10.1.2.3/ http://10.1.2.3:99/", "http://10.1.2.4/ http://110.1.2.3/"),
    "10.1.2.3:99": ("http://10.1.2.3:99/", "http://10.1.2.3/"),
    "10.*": ("http://10.1.2.3/", "http://110.1.2.3/"),
    "fd00::/8": ("http://[fd12::1]/", "http://[fe80::1]/ http://10.1.2.3/"),
    "fd00::1": ("http://[fd00::1]/ http://[FD00:0::1]:99/", "http://[fd00::2]/"),
    "[fd00::1]": ("http://[fd00::1]/", "http://[fd00::2]/"),
    "[fd00::1]:99": ("http://[fd00::1]:99/", "http://[fd00::1]/"),
    " a.example ,, b.example\tc.example ": (
        "http://a.example/ http://b.example/ http://c.example/",
        "http://d.example/",
    ),
    ",": ("", "http://a.example/"),
    ".": ("", "http://a.example/"),
    "a.example:port": ("", "http://a.example/"),
    "10.0.0.0/99": ("", "http://10.0.0.1/"),
}
CASES = [
    (entry, url, None if direct else PROXY)
    for entry, lists in NO_PROXY.items()
    for direct, urls in zip((True, False), lists, strict=True)
    for url in urls.split()
]


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize(("entry", "url", "proxy"), CASES)
def test_no_proxy_names_hosts_networks_and_ports(monkeypatch, name, entry, url, proxy):
    monkeypatch.setenv("ALL_PROXY", PROXY)
    monkeypatch.setenv(name, entry)
    found = find_proxy(url, None)
    assert (found and str(found)) == proxy


ENVIRONMENTS = {
    "none": ({}, None, None),
    "for http": ({"HTTP_PROXY": "http://p:1"}, "http://p:1", None),
    "for https": ({"HTTPS_PROXY": "http://p:1"}, None, "http://p:1"),
    "for all": ({"ALL_PROXY": "http://p:1"}, "http://p:1", "http://p:1"),
    "lower case": ({"http_proxy": "http://p:1", "https_proxy": "https://q:2"}, "http://p:1", "https://q:2"),
    "lower case wins": ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}, None, "http://p:1"),
    "own before all": ({"all_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "http://p:1", "http://q:2"),
    "without scheme": ({"ALL_PROXY": "p:1"}, "http://p:1", "http://p:1"),
    "without port": ({"ALL_PROXY": "http://p"}, "http://p", "http://p"),
    "IPv6": ({"ALL_PROXY": "http://[fd00::1]:8080"}, "http://[fd00::1]:8080", "http://[fd00::1]:8080"),
    "empty": ({"ALL_PROXY": ""}, None, None),
}


@pytest.mark.parametrize(("variables", "plain", "secure"), ENVIRONMENTS.values(), ids=ENVIRONMENTS.keys())
def test_environment_names_the_proxy(monkeypatch, variables, plain, secure):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for url, expected in (("http://api.example/", plain), ("https://api.example/", secure)):
        found = find_proxy(url, None)
        assert (found and str(found)) == expected


def test_environment_is_read_once(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", PROXY)
    environment_proxies()
    monkeypatch.setenv("ALL_PROXY", "http://other.example:2")
    monkeypatch.setenv("NO_PROXY", "*")
    assert find_proxy("http://api.example/", None) == URL(PROXY)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "localhost", "a.localhost", "LOCALHOST", "localhost.", "[::1]"]
)
@pytest.mark.parametrize("given", [None, "http://other.example:2"])
def test_loopback_never_goes_through_a_proxy(monkeypatch, host, given):
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("ALL_PROXY", PROXY)
    assert find_proxy(f"http://{host}:8756/v1", given) is None


def test_given_proxy_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "*")
    assert find_proxy("http://api.example/", "http://other.example:2") == URL("http://other.example:2")


@pytest.mark.parametrize("scheme", ["socks", "socks4", "socks5", "socks5h", "ftp"])
def test_socks_proxy_of_environment_is_configuration_error(monkeypatch, scheme):
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://us:secret@127.0.0.1:7890")
    with pytest.raises(ConfigurationError, match="neither http nor https") as raised:
        send("https://api.example/v1")
    assert "secret" not in str(raised.value)
    assert raised.value.__context__ is None


@pytest.mark.parametrize("url", ["http://us:secret@p:port", "http://us:secret@", "http://[::1"])
def test_invalid_proxy_url_is_a_configuration_error(monkeypatch, url):
    monkeypatch.setenv("ALL_PROXY", url)
    with pytest.raises(ConfigurationError, match="proxy") as raised:
        send("https://api.example/v1")
    assert "secret" not in str(raised.value)


def test_settings_show_no_password():
    settings = TransportSettings(proxy="http://us:secret@proxy.example:1", ca_bundle="ca.pem")
    assert repr(settings) == ("TransportSettings(ca_bundle='ca.pem', client_cert=None)")
    assert len({settings, TransportSettings(proxy="http://us:secret@proxy.example:1", ca_bundle="ca.pem")}) == 1


# ── through a proxy ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def relaying(context=None):
    """A proxy that opens tunnels to loopback, whatever the host; yields its port and the heads that it was sent."""
    heads = []
    started, ports, ends = threading.Event(), [], []

    async def pump(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def serve(reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):  # the request was cancelled before
            writer.transport.abort()
            return
        heads.append(head.decode())
        port = int(head.split()[1].rpartition(b":")[2])
        behind, ahead = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(pump(reader, ahead), pump(behind, writer))
        finally:
            ahead.transport.abort()
            writer.transport.abort()

    async def main():
        stop = asyncio.Event()
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            ports.append(server.sockets[0].getsockname()[1])
            ends.append((asyncio.get_running_loop(), stop.set))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert started.wait(10)
    try:
        yield ports[0], heads
    finally:
        loop, stop = ends[0]
        loop.call_soon_threadsafe(stop)
        thread.join()


@pytest.fixture
def tls_server(monkeypatch, trust):
    """`tls_server(context)`: a server whose certificate is for `localhost`, under a name that is not loopback's."""
    real = socket.getaddrinfo
    monkeypatch.setattr("multiembed.transport.proxies.is_loopback", lambda host: host == "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **kw: real("127.0.0.1", *args, **kw))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.usefixtures("tls_server")
def test_tunnel_is_opened_once_and_its_connection_kept(trust, scheme):
    """TLS in the proxy's tunnel; by https also TLS within TLS."""
    context, authority = certified("good")
    outer, outer_authority = certified("good") if scheme == "https" else (None, "")
    trust(authority, outer_authority)
    heads = []

    def serve(peer, _):
        while (received := read_request(peer)) is not None:
            heads.append(received[0])
            peer.sendall(OK)

    with Server(serve, context) as server, relaying(outer) as (port, tunnels):
        responses = send_often(
            f"https://localhost:{server.port}/v1",
            3,
            settings={"proxy": f"{scheme}://us%40er:p%40ss@localhost:{port}"},
            headers=SECRET,
            body=b"x" * 300_000,
        )
    assert [response.body for response in responses] == [b"ok"] * 3
    assert [response.reused for response in responses] == [False, True, True]
    assert len(tunnels) == 1
    lines = tunnels[0].split("\r\n")
    assert lines[0] == f"CONNECT localhost:{server.port} HTTP/1.1"
    assert LOGIN in lines
    assert "secret" not in tunnels[0]
    assert len(heads) == 3
    assert not any("roxy" in head for head in heads)
    assert all(head.startswith("POST /v1 HTTP/1.1\r\n") for head in heads)


def test_plain_request_goes_to_the_proxy_with_its_whole_address():
    heads = []

    def serve(peer, _):
        while (received := read_request(peer)) is not None:
            heads.append(received[0])
            peer.sendall(OK)

    with Server(serve) as proxy:
        settings = {"proxy": f"http://us%40er:p%40ss@127.0.0.1:{proxy.port}"}
        responses = send_often("http://api.example:81/v1?q=%20", 2, settings=settings, headers=SECRET)
    assert [(response.body, response.reused) for response in responses] == [(b"ok", False), (b"ok", True)]
    for head in heads:
        lines = head.split("\r\n")
        assert lines[0] == "POST http://api.example:81/v1?q=%20 HTTP/1.1"
        assert {"Host: api.example:81", LOGIN, "Authorization: Bearer sk-secret"} <= set(lines)


def test_environment_proxy_receives_the_request(monkeypatch):
    with responding(OK) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert send("http://api.example/").body == b"ok"


REFUSALS = {407: "proxy", 403: "connection", 502: "connection", 503: "connection"}


@pytest.mark.parametrize(("status", "kind"), REFUSALS.items())
def test_refused_tunnel_failure_names_the_status(status, kind):
    raw = http(status, b"us%40er p@ss", content_length=12)
    with responding(raw) as proxy:
        settings = {"proxy": f"http://us%40er:p%40ss@127.0.0.1:{proxy.port}"}
        response = send("https://api.example/v1?key=sk-secret", settings=settings, headers=SECRET)
        assert proxy.connections == 1
    reason = "proxy_login" if status == 407 else "proxy_refused"
    assert response == TransportFailure(kind, f"the proxy responds with status {status}", reason=reason)


def test_plain_http_proxy_login_failure_is_proxy_failure():
    with responding(http(407, b"x", content_length=1)) as proxy:
        response = send("http://api.example/v1", settings={"proxy": proxy.url})
    assert response == TransportFailure("proxy", "the proxy responds with status 407", reason="proxy_login")


def test_407_without_a_proxy_is_a_response():
    with responding(http(407, b"x", content_length=1)) as server:
        assert send(server.url).status == 407


def test_refused_proxy_port_is_a_connection_failure():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    response = send("https://api.example/v1", settings={"proxy": f"http://us:pass@127.0.0.1:{port}"})
    assert response.kind == "connection"
    assert "refused" in response.detail.lower()
    assert "pass" not in response.detail


SAID_TO_CONNECT = {
    "nothing, and the end": b"",
    "no HTTP": b"hello\r\n\r\n",
    "half a response": b"HTTP/1.1 200 OK\r\nX",
    "headers without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
    "something after the response": b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
}


@pytest.mark.parametrize("raw", SAID_TO_CONNECT.values(), ids=SAID_TO_CONNECT.keys())
def test_proxy_that_breaks_off_is_a_connection_failure(raw):
    with responding(raw, closes=True) as proxy:
        response = send("https://api.example/v1", settings={"proxy": f"http://us:pass@127.0.0.1:{proxy.port}"})
    assert response.kind == "connection"
    assert "pass" not in response.detail


def test_silent_proxy_is_a_timeout():
    def serve(peer, _):
        while peer.recv(65536):
            pass

    with Server(serve) as proxy:
        assert send("https://api.example/v1", settings={"proxy": proxy.url}, timeout=0.2).kind == "timeout"


@pytest.mark.usefixtures("tls_server")
@pytest.mark.parametrize("kind", ["expired", "wrong-host"])
def test_certificate_behind_the_proxy_is_checked(trust, kind):
    context, authority = certified(kind)
    trust(authority)
    with responding(OK, context=context) as server, relaying() as (port, _):
        response = send(f"https://localhost:{server.port}/", settings={"proxy": f"http://127.0.0.1:{port}"})
    assert response.kind == "tls"


@pytest.mark.usefixtures("tls_server")
def test_certificate_of_the_proxy_is_checked(trust):
    context, authority = certified("expired")
    trust(authority)
    with responding(OK, context=context) as proxy:
        response = send("https://api.example/", settings={"proxy": f"https://localhost:{proxy.port}"})
    assert response.kind == "tls"


@pytest.mark.usefixtures("tls_server")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cancelled_proxy_request_leaves_no_task(trust, scheme):
    context, authority = certified("good")
    outer, outer_authority = certified("good") if scheme == "https" else (None, "")
    trust(authority, outer_authority)

    async def cancelled(transport, steps):
        sending = asyncio.ensure_future(transport.send(wire_request(f"https://localhost:{server.port}/")))
        for _ in range(steps):
            await asyncio.sleep(0.0005 if steps > 20 else 0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    def serve(peer, _):
        while read_request(peer):
            stop.wait(10)

    stop = threading.Event()
    with Server(serve, context) as server, relaying(outer) as (port, _):
        for steps in (*range(20), *range(22, 60, 4)):
            left = run(lambda transport, steps=steps: cancelled(transport, steps), proxy=f"{scheme}://localhost:{port}")
            assert left == set()
        stop.set()


@pytest.mark.usefixtures("tls_server")
def test_dead_tunnel_is_replaced(trust):
    context, authority = certified("good")
    trust(authority)

    def serve(peer, number):
        while read_request(peer):
            if number == 1 and seen:
                return
            seen.append(number)
            peer.sendall(OK)

    seen = []
    with Server(serve, context) as server, relaying() as (port, tunnels):
        responses = send_often(
            f"https://localhost:{server.port}/", 3, settings={"proxy": f"http://127.0.0.1:{port}"}, headers=SECRET
        )
    assert [response.body for response in responses] == [b"ok"] * 3
    assert len(tunnels) == 2
