"""Connections that a load balancer has forgotten count no failure and no retry, in sync and async calls."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading

import pytest
from support.transport import Server, http, read_request

from multiembed import EmbeddingClient
from multiembed.execution.runtime import account_id
from multiembed.ratelimit.registry import limiter_for

WIDTH = 25
"""Requests in flight, and so connections."""


def response(body):
    texts = json.loads(body)["input"]
    data = [{"index": index, "embedding": [float(text), 1.0]} for index, text in enumerate(texts)]
    body = json.dumps({"data": data, "usage": {"total_tokens": len(texts)}}).encode()
    return http(200, body, content_length=len(body))


@pytest.mark.parametrize("end", ["RST", "FIN"])
@pytest.mark.parametrize("first_call", ["sync", "async"])
def test_forgotten_connections_count_no_failure(entry_point, first_call, end):
    forgotten, together = threading.Event(), threading.Barrier(WIDTH)

    def serve(peer, number):
        while (request := read_request(peer)) is not None:
            if forgotten.is_set() and number <= opened:
                if end == "RST":
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if json.loads(request[1])["input"] != ["0"] and not forgotten.is_set():
                together.wait(20)  # so that each request has a connection of its own
            peer.sendall(response(request[1]))

    with Server(serve) as server:
        options = {"api_key": "sk-any", "base_url": server.url, "limits": {"max_items": 1}, "max_concurrency": WIDTH}
        client = EmbeddingClient("openai-compatible:m", **options)
        client.embed(["0"])
        texts = [str(number) for number in range(1, WIDTH + 1)]
        if first_call == "sync":
            client.embed(texts)
        else:
            asyncio.run(client.aembed(texts))
        opened = server.connections
        assert opened >= WIDTH
        forgotten.set()
        again = [str(number) for number in range(WIDTH + 1, 3 * WIDTH + 1)]
        result = entry_point(client, again)
        assert [row[0] for row in result.vectors.tolist()] == [float(text) for text in again]
        assert client.usage.retries == 0
        assert client.usage.requests == 1 + 3 * WIDTH
        assert limiter_for(account_id(client.target)).failures == 0
        assert server.connections <= opened + WIDTH
        client.close()
