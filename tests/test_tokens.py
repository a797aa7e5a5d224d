"""The estimate packs batches, so it must be near the truth; the upper bound decides about blame, so it must hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.simulator.tokenizer import count_tokens
from multiembed.tokens import estimate_tokens, most_tokens

# A sample of each script, and the tokens per character that Qwen's tokenizer was measured to make of such text.
MEASURED = {
    "chinese prose": ("风急天高猿啸哀，渚清沙白鸟飞回。无边落木萧萧下，不尽长江滚滚来。", 0.54),
    "english prose": ("The quality of the clothes is excellent, and it was well worth the wait. ", 0.20),
    "code": ("def embed(self, texts: list[str]) -> list[float]:\n    return self._model.encode(texts)[0]\n", 0.37),
    "digits": ("31415926535897932384626433832795", 1.0),
    "emoji": ("🦊🐶🌊🍎", 1.84),
}


@pytest.mark.parametrize("script", MEASURED)
def test_the_estimate_is_near_what_was_measured_and_rather_above_than_below(script):
    sample, rate = MEASURED[script]
    text = sample * 20
    assert 0.9 * rate <= estimate_tokens(text) / len(text) <= 2 * rate


@pytest.mark.parametrize(
    ("text", "least"),
    [("", 0), (" ", 1), ("\n", 1), ("a", 1), ("中", 1), ("\x00", 1), ("\ud800", 1), ("𠀀", 2), ("é", 1), ("1234", 4)],
)
def test_only_the_empty_text_costs_nothing(text, least):
    assert estimate_tokens(text) >= least
    assert (estimate_tokens(text) == 0) == (text == "")


@given(st.text())
def test_the_estimate_is_a_whole_number_between_nothing_and_the_bound(text):
    tokens = estimate_tokens(text)
    assert type(tokens) is int
    assert bool(text) <= tokens <= most_tokens(text)


@given(st.text(st.characters(codec="utf-8")))
def test_the_bound_is_at_least_a_token_for_each_byte(text):
    assert most_tokens(text) >= len(text.encode())


@given(st.text(st.characters(codec="utf-8")))
def test_a_tokenizer_that_is_not_ours_stays_below_the_bound(text):
    assert count_tokens(text) <= most_tokens(text)


@given(st.text())
def test_lone_surrogates_break_neither(text):
    assert estimate_tokens(text + "\udfff") <= most_tokens(text + "\udfff")
