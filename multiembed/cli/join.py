"""Rows and their vectors, brought together again: texts go into a stream, whose blocks know nothing of rows."""

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


@dataclass(slots=True)
class Joined:
    """A chunk with its vectors."""

    chunk: Chunk
    vectors: NDArray[np.float32]
    """float32, shape (rows, dimensions); only the kept rows mean anything."""
    failures: dict[int, MultiEmbedError] = field(default_factory=dict)
    """What became of rows that were sent and have no vector."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which rows have a vector."""
        kept = np.ones(len(self.chunk), dtype=np.bool_)
        kept[[*self.chunk.faults, *self.failures]] = False
        return kept

    def first_failure(self) -> MultiEmbedError:
        """The error of the first row that failed, which tells its place."""
        row, error = min(self.failures.items())
        error.message = f"{self.chunk.place(row)}: {error.message}"
        error.indices = ()  # of a block, which nobody knows of
        return error


def joined(client: EmbeddingClient, chunks: Iterable[Chunk], role: Role) -> Iterator[Joined]:
    """Embed chunks, in order; no more of them are held than the stream reads ahead.

    Raises:
        MultiEmbedError: nothing more can be embedded.
    """
    waiting: deque[Chunk] = deque()
    parts = _Parts(waiting)
    stream = client.stream(_texts(chunks, waiting), role, on_error="keep")
    try:
        for result in stream:
            yield from parts.take(result)
        yield from parts.rest()
    except MultiEmbedError as error:
        # What no text can escape. It counts texts in a block, which nobody knows of.
        first = error.__cause__ if isinstance(error, PartialFailureError) else error
        if not isinstance(first, MultiEmbedError):
            raise
        first.indices = ()
        raise first from None
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


def _texts(chunks: Iterable[Chunk], waiting: deque[Chunk]) -> Iterator[str]:
    for chunk in chunks:
        waiting.append(chunk)
        for row, text in enumerate(chunk.texts):
            if row not in chunk.faults:
                yield text


class _Parts:
    """Fills one chunk after the other with what comes from the stream."""

    def __init__(self, waiting: deque[Chunk]) -> None:
        self._waiting = waiting
        self._part: Joined | None = None
        self._rows: list[int] = []
        """The rows of the chunk that are sent."""
        self._filled = 0
        self._dimensions = 0

    def take(self, result: EmbeddingResult) -> Iterator[Joined]:
        """The chunks that are whole with this result."""
        vectors = result.vectors
        if vectors is None:
            return
        count = len(vectors)
        some = len(result.failures) < count
        if some:
            self._widen(vectors.shape[1])
        at = 0
        while at < count:
            part = self._begun()
            taken = min(len(self._rows) - self._filled, count - at)
            rows = self._rows[self._filled : self._filled + taken]
            if rows:
                if vectors.shape[1] == part.vectors.shape[1]:
                    part.vectors[rows] = vectors[at : at + taken]
                part.failures.update(
                    (row, result.failures[at + place])
                    for place, row in enumerate(rows)
                    if at + place in result.failures
                )
            at += taken
            self._filled += taken
            if self._filled == len(self._rows):
                self._part = None
                yield part

    def rest(self) -> Iterator[Joined]:
        """The chunks at the end of which no row was sent."""
        while self._waiting:
            part = self._begun()
            self._part = None
            yield part

    def _widen(self, dimensions: int) -> None:
        """Learn how long vectors are, which nobody may know before the first one comes."""
        if not self._dimensions and self._part is not None:
            self._part.vectors = np.full((len(self._part.chunk), dimensions), np.nan, dtype=np.float32)
        self._dimensions = self._dimensions or dimensions

    def _begun(self) -> Joined:
        if self._part is None:
            chunk = self._waiting.popleft()
            self._part = Joined(chunk, np.full((len(chunk), self._dimensions), np.nan, dtype=np.float32))
            self._rows = [row for row in range(len(chunk)) if row not in chunk.faults]
            self._filled = 0
        return self._part
