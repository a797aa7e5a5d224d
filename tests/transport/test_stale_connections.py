"""Connection pool: keep-alive connections that turn out to be dead, or receive bytes without a request."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter
from contextlib import suppress

import pytest
from support.transport import OK, Server, http, read_request, run, send, send_often, wire_request

from multiembed.simulator.tls import certified
from multiembed.transport import client, tls
from multiembed.transport.types import HttpResponse, TransportFailure


def reset(peer):
    """Close with RST: what a load balancer responses on a connection that it has forgotten."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def finish(peer):
    peer.close()


ENDS = {"RST": reset, "FIN": finish}


@pytest.fixture(params=["http", "https"])
def context(request, monkeypatch, tmp_path):
    """The server's TLS context; None for plain HTTP."""
    if request.param == "http":
        yield None
        return
    made, authority = certified("good")
    (tmp_path / "authority.pem").write_text(authority)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    tls.ssl_context.cache_clear()
    yield made
    tls.ssl_context.cache_clear()


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_forgotten_connections_are_replaced_once(context, end):
    """Kept connections die on use, all at once: each request is sent again, and none fails."""
    count, forgotten, seen = 40, threading.Event(), Counter()
    all_here = threading.Barrier(count)

    def serve(peer, number):
        while (received := read_request(peer)) is not None:
            if number <= count and forgotten.is_set():
                end(peer)
                return
            seen[received[1]] += 1
            if number <= count:
                all_here.wait(30)
            peer.sendall(OK)

    async def ask(transport):
        requests = [wire_request(server.url, body=b"%d" % number, timeout=60.0) for number in range(count)]
        first = await asyncio.gather(*map(transport.send, requests))
        forgotten.set()
        return first, await asyncio.gather(*map(transport.send, requests))

    with Server(serve, context) as server:
        for responses in run(ask):
            assert all(isinstance(response, HttpResponse) and response.requests == 1 for response in responses)
        assert server.connections <= 2 * count
    assert set(seen.values()) == {2}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_server_that_ends_every_kept_connection_responses(context, end):
    """It waits for the second request of each, so that the end is not seen before."""

    def serve(peer, _):
        read_request(peer)
        peer.sendall(OK)
        read_request(peer)
        end(peer)

    async def many(transport):
        request = wire_request(server.url, timeout=60.0)
        return [await asyncio.gather(*(transport.send(request) for _ in range(5))) for _ in range(4)]

    with Server(serve, context) as server:
        responses = [response for some in run(many) for response in some]
    assert [response.body for response in responses] == [b"ok"] * 20
    assert {response.requests for response in responses} == {1}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_death_of_a_new_connection_is_a_failure(context, end):
    def serve(peer, _):
        read_request(peer)
        end(peer)

    with Server(serve, context) as server:
        assert send(server.url).kind == "connection"
        assert server.connections == 1


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_connection_closed_at_once_is_a_failure(context, end):
    """It is not tried again and again until the time is over."""
    with Server(lambda peer, _: end(peer), context) as server:
        assert send(server.url).kind == "connection"
        assert server.connections == 1


