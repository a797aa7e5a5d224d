"""The estimate packs batches, so it must be near the truth; the upper bound decides about blame, so it must hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.batching.token_count import estimate_tokens, expected_tokens, max_tokens_bound
from multiembed.cli.corpus import passages
from multiembed.flow.context import LearnedLimits
from multiembed.simulator.tokenizer import count_tokens

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
    assert bool(text) <= tokens <= max_tokens_bound(text)


@given(st.text(st.characters(codec="utf-8")))
def test_the_bound_is_at_least_a_token_for_each_byte(text):
    assert max_tokens_bound(text) >= len(text.encode())


@given(st.text(st.characters(codec="utf-8")))
def test_a_tokenizer_that_is_not_ours_stays_below_the_bound(text):
    assert count_tokens(text) <= max_tokens_bound(text)


@given(st.text())
def test_lone_surrogates_break_neither(text):
    assert estimate_tokens(text + "\udfff") <= max_tokens_bound(text + "\udfff")


@given(st.text())
def test_what_is_expected_is_a_number_that_only_the_empty_text_may_lack(text):
    assert 0.0 <= expected_tokens(text) < 4 * len(text) + 1
    assert expected_tokens("") == 0.0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_expected_of_many_texts_is_what_a_tokenizer_makes_of_them(language):
    texts = [passage.text for passage in passages() if passage.language == language]
    assert sum(map(expected_tokens, texts)) == pytest.approx(sum(map(count_tokens, texts)), rel=0.04)


# ── corrected by bills ───────────────────────────────────────────────────────────────────────────


@given(shares=st.lists(st.floats(0.2, 5.0), min_size=1, max_size=200))
def test_the_correction_lies_among_the_bills_and_the_most_is_never_below_the_last_one(shares):
    lessons = LearnedLimits()
    for share in shares:
        lessons.record_billing(round(1000 * share), 1000)
    assert min(shares) - 0.001 <= lessons.billed_ratio <= max(shares) + 0.001
    assert lessons.max_billed_ratio >= shares[-1] - 0.001
    assert lessons.max_billed_ratio <= max(*shares, 1.0) + 0.001


def test_what_was_not_billed_or_not_estimated_corrects_nothing():
    lessons = LearnedLimits()
    lessons.record_billing(0, 10)
    lessons.record_billing(10, 0)
    assert (lessons.billed_ratio, lessons.max_billed_ratio) == (None, 1.0)


def test_the_most_per_estimate_forgets_slowly_what_was_dear():
    lessons = LearnedLimits()
    lessons.record_billing(300, 100)
    for _ in range(500):
        lessons.record_billing(50, 100)
    assert 0.5 <= lessons.max_billed_ratio < 0.6
    assert lessons.billed_ratio == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "script", ["the quick brown fox jumps ", "无边落木萧萧下不尽长江滚滚来", "internationalization "]
)
def test_after_a_few_replies_the_estimate_is_what_the_provider_bills(connect, door, script):
    client = connect("dashscope:text-embedding-v4", dimensions=64)
    texts = [f"{script * 20}{number}" for number in range(40)]
    billed = sum(map(count_tokens, texts))
    before = abs(client.estimate(texts).tokens - billed)
    for _ in range(3):
        door(client, texts)
    assert client.usage.total_tokens == 3 * billed
    assert client.estimate(texts).tokens == pytest.approx(billed, rel=0.02)
    assert before > 0.02 * billed
