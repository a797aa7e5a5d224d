"""Vector buffer of a chunk: filled in any order, as an array or as lists, with rows of one length only."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed import PartialFailureError
from multiembed.cache.base import CacheLookup
from multiembed.execution.chunk import VectorBuffer


@pytest.fixture(params=[False, True], ids=["array", "lists"])
def lists(request):
    return request.param


def as_array(buffer, dimensions):
    made = buffer.lists
    return buffer.vectors(dimensions) if made is None else np.array(made, dtype=np.float32)


@st.composite
def fillings(draw):
    """Vectors, and their positions in batches, in any order."""
    texts, dimensions = draw(st.integers(1, 30)), draw(st.integers(1, 5))
    order = draw(st.permutations(range(texts)))
    cuts = [0, *sorted(draw(st.sets(st.integers(1, texts), max_size=5))), texts]
    rows = np.random.default_rng(0).standard_normal((texts, dimensions)).astype(np.float32)
    batches = [order[start:end] for start, end in pairwise(cuts)]
    return rows, [sorted(positions) if draw(st.booleans()) else positions for positions in batches]


@pytest.mark.parametrize("as_lists", [False, True])
@given(filling=fillings())
def test_buffer_keeps_each_vector_at_its_position(as_lists, filling):
    rows, batches = filling
    buffer = VectorBuffer(len(rows), lists=as_lists)
    for positions in batches:
        assert buffer.put(positions, rows[positions])
    assert np.array_equal(as_array(buffer, 7), rows)
    assert np.array_equal(buffer.vectors(7), rows)
    assert buffer.dimensions == rows.shape[1]


def test_buffer_replaces_a_vector_that_is_put_again(lists):
    buffer = VectorBuffer(2, lists=lists)
    for number in (1.0, 2.0):
        buffer.put([0, 1], np.full((2, 3), number, dtype=np.float32))
    assert as_array(buffer, 3).tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2"])
def test_buffer_converts_other_numbers_to_float32(lists, dtype):
    buffer = VectorBuffer(1, lists=lists)
    buffer.put([0], np.array([[0.5, -2.0]], dtype=dtype))
    assert as_array(buffer, 2).tolist() == [[0.5, -2.0]]


def test_buffer_rejects_vectors_of_other_dimensions(lists):
    buffer = VectorBuffer(3, lists=lists)
    assert buffer.put([0], np.ones((1, 4), dtype=np.float32))
    assert not buffer.put([1], np.ones((1, 1), dtype=np.float32))
    assert not buffer.put([2], np.ones((1, 5), dtype=np.float32))
    assert buffer.vectors(5).shape == (3, 4)


def test_array_made_of_lists_skips_empty_lists():
    buffer = VectorBuffer(3, lists=True)
    buffer.put([1], np.array([[1.0, 2.0]], dtype=np.float32))
    assert buffer.vectors(2)[1].tolist() == [1.0, 2.0]
    assert buffer.lists == [[], [1.0, 2.0], []]


def test_empty_buffer_has_the_given_dimensions(lists):
    assert VectorBuffer(2, lists=lists).vectors(6).shape == (2, 6)
    assert VectorBuffer(0, lists=lists).vectors(6).shape == (0, 6)


@pytest.mark.parametrize("when", ["sync", "async"])
def test_lists_option_returns_the_same_numbers_and_no_array(connect, when):
    client = connect("zhipu:embedding-3", dimensions=256)
    texts = [f"text {number}" for number in range(130)] + ["text 7"]
    asked = client.embed(texts, lists=True) if when == "sync" else asyncio.run(client.aembed(texts, lists=True))
    assert (asked.vectors, asked.texts) == (None, len(texts))
    assert asked.to_list() == client.embed(texts).to_list()


@pytest.mark.parametrize("output", ["sparse", "dense&sparse"])
def test_lists_option_is_for_dense_vectors_only(connect, output):
    result = connect("dashscope:text-embedding-v4", dimensions=64, output=output).embed(["a", "b"], lists=True)
    assert (result.texts, len(result.sparse)) == (2, 2)
    if output == "sparse":
        with pytest.raises(ValueError, match="no dense vectors"):
            result.to_list()
    else:
        assert [len(row) for row in result.to_list()] == [64, 64]


def test_lists_option_returns_an_array_if_a_text_fails(connect):
    client = connect("zhipu:embedding-2")
    with pytest.raises(PartialFailureError) as raised:
        client.embed(["a", "0123456789 " * 200, "b", "a"], lists=True)
    result = raised.value.result
    assert (result.lists, result.texts) == (None, 4)
    assert np.isnan(result.vectors[1]).all()
    assert np.array_equal(result.vectors[[0, 2, 3]], client.embed(["a", "b", "a"]).vectors)


def test_cache_lookup_in_another_order_keeps_each_text_vector(connect, lists):
    texts = ["a", "b", "c", "d"]
    kept = connect("zhipu:embedding-3", dimensions=256).embed(texts).vectors

    class Careless:
        def get(self, _space, texts):
            return CacheLookup([0, 2, 1, 3], kept[[0, 2, 1, 3]].astype(np.float64))

        def put(self, *_):
            raise AssertionError("there is nothing new")

        def close(self):
            pass

    result = connect("zhipu:embedding-3", dimensions=256, cache=Careless()).embed(texts, lists=lists)
    assert result.usage.requests == 0
    assert np.array_equal(result.to_list(), kept)
