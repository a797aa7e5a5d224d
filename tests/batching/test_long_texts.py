"""Texts longer than the model's limit: an error, truncated or split, for queries and documents alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed import ConfigurationError, InputTooLongError, PartialFailureError
from multiembed.batching.token_count import estimate_tokens
from multiembed.batching.truncation import split_text, truncate
from multiembed.providers.local import embed
from multiembed.responses.validation import ValidatedVectors, weighted_mean

SENTENCE = "The quality of the clothes is excellent, and it was well worth the wait. "
LONG = SENTENCE * 60
ROLES = ["document", "query"]


def sent(simulator):
    bodies = [request.body for request in simulator.requests]
    return [body["input"]["texts"] if isinstance(body["input"], dict) else body["input"] for body in bodies]


# ── truncation and splitting ────────────────────────────────────────────────────────────────────────────────


@given(st.text(max_size=400), st.integers(1, 60))
def test_split_pieces_join_to_the_text_and_fit(text, maximum):
    pieces = split_text(text, maximum, estimate_tokens)
    assert "".join(pieces) == text
    assert all(pieces) or text == ""
    assert all(estimate_tokens(piece) <= maximum or len(piece) == 1 for piece in pieces)


@given(st.text(min_size=1, max_size=400), st.integers(1, 60))
def test_truncated_text_is_a_beginning_that_fits(text, maximum):
    short = truncate(text, maximum, estimate_tokens)
    assert text.startswith(short)
    assert short
    assert estimate_tokens(short) <= maximum or len(short) == 1


def test_truncated_text_is_as_long_as_allowed():
    assert truncate("a" * 100, 10, len) == "a" * 10


@pytest.mark.parametrize("joined", ["e\u0301", "👩\u200d🚀", "❤\ufe0f"], ids=ascii)
def test_truncation_keeps_combined_characters_whole(joined):
    text = "ab" + joined + "cd"
    for maximum in range(3, len(text)):
        short = truncate(text, maximum, len)
        assert short in {"ab", "ab" + joined, "ab" + joined + "c"}


def test_split_pieces_end_with_sentences_or_words():
    pieces = split_text(SENTENCE * 10, 100, estimate_tokens)
    assert all(piece.endswith(" ") for piece in pieces[:-1])
    assert all(piece.endswith("。") for piece in split_text("风急天高猿啸哀。" * 40, 50, estimate_tokens)[:-1])


def test_constant_token_counter_does_not_loop():
    assert "".join(split_text("abcdef", 1, lambda _: 9)) == "abcdef"
    assert truncate("abcdef", 1, lambda _: 9) == "a"


def test_truncation_counts_ten_megabytes_only_a_few_times():
    counted = []

    def count(text):
        counted.append(len(text))
        return len(text)

    truncate("x" * 10_000_000, 100, count)
    assert sum(counted) < 10 * 10_000_000


# ── weighted mean ───────────────────────────────────────────────────────────────────────────────


def validated(*rows, tokens=1):
    return ValidatedVectors(np.array(rows, dtype=np.float32), None, tokens, None)


def test_mean_is_weighted_and_normalised_in_any_order():
    parts = [(range(1, 2), validated([0.0, 1.0])), (range(1), validated([1.0, 0.0]))]
    mean = weighted_mean(parts, [3, 4])
    np.testing.assert_allclose(mean.dense, [[0.6, 0.8]], rtol=1e-6)
    assert mean.total_tokens == 2


def test_opposite_pieces_have_no_mean():
    assert weighted_mean([(range(2), validated([1.0, 0.0], [-1.0, 0.0]))], [1, 1]) is None


def test_mean_without_all_tokens_has_unknown_tokens():
    assert weighted_mean([(range(1), validated([1.0], tokens=None))], [1]).total_tokens is None


# ── through the client ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", ROLES)
def test_long_text_fails_alone_by_default(entry_point, connect, simulator, role):
    texts = ["short one", LONG, "short two"]
    with pytest.raises(PartialFailureError) as raised:
        entry_point(connect("zhipu:embedding-2"), texts, role)
    assert {index: type(error) for index, error in raised.value.failures.items()} == {1: InputTooLongError}
    np.testing.assert_array_equal(raised.value.result.vectors[[0, 2]], embed([texts[0], texts[2]], 1024))
    assert len(simulator.requests) == 2


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "model", ["zhipu:embedding-2", "siliconflow:BAAI/bge-large-zh-v1.5", "dashscope:text-embedding-v2"]
)
def test_truncate_embeds_the_beginning(entry_point, connect, simulator, model, role):
    text = LONG * 3
    result = entry_point(connect(model, on_too_long="truncate"), ["short", text], role)
    (long,) = [texts[0] for texts in sent(simulator) if texts[0] != "short"]
    assert text.startswith(long)
    assert len(long) > 400
    np.testing.assert_array_equal(result.vectors, embed(["short", long], result.vectors.shape[1]))


@pytest.mark.parametrize("role", ROLES)
def test_truncate_shrinks_until_the_server_accepts(entry_point, connect, simulator, role):
    simulator.fail("text-too-long", characters=300, provider="siliconflow")
    try:
        result = entry_point(connect("siliconflow:BAAI/bge-m3", on_too_long="truncate"), [LONG, "short"], role)
    finally:
        simulator.heal()
    taken = [request.body["input"][0] for request in simulator.requests if request.status == 200]
    cut = next(text for text in taken if text != "short")
    assert 150 < len(cut) <= 300
    assert LONG.startswith(cut)
    np.testing.assert_array_equal(result.vectors, embed([cut, "short"], 1024))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("refused", [False, True], ids=["by the estimate", "by the server's rejection"])
def test_split_returns_the_weighted_mean_of_all_pieces(entry_point, connect, simulator, role, refused):
    model = "siliconflow:BAAI/bge-m3" if refused else "zhipu:embedding-2"
    if refused:
        simulator.fail("text-too-long", characters=2000)
    try:
        result = entry_point(connect(model, on_too_long="split"), ["short", LONG], role)
    finally:
        simulator.heal()
    good = [text for request in simulator.requests if request.status == 200 for text in sent_in(request)]
    pieces = [text for text in good if text != "short"]
    assert "".join(pieces) == LONG
    weights = [estimate_tokens(piece) for piece in pieces]
    mean = np.average(embed(pieces, 1024).astype(np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(result.vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(result.vectors[0], embed(["short"], 1024)[0])


def sent_in(request):
    given = request.body["input"]
    return given["texts"] if isinstance(given, dict) else given


@pytest.mark.parametrize("mode", ["truncate", "split"])
def test_query_prompt_is_kept_around_each_piece(entry_point, connect, simulator, mode):
    client = connect(
        "siliconflow:Qwen/Qwen3-Embedding-0.6B",
        instruct="Find the passage",
        on_too_long=mode,
        limits={"max_tokens_per_item": 200},
    )
    entry_point(client, [LONG], "query")
    queries = [text for request in simulator.requests for text in request.body["input"]]
    assert all(text.startswith("Instruct: Find the passage\nQuery:") for text in queries)
    assert all(estimate_tokens(text) <= 200 for text in queries)
    rest = "".join(text.removeprefix("Instruct: Find the passage\nQuery:") for text in queries)
    assert rest == LONG if mode == "split" else LONG.startswith(rest)


def test_split_of_sparse_vectors_is_a_configuration_error(connect):
    with pytest.raises(ConfigurationError, match="truncate"):
        connect("dashscope:text-embedding-v4", output="dense&sparse", on_too_long="split")


def test_on_too_long_changes_the_fingerprint(connect):
    names = {
        connect("zhipu:embedding-2", on_too_long=mode).fingerprint("document")
        for mode in ("error", "truncate", "split")
    }
    assert len(names) == 3
