"""Recorder of requests, and of the peak of requests in flight."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiembed.simulator.messages import Request

_MAX_REQUESTS = 10_000
_MAX_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRequest:
    """One request and the outcome of it."""

    provider: str | None
    """The provider whose API has that path; None for an unknown path."""
    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    """Names in lower case."""
    body: Any
    """Parsed JSON; None when the body was not JSON."""
    raw: bytes = field(repr=False)
    status: int | None
    """The HTTP status of the response; None before it is sent, and where a fault did not send it."""
    fault: str | None = None
    """The name of the injected fault."""


class Recorder:
    """Written by the server's thread, read by any other. Beyond a bound, the oldest requests are removed."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._records: OrderedDict[int, RecordedRequest] = OrderedDict()
        self._bytes = 0
        self._arrived = 0
        self._in_flight = 0
        self._peak = 0

    def arrived(self, request: Request, provider: str | None) -> int:
        """Record a request. Returns its number, for `answered`."""
        with self._lock:
            self._arrived += 1
            if self._keep:
                self._records[self._arrived] = RecordedRequest(
                    provider=provider,
                    method=request.method,
                    path=request.path,
                    headers=dict(request.headers),
                    body=request.body,
                    raw=request.raw,
                    status=None,
                )
                self._bytes += len(request.raw)
                while len(self._records) > _MAX_REQUESTS or self._bytes > _MAX_BYTES:
                    self._bytes -= len(self._records.popitem(last=False)[1].raw)
            return self._arrived

    def answered(self, number: int, status: int | None, fault: str | None = None) -> None:
        """Record the response to a request, unless the request was removed."""
        with self._lock:
            record = self._records.get(number)
            if record is not None:
                self._records[number] = replace(record, status=status, fault=fault)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count one embedding request as in flight."""
        with self._lock:
            self._in_flight += 1
            self._peak = max(self._peak, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    @property
    def peak(self) -> int:
        """The maximum of embedding requests in flight."""
        with self._lock:
            return self._peak

    def requests(self) -> list[RecordedRequest]:
        """The recorded requests, in order of arrival."""
        with self._lock:
            return list(self._records.values())

    def clear(self) -> None:
        """Remove the requests; the peak starts again from what is in flight now."""
        with self._lock:
            self._records.clear()
            self._bytes = 0
            self._peak = self._in_flight
