"""Connection of one client: bytes to requests and responses to bytes, by h11."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import h11
import orjson

from multiembed.simulator.messages import Answer, Request

if TYPE_CHECKING:
    import asyncio

MAX_BODY_BYTES = 16 * 1024 * 1024
"""What DashScope documents for the body of a request; the other formats have it too, to bound memory."""
_READ = 256 * 1024


class Connection:
    """HTTP/1.1 connection that stays open from request to request.

    After bytes were written to `writer` without `send`, it is closed.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._http = h11.Connection(h11.SERVER)
        self._method = ""
        self._cycles = 0

    @property
    def reused(self) -> bool:
        """Whether it has carried another request before this one."""
        return self._cycles > 0

    async def receive(self) -> Request | None:
        """The next request; None when the client has closed.

        Raises:
            h11.RemoteProtocolError: the bytes are not HTTP.
        """
        self._method = ""
        head: h11.Request | None = None
        chunks: list[bytes] = []
        size = 0
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                await self._read()
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                # Read to its end even when it is too large: otherwise the client would not read the response.
                size += len(event.data)
                if size <= MAX_BODY_BYTES:
                    chunks.append(bytes(event.data))
                else:
                    chunks.clear()
            elif isinstance(event, h11.EndOfMessage) and head is not None:
                return self._request(head, b"".join(chunks), too_large=size > MAX_BODY_BYTES)
            else:
                return None

    async def _read(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        self._http.receive_data(await self.reader.read(_READ))

    def _request(self, head: h11.Request, raw: bytes, *, too_large: bool) -> Request:
        headers: dict[str, str] = {}
        for name, value in head.headers:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        self._method = head.method.decode("ascii")
        return Request(
            id=uuid.uuid4().hex,
            method=self._method,
            path=_path(head.target.decode("latin-1")),
            headers=headers,
            raw=raw,
            body=_parsed(raw),
            too_large=too_large,
        )

    async def send(self, answer: Answer) -> None:
        """Write a response."""
        headers = [*answer.headers, ("content-length", str(len(answer.body)))]
        # A response to HEAD has the length and no body.
        body = b"" if self._method == "HEAD" else answer.body
        self._write(
            self._http.send(h11.Response(status_code=answer.status, headers=headers)),
            self._http.send(h11.Data(data=body)) if body else None,
            self._http.send(h11.EndOfMessage()),
        )
        await self.writer.drain()

    async def refuse(self, error: h11.RemoteProtocolError) -> None:
        """Send an error response to a client whose bytes are not HTTP, if a response is still possible."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = (("content-type", "text/plain"), ("connection", "close"))
            await self.send(Answer(error.error_status_hint, headers, str(error).encode()))

    def next_cycle(self) -> bool:
        """Prepare for the next request. Returns False when the connection must be closed instead."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        if self.writer.is_closing():
            return False
        self._http.start_next_cycle()
        self._cycles += 1
        return True

    def _write(self, *parts: bytes | None) -> None:
        self.writer.write(b"".join(part for part in parts if part))


def _path(target: str) -> str:
    """The target without the query; without scheme and host, too, which a client sends to a proxy."""
    scheme, found, rest = target.partition("?")[0].partition("://")
    return f"/{rest.partition('/')[2]}" if found and scheme.isalpha() else f"{scheme}{found}{rest}"


def _parsed(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
