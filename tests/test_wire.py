"""What the senders make of proxies, odd headers and addresses: the same for threads and for tasks."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hands import all_in_this_thread, beside_others, in_this_thread
from hypothesis import given
from hypothesis import strategies as st

from multiembed.errors import ConfigurationError
from multiembed.records import TransportFailure, WireReply, WireRequest
from multiembed.simulator import Simulator
from multiembed.simulator.tls import certified
from multiembed.wire import Wire, common, route, threads
from multiembed.wire.common import Body, broken, proxy_for
from multiembed.wire.exchange import Answer, Writer


def send(door, url, **changes):
    return send_often(door, url, 1, **changes)[0]


def send_often(door, url, times, *, on_end=bool, **changes):
    """The answers to requests one after another, by one wire."""
    given = {"headers": {}, "body": b"{}", "timeout": 5.0, "max_reply_bytes": 10_000, **changes}
    request = WireRequest(url=url, **given)
    wire = Wire()
    try:
        if door == "sync":
            return [in_this_thread(partial(wire.send, request)) for _ in range(times)]

        async def later():
            try:
                return [await wire.send(request, beside_others()) for _ in range(times)]
            finally:
                on_end()
                await wire.aclose()

        return asyncio.run(later())
    finally:
        on_end()
        wire.close()


@pytest.fixture(params=["sync", "async"])
def door(request):
    return request.param


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.seen.append(dict(self.headers))
        self.server.paths.append(self.path)
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
        running.seen, running.paths, running.answer = [], [], b""
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


# ── answers as bytes ─────────────────────────────────────────────────────────────────────────────


class Scripted:
    """A server that says the same bytes to every request; `connections` counts who came."""

    def __init__(self, said, *, closes=False):
        self.connections = 0
        self._said, self._closes = said, closes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            with suppress(OSError):
                peer = self._listener.accept()[0]
                self.connections += 1
                self._open.append(peer)
                self._threads.append(threading.Thread(target=self._serve, args=[peer]))
                self._threads[-1].start()
                continue
            return

    def _serve(self, peer):
        with peer, suppress(OSError):
            came = b""
            while data := peer.recv(65536):
                came += data
                if came.endswith(b"{}"):
                    came = b""
                    peer.sendall(self._said)
                    if self._closes:
                        return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()


OK = http(200, b"ok", content_length=2)
WHOLE = {
    "plain": (OK, 1),
    "after 100 Continue": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 1),
    "after 103 Early Hints": (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK, 1),
    "in chunks, with a trailer": (http(200, b"2\r\nok\r\n0\r\nX-T: y\r\n\r\n", transfer_encoding="chunked"), 1),
    "lines end with LF alone": (OK.replace(b"\r", b""), 1),
    "to be closed": (http(200, b"ok", content_length=2, connection="close"), 3),
    "HTTP/1.0": (OK.replace(b"1.1", b"1.0"), 3),
    "an offer to upgrade": (http(200, b"ok", upgrade="h2c", connection="Upgrade", content_length=2), 1),
    "followed by bytes": (OK + b"XXX", 3),
    "followed by an answer": (OK + http(200, b"no", content_length=2), 3),
}
"""What is said, and how many connections three requests then take: none is used again after something unasked."""


@pytest.mark.parametrize(("said", "connections"), WHOLE.values(), ids=WHOLE.keys())
def test_a_whole_answer_is_taken_and_its_connection_is_used_again_unless_more_came(door, said, connections):
    with Scripted(said) as server:
        answers = send_often(door, server.url, 3)
        assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok")] * 3
        assert server.connections == connections


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n\r\nok", b"HTTP/1.0 200 OK\r\n\r\nok"])
def test_an_answer_without_a_length_ends_with_its_connection(door, said):
    with Scripted(said, closes=True) as server:
        assert [answer.body for answer in send_often(door, server.url, 2)] == [b"ok"] * 2


BROKEN = {
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
    "a header without end": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
}


@pytest.mark.parametrize("said", BROKEN.values(), ids=BROKEN.keys())
def test_an_answer_that_breaks_off_or_contradicts_itself_is_a_failure(door, said):
    with Scripted(said, closes=True) as server:
        assert [answer.kind for answer in send_often(door, server.url, 2)] == ["connection"] * 2


@pytest.mark.parametrize("told", [True, False])
def test_an_answer_above_the_cap_is_not_read_to_its_end(door, told):
    said = http(200, **({"content_length": 10_001} if told else {"transfer_encoding": "chunked"}))
    said += b"" if told else b"ffffff\r\n" + b"x" * 20_000
    with Scripted(said) as server:
        assert send(door, server.url).kind == "malformed"


def test_headers_said_twice_are_joined_and_names_are_lower_case(door):
    with Scripted(http(200, b"ok", content_length=2, X_A="1\r\nx-a: 2")) as server:
        assert send(door, server.url).headers == {"content-length": "2", "x-a": "1, 2"}


def test_what_came_unasked_while_the_loop_was_held_up_is_no_answer_to_the_next_request(door):
    came = threading.Event()

    class Late(Scripted):
        def _serve(self, peer):
            with peer, suppress(OSError):
                peer.recv(65536)
                peer.sendall(OK)
                if self.connections == 1:
                    asked.wait(5)
                    peer.sendall(http(200, b"no", content_length=2))
                    came.set()
                peer.recv(65536)

    asked = threading.Event()
    with Late(b"") as server:
        request = WireRequest(url=server.url, headers={}, body=b"{}", timeout=5.0, max_reply_bytes=10_000)
        wire = Wire()

        def hold_up():
            asked.set()
            assert came.wait(5)

        async def in_tasks():
            first = await wire.send(request, beside_others())
            hold_up()  # no step of the loop from here to the next request
            second = await wire.send(request, beside_others())
            await wire.aclose()
            return first, second

        def in_threads():
            first = in_this_thread(partial(wire.send, request))
            hold_up()
            second = in_this_thread(partial(wire.send, request))
            wire.close()
            return first, second

        answers = in_threads() if door == "sync" else asyncio.run(in_tasks())
    assert [answer.body for answer in answers] == [b"ok", b"ok"]


def test_a_request_that_is_cancelled_while_it_connects_leaves_no_task_behind():
    async def cancelled_after(steps, url):
        wire = Wire()
        request = WireRequest(url=url, headers={}, body=b"{}", timeout=5.0, max_reply_bytes=10_000)
        sending = asyncio.ensure_future(wire.send(request, beside_others()))
        for _ in range(steps):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await wire.aclose()
        return left

    with Scripted(OK) as server:
        assert [asyncio.run(cancelled_after(steps, server.url)) for steps in range(8)] == [set()] * 8


def test_a_connection_that_the_server_closed_while_it_lay_idle_is_not_used(door):
    with Scripted(OK, closes=True) as server:
        wire = Wire()
        request = WireRequest(url=server.url, headers={}, body=b"{}", timeout=5.0, max_reply_bytes=100)

        async def later():
            answers = []
            for thread in range(3):
                answers.append(await wire.send(request, beside_others()))
                await asyncio.to_thread(server._threads[thread + 1].join)
                await asyncio.sleep(0.05)
            await wire.aclose()
            return answers

        def now():
            answers = []
            for thread in range(3):
                answers.append(in_this_thread(partial(wire.send, request)))
                server._threads[thread + 1].join()
            wire.close()
            return answers

        assert [answer.body for answer in (now() if door == "sync" else asyncio.run(later()))] == [b"ok"] * 3


def test_a_request_of_many_megabytes_arrives(door, server):
    server.answer = OK
    assert send(door, server.url, body=b"x" * 12_000_000, timeout=30.0).body == b"ok"
    assert server.seen[0]["Content-Length"] == "12000000"


def test_a_server_that_does_not_read_is_given_up_in_time(door):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        assert send(door, url, body=b"x" * 30_000_000, timeout=0.2).kind == "timeout"


def test_a_server_that_does_not_answer_the_handshake_is_given_up_in_time(door):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        assert send(door, url, timeout=0.2).kind == "timeout"


@pytest.mark.parametrize(
    "headers",
    [{"X": "a\r\nY: b"}, {"X": "a\nb"}, {"X": "\0"}, {"X Y": "a"}, {"": "a"}, {"X:": "a"}, {"X": "文"}],
    ids=ascii,
)
def test_what_no_header_can_hold_is_the_callers_mistake_and_is_not_repeated(door, server, headers):
    with pytest.raises(ConfigurationError, match="cannot carry") as raised:
        send(door, server.url, headers={"Authorization": "Bearer sk-secret", **headers})
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    assert server.seen == []


ASKED = st.tuples(
    st.sampled_from(["http://a.example/v1", "http://a.example/v2", "https://b.example:81/v1?q=1"]),
    st.lists(st.tuples(st.sampled_from(["X", "x", "Content-Length"]), st.sampled_from(["1", "2", "a\nb"]))).map(dict),
    st.sampled_from([b"", b"{}", b"x" * 1000]),
)


@given(st.lists(ASKED, min_size=2, max_size=8))
def test_a_request_is_written_in_the_same_way_whatever_was_written_before_it(asked):
    def written(writer, request):
        try:
            return writer.write(request)[1]
        except ConfigurationError as error:
            return str(error)

    one_for_all = Writer()
    for url, headers, body in asked:
        request = WireRequest(url=url, headers=headers, body=body, timeout=5.0, max_reply_bytes=100)
        assert written(one_for_all, request) == written(Writer(), request)


# ── proxies that let through ─────────────────────────────────────────────────────────────────────


@contextmanager
def relaying(context=None):
    """A proxy that opens tunnels, reached by TLS if there is a context for it; yields its port and what it was told."""
    told = []
    started, ports, ends = threading.Event(), [], []

    async def pump(reader, writer):
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.transport.abort()

    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        told.append(head.decode())
        host, _, port = head.split()[1].decode().rpartition(":")
        behind, ahead = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.gather(pump(reader, ahead), pump(behind, writer))
        finally:
            ahead.transport.abort()
            writer.transport.abort()

    async def run():
        stop = asyncio.Event()
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
            ports.append(server.sockets[0].getsockname()[1])
            ends.append((asyncio.get_running_loop(), stop.set))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(10)
    try:
        yield ports[0], told
    finally:
        loop, stop = ends[0]
        loop.call_soon_threadsafe(stop)
        thread.join()


@pytest.fixture
def trusted(monkeypatch, tmp_path):
    """`trusted(pem, …)`: believe in these authorities."""

    def trust(*authorities):
        file = tmp_path / "authorities.pem"
        file.write_text("".join(authorities))
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        common.ssl_context.cache_clear()

    yield trust
    common.ssl_context.cache_clear()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_is_reached_through_a_proxys_tunnel_and_its_connection_is_kept(door, monkeypatch, trusted, scheme):
    context, authority = certified("good") if scheme == "https" else (None, "")
    with Simulator(tls="good") as simulator, relaying(context) as (port, told):
        trusted(simulator.authority, authority)
        monkeypatch.setattr(route, "proxy_for", lambda _: f"{scheme}://us%40er:word@localhost:{port}")
        answers = send_often(
            door, simulator.base_url("zhipu").replace("127.0.0.1", "localhost"), 3, body=b"x" * 300_000
        )
    assert [answer.status for answer in answers] == [404] * 3
    assert [line for head in told for line in head.split("\r\n") if "roxy" in line] == [
        f"Proxy-Authorization: Basic {base64.b64encode(b'us@er:word').decode()}"
    ]


def test_a_server_in_the_open_is_asked_for_by_its_whole_address_and_the_login_is_told(door, monkeypatch, server):
    server.answer = OK
    monkeypatch.setenv("HTTP_PROXY", f"http://us:er@127.0.0.1:{server.server_port}")
    assert send(door, "http://api.example:81/v1?q=1").body == b"ok"
    assert server.seen[0]["Host"] == "api.example:81"
    assert server.seen[0]["Proxy-Authorization"] == f"Basic {base64.b64encode(b'us:er').decode()}"
    assert server.paths == ["http://api.example:81/v1?q=1"]


# ── an attempt's time ────────────────────────────────────────────────────────────────────────────


def test_an_answer_that_never_ends_though_it_never_pauses_is_given_up_in_time(monkeypatch):
    class Flood:
        """A socket that always has something to read."""

        began = time.monotonic()

        def send(self, data):
            return len(data)

        def recv_into(self, room):
            assert time.monotonic() < self.began + 10
            room[:6] = b"a: b\r\n"
            return 6

    async def hand(reactor):
        async def at_once(*_):
            return True

        monkeypatch.setattr(reactor, "readable", at_once)
        answer = Answer(1000)
        answer.feed(http(200, b"2\r\n{}\r\n0\r\n", transfer_encoding="chunked"))
        connection = threads._Connection(Flood(), reactor, time.monotonic() + 0.02)
        with pytest.raises(TimeoutError):
            await connection.exchange(b"{}", answer)

    in_this_thread(hand)


def test_a_name_that_is_looked_up_for_ever_is_given_up_in_time(door, monkeypatch):
    let_go, late = threading.Event(), []

    def look_up(*_, **__):
        late.append(not let_go.wait(10))
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    answer = send_often(door, "http://slow.example/v1", 1, timeout=0.1, on_end=let_go.set)[0]
    assert answer.kind == "timeout"
    assert True not in late


def test_of_a_host_with_two_addresses_only_the_connecting_is_hurried(monkeypatch):
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **how: 2 * real(*args, **how))
    monkeypatch.setattr(threads, "_ADDRESS_TIME", 0.05)

    class Slow(Scripted):
        def _serve(self, peer):
            with peer, suppress(OSError):
                peer.recv(65536)
                time.sleep(0.15)
                peer.sendall(http(407, content_length=0))

    with Slow(b"") as server:
        monkeypatch.setenv("HTTPS_PROXY", server.url)
        assert send("sync", "https://api.example/v1").kind == "proxy"
        assert server.connections == 1


# ── several requests in one thread ───────────────────────────────────────────────────────────────


def test_answers_that_come_in_pieces_by_turns_are_each_their_own():
    both = threading.Barrier(2)

    class ByTurns(Scripted):
        def _serve(self, peer):
            with peer, suppress(OSError):
                name = peer.recv(65536).rpartition(b"\r\n\r\n")[2]
                peer.sendall(http(200, content_length=60 * len(name)))
                for _ in range(60):
                    both.wait(5)
                    peer.sendall(name)

    wire = Wire()

    async def ask(reactor, body):
        request = WireRequest(url=server.url, headers={}, body=body, timeout=5.0, max_reply_bytes=10_000)
        return (await wire.send(request, reactor)).body

    with ByTurns(b"") as server:
        assert all_in_this_thread(*(partial(ask, body=body) for body in (b"first", b"other"))) == [
            b"first" * 60,
            b"other" * 60,
        ]
        wire.close()


def test_tls_within_tls_keeps_what_it_read_while_it_waits_to_send(monkeypatch):
    """A renewed key must be told before an answer is given, and the socket may be full."""

    class Full:
        full = True

        def send(self, data):
            if self.full:
                raise BlockingIOError
            return len(data)

    class Inner:
        def __init__(self, word):
            self._word = word

        def read(self, *_):
            return self._word

    class Outgoing:
        def read(self):
            return b"a new key"

    def connection(word, reactor):
        made = threads._TLSWithin.__new__(threads._TLSWithin)
        made.sock, made.reactor, made.ends = Full(), reactor, time.monotonic() + 5.0
        made._tls, made._goes = Inner(word), Outgoing()
        return made

    room, first_waits = memoryview(bytearray(100)), []

    async def first(reactor):
        mine = connection(b"mine", reactor)

        async def writable(*_):
            first_waits.append(mine.sock)
            return await reactor.signal().wait(0.0) or True

        monkeypatch.setattr(reactor, "writable", writable)
        return bytes(room[: await mine.read_into(room)])

    async def other(reactor):
        while not first_waits:
            await reactor.signal().wait(0.0)
        others = connection(b"another's", reactor)
        others.sock.full = False
        await others.read_into(room)
        first_waits[0].full = False

    assert all_in_this_thread(first, other)[0] == b"mine"


def test_what_came_unasked_is_seen_though_it_lies_in_the_buffer_of_tls_within_tls():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        idle = threads._TLSWithin(threads._Connection(ours, None, 0.0), "a.example")
        idle.kept_at = time.monotonic()
        assert idle.fresh()
        idle._came.write(b"unasked")
        assert not idle.fresh()
