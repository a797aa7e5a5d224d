"""One call: its texts prepared, made unique and cut into batches, and the outcomes put together again."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from multiembed.errors import MalformedResponseError, MultiEmbedError, PartialFailureError
from multiembed.flow import Batch, Job, Outcome
from multiembed.plan import pack
from multiembed.records import EmbeddingResult, Estimate, SparseVector, Usage
from multiembed.texts import check_texts
from multiembed.tokens import estimate_tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiembed.flow import Lessons
    from multiembed.options import EmbeddingOptions
    from multiembed.records import Role, Vectors
    from multiembed.target import Target


def prepare(texts: Iterable[str], role: Role, target: Target) -> tuple[list[str], list[int]]:
    """Texts as they go on the wire, each one once, and for every text of the caller its place among them.

    Raises:
        ConfigurationError: a text is no text.
        InvalidRequestError: a text is empty and the API refuses such texts.
    """
    unique: dict[str, int] = {}
    checked = check_texts(texts, refuses=target.provider.refuses)
    places = [unique.setdefault(target.prepare(text, role), len(unique)) for text in checked]
    return list(unique), places


def plan(texts: list[str], target: Target, options: EmbeddingOptions, lessons: Lessons) -> Iterator[range]:
    """The runs of texts that go out together."""
    count = options.token_counter or estimate_tokens
    limits = target.limits
    if lessons.max_items is not None and lessons.max_items < limits.max_items:
        limits = replace(limits, max_items=lessons.max_items)
    return pack(((count(text), len(text.encode())) for text in texts), limits)


def foresee(
    texts: Iterable[str], role: Role, *, target: Target, options: EmbeddingOptions, lessons: Lessons, workers: int
) -> Estimate:
    """What a call would take, told without sending anything."""
    unique, places = prepare(texts, role, target)
    requests = sum(1 for _ in plan(unique, target, options, lessons))
    tokens = sum(map(options.token_counter or estimate_tokens, unique))
    price = target.facts.price_cny_per_mtok
    return Estimate(
        texts=len(places),
        requests=0 if target.provider.compute else requests,
        tokens=tokens,
        cost=None if price is None else tokens * price / 1e6,
        seconds=None if lessons.seconds is None else math.ceil(requests / workers) * lessons.seconds,
    )


class Call:
    """What one call of `embed` or `aembed` is made of, but for the sending."""

    def __init__(
        self, texts: Iterable[str], role: Role, *, target: Target, options: EmbeddingOptions, lessons: Lessons
    ) -> None:
        self._target = target
        self._texts, self._places = prepare(texts, role, target)
        self._dense: Vectors | None = None
        self._sparse: list[SparseVector | None] = [None] * len(self._texts)
        self._failures: dict[int, MultiEmbedError] = {}
        self._bar = _bar(len(self._texts), target.name) if options.show_progress else None
        self.usage = Usage()
        self.batches = [
            Batch(run, self._texts[run.start : run.stop]) for run in plan(self._texts, target, options, lessons)
        ]
        self.job = Job(
            target=target,
            role=role,
            lessons=lessons,
            max_retries=options.max_retries,
            timeout=options.timeout,
            deadline_at=None if options.deadline is None else time.monotonic() + options.deadline,
            clock=time.monotonic,
            wall=time.time,
            chance=random.random,
        )

    def close(self) -> None:
        """Take the progress bar off the screen."""
        if self._bar is not None:
            self._bar.close()

    def take(self, outcome: Outcome) -> None:
        """Put one batch's outcome where it belongs."""
        for places, believed in outcome.believed:
            run = slice(places[0], places[-1] + 1)  # a batch is a run of texts without gaps
            if believed.dense is not None:
                room = self._room(believed.dense.shape[1])
                if room.shape[1] != believed.dense.shape[1]:
                    outcome.failures.update(dict.fromkeys(places, self._mixed(room, believed.dense)))
                    continue
                room[run] = believed.dense
            if believed.sparse is not None:
                self._sparse[run] = believed.sparse
        self._failures.update(outcome.failures)
        self.usage += _usage(outcome, self._target)
        if self._bar is not None:
            self._bar.update(sum(len(places) for places, _ in outcome.believed) + len(outcome.failures))

    def result(self) -> EmbeddingResult:
        """The vectors in the order of the caller's texts.

        Raises:
            PartialFailureError: some texts failed.
            MultiEmbedError: all did; the first text's error.
        """
        failures = self._failures_by_text()
        if failures and len(failures) == len(self._places):
            raise failures[min(failures)]
        result = EmbeddingResult(
            vectors=self._vectors(),
            sparse=None if self._target.output == "dense" else [self._sparse[place] for place in self._places],
            usage=self.usage,
            model=self._target.name,
            failures=failures,
        )
        if failures:
            raise _partial(result, failures, self._target, len(self._places))
        return result

    def _room(self, dimensions: int) -> Vectors:
        if self._dense is None:
            self._dense = np.full((len(self._texts), dimensions), np.nan, dtype=np.float32)
        return self._dense

    def _vectors(self) -> Vectors | None:
        if self._target.output == "sparse":
            return None
        dense = self._room(self._target.expected_dimensions or 0)
        vectors = dense if len(self._places) == len(dense) else dense[self._places]
        vectors.setflags(write=False)
        return vectors

    def _mixed(self, room: Vectors, dense: Vectors) -> MultiEmbedError:
        return MalformedResponseError(
            f"The server answers with vectors of {room.shape[1]} dimensions, and then of {dense.shape[1]}: they cannot "
            "be compared. Set dimensions, and check that base_url leads to one model only.",
            provider=self._target.provider.id,
            model=self._target.facts.name,
        )

    def _failures_by_text(self) -> dict[int, MultiEmbedError]:
        """The errors by the caller's positions, which each error is told too."""
        if not self._failures:
            return {}
        by_text = {index: self._failures[place] for index, place in enumerate(self._places) if place in self._failures}
        for error in set(by_text.values()):
            error.indices = tuple(index for index, its in by_text.items() if its is error)
        return by_text


def _bar(texts: int, name: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=texts, unit="text", desc=name)


def _usage(outcome: Outcome, target: Target) -> Usage:
    tokens = outcome.total_tokens
    price = target.facts.price_cny_per_mtok
    return Usage(
        total_tokens=tokens,
        requests=outcome.requests,
        retries=outcome.retries,
        cost=None if tokens is None or price is None else tokens * price / 1e6,
    )


def _partial(
    result: EmbeddingResult, failures: dict[int, MultiEmbedError], target: Target, texts: int
) -> PartialFailureError:
    first = failures[min(failures)]
    partial = PartialFailureError(
        f"{len(failures)} of {texts} texts failed; the others are in .result, the reasons in "
        f".failures. The first: {type(first).__name__}: {first}",
        provider=target.provider.id,
        model=target.facts.name,
        indices=sorted(failures),
    )
    partial.result = result
    partial.failures = failures
    partial.__cause__ = first
    return partial
