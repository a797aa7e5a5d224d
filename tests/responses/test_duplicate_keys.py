"""The duplicate-key check finds a key that an object holds twice, at any depth and with any strings."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.responses.duplicate_keys import has_duplicate_keys

pytestmark = pytest.mark.unit

WORDS = st.sampled_from(["a", "b", "", '":', '"', ":", "\\", '"a":'])
PLAIN = WORDS.map(json.dumps) | st.sampled_from(["1", "-2.5e3", "null", "true"])


@st.composite
def lists(draw, inner):
    parts = draw(st.lists(inner, max_size=3))
    return f"[{','.join(text for text, _ in parts)}]", any(twice for _, twice in parts)


@st.composite
def objects(draw, inner):
    pairs = draw(st.lists(st.tuples(WORDS, inner), max_size=3))
    colon = draw(st.sampled_from([":", " :", ": ", "\n: "]))
    text = ",".join(f"{json.dumps(key)}{colon}{value}" for key, (value, _) in pairs)
    return f"{{{text}}}", len({key for key, _ in pairs}) < len(pairs) or any(twice for _, (_, twice) in pairs)


VALUES = st.recursive(PLAIN.map(lambda text: (text, False)), lambda inner: lists(inner) | objects(inner), max_leaves=12)
"""JSON texts, and whether one of their objects says a key twice."""


@given(VALUES)
def test_duplicate_keys_are_found_exactly(value):
    text, twice = value
    assert has_duplicate_keys(text.encode(), orjson.loads(text)) is twice


@pytest.mark.parametrize("text", ['[1,{"a":1,"a":2}]', '{"a":[null,[{"b":1,"b":1}]]}'])
def test_duplicate_keys_in_a_mixed_list_are_found(text):
    assert has_duplicate_keys(text.encode(), orjson.loads(text))
