"""HTTP transport over real sockets: responses, broken responses, the response cap, timeouts, cancellation."""

from __future__ import annotations

import asyncio
import errno
import gc
import gzip
import socket
import sys
import threading
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from support.transport import OK, Server, http, read_request, responding, run, send, send_often, shown, wire_request

from multiembed.errors import ConfigurationError
from multiembed.simulator.tls import certified
from multiembed.transport.body import BodyError, decompress
from multiembed.transport.failures import failure_of
from multiembed.transport.types import HttpResponse, TransportFailure

SECRET = {"Authorization": "Bearer sk-secret"}


# ── responses ──────────────────────────────────────────────────────────────────────────────────────


def test_response_is_returned_unchanged():
    with responding(http(200, b"hello", content_length=5, X_Request_Id="r-1")) as server:
        response = send(server.url)
    assert isinstance(response, HttpResponse)
    assert (response.status, response.body, response.headers["x-request-id"]) == (200, b"hello", "r-1")
    assert response.seconds > 0
    assert response.requests == 1


WHOLE = {
    "plain": (OK, 1),
    "after 100 Continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 1),
    "after 103 Early Hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK, 1),
    "in chunks, with a trailer": (http(200, b"2\r\nok\r\n0\r\nX-T: y\r\n\r\n", transfer_encoding="chunked"), 1),
    "lines end with LF alone": (OK.replace(b"\r", b""), 1),
    "a header of 60 KB": (http(200, b"ok", content_length=2, X_Long="y" * 60_000), 1),
    "200 headers": (http(200, b"ok", content_length=2, **{f"X_{number}": number for number in range(200)}), 1),
    "to be closed": (http(200, b"ok", content_length=2, connection="close"), 3),
    "HTTP/1.0": (OK.replace(b"1.1", b"1.0"), 3),
    "followed by a response": (OK + http(200, b"no", content_length=2), 3),
    "a cookie": (http(200, b"ok", content_length=2, set_cookie="a=b"), 1),
}
"""What is raw, and how many connections three requests then take: none is used again after something unasked."""


@pytest.mark.parametrize(("raw", "connections"), WHOLE.values(), ids=WHOLE.keys())
def test_connection_with_extra_bytes_is_not_kept(raw, connections):
    with responding(raw) as server:
        responses = send_often(server.url, 3)
        assert [(response.status, response.body) for response in responses] == [(200, b"ok")] * 3
        assert [response.reused for response in responses] == [False, connections == 1, connections == 1]
        assert server.connections == connections


@pytest.mark.parametrize("raw", [b"HTTP/1.1 200 OK\r\n\r\nok", b"HTTP/1.0 200 OK\r\n\r\nok"])
def test_response_without_a_length_ends_with_its_connection(raw):
    with responding(raw, closes=True) as server:
        assert [response.body for response in send_often(server.url, 2)] == [b"ok"] * 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_not_followed(status):
    with responding(http(status, content_length=0, location="http://127.0.0.1:1/")) as server:
        response = send(server.url)
    assert (response.status, response.headers["location"]) == (status, "http://127.0.0.1:1/")


BROKEN = {
    "followed by bytes": OK + b"XXX",
    "no HTTP": b"hello, who is there?\r\n\r\n",
    "nothing": b"",
    "half a status line": b"HTTP/1.1 2",
    "half the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "100 Continue alone": b"HTTP/1.1 100 Continue\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nok",
    "less than its length": http(200, b"ok", content_length=3),
    "half a chunk": http(200, b"9\r\nok", transfer_encoding="chunked"),
    "no last chunk": http(200, b"2\r\nok\r\n", transfer_encoding="chunked"),
    "a chunk of no length": http(200, b"zz\r\nok\r\n0\r\n\r\n", transfer_encoding="chunked"),
    "two lengths": http(200, b"ok", content_length="2\r\nContent-Length: 3"),
    "a length and chunks": http(200, b"2\r\nok\r\n0\r\n\r\n", content_length=2, transfer_encoding="chunked"),
    "a length that is no number": http(200, b"ok", content_length="abc"),
    "a negative length": http(200, b"ok", content_length=-2),
    "a length with an exponent": http(200, b"ok", content_length="1e3"),
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000,
    "a status line without end": b"HTTP/1.1 200 " + b"y" * 1_000_000,
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN.keys())
def test_broken_response_is_a_connection_failure(raw):
    with responding(raw, closes=True) as server:
        responses = send_often(server.url, 2, headers=SECRET)
        assert [response.kind for response in responses] == ["connection"] * 2
        assert not any(response.local for response in responses)
        assert not any(len(response.detail) > 200 or "yyy" in response.detail for response in responses)
        assert server.connections == 2


