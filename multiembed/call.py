"""One call: its texts prepared, made unique and cut into batches, and the outcomes put together again."""

from __future__ import annotations

import math
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from multiembed.errors import MalformedResponseError, MultiEmbedError, PartialFailureError
from multiembed.job import MAX_RETRIES, PATIENCE, Batch, Job, Outcome
from multiembed.plan import pack
from multiembed.records import EmbeddingResult, Estimate, SparseVector, Usage
from multiembed.texts import check_texts
from multiembed.tokens import estimate_tokens
from multiembed.waits import waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from multiembed.job import Lessons
    from multiembed.options import EmbeddingOptions
    from multiembed.records import Limits, Role, Vectors
    from multiembed.runtime import Runtime
    from multiembed.target import Target


def once(texts: Iterable[str], target: Target) -> tuple[list[str], list[int]]:
    """The texts, each one once, and for every text of the caller its place among them.

    Raises:
        ConfigurationError: a text is no text.
        InvalidRequestError: a text is empty and the API refuses such texts.
    """
    unique: dict[str, int] = {}
    checked = check_texts(texts, refuses=target.provider.refuses)
    places = [unique.setdefault(text, len(unique)) for text in checked]
    return list(unique), places


def sizes(texts: list[str], role: Role, target: Target, count: Callable[[str], int]) -> Iterator[tuple[int, int]]:
    """Tokens and bytes of each text as it goes on the wire."""
    overhead = target.overhead(role, count)
    prefix = len(target.prepare([""], role)[0].encode())
    # With its escapes where the body's size matters: a control character takes six bytes.
    size = _escaped if target.limits.max_bytes_per_request else _unescaped
    return ((count(text) + overhead, size(text) + prefix) for text in texts)


def _escaped(text: str) -> int:
    return len(orjson.dumps(text))


def _unescaped(text: str) -> int:
    return len(text.encode())


def learned(limits: Limits, lessons: Lessons) -> Limits:
    """The model's limits, with what the server has taught of them."""
    cap = lessons.max_items
    return limits if cap is None else replace(limits, max_items=min(cap, limits.max_items))


def foresee(
    texts: Iterable[str], role: Role, *, target: Target, options: EmbeddingOptions, lessons: Lessons, workers: int
) -> Estimate:
    """What a call would take, told without sending anything."""
    unique, places = once(texts, target)
    measured = list(sizes(unique, role, target, options.token_counter or estimate_tokens))
    requests = sum(1 for _ in pack(measured, learned(target.limits, lessons)))
    tokens = sum(its_tokens for its_tokens, _ in measured)
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
        self, texts: Iterable[str], role: Role, *, target: Target, options: EmbeddingOptions, runtime: Runtime
    ) -> None:
        count = options.token_counter or estimate_tokens
        self._target = target
        self._texts, self._places = once(texts, target)
        self._dense: Vectors | None = None
        self._sparse: list[SparseVector | None] = [None] * len(self._texts)
        self._failures: dict[int, MultiEmbedError] = {}
        self._bar = _bar(len(self._texts), target.name) if options.show_progress else None
        self.usage = Usage()
        self.batches = [
            Batch(run, self._texts[run.start : run.stop])
            for run in pack(sizes(self._texts, role, target, count), learned(target.limits, runtime.lessons))
        ]
        self.job = Job(
            target=target,
            role=role,
            lessons=runtime.lessons,
            gate=runtime.gate,
            count=count,
            max_retries=MAX_RETRIES if options.max_retries is None else options.max_retries,
            patience=waiting(PATIENCE) if options.max_retries is None else 0.0,
            timeout=options.timeout,
            deadline_at=None if options.deadline is None else time.monotonic() + options.deadline,
            clock=time.monotonic,
            wall=time.time,
            chance=random.random,
            waits=waiting,
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
            first = failures[min(failures)]
            if all(type(error) is type(first) for error in failures.values()):
                first.indices = tuple(failures)
            raise first
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
        dense = self._room(self._target.expected_dimensions or self.job.lessons.dimensions or 0)
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
