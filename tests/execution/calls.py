"""Calls whose vectors are checked, and servers that hold their responses back."""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
from support.adapters import (
    SYNC_ENTRY_POINTS,
    are_right,
    call,
    texts_of,
)

from multiembed.providers.local import embed

NAMES = sorted(SYNC_ENTRY_POINTS)
LATENCY = 0.03
"""Of the slow simulator, in seconds."""


def in_threads(*jobs):
    """What the jobs answer, each in a thread of its own, started together."""
    together = threading.Barrier(len(jobs))

    def start(job):
        together.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(start, jobs))


def serve_right(entry_point, embedder, label, count=25):
    """Whether a call gives each of the label's texts its own vector."""
    texts = texts_of(count, label)
    return are_right(call(entry_point.embed, embedder, texts), texts)


async def aserve_right(entry_point, embedder, label, count=25):
    texts = texts_of(count, label)
    return are_right(await entry_point.embed(embedder, texts), texts)


async def all_right(entry_point, embedder, label, calls):
    return all(
        await asyncio.gather(*(aserve_right(entry_point, embedder, f"{label} {number}") for number in range(calls)))
    )


class Api(BaseHTTPRequestHandler):
    """DashScope's API with a thread for each connection; what `before` returns is said instead of the right answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, payload, headers = self.before(self.server) or (200, dashscope_response(body).json(), {})
        content = json.dumps(payload).encode()
        with suppress(ConnectionError):
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        self.after(self.server)

    def log_message(self, *_):
        pass

    def after(self, server):
        pass


class HoldingApi(Api):
    """Silent, or asking to wait, until it is let go."""

    def before(self, server):
        if server.asks_to_wait and not server.let_go.is_set():
            return 429, {"code": "Throttling.RateQuota", "message": "slow down"}, {"retry-after": "60"}
        server.arrived.set()
        server.let_go.wait(60)
        return None

    def after(self, server):
        server.arrived.set()


class GatheringApi(Api):
    """Answers four requests together; gives up after a while when fewer are there."""

    def before(self, server):
        with suppress(threading.BrokenBarrierError):
            server.four.wait(20)


@contextmanager
def serving(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def dashscope_response(body):
    texts = body["input"]["texts"]
    vectors = [{"text_index": index, "embedding": vector} for index, vector in enumerate(embed(texts, 1024).tolist())]
    return httpx.Response(200, json={"output": {"embeddings": vectors}, "usage": {"total_tokens": len(texts)}})