@pytest.mark.parametrize("framing", [{"content_length": 20_000_000}, {"transfer_encoding": "chunked"}], ids=str)
def test_response_above_the_cap_is_not_read_to_its_end(framing):
    with responding(http(200, b"ffffff\r\n" + b"x" * 20_000, **framing)) as server:
        assert send(server.url).kind == "malformed"


def test_repeated_headers_of_any_bytes_are_joined():
    with responding(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\nx-a: \xe9\r\n\r\nok") as server:
        assert send(server.url).headers == {"content-length": "2", "x-a": "1, é"}


@pytest.mark.parametrize("size", [0, 1, 65_536, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunks", "end"])
def test_body_of_any_size_is_whole(size, framing):
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    if framing == "length":
        raw = http(200, body, content_length=size)
    elif framing == "chunks":
        pieces = [body[start : start + 7000] for start in range(0, size, 7000)]
        raw = http(200, b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (*pieces, b"")), transfer_encoding="chunked")
    else:
        raw = http(200, body)
    with responding(raw, closes=framing == "end") as server:
        responses = send_often(server.url, 2, max_reply_bytes=size)
    assert all(isinstance(response, HttpResponse) and response.body == body for response in responses)


def test_interleaved_responses_stay_apart():
    both = threading.Barrier(2)

    def serve(peer, _):
        body = read_request(peer)[1]
        peer.sendall(http(200, content_length=60 * len(body)))
        for _ in range(60):
            both.wait(5)
            peer.sendall(body)

    async def two(transport):
        requests = [wire_request(server.url, body=body) for body in (b"first", b"other")]
        return [response.body for response in await asyncio.gather(*map(transport.send, requests))]

    with Server(serve) as server:
        assert run(two) == [b"first" * 60, b"other" * 60]


def test_closed_transport_opens_new_connections():
    async def close_between(transport):
        first = await transport.send(wire_request(server.url))
        await transport.aclose()
        return first, await transport.send(wire_request(server.url))

    with responding(OK) as server:
        assert [(response.body, response.reused) for response in run(close_between)] == [(b"ok", False)] * 2
        assert server.connections == 2


def test_request_in_flight_ends_after_aclose():
    asked, response = threading.Event(), threading.Event()

    def serve(peer, _):
        read_request(peer)
        asked.set()
        response.wait(5)
        peer.sendall(OK)

    async def close_in_between(transport):
        sending = asyncio.ensure_future(transport.send(wire_request(server.url)))
        await asyncio.to_thread(asked.wait, 5)
        await transport.aclose()
        response.set()
        return await sending

    with Server(serve) as server:
        assert run(close_in_between).body == b"ok"


# ── compression ──────────────────────────────────────────────────────────────────────────────────

TEXT = b'{"a": 1}' * 100


def raw_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def packed(data):
    """The same bytes in each run, because they are in the names of tests."""
    return gzip.compress(data, mtime=0)


PACKED = {
    "gzip": ("gzip", packed(TEXT)),
    "gzip by its old name": ("x-gzip", packed(TEXT)),
    "gzip in two members": ("gzip", packed(TEXT[:300]) + packed(TEXT[300:])),
    "gzip in three members, one empty": ("GZIP", packed(TEXT) + packed(b"") + packed(b"")),
    "gzip with padding": ("gzip", packed(TEXT[:300]) + bytes(9) + packed(TEXT[300:]) + bytes(5)),
    "zlib": ("deflate", zlib.compress(TEXT)),
    "raw deflate": ("deflate", raw_deflate(TEXT)),
    "identity": ("identity", TEXT),
}


@pytest.mark.parametrize(("coding", "packed"), PACKED.values(), ids=PACKED.keys())
@pytest.mark.parametrize("framing", ["length", "chunks of one byte"])
def test_packed_body_is_unpacked_whole(coding, packed, framing):
    if framing == "length":
        raw = http(200, packed, content_encoding=coding, content_length=len(packed))
    else:
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in packed) + b"0\r\n\r\n"
        raw = http(200, chunks, content_encoding=coding, transfer_encoding="chunked")
    with responding(raw) as server:
        assert [response.body for response in send_often(server.url, 2)] == [TEXT] * 2
        assert server.connections == 1


DAMAGED = {
    "cut gzip": ("gzip", packed(TEXT)[:-9]),
    "cut second member": ("gzip", packed(TEXT) + packed(TEXT)[:-9]),
    "gzip with a wrong checksum": ("gzip", packed(TEXT)[:-8] + bytes(8)),
    "gzip followed by anything": ("gzip", packed(TEXT) + b"anything"),
    "no gzip at all": ("gzip", TEXT),
    "cut zlib": ("deflate", zlib.compress(TEXT)[:-9]),
    "cut raw deflate": ("deflate", raw_deflate(TEXT)[:-3]),
    "one byte": ("deflate", b"x"),
    "zlib followed by anything": ("deflate", zlib.compress(TEXT) + b"anything"),
}


@pytest.mark.parametrize(("coding", "packed"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_compression_is_malformed(coding, packed):
    with responding(http(200, packed, content_encoding=coding, content_length=len(packed))) as server:
        assert send(server.url).kind == "malformed"


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate, lambda data: packed(data) * 3])
def test_body_is_capped_while_it_is_unpacked(pack):
    """Little more is unpacked than the cap, though 30 MB are in it."""
    packed, encoding = pack(bytes(30_000_000)), "deflate" if pack in (zlib.compress, raw_deflate) else "gzip"
    tracemalloc.start()
    try:
        with pytest.raises(BodyError) as caught:
            decompress(packed, encoding, 1_000_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "larger" in str(caught.value)
    assert peak < 3_000_000


@pytest.mark.parametrize(("encoding", "data"), [("", b"x" * 1000), ("gzip", packed(b"x" * 1000))])
def test_body_of_exactly_the_cap_is_accepted(encoding, data):
    with responding(http(200, data, content_length=len(data), content_encoding=encoding)) as server:
        assert send(server.url, max_reply_bytes=1000).body == b"x" * 1000
        assert send(server.url, max_reply_bytes=999).kind == "malformed"


# ── requests ─────────────────────────────────────────────────────────────────────────────────────


def test_request_goes_out_as_it_was_written():
    heads = []

    def serve(peer, _):
        heads.append(read_request(peer)[0])
        peer.sendall(OK)

    with Server(serve) as server:
        url = f"{server.url}a%2Fb/%7Ec;d?q=%20&k=a+b%3D&%E6%96%87"
        send(url, headers={**SECRET, "Content-Type": "application/json", "x-Mine": "a\tb"})
    lines = heads[0].split("\r\n")
    assert lines[0] == "POST /a%2Fb/%7Ec;d?q=%20&k=a+b%3D&%E6%96%87 HTTP/1.1"
    assert sorted(lines[1:]) == sorted([
        f"Host: 127.0.0.1:{server.port}",
        "User-Agent: multiembed",
        "Accept: application/json",
        "Accept-Encoding: gzip, deflate",
        "Authorization: Bearer sk-secret",
        "Content-Type: application/json",
        "x-Mine: a\tb",
        "Content-Length: 2",
    ])  # fmt: skip


@pytest.mark.parametrize(("given", "line"), [({"user-agent": "me"}, "me"), ({"User-Agent": "you"}, "you")])
def test_header_of_the_user_replaces_ours_in_any_case(given, line):
    heads = []

    def serve(peer, _):
        heads.append(read_request(peer)[0])
        peer.sendall(OK)

    with Server(serve) as server:
        send(server.url, headers=given)
    agents = [each for each in heads[0].split("\r\n") if each.lower().startswith("user-agent")]
    assert [each.partition(": ")[2] for each in agents] == [line]


def test_path_is_a_slash_where_the_url_has_none():
    with responding(OK) as server:
        assert send(server.url.rstrip("/")).body == b"ok"
        assert send(f"{server.url.rstrip('/')}?a=b").body == b"ok"


@pytest.mark.parametrize("size", [1 << 20, 12_000_000])
def test_request_of_many_megabytes_arrives(size):
    seen = []

    def serve(peer, _):
        while (received := read_request(peer)) is not None:
            seen.append(len(received[1]))
            peer.sendall(OK)

    with Server(serve) as server:
        assert [response.body for response in send_often(server.url, 2, body=b"x" * size, timeout=60.0)] == [b"ok"] * 2
        assert seen == [size] * 2
        assert server.connections == 1


@pytest.mark.parametrize("headers", [{"X": "a\r\nY: b"}, {"X": "a\nb"}, {"X": "\0"}, {"X\r\nY": "a"}], ids=ascii)
def test_header_that_http_cannot_carry_is_refused_unrepeated(headers):
    """The options are checked before; this is what holds if another header were added."""
    requests = []
    with Server(lambda peer, _: requests.append(read_request(peer))) as server:
        with pytest.raises(ConfigurationError, match="cannot carry") as raised:
            send(server.url, headers={**SECRET, **headers})
        assert "secret" not in shown(raised.value)
    assert not any(requests)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://a.example/", "a.example", "http://", "http:///v1", "http://a.example:0/", "http://a.example:99999/"),
        *("http://a.example:x/", "http://[::1/", "http://u:sk-secret@a.example/"),
        "http://文.example/",
    ],
    ids=ascii,
)
def test_url_that_http_cannot_carry_is_refused_unrepeated(url):
    with pytest.raises(ConfigurationError, match="cannot carry") as raised:
        send(url, headers=SECRET)
    assert "secret" not in shown(raised.value)


