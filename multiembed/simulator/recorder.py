"""The memory of what was asked: the requests that came, and how many were being answered at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiembed.simulator.messages import Request

_MOST_REQUESTS = 10_000
_MOST_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedRequest:
    """One request as it came, and what became of it."""

    provider: str | None
    """The provider whose form is spoken at that path; None for a path where there is none."""
    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    """Names in lower case."""
    body: Any
    """Parsed JSON; None when the body was none."""
    raw: bytes = field(repr=False)
    status: int | None
    """The HTTP status it was answered with; None while there is no answer, and where a fault kept it back."""
    fault: str | None = None
    """The name of the fault that was made for it."""


class Recorder:
    """Written by the server's thread, read by any other. The oldest requests are forgotten beyond a bound."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._records: OrderedDict[int, RecordedRequest] = OrderedDict()
        self._bytes = 0
        self._arrived = 0
        self._in_flight = 0
        self._peak = 0

    def arrived(self, request: Request, provider: str | None) -> int:
        """Keep a request, in the order of arrival; the number by which to name it later."""
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
                while len(self._records) > _MOST_REQUESTS or self._bytes > _MOST_BYTES:
                    self._bytes -= len(self._records.popitem(last=False)[1].raw)
            return self._arrived

    def answered(self, number: int, status: int | None, fault: str | None = None) -> None:
        """Note how a request was answered, unless it is forgotten already."""
        with self._lock:
            record = self._records.get(number)
            if record is not None:
                self._records[number] = replace(record, status=status, fault=fault)

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count one embedding request as being answered."""
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
        """The highest number of embedding requests that were being answered at once."""
        with self._lock:
            return self._peak

    def requests(self) -> list[RecordedRequest]:
        """What is remembered, in order of arrival."""
        with self._lock:
            return list(self._records.values())

    def clear(self) -> None:
        """Forget the requests; the peak starts again from what is being answered now."""
        with self._lock:
            self._records.clear()
            self._bytes = 0
            self._peak = self._in_flight
