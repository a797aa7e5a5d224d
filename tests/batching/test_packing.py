"""Batch packing: each text once, no batch over a limit, few half empty."""

from __future__ import annotations

from itertools import chain, count, pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.batching.packing import pack_batches
from multiembed.types import Limits

pytestmark = pytest.mark.unit

SIZES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4000)), max_size=80)
LIMITS = st.builds(
    Limits,
    max_items=st.integers(1, 12),
    max_tokens_per_item=st.none() | st.integers(1, 50),
    max_tokens_per_request=st.none() | st.integers(1, 120),
    max_bytes_per_request=st.none() | st.integers(1, 20_000),
)


def packed_by(sizes, limits):
    return [packed.positions for packed in pack_batches(sizes, limits)]


def runs(sizes, **limits):
    return packed_by(sizes, Limits(**limits))


@pytest.mark.parametrize(
    ("tokens", "limits", "packed"),
    [
        ([], {"max_items": 3}, []),
        ([1], {"max_items": 3}, [[0]]),
        ([1] * 7, {"max_items": 3}, [[0, 1, 2], [3, 4, 5], [6]]),
        ([4, 4, 4], {"max_items": 3, "max_tokens_per_request": 12}, [[0, 1, 2]]),
        ([4, 4, 5], {"max_items": 3, "max_tokens_per_request": 12}, [[0, 1], [2]]),
        ([99, 1, 1], {"max_items": 3, "max_tokens_per_request": 12}, [[0], [1, 2]]),
        ([1, 99, 1], {"max_items": 3, "max_tokens_per_request": 12}, [[1], [0, 2]]),
        ([99, 99], {"max_items": 3, "max_tokens_per_request": 12}, [[0], [1]]),
        ([1, 9, 1, 1], {"max_items": 9, "max_tokens_per_item": 5}, [[1], [0, 2, 3]]),
        ([7, 3, 7, 3], {"max_items": 9, "max_tokens_per_request": 10}, [[0, 1], [2, 3]]),
        ([7, 7, 3, 3], {"max_items": 9, "max_tokens_per_request": 10}, [[0, 2], [1, 3]]),
        ([9, 9, 9, 1, 1, 1], {"max_items": 2, "max_tokens_per_request": 10}, [[0, 3], [1, 4], [2, 5]]),
        ([0] * 4, {"max_items": 1}, [[0], [1], [2], [3]]),
    ],
)
def test_packing_fills_batches_up_to_the_limits(tokens, limits, packed):
    assert runs(zip(tokens, repeat(1)), **limits) == packed


def test_packing_counts_the_bytes_of_the_json():
    texts = 10
    [first, *_] = runs([(1, 1000)] * texts, max_items=texts, max_bytes_per_request=6000)
    assert len(first) * 1000 < 6000 - len(first) * len('"",')


@given(SIZES, LIMITS)
def test_packing_puts_each_text_in_one_batch_in_order(sizes, limits):
    packed = packed_by(sizes, limits)
    assert sorted(chain.from_iterable(packed)) == list(range(len(sizes)))
    assert all(batch == sorted(batch) for batch in packed)


@given(SIZES, LIMITS)
def test_batches_keep_the_limits_unless_one_text_exceeds_them(sizes, limits):
    for batch in pack_batches(sizes, limits):
        tokens = sum(sizes[position][0] for position in batch.positions)
        assert batch.tokens == tokens
        assert len(batch.positions) <= limits.max_items
        if len(batch.positions) > 1:
            assert tokens <= (limits.max_tokens_per_request or float("inf"))
            assert sum(sizes[position][1] for position in batch.positions) <= (
                limits.max_bytes_per_request or float("inf")
            )


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(60, 120))
def test_nearly_all_batches_are_more_than_half_full(tokens, max_tokens):
    packed = list(
        pack_batches([(each, 0) for each in tokens], Limits(max_items=999, max_tokens_per_request=max_tokens))
    )
    assert len(packed) <= 2 * sum(tokens) / max_tokens + 1


@given(st.lists(st.integers(0, 4000), max_size=80), st.integers(6_000, 30_000))
def test_bodies_are_full_up_to_the_next_text_and_two_kilobytes(sizes, max_bytes):
    packed = runs([(1, each) for each in sizes], max_items=99, max_bytes_per_request=max_bytes)
    for batch, following in pairwise(packed):
        assert sum(sizes[position] for position in [*batch, following[0]]) > max_bytes - 2048


@given(SIZES, LIMITS, st.integers(1, 12))
def test_packing_keeps_a_smaller_maximum_of_texts(sizes, limits, smaller):
    cap = min(smaller, limits.max_items)
    tighter = Limits(
        max_items=cap,
        max_tokens_per_item=limits.max_tokens_per_item,
        max_tokens_per_request=limits.max_tokens_per_request,
        max_bytes_per_request=limits.max_bytes_per_request,
    )
    assert max(map(len, packed_by(sizes, tighter)), default=0) <= cap


def test_packing_reads_an_endless_iterator_lazily():
    read = count()
    packed = pack_batches(((1, 1) for _ in read), Limits(max_items=5))
    assert [next(packed).positions, next(packed).positions] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert next(read) <= 12
