"""Requests through the user's own httpx clients, sync and async."""

from __future__ import annotations

import asyncio
import gzip
import socket

import httpx
import pytest
from support.transport import OK, Server, http, read_request, responding, shown, wire_request

from multiembed.errors import ConfigurationError
from multiembed.simulator.tls import certified
from multiembed.transport import httpx_client
from multiembed.transport.types import HttpResponse, TransportFailure

SECRET = {"Authorization": "Bearer sk-secret"}


def by_client(request, **settings):
    with httpx.Client(**settings) as client:
        return httpx_client.send(client, request)


def by_async_client(request, **settings):
    async def main():
        async with httpx.AsyncClient(**settings) as client:
            return await httpx_client.asend(client, request)

    return asyncio.run(main())


@pytest.fixture(params=[by_client, by_async_client])
def by_httpx(request):
    return request.param


HTTPX = {
    "whole": (OK, b"ok"),
    "gzip": (http(200, gzip.compress(b"ok"), content_encoding="gzip", content_length=len(gzip.compress(b"ok"))), b"ok"),
    "broken gzip": (http(200, b"ok", content_encoding="gzip", content_length=2), "malformed"),
    "too large": (http(200, b"x" * 101, content_length=101), "malformed"),
    "cut": (http(200, b"o", content_length=2), "connection"),
    "nothing": (b"", "connection"),
    "no HTTP": (b"hello\r\n\r\n", "connection"),
}


@pytest.mark.parametrize(("raw", "outcome"), HTTPX.values(), ids=HTTPX.keys())
def test_own_client_response_is_the_same(by_httpx, raw, outcome):
    with responding(raw, closes=True) as server:
        response = by_httpx(wire_request(server.url, max_reply_bytes=100), trust_env=False)
    assert (response.body if isinstance(response, HttpResponse) else response.kind) == outcome


def test_own_client_keeps_kinds_of_failure_apart(by_httpx):
    context, _ = certified("good")
    with responding(OK, context=context) as server:
        assert by_httpx(wire_request(server.url)).kind == "tls"
    with Server(lambda peer, _: (read_request(peer), peer.recv(1))) as server:
        assert by_httpx(wire_request(server.url, timeout=0.2)).kind == "timeout"
    with responding(http(407, content_length=0)) as proxy:
        refused = by_httpx(wire_request("https://api.example/"), proxy=f"http://us:secret@127.0.0.1:{proxy.port}")
        assert refused == TransportFailure("proxy", "the proxy responds with status 407", reason="proxy_login")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert by_httpx(wire_request(f"http://127.0.0.1:{port}/")).kind == "connection"


def test_own_client_repeats_no_header_that_http_cannot_carry(by_httpx):
    with responding(OK) as server, pytest.raises(ConfigurationError, match="cannot carry") as raised:
        by_httpx(wire_request(server.url, headers={**SECRET, "X": "a\nb"}))
    assert "secret" not in shown(raised.value)
