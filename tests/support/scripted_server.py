"""A small HTTP server on loopback that answers as a test says: `with scripted(answer) as server`."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from support.providers import texts_in

DIMENSIONS = 8


@dataclass
class Request:
    """One request as the server received it."""

    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: Any
    """The parsed JSON."""

    @property
    def texts(self):
        """The texts of any wire format."""
        return texts_in(self.body)


@dataclass
class Reply:
    """One answer. A body that is not bytes is written as JSON."""

    body: Any = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    late_copy: bool = False
    """Whether the server sends it a second time, a moment later: when the next request comes on the connection."""


def vector_of(text, dimensions=DIMENSIONS):
    """The vector that the server gives a text: different for different texts, never zero, and exact in float32."""
    digest = hashlib.sha256(text.encode()).digest() * (1 + dimensions // 32)
    return [(byte + 1) / 256 for byte in digest[:dimensions]]


def openai_reply(request, dimensions=DIMENSIONS, **extra):
    """The right answer in the OpenAI format; `extra` are further fields of the body."""
    texts = request.texts
    data = [{"index": i, "object": "embedding", "embedding": vector_of(t, dimensions)} for i, t in enumerate(texts)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return Reply({"object": "list", "model": request.body["model"], "data": data, "usage": usage, **extra})


def dashscope_reply(request, dimensions=DIMENSIONS):
    """The right answer in DashScope's native format."""
    data = [{"text_index": i, "embedding": vector_of(t, dimensions)} for i, t in enumerate(request.texts)]
    return Reply({"output": {"embeddings": data}, "usage": {"total_tokens": len(data)}, "request_id": "id-1"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.path, headers, json.loads(self.rfile.read(length) or b"null"))
        with self.server.lock:
            self.server.requests.append(request)
        late, self.late = getattr(self, "late", None), None
        if late is not None:
            self.wfile.write(late)
        reply = self.server.answer(request)
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response_only(reply.status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **reply.headers,
        }.items():
            self.send_header(name, value)
        head = b"".join(self._headers_buffer)
        self.end_headers()
        self.wfile.write(body)
        if reply.late_copy:
            self.late = head + b"\r\n" + body

    def log_message(self, *_):
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """A client that went away is no matter of the server's."""


@contextmanager
def scripted(answer):
    """A server that answers each POST with what `answer(request)` returns.

    Args:
        answer: a function of a `Request` that returns a `Reply`. It is called from many threads at once.

    Yields:
        The server: `url` (http://127.0.0.1:PORT) and `requests`, in the order of their arrival.
    """
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.answer, server.requests, server.lock = answer, [], threading.Lock()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
