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

_MOST_WAITING = 32
"""Chunks read ahead, beyond which a text that is under way is sent once more, so that memory stays bounded."""


@dataclass(slots=True)
class Joined:
    """A chunk with its vectors."""

    chunk: Chunk
    vectors: NDArray[np.float32]
    """float32, shape (rows, dimensions); only the kept rows mean anything."""
    failures: dict[int, MultiEmbedError] = field(default_factory=dict)
    """What became of texts that were sent and have no vector."""
    unsent: int = 0
    """Rows whose texts did not go into the stream: faulty ones, and those that shared another's way."""

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


@dataclass(slots=True)
class _Sent:
    """A chunk that was read ahead."""

    chunk: Chunk
    rows: list[int] = field(default_factory=list)
    """The rows whose texts go into the stream, in order."""
    again: list[int] = field(default_factory=list)
    """The rows whose texts were under way already."""


@dataclass(slots=True)
class _Shared:
    """What became of a text for which more than one row waits."""

    what: NDArray[np.float32] | MultiEmbedError
    waiting: int
    """Rows that have not got it yet."""


def joined(client: EmbeddingClient, chunks: Iterable[Chunk], role: Role) -> Iterator[Joined]:
    """Embed chunks, in order; no more of them are held than the stream reads ahead.

    A stream sends a text once for each block that is open. Here a text that is under way waits for the first answer.

    Raises:
        MultiEmbedError: nothing more can be embedded.
    """
    parts = _Parts()
    stream = client.stream(parts.texts(chunks), role, on_error="keep")
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


class _Parts:
    """Hands out the texts of chunks, and fills one chunk after the other with what comes back."""

    def __init__(self) -> None:
        self._waiting: deque[_Sent] = deque()
        self._under_way: dict[str, int] = {}
        """Texts that did not come back yet, with the number of later rows that wait for each."""
        self._shared: dict[str, _Shared] = {}
        self._sent: _Sent | None = None
        self._part: Joined | None = None
        self._filled = 0
        self._dimensions = 0

    def texts(self, chunks: Iterable[Chunk]) -> Iterator[str]:
        """The texts to send, in order."""
        for chunk in chunks:
            sent = _Sent(chunk)
            for row, text in enumerate(chunk.texts):
                if row in chunk.faults:
                    continue
                if text in self._under_way and len(self._waiting) < _MOST_WAITING:
                    self._under_way[text] += 1
                    sent.again.append(row)
                else:
                    self._under_way.setdefault(text, 0)
                    sent.rows.append(row)
            self._waiting.append(sent)
            for row in sent.rows:
                yield chunk.texts[row]

    def take(self, result: EmbeddingResult) -> Iterator[Joined]:
        """The chunks that are whole with this result."""
        vectors = result.vectors
        count = len(vectors)
        if len(result.failures) < count:
            self._widen(vectors.shape[1])
        at = 0
        while at < count:
            sent, part = self._begun()
            rows = sent.rows[self._filled : self._filled + count - at]
            if rows and vectors.shape[1] == part.vectors.shape[1]:
                part.vectors[rows] = vectors[at : at + len(rows)]
            for place, row in enumerate(rows, at):
                error = result.failures.get(place)
                if error is not None:
                    part.failures[row] = error
                waiting = self._under_way.pop(part.chunk.texts[row], 0)
                if waiting:
                    self._share(part.chunk.texts[row], vectors[place].copy() if error is None else error, waiting)
            at += len(rows)
            self._filled += len(rows)
            if self._filled == len(sent.rows):
                yield self._ended()

    def rest(self) -> Iterator[Joined]:
        """The chunks at the end of which no row was sent."""
        while self._waiting:
            self._begun()
            yield self._ended()

    def _widen(self, dimensions: int) -> None:
        """Learn how long vectors are, which nobody may know before the first one comes."""
        if not self._dimensions and self._part is not None:
            self._part.vectors = np.full((len(self._part.chunk), dimensions), np.nan, dtype=np.float32)
        self._dimensions = self._dimensions or dimensions

    def _begun(self) -> tuple[_Sent, Joined]:
        if self._sent is None or self._part is None:
            self._sent = self._waiting.popleft()
            chunk = self._sent.chunk
            room = np.full((len(chunk), self._dimensions), np.nan, dtype=np.float32)
            self._part = Joined(chunk, room, unsent=len(chunk) - len(self._sent.rows))
            self._filled = 0
        return self._sent, self._part

    def _share(self, text: str, what: NDArray[np.float32] | MultiEmbedError, waiting: int) -> None:
        shared = self._shared.setdefault(text, _Shared(what, 0))
        shared.waiting += waiting

    def _ended(self) -> Joined:
        """The chunk that is being filled, with what its other rows have waited for."""
        sent, part = self._begun()
        for row in sent.again:
            text = part.chunk.texts[row]
            shared = self._shared[text]
            if isinstance(shared.what, MultiEmbedError):
                part.failures[row] = shared.what
            else:
                part.vectors[row] = shared.what
            shared.waiting -= 1
            if not shared.waiting:
                del self._shared[text]
        self._sent = self._part = None
        return part
