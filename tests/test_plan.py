"""Packing: order kept, nothing lost, no request over a limit, and none smaller than it need be."""

from __future__ import annotations

from itertools import chain, count, pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.plan import pack
from multiembed.records import Limits

SIZES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4000)), max_size=80)
LIMITS = st.builds(
    Limits,
    max_items=st.integers(1, 12),
    max_tokens_per_item=st.none() | st.integers(1, 50),
    max_tokens_per_request=st.none() | st.integers(1, 120),
    max_bytes_per_request=st.none() | st.integers(1, 20_000),
)


def runs(sizes, **limits):
    return [list(run) for run in pack(sizes, Limits(**limits))]


@pytest.mark.parametrize(
    ("tokens", "limits", "packed"),
    [
        ([], {"max_items": 3}, []),
        ([1], {"max_items": 3}, [[0]]),
        ([1] * 7, {"max_items": 3}, [[0, 1, 2], [3, 4, 5], [6]]),
        ([4, 4, 4], {"max_items": 3, "max_tokens_per_request": 12}, [[0, 1, 2]]),
        ([4, 4, 5], {"max_items": 3, "max_tokens_per_request": 12}, [[0, 1], [2]]),
        ([99, 1, 1], {"max_items": 3, "max_tokens_per_request": 12}, [[0], [1, 2]]),
        ([1, 99, 1], {"max_items": 3, "max_tokens_per_request": 12}, [[0], [1], [2]]),
        ([99, 99], {"max_items": 3, "max_tokens_per_request": 12}, [[0], [1]]),
        ([1, 9, 1, 1], {"max_items": 9, "max_tokens_per_item": 5}, [[0], [1], [2, 3]]),
        ([0] * 4, {"max_items": 1}, [[0], [1], [2], [3]]),
    ],
)
def test_texts_are_packed_in_order_as_full_as_the_limits_allow(tokens, limits, packed):
    assert runs(zip(tokens, repeat(1)), **limits) == packed


def test_bytes_are_counted_with_room_for_the_json_around_them():
    texts = 10
    [first, *_] = runs([(1, 1000)] * texts, max_items=texts, max_bytes_per_request=6000)
    assert len(first) * 1000 < 6000 - len(first) * len('"",')


@given(SIZES, LIMITS)
def test_every_text_is_in_one_run_and_in_its_order(sizes, limits):
    assert list(chain.from_iterable(pack(sizes, limits))) == list(range(len(sizes)))


@given(SIZES, LIMITS)
def test_no_run_is_over_a_limit_unless_its_one_text_is(sizes, limits):
    for run in pack(sizes, limits):
        assert len(run) <= limits.max_items
        if len(run) > 1:
            assert sum(sizes[place][0] for place in run) <= (limits.max_tokens_per_request or float("inf"))
            assert sum(sizes[place][1] for place in run) <= (limits.max_bytes_per_request or float("inf"))


@given(st.lists(st.integers(0, 60), max_size=80), st.integers(1, 12), st.integers(1, 120))
def test_no_run_could_have_taken_the_next_text_too(tokens, max_items, max_tokens):
    packed = runs([(each, 0) for each in tokens], max_items=max_items, max_tokens_per_request=max_tokens)
    for run, following in pairwise(packed):
        fuller = [*run, following[0]]
        assert len(fuller) > max_items or sum(tokens[place] for place in fuller) > max_tokens


@given(st.lists(st.integers(0, 4000), max_size=80), st.integers(3_000, 30_000))
def test_no_body_could_have_taken_the_next_text_and_two_kilobytes_more(sizes, max_bytes):
    packed = runs([(1, each) for each in sizes], max_items=99, max_bytes_per_request=max_bytes)
    for run, following in pairwise(packed):
        assert sum(sizes[place] for place in [*run, following[0]]) > max_bytes - 2048


@given(SIZES, LIMITS, st.integers(1, 12))
def test_a_smaller_cap_on_texts_never_makes_a_run_longer(sizes, limits, smaller):
    cap = min(smaller, limits.max_items)
    tighter = Limits(
        max_items=cap,
        max_tokens_per_item=limits.max_tokens_per_item,
        max_tokens_per_request=limits.max_tokens_per_request,
        max_bytes_per_request=limits.max_bytes_per_request,
    )
    assert max(map(len, pack(sizes, tighter)), default=0) <= max(map(len, pack(sizes, limits)), default=0)


def test_an_endless_row_of_texts_is_packed_as_it_comes():
    read = count()
    packed = pack(((1, 1) for _ in read), Limits(max_items=5))
    assert [list(next(packed)), list(next(packed))] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert next(read) <= 12
