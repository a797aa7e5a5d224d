"""Texts that become one result: each sent once, in batches, and the outcomes put together again."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from multiembed.batching.packing import pack_batches
from multiembed.errors import MalformedResponseError, MultiEmbedError
from multiembed.execution.vector_buffer import VectorBuffer
from multiembed.flow.context import Batch
from multiembed.types import EmbeddingResult, PartialFailureError, SparseVector, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from multiembed.batching.packing import OpenBatch
    from multiembed.cache.base import CacheLookup
    from multiembed.config.request_config import RequestConfig
    from multiembed.flow.context import BatchOutcome, CallContext
    from multiembed.responses.validation import ValidatedVectors
    from multiembed.types import Limits, Role, Vectors


def measure(
    texts: Sequence[str], role: Role, target: RequestConfig, count: Callable[[str], int]
) -> Iterator[tuple[int, int]]:
    """Tokens and bytes of each text as it goes on the wire; 0 bytes where they do not matter."""
    overhead = target.prompt_tokens(role, count)
    if target.limits.max_bytes_per_request is None:
        return ((count(text) + overhead, 0) for text in texts)
    prefix = len(target.format_texts([""], role)[0].encode())
    # With its escapes: a control character takes six bytes.
    return ((count(text) + overhead, len(orjson.dumps(text)) + prefix) for text in texts)


class Chunk:
    """One result in the making. Made and read in the caller's thread; in between it belongs to the I/O thread.

    Args:
        texts: checked ones, in the caller's order; one that stands twice is sent once.
        target: where they go.
        refused: errors of texts that are not sent, by position.
        lists: the result is wanted as plain lists.
    """

    _job: CallContext
    _limits: Limits

    def __init__(
        self,
        texts: Sequence[str],
        target: RequestConfig,
        refused: Mapping[int, MultiEmbedError] | None = None,
        *,
        lists: bool = False,
    ) -> None:
        self._target = target
        self._refused = refused or {}
        unique: dict[str, int] = {}
        self._places = [
            -1 if index in self._refused else unique.setdefault(text, len(unique)) for index, text in enumerate(texts)
        ]
        self._place_of = unique
        self.texts = list(unique)
        """Each one once."""
        self._times = Counter(self._places)
        self._buffer = VectorBuffer(len(self.texts), lists=lists and target.output != "sparse")
        self._sparse: list[SparseVector | None] = [None] * len(self.texts)
        self._failures: dict[int, MultiEmbedError] = {}
        self._unsent: Sequence[int] = range(len(self.texts))
        self._bins: Iterator[OpenBatch] | None = None
        self._missing = len(self.texts)
        self._done = bytearray(len(self.texts))
        self._followers: dict[int, list[tuple[Chunk, int]]] = {}
        """Other blocks, with their places, that wait for the vector of a text of this one."""
        self.usage = Usage()

    def __len__(self) -> int:
        return len(self._places)

    @property
    def has_unsent(self) -> bool:
        """Whether any of its texts have to be sent."""
        return len(self._unsent) > 0

    @property
    def refused(self) -> int:
        """How many of the caller's texts the API refuses unseen."""
        return len(self._refused)

    @property
    def known_count(self) -> int:
        """The caller's texts for which nothing has to be sent."""
        return len(self._places) - self.count_of(self._unsent)

    def count_of(self, places: Iterable[int]) -> int:
        """How many of the caller's texts these unique ones are."""
        return sum(map(self._times.__getitem__, places))

    @property
    def is_complete(self) -> bool:
        """Whether every text has its vector or its error."""
        return self._missing == 0

    def begin(self, job: CallContext, limits: Limits) -> None:
        """Be ready for `next_batch`.

        Args:
            job: of the call that it belongs to.
            limits: what one request may hold.
        """
        self._job, self._limits = job, limits

    def next_batch(self) -> Batch | None:
        """The next texts to send; None when all are under way."""
        if self._bins is None:
            unsent = [self.texts[place] for place in self._unsent]
            self._bins = pack_batches(
                measure(unsent, self._job.role, self._target, self._job.count_tokens), self._limits
            )
        for bin_ in self._bins:
            places = [self._unsent[index] for index in bin_.positions]
            return Batch(places, [self.texts[place] for place in places], bin_.tokens, self)
        return None

    def add_cached(self, found: CacheLookup) -> None:
        """Take what a cache knew already; it is not sent. To be called before the first batch is asked for."""
        if found.dense is not None:
            if found.dense.shape[1] != (self._target.expected_dimensions or found.dense.shape[1]):
                return
            self._buffer.put(found.positions, found.dense)
        for place, vector in zip(found.positions, found.sparse or (), strict=False):
            self._sparse[place] = vector
        known = set(found.positions)
        self._unsent = [place for place in self._unsent if place not in known]
        self._mark_done(known)
        self.usage += Usage(cached_texts=self.count_of(known))

    def follow(self, other: Chunk) -> None:
        """Take the vectors of texts that stand in another block from there, now or when they come.

        To be called before the first batch is asked for. A text that failed there is sent again here.
        """
        unsent = []
        for place in self._unsent:
            theirs = other._place_of.get(self.texts[place])
            if theirs is None or theirs in other._failures:
                unsent.append(place)
            elif other._done[theirs]:
                other._hand_over(theirs, self, place)
            else:
                other._followers.setdefault(theirs, []).append((self, place))
        self._unsent = unsent

    def _hand_over(self, place: int, to: Chunk, at: int) -> None:
        if place in self._failures:
            to._failures[at] = copy.copy(self._failures[place])
        else:
            row = self._buffer.row(place)
            if row is not None and not to._buffer.put([at], row):
                to._failures[at] = to._mixed(row)
            to._sparse[at] = self._sparse[place]
        to._mark_done((at,))

    def _mark_done(self, places: Collection[int]) -> None:
        for place in places:
            self._done[place] = 1
        self._missing -= len(places)

    def add_outcome(self, outcome: BatchOutcome) -> list[tuple[list[str], ValidatedVectors]]:
        """Put one batch's outcome where it belongs; the texts and vectors that were good."""
        good = []
        for places, believed in outcome.accepted:
            if believed.dense is not None and not self._buffer.put(places, believed.dense):
                outcome.failures.update(dict.fromkeys(places, self._mixed(believed.dense)))
                continue
            if believed.sparse is not None:
                for place, vector in zip(places, believed.sparse, strict=True):
                    self._sparse[place] = vector
            good.append(([self.texts[place] for place in places], believed))
        self._failures.update(outcome.failures)
        return good

    def fail_rest(self, error: MultiEmbedError) -> None:
        """Give the texts that have neither vector nor error this error."""
        rest = [place for place, done in enumerate(self._done) if not done]
        self._failures.update(dict.fromkeys(rest, error))
        self._mark_done(rest)

    def settle(self, batch: Batch, usage: Usage) -> int:
        """One batch is done with, and cost so much.

        Returns:
            How many of the caller's texts failed in other blocks that waited for texts of this batch.
        """
        self.usage += usage
        self._mark_done(batch.positions)
        failed = 0
        for place in batch.positions if self._followers else ():
            for other, at in self._followers.pop(place, ()):
                self._hand_over(place, other, at)
                failed += other.count_of((at,)) if at in other._failures else 0
        return failed

    def result(self) -> EmbeddingResult[Any]:
        """The vectors in the order of the caller's texts; rows of texts that failed are NaN, and named.

        Raises:
            MultiEmbedError: it is not whole, so that some rows would be whatever stood in memory.
        """
        if not self.is_complete:
            raise MultiEmbedError("The call was broken off before all texts had an answer. Call again.")
        lists = self._lists_by_text()
        return EmbeddingResult(
            vectors=self._vectors() if lists is None else None,
            sparse=self._sparse_by_text(),
            usage=self.usage,
            model=self._target.name,
            failures=self._failures_by_text(),
            lists=lists,
        )

    def _sparse_by_text(self) -> list[SparseVector | None] | None:
        if self._target.output == "dense":
            return None
        return [None if place < 0 else self._sparse[place] for place in self._places]

    def _lists_by_text(self) -> list[list[float]] | None:
        made = self._buffer.lists
        if made is None or self._failures or self._refused:
            return None
        if len(self._places) == len(made):
            return made
        # A text that stands twice gets a list of its own each time, as it would from an array.
        return [list(made[place]) for place in self._places]

    def _vectors(self) -> Vectors | None:
        if self._target.output == "sparse":
            return None
        dense = self._buffer.vectors(self._target.expected_dimensions or self._job.learned.dimensions or 0)
        dense[list(self._failures)] = np.nan
        if not len(dense):  # every text was refused unseen
            dense = np.empty((1, dense.shape[1]), dtype=np.float32)
        # As many texts as different ones: they stand in the caller's order already.
        vectors = dense if len(self._places) == len(dense) and not self._refused else dense[self._places]
        vectors[list(self._refused)] = np.nan
        vectors.setflags(write=False)
        return vectors

    def _mixed(self, dense: Vectors) -> MultiEmbedError:
        return MalformedResponseError(
            f"The server answers with vectors of {self._buffer.dimensions} dimensions, and then of {dense.shape[1]}: "
            "they cannot be compared. Set dimensions, and check that base_url leads to one model only.",
            provider=self._target.provider.id,
            model=self._target.model.name,
        )

    def _failures_by_text(self) -> dict[int, MultiEmbedError]:
        """The errors by the caller's positions, which each error is told too."""
        by_text = {
            index: self._refused[index] if place < 0 else self._failures[place]
            for index, place in enumerate(self._places)
            if place < 0 or place in self._failures
        }
        for error in set(by_text.values()):
            error.indices = tuple(index for index, its in by_text.items() if its is error)
        return by_text


