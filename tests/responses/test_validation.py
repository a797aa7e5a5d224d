"""Validation accepts one vector for each text, at its position, of the right length and of finite numbers."""

from __future__ import annotations

import base64
import math
import random
import struct

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.providers.types import DecodedItem, DecodedResponse
from multiembed.responses.validation import validate_vectors
from multiembed.types import SparseVector

pytestmark = pytest.mark.unit

RIGHT = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [-7.0, 0.0, 1e-3]]
WEIGHTS = [{"index": 7, "value": 0.5, "token": "a"}, {"index": 3, "value": 1.25, "token": "b"}]


def packed(numbers, form="<"):
    return base64.b64encode(struct.pack(f"{form}{len(numbers)}f", *numbers)).decode()


def reply(*vectors, indices=None, **more):
    indices = range(len(vectors)) if indices is None else indices
    return DecodedResponse([DecodedItem(index, dense) for index, dense in zip(indices, vectors, strict=True)], **more)


def dense(raw, *, texts=3, dimensions=3):
    return validate_vectors(raw, texts=texts, dimensions=dimensions, output="dense").dense


def sparse(*weights, output="sparse"):
    items = [DecodedItem(position, [1.0], weight) for position, weight in enumerate(weights)]
    return validate_vectors(DecodedResponse(items), texts=len(weights), dimensions=None, output=output)


# ── accepted ──────────────────────────────────────────────────────────────────────────────────────


def test_validated_vectors_are_float32_with_usage_and_id():
    validated = validate_vectors(
        reply(*RIGHT, total_tokens=12, request_id="r-1"), texts=3, dimensions=3, output="dense"
    )
    np.testing.assert_array_equal(validated.dense, np.float32(RIGHT))
    assert (validated.dense.dtype, validated.total_tokens, validated.request_id) == (np.float32, 12, "r-1")
    assert validated.sparse is None


@given(st.integers(1, 40), st.randoms(use_true_random=False))
def test_items_in_any_order_are_sorted_by_index(texts, rng):
    order = list(range(texts))
    rng.shuffle(order)
    rows = np.arange(1, 2 * texts + 1, dtype=np.float32).reshape(texts, 2)
    raw = reply(*(rows[position].tolist() for position in order), indices=order)
    np.testing.assert_array_equal(dense(raw, texts=texts, dimensions=2), rows)


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4), min_size=1)
)
def test_floats_and_base64_give_the_same_bits(rows):
    for row in rows:
        row[0] = row[0] or 1.0
    as_numbers = dense(reply(*rows), texts=len(rows), dimensions=4)
    as_text = dense(reply(*map(packed, rows)), texts=len(rows), dimensions=4)
    assert as_numbers.tobytes() == as_text.tobytes() == np.float32(rows).tobytes()


def test_floats_and_base64_may_be_mixed():
    np.testing.assert_array_equal(dense(reply(RIGHT[0], packed(RIGHT[1]), RIGHT[2])), np.float32(RIGHT))


def test_integers_are_accepted():
    np.testing.assert_array_equal(
        dense(reply([1, 0, 3], [0, 1, -2], [2**60, 1, 0])), [[1, 0, 3], [0, 1, -2], [2**60, 1, 0]]
    )


def test_unknown_dimensions_are_those_of_the_first_vector():
    assert dense(reply(*RIGHT), dimensions=None).shape == (3, 3)


@pytest.mark.parametrize("tiny", [1e-38, 1e-45, 3.4e38])
def test_vector_of_very_small_or_large_numbers_is_accepted(tiny):
    np.testing.assert_array_equal(dense(reply([tiny, 0.0, 0.0]), texts=1), np.float32([[tiny, 0, 0]]))