BEGINNINGS = {
    "one byte": b"H",
    "half a status line": b"HTTP/1.1 2",
    "half the headers": b"HTTP/1.1 200 OK\r\nContent-Le",
    "all but the last byte": OK[:-1],
    "half a chunk": http(200, b"9\r\nok", transfer_encoding="chunked"),
    "100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("raw", BEGINNINGS.values(), ids=BEGINNINGS.keys())
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_death_after_a_byte_of_the_response_is_a_failure(context, raw, end):
    """The server has processed the request, and may have billed it."""

    def serve(peer, _):
        read_request(peer)
        peer.sendall(OK)
        read_request(peer)
        peer.sendall(raw)
        end(peer)

    with Server(serve, context) as server:
        first, second = send_often(server.url, 2)
        assert first.body == b"ok"
        assert isinstance(second, TransportFailure)
        assert second.kind == "connection"
        assert server.connections == 1


def test_connections_of_another_server_are_kept():
    def serve_once(peer, _):
        read_request(peer)
        peer.sendall(OK)
        read_request(peer)

    def serve(peer, _):
        while read_request(peer):
            peer.sendall(OK)

    async def ask(transport):
        urls = (healthy.url, dying.url, dying.url, healthy.url)
        return [await transport.send(wire_request(url)) for url in urls]

    with Server(serve) as healthy, Server(serve_once) as dying:
        responses = run(ask)
        assert [response.reused for response in responses] == [False, False, False, True]
        assert (healthy.connections, dying.connections) == (1, 2)


def test_fresh_request_opens_a_connection_and_drops_idle_ones():
    gone = []

    def serve(peer, number):
        while read_request(peer):
            peer.sendall(OK)
        gone.append(number)

    async def ask(transport):
        plain, fresh = wire_request(server.url), wire_request(server.url, fresh=True)
        await asyncio.gather(*(transport.send(plain) for _ in range(3)))
        responses = [await transport.send(each) for each in (plain, fresh, fresh, plain)]
        for thread in server.threads[:-1]:
            await asyncio.to_thread(thread.join)
        return responses

    with Server(serve) as server:
        responses = run(ask)
        assert [response.reused for response in responses] == [True, False, False, True]
        assert server.connections == 5
        assert sorted(gone)[:4] == [1, 2, 3, 4]


def test_many_fresh_requests_at_once_never_share_a_connection():
    def serve(peer, _):
        while read_request(peer):
            peer.sendall(OK)

    async def ask(transport):
        request = wire_request(server.url, fresh=True, timeout=60.0)
        await transport.send(request)
        return await asyncio.gather(*(transport.send(request) for _ in range(20)))

    with Server(serve) as server:
        assert not any(response.reused for response in run(ask))
        assert server.connections == 21


def test_connection_closed_while_idle_is_closed_here_too():
    """No socket stays in CLOSE_WAIT, though nothing is sent after the server's end."""

    def serve(peer, _):
        read_request(peer)
        peer.sendall(OK)
        idle.wait(10)
        peer.shutdown(socket.SHUT_WR)
        closed.append(peer.recv(1))

    async def ask(transport):
        await asyncio.gather(*(transport.send(wire_request(server.url)) for _ in range(3)))
        idle.set()
        for thread in server.threads:
            await asyncio.to_thread(thread.join)

    idle, closed = threading.Event(), []
    with Server(serve) as server:
        run(ask)
    assert closed == [b""] * 3


UNASKED = {"a response": http(200, b"no", content_length=2), "bytes": b"XXX", "half a response": b"HTTP/1.1 200 OK\r\n"}


@pytest.mark.parametrize("raw", UNASKED.values(), ids=UNASKED.keys())
@pytest.mark.parametrize("held_up", [True, False], ids=["while the loop is held up", "while the loop runs"])
def test_unrequested_bytes_are_never_a_response(context, raw, held_up):
    asked, arrived = threading.Event(), threading.Event()

    def serve(peer, number):
        read_request(peer)
        peer.sendall(OK)
        if number == 1:
            asked.wait(5)
            peer.sendall(raw)
            arrived.set()
        read_request(peer)

    async def ask(transport):
        first = await transport.send(wire_request(server.url))
        asked.set()
        if held_up:
            assert arrived.wait(5)
        else:
            await asyncio.to_thread(arrived.wait, 5)
            await asyncio.to_thread(server.threads[0].join)
        return first, await transport.send(wire_request(server.url))

    with Server(serve, context) as server:
        responses = run(ask)
        assert [(response.body, response.reused) for response in responses] == [(b"ok", False)] * 2
        assert server.connections == 2


def test_idle_connection_is_closed_after_a_while(monkeypatch):
    monkeypatch.setattr(client, "KEEP_ALIVE", 0.01)

    def serve(peer, _):
        while read_request(peer):
            peer.sendall(OK)

    async def ask(transport):
        await transport.send(wire_request(server.url))
        await asyncio.to_thread(server.threads[0].join)
        return await transport.send(wire_request(server.url))

    with Server(serve) as server:
        assert run(ask).reused is False


def test_connection_reused_before_its_task_wakes_is_kept_open():
    """aiohttp offers a connection to others as soon as a response is whole, and its own task runs only then."""
    together = threading.Barrier(8)

    async def many(transport):
        async def one_by_one():
            return [await transport.send(request) for _ in range(50)]

        request = wire_request(server.url)
        return [outcome for some in await asyncio.gather(*(one_by_one() for _ in range(8))) for outcome in some]

    def serve(peer, _):
        with suppress(threading.BrokenBarrierError):
            while read_request(peer) is not None:
                peer.sendall(OK[:-2])
                together.wait(20)  # so that the loop reads the ends of several responses in one step
                peer.sendall(OK[-2:])
        together.abort()

    with Server(serve) as server:
        outcomes = run(many)
    assert [outcome for outcome in outcomes if isinstance(outcome, TransportFailure)] == []
    assert server.connections == 8