def result_or_raise(block: Chunk) -> EmbeddingResult[Any]:
    """The result of a block in which nothing failed.

    Raises:
        PartialFailureError: some texts did; the result is in it.
        MultiEmbedError: all did; the first text's error.
    """
    result = block.result()
    if not result.failures:
        return result
    raise _failure_of(result, len(block))


def _failure_of(result: EmbeddingResult[Any], texts: int) -> MultiEmbedError:
    """What is raised for a result with failures."""
    failures = dict(result.failures)
    first = failures[min(failures)]
    if len(failures) == texts:
        cause = first.__cause__
        first = copy.copy(first)  # the block keeps the other, and would be in a cycle with the traceback
        first.__cause__ = cause
        if all(type(error) is type(first) for error in failures.values()):
            first.indices = tuple(failures)
        return first
    partial = PartialFailureError(
        f"{len(failures)} of {texts} texts failed; the others are in .result, the reasons in "
        f".failures. The first: {type(first).__name__}: {first}",
        provider=first.provider,
        model=first.model,
        indices=sorted(failures),
    )
    partial.result = result
    partial.failures = failures
    partial.__cause__ = first
    return partial


def usage_of_outcome(outcome: BatchOutcome, target: RequestConfig) -> Usage:
    """What one batch's outcome cost."""
    tokens = outcome.total_tokens
    price = target.model.price_cny_per_mtok
    return Usage(
        total_tokens=tokens,
        requests=outcome.requests,
        retries=outcome.retries,
        cost=None if tokens is None or price is None else tokens * price / 1e6,
    )