# ── an attempt's time ────────────────────────────────────────────────────────────────────────────


def flood(piece):
    def serve(peer, _):
        read_request(peer)
        peer.sendall(http(200, b"2\r\nok\r\n0\r\n", transfer_encoding="chunked") if piece == b"T: y\r\n" else b"")
        while True:
            peer.sendall(piece)

    return serve


def trickle(peer, _):
    read_request(peer)
    peer.sendall(http(200, content_length=1000))
    while True:
        peer.sendall(b"x")
        threading.Event().wait(0.01)


def never(peer, _):
    while peer.recv(65536):
        pass


SLOW = {
    "nothing": never,
    "a byte now and then": trickle,
    "100 Continue without end": flood(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
}


@pytest.mark.parametrize("serve", SLOW.values(), ids=SLOW.keys())
def test_endless_response_is_a_timeout(serve):
    with Server(serve) as server:
        assert send(server.url, timeout=0.2).kind == "timeout"


@pytest.mark.parametrize("piece", [b"T: y\r\n", b"HTTP/1.1 200 OK\r\n" + b"T: y\r\n" * 1000])
def test_endless_headers_or_trailers_are_a_failure(piece):
    with Server(flood(piece)) as server:
        assert send(server.url, timeout=0.5).kind in ("timeout", "connection")


def test_server_that_does_not_read_is_a_timeout_and_closed():
    """The connection is closed at once, though megabytes of the request wait to be sent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        before = open_sockets()
        assert send(url, body=b"x" * 30_000_000, timeout=0.2).kind == "timeout"
        assert open_sockets() == before


def test_silent_tls_handshake_is_a_timeout_and_closed():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        before = open_sockets()
        assert send(f"https://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.2).kind == "timeout"
        assert open_sockets() == before


def test_hanging_lookup_is_a_timeout(monkeypatch):
    let_go, late = threading.Event(), []

    def look_up(*_, **__):
        late.append(not let_go.wait(10))
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def twice(transport):
        try:
            sending = [transport.send(wire_request("http://slow.example/", timeout=0.1)) for _ in range(2)]
            return await asyncio.gather(*sending)
        finally:
            let_go.set()

    assert run(twice)[0].kind == "timeout"
    for thread in threading.enumerate():
        if thread.name == "multiembed-dns":
            thread.join()
    assert late == [False]


def open_sockets():
    """The sockets of this process, as the system counts them."""
    folder, links = Path("/proc/self/fd"), []
    for descriptor in folder.iterdir() if folder.is_dir() else ():  # only Linux has it
        with suppress(OSError):
            links.append(str(descriptor.readlink()))
    return sum(link.startswith("socket:") for link in links)


# ── a response before the request was read ────────────────────────────────────────────────────────


def test_early_response_is_accepted_at_once():
    """A server may refuse by the length alone, and keep the connection open without reading on."""

    def serve(peer, _):
        peer.recv(1000)
        peer.sendall(http(413, b"big", content_length=3))
        done.wait(10)

    done = threading.Event()
    with Server(serve) as server:
        before = open_sockets()
        responses = send_often(server.url, 2, body=b"x" * 30_000_000, timeout=60.0)
        assert [(response.status, response.body) for response in responses] == [(413, b"big")] * 2
        assert not any(response.reused for response in responses)
        done.set()
    assert open_sockets() <= before


# ── DNS and addresses ────────────────────────────────────────────────────────────────────────────


def name_for(monkeypatch, *addresses, name="api.test"):
    """Let a host name stand for addresses; returns the list of look-ups."""
    real, asked = socket.getaddrinfo, []

    def look_up(host, port, *args, **kwargs):
        if host != name:
            return real(host, port, *args, **kwargs)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def test_concurrent_connections_share_one_lookup(monkeypatch):
    asked = name_for(monkeypatch, "127.0.0.1")

    async def many(transport):
        request = wire_request(f"http://api.test:{server.port}/", timeout=60.0)
        return await asyncio.gather(*(transport.send(request) for _ in range(60)))

    with responding(OK) as server:
        assert {response.body for response in run(many)} == {b"ok"}
        assert server.connections == 60
    assert len(asked) == 1


def test_failed_lookup_is_a_failure_and_is_repeated(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", refuse := Refuse())
    responses = send_often("http://nowhere.test/", 2)
    assert [response.kind for response in responses] == ["connection"] * 2
    assert all("not known" in response.detail and not response.local for response in responses)
    assert refuse.times == 2


class Refuse:
    times = 0

    def __call__(self, *_, **__):
        self.times += 1
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address, and a full queue refuses")
def test_unresponsive_address_is_tried_once(monkeypatch):
    """A full queue of a listener drops SYN, as a firewall does."""
    with socket.socket() as deaf, responding(OK, closes=True) as server:
        deaf.bind(("127.0.0.2", server.port))
        deaf.listen(0)
        fill = [socket.socket() for _ in range(4)]
        for each in fill:
            each.setblocking(False)
            each.connect_ex(("127.0.0.2", server.port))
        name_for(monkeypatch, "127.0.0.2", "127.0.0.1")
        tried, connect = [], asyncio.SelectorEventLoop.sock_connect

        async def counting(self, sock, address):
            tried.append(address[0])
            return await connect(self, sock, address)

        monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", counting)
        responses = send_often(f"http://api.test:{server.port}/", 4, timeout=30.0)
        for each in fill:
            each.close()
    assert [response.body for response in responses] == [b"ok"] * 4
    assert tried == ["127.0.0.2", *["127.0.0.1"] * 4]


def test_connection_refused_is_a_failure_and_names_no_secret():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    response = send(f"http://127.0.0.1:{port}/v1?key=sk-secret", headers=SECRET)
    assert (response.kind, response.local) == ("connection", False)
    assert "refused" in response.detail.lower()
    assert "secret" not in response.detail


def test_failed_lookup_without_descriptors_is_local(monkeypatch):
    def no_more_files(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "getaddrinfo", Refuse())

    async def short_of_files(transport):
        monkeypatch.setattr(socket, "socket", no_more_files)
        try:
            return await transport.send(wire_request("http://nowhere.test/"))
        finally:
            monkeypatch.undo()

    response = run(short_of_files)
    assert (response.kind, response.local) == ("connection", True)


LOCAL = [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL]


@pytest.mark.parametrize("number", LOCAL, ids=errno.errorcode.get)
def test_shortage_on_this_machine_is_local(monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, "shortage")

    with responding(OK) as server:
        monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", refuse)
        response = send(server.url)
    assert (response.kind, response.local) == ("connection", True)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────


def test_tls_connection_is_kept(trust):
    context, authority = certified("good")
    trust(authority)
    with responding(OK, context=context) as server:
        responses = send_often(server.url, 3)
        assert [(response.body, response.reused) for response in responses] == [
            (b"ok", False),
            (b"ok", True),
            (b"ok", True),
        ]
        assert server.connections == 1


@pytest.mark.parametrize("kind", ["expired", "self-signed", "wrong-host"])
def test_wrong_certificate_is_a_tls_failure(trust, kind):
    context, authority = certified(kind)
    trust(authority or certified("good")[1])
    with responding(OK, context=context) as server:
        response = send(server.url, headers=SECRET)
    assert response.kind == "tls"
    assert "CERTIFICATE_VERIFY_FAILED" in response.detail


def test_tls_to_a_plain_server_is_a_connection_failure():
    def serve(peer, _):
        peer.recv(65536)
        peer.sendall(http(400, content_length=0))

    with Server(serve) as server:
        assert send(server.url.replace("http", "https")).kind == "connection"


# ── cancellation ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("size", [2, 5_000_000])
def test_cancelled_request_leaves_no_socket_or_task(trust, monkeypatch, scheme, size):
    """Whenever it comes: while the name is looked up, while connecting, in the handshake, sending, reading."""
    context, authority = certified("good") if scheme == "https" else (None, "")
    trust(authority or certified("good")[1])
    name_for(monkeypatch, "127.0.0.1", name="localhost")
    stop = threading.Event()

    def serve(peer, _):
        read_request(peer)
        peer.sendall(http(200, b"o", content_length=2))
        stop.wait(10)

    async def cancelled(transport, steps):
        sending = asyncio.ensure_future(transport.send(wire_request(url, body=b"x" * size)))
        for _ in range(steps):
            await asyncio.sleep(0.0005 if steps > 20 else 0)
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
            raise AssertionError("was not cancelled")
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    with Server(serve, context) as server:
        url = f"{scheme}://localhost:{server.port}/"
        run(lambda transport: cancelled(transport, 0))
        before = open_sockets()
        for steps in (*range(20), 30, 60):
            assert run(lambda transport, steps=steps: cancelled(transport, steps)) == set()
        gc.collect()
        stop.set()
    assert open_sockets() <= before


# ── failures ─────────────────────────────────────────────────────────────────────────────────────


def test_failure_detail_holds_no_login_and_is_cut():
    failure = failure_of(ConnectionRefusedError(f"connect to http://us:er@proxy:1 {'x' * 1000}"))
    assert failure.kind == "connection"
    assert "us:er" not in failure.detail
    assert len(failure.detail) == 200


def test_failure_of_unknown_exception_hides_its_message():
    assert failure_of(RuntimeError("Bearer sk-secret")) == TransportFailure(
        "connection", "the connection was closed before the response was whole"
    )


def test_parser_message_is_kept_without_the_response():
    raw = http(200, b"ok", content_length="2\r\nContent-Length: 2", x_key="sk-secret")
    with responding(raw, closes=True) as server:
        detail = send(server.url, headers=SECRET).detail
    assert detail.startswith("the response is not valid HTTP: ")
    assert "secret" not in detail


def test_check_of_headers_depends_on_no_other_request():
    async def ask(transport):
        outcomes = []
        for headers in (SECRET, {"X": "a\nb"}, SECRET, {}, {"X": "a\nb"}, {**SECRET, "X": "\0"}):
            try:
                outcomes.append((await transport.send(wire_request(server.url, headers=headers))).body)
            except ConfigurationError:
                outcomes.append(None)
        return outcomes

    with responding(OK) as server:
        assert run(ask) == [b"ok", None, b"ok", b"ok", None, None]