# ── rejected: items ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("vectors", "indices"),
    [
        (RIGHT[:2], [0, 1]),  # the last is missing
        ([RIGHT[0], RIGHT[2]], [0, 2]),  # the middle one is missing
        ([], []),
        ([*RIGHT, RIGHT[0]], [0, 1, 2, 3]),  # one too many
        ([*RIGHT, RIGHT[0]], [0, 1, 2, 2]),
        (RIGHT, [0, 1, 1]),  # one twice
        (RIGHT, [0, 0, 0]),
        (RIGHT, [1, 2, 3]),  # off by one
        (RIGHT, [-1, 0, 1]),
        (RIGHT, [None, None, None]),  # none where the API has one
        (RIGHT, [0, 1, None]),
        (RIGHT, ["0", "1", "2"]),
        (RIGHT, [0.0, 1.0, 2.0]),
        (RIGHT, [False, True, 2]),
        (RIGHT, [0, 1, 2**70]),
        (RIGHT, [0, 1, [2]]),
        (RIGHT, [0, 1, {"index": 2}]),
    ],
)
@pytest.mark.parametrize("output", ["dense", "sparse", "dense&sparse"])
def test_items_without_one_index_per_text_are_rejected(vectors, indices, output):
    items = [DecodedItem(index, vector, WEIGHTS) for index, vector in zip(indices, vectors, strict=True)]
    with pytest.raises(ValueError, match=r"vectors came back|index"):
        validate_vectors(DecodedResponse(items), texts=3, dimensions=3, output=output)


@given(st.integers(1, 8), st.lists(st.integers(-2, 9), max_size=9))
def test_only_a_permutation_of_the_indices_is_accepted(texts, indices):
    raw = reply(*([float(index), 1.0] for index in indices), indices=indices)
    if sorted(indices) == list(range(texts)):
        assert dense(raw, texts=texts, dimensions=2)[:, 0].tolist() == list(range(texts))
    else:
        with pytest.raises(ValueError, match=r"vectors came back|index"):
            dense(raw, texts=texts, dimensions=2)


# ── rejected: vectors ────────────────────────────────────────────────────────────────────────────

WRONG = {
    "too short": [1.0, 2.0],
    "too long": [1.0, 2.0, 3.0, 4.0],
    "empty": [],
    "null": None,
    "NaN": [1.0, math.nan, 3.0],
    "infinity": [1.0, math.inf, 3.0],
    "negative infinity": [-math.inf, 1.0, 3.0],
    "more than float32 holds": [1e39, 1.0, 1.0],
    "all zeros": [0.0, 0.0, 0.0],
    "all zeros, whole": [0, 0, 0],
    "all negative zeros": [-0.0, -0.0, -0.0],
    "too small for float32, and so all zeros": [1e-60, 0.0, 0.0],
    "an element null": [1.0, None, 3.0],
    "an element text": [1.0, "2.0", 3.0],
    "all elements text": ["1.0", "2.0", "3.0"],
    "an element true": [0.5, True, 3.0],
    "an element false": [0.5, False, 3.0],
    "an element true among whole numbers": [5, True, 3],
    "all elements true": [True, True, True],
    "an element a list": [1.0, [2.0], 3.0],
    "an element an object": [1.0, {"v": 2.0}, 3.0],
    "nested": [[1.0, 2.0, 3.0]],
    "nested twice": [[[1.0]], [[2.0]], [[3.0]]],
    "ragged": [[1.0], [2.0, 3.0], [4.0]],
    "lists of nothing": [[], [], []],
    "a number": 1.5,
    "true": True,
    "an object": {"0": 1.0, "1": 2.0, "2": 3.0},
    "a number beyond any": [10**400, 1.0, 1.0],
    "base64 of nothing": "",
    "base64 too short": packed([1.0, 2.0]),
    "base64 too long": packed([1.0, 2.0, 3.0, 4.0]),
    "base64 cut in a number": base64.b64encode(struct.pack("<3f", 1, 2, 3)[:-1]).decode(),
    "base64 cut in its padding": packed([1.0, 2.0, 3.0, 4.0, 5.0])[:-3],
    "base64 with a blank": packed([1.0, 2.0, 3.0])[:4] + " " + packed([1.0, 2.0, 3.0])[5:],
    "base64 with a stray mark": packed([1.0, 2.0, 3.0])[:4] + "*" + packed([1.0, 2.0, 3.0])[4:],
    "base64 in the alphabet for URLs": "__-_" * 4,
    "base64 of NaN": packed([1.0, math.nan, 3.0]),
    "base64 of infinity": packed([1.0, math.inf, 3.0]),
    "base64 of zeros": packed([0.0, 0.0, 0.0]),
    "base64 of float64": base64.b64encode(struct.pack("<3d", 1, 2, 3)).decode(),
    "a word": "embedding",
    "words": "还没有向量",
    "numbers as text": "[1.0, 2.0, 3.0]",
}


@pytest.mark.parametrize("name", WRONG)
def test_bad_vector_rejects_the_response_and_is_named(name):
    for position in range(3):
        vectors = [*RIGHT]
        vectors[position] = WRONG[name]
        with pytest.raises(ValueError, match=f"vector {position} "):
            dense(reply(*vectors))


