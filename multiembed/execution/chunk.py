"""Chunk: the texts of one result. Dedup, batches of the unsent texts, vector buffer, and assembly of the result."""

from __future__ import annotations

import copy
import math
from array import array
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from multiembed.batching.packing import pack_batches
from multiembed.errors import MalformedResponseError, MultiEmbedError
from multiembed.flow.context import Batch
from multiembed.types import EmbeddingResult, PartialFailureError, SparseVector, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from multiembed.batching.packing import OpenBatch
    from multiembed.cache.base import CacheLookup
    from multiembed.config.request_config import RequestConfig
    from multiembed.flow.context import BatchOutcome, CallContext
    from multiembed.responses.validation import ValidatedVectors
    from multiembed.types import Vectors


def pack_texts(texts: Sequence[str], context: CallContext) -> Iterator[OpenBatch]:
    """Pack texts into batches under the limits of the model, those learned from responses included."""
    config, learned, count_tokens = context.config, context.learned, context.count_tokens
    limits, max_items = config.limits, learned.max_items_at(context.environment.clock())
    max_tokens = min(limits.max_tokens_per_request or math.inf, context.account_limits.max_tokens_per_request)
    effective = replace(
        limits,
        max_items=limits.max_items if max_items is None else min(max_items, limits.max_items),
        max_tokens_per_request=None if max_tokens == math.inf else max(1, int(max_tokens / learned.max_billed_ratio)),
    )
    overhead = config.prompt_tokens(context.role, count_tokens)
    prefix = len(config.format_texts([""], context.role)[0].encode())

    def size(text: str) -> int:  # with its escapes: a control character takes six bytes
        return 0 if limits.max_bytes_per_request is None else len(orjson.dumps(text)) + prefix

    return pack_batches(((count_tokens(text) + overhead, size(text)) for text in texts), effective)


class VectorBuffer:
    """Vectors by position, filled as responses come: an array, or plain lists where these were requested.

    An unfilled position holds arbitrary numbers in the array, or an empty list.
    """

    def __init__(self, size: int, *, lists: bool = False) -> None:
        self.dimensions: int | None = None
        """Of the first vectors; others are rejected."""
        self._size = size
        self._array: Vectors
        # Made empty and filled later: most are old by then, so that the garbage collector does not go through all their
        # numbers, which would take a fifth of the call's CPU.
        self.lists: list[list[float]] | None = [[] for _ in range(size)] if lists else None
        """The vectors, if plain lists were requested."""

    def put(self, positions: Sequence[int], rows: Vectors) -> bool:
        """Store vectors. Returns: False if their dimensions differ from those before."""
        if self._set_dimensions(rows.shape[1]) != rows.shape[1]:
            return False
        if self.lists is None:
            self._array[list(positions)] = rows
            return True
        for position, row in zip(positions, rows.astype(np.float32, copy=False), strict=True):
            stored = self.lists[position]
            stored.clear()
            stored.extend(array("f", row.tobytes()))  # a list or a slice in between would be one copy more
        return True

    def row(self, position: int) -> Vectors | None:
        """The vector stored at a position, shape (1, dimensions); None if none is stored anywhere."""
        if self.dimensions is None:
            return None
        if self.lists is None:
            return self._array[position : position + 1]
        return np.array([self.lists[position]], dtype=np.float32)

    def vectors(self, dimensions: int) -> Vectors:
        """The array, or one made of the lists. It has `dimensions` columns if no vector is stored."""
        dimensions = self._set_dimensions(dimensions)
        if self.lists is None:
            return self._array
        rows = np.empty((self._size, dimensions), dtype=np.float32)
        for position, row in enumerate(self.lists):
            if row:
                rows[position] = row
        return rows

    def _set_dimensions(self, first: int) -> int:
        """Set the dimensions by the first vectors. Returns: those that are set."""
        if self.dimensions is None:
            if self.lists is None:
                self._array = np.empty((self._size, first), dtype=np.float32)
            self.dimensions = first
        return self.dimensions


