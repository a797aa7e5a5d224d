"""Joins rows and their vectors: texts go into a stream, whose results have no rows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from multiembed import MultiEmbedError, PartialFailureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from multiembed import EmbeddingClient, EmbeddingResult, Role
    from multiembed.files import Chunk

_MAX_QUEUED = 32
"""Chunks read ahead; beyond it a duplicate text is sent again, so that memory stays bounded."""


@dataclass(slots=True)
class EmbeddedChunk:
    """A chunk with its vectors."""

    chunk: Chunk
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """float32, shape (rows, dimensions); only the kept rows are valid. Without rows until the first result."""
    failures: dict[int, MultiEmbedError] = field(default_factory=dict)
    """Errors of texts that were sent and have no vector, by row."""
    sent: list[int] = field(default_factory=list)
    """Rows whose texts go into the stream, in order."""
    duplicates: list[int] = field(default_factory=list)
    """Rows whose texts were in flight already."""

    @property
    def unsent(self) -> int:
        """Number of rows whose texts did not go into the stream: faulty ones and duplicates."""
        return len(self.chunk) - len(self.sent)

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Mask of the rows that have a vector."""
        kept = np.ones(len(self.chunk), dtype=np.bool_)
        kept[[*self.chunk.faults, *self.failures]] = False
        return kept

    def first_failure(self) -> MultiEmbedError:
        """The error of the first row that failed, with its file and line."""
        row, error = min(self.failures.items())
        error.message = f"{self.chunk.location(row)}: {error.message}"
        error.indices = ()  # of the stream's chunk, not of the row
        return error


@dataclass(slots=True)
class _InFlight:
    """A text that was sent, and the number of duplicate rows that wait for its result."""

    waiting: int = 0
    result: NDArray[np.float32] | MultiEmbedError | None = None


def embed_chunks(client: EmbeddingClient, chunks: Iterable[Chunk], role: Role) -> Iterator[EmbeddedChunk]:
    """Embed chunks, in order, holding no more of them than the stream reads ahead.

    A stream sends a duplicate text once for each of its chunks. Here it waits for the text in flight.

    Raises:
        MultiEmbedError: no further text can be embedded.
    """
    joiner = _RowJoiner()
    stream = client.stream(joiner.texts(chunks), role, on_error="keep")
    try:
        for result in stream:
            yield from joiner.add_result(result)
        yield from joiner.remaining()
    except MultiEmbedError as error:
        # An error of the whole call. Its indices are those of the stream's chunk, not of rows.
        first = error.__cause__ if isinstance(error, PartialFailureError) else error
        if not isinstance(first, MultiEmbedError):
            raise
        first.indices = ()
        raise first from None
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


class _RowJoiner:
    """Yields the texts of chunks, and fills one chunk after the other with the results."""

    def __init__(self) -> None:
        self._queue: deque[EmbeddedChunk] = deque()
        self._filled = 0
        """Rows of the first chunk's `sent` that have a result."""
        self._in_flight: dict[str, _InFlight] = {}
        self._dimensions = 0
        """Unknown, 0, before the first vector."""

    def texts(self, chunks: Iterable[Chunk]) -> Iterator[str]:
        """The texts to send, in order."""
        for chunk in chunks:
            embedded = EmbeddedChunk(chunk)
            for row, text in enumerate(chunk.texts):
                if row in chunk.faults:
                    continue
                if text in self._in_flight and len(self._queue) < _MAX_QUEUED:
                    self._in_flight[text].waiting += 1
                    embedded.duplicates.append(row)
                else:
                    self._in_flight.setdefault(text, _InFlight())
                    embedded.sent.append(row)
            self._queue.append(embedded)
            for row in embedded.sent:
                yield chunk.texts[row]

    def add_result(self, result: EmbeddingResult) -> Iterator[EmbeddedChunk]:
        """The chunks that this result completes."""
        vectors, start = result.vectors, 0
        if len(result.failures) < len(vectors):
            self._dimensions = self._dimensions or vectors.shape[1]
        while start < len(vectors):
            embedded = self._first()
            rows = embedded.sent[self._filled : self._filled + len(vectors) - start]
            if rows and vectors.shape[1] == self._dimensions:
                embedded.vectors[rows] = vectors[start : start + len(rows)]
            for position, row in enumerate(rows, start):
                error = result.failures.get(position)
                if error is not None:
                    embedded.failures[row] = error
                self._share(embedded.chunk.texts[row], vectors[position] if error is None else error)
            start += len(rows)
            self._filled += len(rows)
            if self._filled == len(embedded.sent):
                yield self._finish()

    def remaining(self) -> Iterator[EmbeddedChunk]:
        """The last chunks, in which no row was sent."""
        while self._queue:
            yield self._finish()

    def _first(self) -> EmbeddedChunk:
        """The first chunk of the queue, with an array for its vectors."""
        embedded = self._queue[0]
        shape = (len(embedded.chunk), self._dimensions)
        if embedded.vectors.shape != shape:
            embedded.vectors = np.full(shape, np.nan, dtype=np.float32)
        return embedded

    def _share(self, text: str, result: NDArray[np.float32] | MultiEmbedError) -> None:
        """Keep a result for the duplicate rows that wait for it."""
        shared = self._in_flight.get(text)
        if shared is not None and not shared.waiting:
            del self._in_flight[text]
        elif shared is not None and shared.result is None:
            shared.result = result if isinstance(result, MultiEmbedError) else result.copy()

    def _finish(self) -> EmbeddedChunk:
        """Complete the first chunk with the results that its duplicate rows wait for."""
        embedded = self._first()
        self._queue.popleft()
        self._filled = 0
        for row in embedded.duplicates:
            text = embedded.chunk.texts[row]
            shared = self._in_flight[text]
            if isinstance(shared.result, MultiEmbedError):
                embedded.failures[row] = shared.result
            elif shared.result is not None:
                embedded.vectors[row] = shared.result
            shared.waiting -= 1
            if not shared.waiting:
                del self._in_flight[text]
        return embedded