@pytest.mark.parametrize(
    "name",
    sorted(
        WRONG.keys()
        - {"too short", "too long", "base64 too short", "base64 too long"}
        - {"base64 of float64", "base64 cut in its padding"}
    ),
)
def test_bad_vector_is_rejected_without_known_dimensions(name):
    with pytest.raises(ValueError, match="vector 0 "):
        dense(reply(WRONG[name]), texts=1, dimensions=None)


@pytest.mark.parametrize("form", [list, packed])
def test_vectors_of_several_lengths_are_rejected(form):
    with pytest.raises(ValueError, match="vector 1 has 2 dimensions where 3 were expected"):
        dense(reply(form([1.0, 2.0, 3.0]), form([1.0, 2.0])), texts=2, dimensions=None)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["index", "value", "token"]), inner),
    max_leaves=12,
)


@given(JSON, JSON, JSON, st.sampled_from(["dense", "sparse", "dense&sparse"]), st.none() | st.integers(1, 4))
def test_any_json_is_a_valid_vector_or_a_value_error(index, vector, weights, output, dimensions):
    raw = DecodedResponse([DecodedItem(*orjson.loads(orjson.dumps([index, vector, weights])))])
    try:
        validated = validate_vectors(raw, texts=1, dimensions=dimensions, output=output)
    except ValueError:
        return
    assert index == 0
    if output != "sparse":
        assert np.isfinite(validated.dense).all()
        assert validated.dense.any()
        assert validated.dense.shape == (1, dimensions or validated.dense.shape[1])
    if output != "dense":
        assert all(map(math.isfinite, validated.sparse[0].values))


@given(st.integers(0, 30), st.sampled_from([math.nan, math.inf, None, "1", True, [1.0], {}]))
def test_bad_element_is_found_at_any_position(position, wrong):
    vector = [random.Random(position).uniform(0.1, 0.9) for _ in range(31)]
    vector[position] = wrong
    with pytest.raises(ValueError, match="vector 0 "):
        dense(reply(vector), texts=1, dimensions=31)


# ── sparse vectors ───────────────────────────────────────────────────────────────────────────────


def test_sparse_vectors_keep_order_and_tokens():
    [vector] = sparse(WEIGHTS).sparse
    assert vector == SparseVector((7, 3), (0.5, 1.25), ("a", "b"))
    assert vector.to_dict() == {7: 0.5, 3: 1.25}


def test_sparse_vectors_may_lack_tokens():
    [vector] = sparse([{"index": 7, "value": 1}, {"index": 8, "value": 2.5, "token": "b"}]).sparse
    assert vector == SparseVector((7, 8), (1.0, 2.5), None)


@pytest.mark.parametrize("output", ["dense", "sparse", "dense&sparse"])
def test_only_the_requested_output_is_validated(output):
    validated = sparse(WEIGHTS if output != "dense" else "no weights", output=output)
    assert (validated.dense is None, validated.sparse is None) == (output == "sparse", output == "dense")
    bad = DecodedResponse([DecodedItem(0, "no vector" if output == "sparse" else [1.0], WEIGHTS)])
    assert validate_vectors(bad, texts=1, dimensions=1, output=output)


@pytest.mark.parametrize(
    "weights",
    [
        None,
        [],
        {},
        "sparse",
        [7, 3],
        [None],
        [{}],
        [{"value": 0.5}],
        [{"index": 7}],
        [{"index": -1, "value": 0.5}],
        [{"index": "7", "value": 0.5}],
        [{"index": 7.0, "value": 0.5}],
        [{"index": True, "value": 0.5}],
        [{"index": None, "value": 0.5}],
        [{"index": [7], "value": 0.5}],
        [{"index": {}, "value": 0.5}],
        [{"index": 7, "value": None}],
        [{"index": 7, "value": "0.5"}],
        [{"index": 7, "value": True}],
        [{"index": 7, "value": [0.5]}],
        [{"index": 7, "value": math.nan}],
        [{"index": 7, "value": math.inf}],
        [{"index": 7, "value": 0.5}, {"index": 7, "value": 0.6}],
    ],
    ids=str,
)
@pytest.mark.parametrize("output", ["sparse", "dense&sparse"])
def test_bad_sparse_vector_rejects_the_response_and_is_named(weights, output):
    with pytest.raises(ValueError, match="sparse vector 1 "):
        sparse(WEIGHTS, weights, output=output)