class Chunk:
    """One result in the making. Made and read in the caller's thread; between that, it belongs to the I/O thread.

    A position is the index of a unique text, an index that of a text of the caller.

    Args:
        texts: checked ones, in the caller's order; equal ones are sent once.
        config: of the requests.
        rejected: errors of texts that are not sent, by index.
        lists: whether the result is requested as plain lists.
    """

    _context: CallContext

    def __init__(
        self,
        texts: Sequence[str],
        config: RequestConfig,
        rejected: Mapping[int, MultiEmbedError] | None = None,
        *,
        lists: bool = False,
    ) -> None:
        self._config = config
        self.rejected = rejected or {}
        unique: dict[str, int] = {}
        self._positions = [
            -1 if index in self.rejected else unique.setdefault(text, len(unique)) for index, text in enumerate(texts)
        ]
        self._position_of = unique
        self.texts = list(unique)
        """The unique texts."""
        self._copies = Counter(self._positions)
        self._buffer = VectorBuffer(len(unique), lists=lists and config.output != "sparse")
        self._sparse: list[SparseVector | None] = [None] * len(unique)
        self._failures: dict[int, MultiEmbedError] = {}
        self._unsent: Sequence[int] = range(len(unique))
        self._batches: Iterator[Batch] | None = None
        self.has_unsent = True
        """Whether some of its texts have yet to be sent, as far as is known."""
        self._done = bytearray(len(unique))
        self._followers: dict[int, list[tuple[Chunk, int]]] = {}
        """By position: other chunks, with their positions, that wait for the same text's vector."""
        self.usage = Usage()
        self.looked_up_at = 0.0
        """When its texts were looked up in the cache, on time.monotonic."""

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def known_count(self) -> int:
        """How many of the caller's texts need no request. Valid before the first batch."""
        return len(self._positions) - self.count_of(self._unsent)

    def count_of(self, positions: Iterable[int]) -> int:
        """How many of the caller's texts stand at these positions."""
        return sum(map(self._copies.__getitem__, positions))

    @property
    def has_begun(self) -> bool:
        """Whether its batches are available."""
        return self._batches is not None

    @property
    def is_complete(self) -> bool:
        """Whether it has begun, and each text has its vector or its error."""
        return self._batches is not None and 0 not in self._done

    # ── before the first batch ───────────────────────────────────────────────────────────────────

    def add_cached(self, lookup: CacheLookup, batch: Batch | None = None) -> list[int]:
        """Store the vectors that the cache holds; their texts are not sent.

        Args:
            lookup: of all texts.
            batch: the lookup is of its texts only, which are about to be sent.

        Returns: the positions of the texts that have their vectors now.
        """
        found = lookup.positions if batch is None else [batch.positions[row] for row in lookup.positions]
        if lookup.dense is not None:
            size = lookup.dense.shape[1]
            if size != (self._config.expected_dimensions or size) or not self._buffer.put(found, lookup.dense):
                return []
        for position, vector in zip(found, lookup.sparse or (), strict=False):
            self._sparse[position] = vector
        self._mark_done(found)
        if batch is None:
            self._unsent = [position for position in self._unsent if not self._done[position]]
        return found

    def follow(self, other: Chunk) -> None:
        """Take the vectors of texts that another chunk has too from there, now or once they come.

        A text that failed there is sent again here.
        """
        unsent = []
        for position in self._unsent:
            source = other._position_of.get(self.texts[position])
            if source is None or source in other._failures:
                unsent.append(position)
            elif other._done[source]:
                other._copy_to(self, source, position)
            else:
                other._followers.setdefault(source, []).append((self, position))
        self._unsent = unsent

    def begin(self, context: CallContext) -> None:
        """Make the batches of the unsent texts available."""
        self._context = context
        self.has_unsent = len(self._unsent) > 0
        self._batches = self._pack(context)

    # ── batches and their outcomes ───────────────────────────────────────────────────────────────

    def _pack(self, context: CallContext) -> Iterator[Batch]:
        for packed in pack_texts([self.texts[position] for position in self._unsent], context):
            positions = [self._unsent[index] for index in packed.positions]
            yield Batch(positions, [self.texts[position] for position in positions], packed.tokens, self)

    def next_batch(self) -> Batch | None:
        """The next texts to send; None if all are sent, or it has not begun."""
        if self._batches is None:
            return None
        batch = next(self._batches, None)
        self.has_unsent = batch is not None
        return batch

    def add_outcome(self, outcome: BatchOutcome) -> list[tuple[list[str], ValidatedVectors]]:
        """Store the outcome of a batch. Returns: texts and vectors that were accepted."""
        accepted = []
        for positions, vectors in outcome.accepted:
            if vectors.dense is not None and not self._buffer.put(positions, vectors.dense):
                outcome.failures.update(dict.fromkeys(positions, self._mixed_dimensions(vectors.dense)))
                continue
            if vectors.sparse is not None:
                for position, vector in zip(positions, vectors.sparse, strict=True):
                    self._sparse[position] = vector
            accepted.append(([self.texts[position] for position in positions], vectors))
        self._failures.update(outcome.failures)
        return accepted

    def complete_batch(self, batch: Batch) -> int:
        """Mark the texts of a batch as done, and pass their vectors to the chunks that wait for them.

        Returns: how many of the caller's texts failed in those chunks.
        """
        self._mark_done(batch.positions)
        failed = 0
        for position in batch.positions if self._followers else ():
            for other, target in self._followers.pop(position, ()):
                self._copy_to(other, position, target)
                failed += other.count_of((target,)) if target in other._failures else 0
        return failed

    def fail_rest(self, error: MultiEmbedError) -> None:
        """Give this error to the texts that have neither vector nor error."""
        rest = [position for position, done in enumerate(self._done) if not done]
        self._failures.update(dict.fromkeys(rest, error))
        self._mark_done(rest)

    def _copy_to(self, other: Chunk, position: int, target: int) -> None:
        if position in self._failures:
            other._failures[target] = copy.copy(self._failures[position])
        else:
            row = self._buffer.row(position)
            if row is not None and not other._buffer.put([target], row):
                other._failures[target] = other._mixed_dimensions(row)
            other._sparse[target] = self._sparse[position]
        other._mark_done((target,))

    def _mark_done(self, positions: Iterable[int]) -> None:
        for position in positions:
            self._done[position] = 1

    def _mixed_dimensions(self, dense: Vectors) -> MultiEmbedError:
        return MalformedResponseError(
            f"The server returned vectors of {self._buffer.dimensions} dimensions, and then of {dense.shape[1]}: "
            "they cannot be compared. Set dimensions, and check that base_url leads to one model only.",
            provider=self._config.provider.id,
            model=self._config.model.name,
        )

    # ── the result ───────────────────────────────────────────────────────────────────────────────

    def result(self) -> EmbeddingResult[Any]:
        """The vectors in the order of the caller's texts. Rows of failed texts are NaN, and in `failures`."""
        if not self.is_complete:  # some rows would hold arbitrary numbers
            raise MultiEmbedError("The call was interrupted before all texts had a response. Call again.")
        failures = {
            index: self.rejected[index] if position < 0 else self._failures[position]
            for index, position in enumerate(self._positions)
            if position < 0 or position in self._failures
        }
        for error in set(failures.values()):
            error.indices = tuple(index for index, failure in failures.items() if failure is error)
        lists = None if failures else self._lists()
        return EmbeddingResult(
            vectors=None if lists is not None or self._config.output == "sparse" else self._vectors(),
            sparse=None
            if self._config.output == "dense"
            else [None if position < 0 else self._sparse[position] for position in self._positions],
            usage=self.usage,
            model=self._config.name,
            failures=failures,
            lists=lists,
        )

    def _lists(self) -> list[list[float]] | None:
        rows = self._buffer.lists
        if rows is None or len(self._positions) == len(rows):
            return rows
        # Each copy of a text gets a list of its own, as it would from an array.
        return [list(rows[position]) for position in self._positions]

    def _vectors(self) -> Vectors:
        dense = self._buffer.vectors(self._config.expected_dimensions or self._context.learned.dimensions or 0)
        dense[list(self._failures)] = np.nan
        if not len(dense):  # all texts were rejected unsent
            dense = np.empty((1, dense.shape[1]), dtype=np.float32)
        # If all texts are unique, the rows are in the caller's order already.
        vectors = dense if len(self._positions) == len(dense) and not self.rejected else dense[self._positions]
        vectors[list(self.rejected)] = np.nan
        vectors.setflags(write=False)
        return vectors


def result_or_raise(chunk: Chunk) -> EmbeddingResult[Any]:
    """The result of a chunk in which no text failed.

    Raises:
        PartialFailureError: some texts failed; the result is in it.
        MultiEmbedError: all texts failed; the first text's error.
    """
    result = chunk.result()
    if result.failures:
        raise _failure_of(result, len(chunk))  # made elsewhere: a local variable here would be in a cycle with it
    return result


def _failure_of(result: EmbeddingResult[Any], count: int) -> MultiEmbedError:
    failures = dict(result.failures)
    first = failures[min(failures)]
    if len(failures) == count:
        error = copy.copy(first)  # the chunk keeps the other, and would be in a cycle with the traceback
        error.__cause__ = first.__cause__
        if all(type(failure) is type(first) for failure in failures.values()):
            error.indices = tuple(failures)
        return error
    partial = PartialFailureError(
        f"{len(failures)} of {count} texts failed; the others are in .result, the reasons in "
        f".failures. The first: {type(first).__name__}: {first}",
        provider=first.provider,
        model=first.model,
        indices=sorted(failures),
    )
    partial.result = result
    partial.failures = failures
    partial.__cause__ = first
    return partial
