"""Token estimates near what tokenizers make, the upper bound that always holds, and the correction by bills."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.batching.token_count import estimate_tokens, expected_tokens, max_tokens_bound
from multiembed.cli.corpus import passages
from multiembed.flow.context import LearnedLimits
from multiembed.simulator.tokenizer import count_tokens

pytestmark = pytest.mark.unit

# A sample of each script, and the tokens per character that Qwen's tokenizer was measured to make of such text.
MEASURED = {
    "chinese prose": ("风急天高猿啸哀，渚清沙白鸟飞回。无边落木萧萧下，不尽长江滚滚来。", 0.54),
    "english prose": ("The quality of the clothes is excellent, and it was well worth the wait. ", 0.20),
    "code": ("def embed(self, texts: list[str]) -> list[float]:\n    return self._model.encode(texts)[0]\n", 0.37),
    "digits": ("31415926535897932384626433832795", 1.0),
    "emoji": ("🦊🐶🌊🍎", 1.84),
}


@pytest.mark.parametrize("script", MEASURED)
def test_estimate_is_near_the_measured_tokens(script):
    sample, rate = MEASURED[script]
    text = sample * 20
    assert 0.9 * rate <= estimate_tokens(text) / len(text) <= 2 * rate


@pytest.mark.parametrize(
    ("text", "least"),
    [("", 0), (" ", 1), ("\n", 1), ("a", 1), ("中", 1), ("\x00", 1), ("\ud800", 1), ("𠀀", 2), ("é", 1), ("1234", 4)],
)
def test_estimate_is_zero_for_the_empty_text_only(text, least):
    assert estimate_tokens(text) >= least
    assert (estimate_tokens(text) == 0) == (text == "")


@given(st.text())
def test_estimate_is_an_int_within_the_bound(text):
    tokens = estimate_tokens(text)
    assert type(tokens) is int
    assert bool(text) <= tokens <= max_tokens_bound(text)


@given(st.text(st.characters(codec="utf-8")))
def test_bound_is_at_least_one_token_per_byte(text):
    assert max_tokens_bound(text) >= len(text.encode())


@given(st.text(st.characters(codec="utf-8")))
def test_simulator_tokenizer_stays_within_the_bound(text):
    assert count_tokens(text) <= max_tokens_bound(text)


@given(st.text())
def test_estimate_and_bound_accept_lone_surrogates(text):
    assert estimate_tokens(text + "\udfff") <= max_tokens_bound(text + "\udfff")


@given(st.text())
def test_expected_tokens_are_finite_and_zero_for_the_empty_text(text):
    assert 0.0 <= expected_tokens(text) < 4 * len(text) + 1
    assert expected_tokens("") == 0.0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_expected_tokens_of_many_texts_match_a_tokenizer(language):
    texts = [passage.text for passage in passages() if passage.language == language]
    assert sum(map(expected_tokens, texts)) == pytest.approx(sum(map(count_tokens, texts)), rel=0.04)


# ── corrected by bills ───────────────────────────────────────────────────────────────────────────


@given(shares=st.lists(st.floats(0.2, 5.0), min_size=1, max_size=200))
def test_billed_ratio_lies_within_the_bills(shares):
    learned = LearnedLimits()
    for share in shares:
        learned.record_billing(round(1000 * share), 1000)
    assert min(shares) - 0.001 <= learned.billed_ratio <= max(shares) + 0.001
    assert learned.max_billed_ratio >= shares[-1] - 0.001
    assert learned.max_billed_ratio <= max(*shares, 1.0) + 0.001


def test_missing_bill_or_estimate_changes_no_ratio():
    learned = LearnedLimits()
    learned.record_billing(0, 10)
    learned.record_billing(10, 0)
    assert (learned.billed_ratio, learned.max_billed_ratio) == (None, 1.0)


def test_max_billed_ratio_decays_slowly():
    learned = LearnedLimits()
    learned.record_billing(300, 100)
    for _ in range(500):
        learned.record_billing(50, 100)
    assert 0.5 <= learned.max_billed_ratio < 0.6
    assert learned.billed_ratio == pytest.approx(0.5, abs=0.01)
