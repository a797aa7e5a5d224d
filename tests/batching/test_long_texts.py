"""Texts that are longer than the model takes: refused alone, cut, or split, the same for queries and documents."""

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


# ── cutting, pure ────────────────────────────────────────────────────────────────────────────────


@given(st.text(max_size=400), st.integers(1, 60))
def test_the_pieces_are_the_text_and_none_is_too_long(text, most):
    pieces = split_text(text, most, estimate_tokens)
    assert "".join(pieces) == text
    assert all(pieces) or text == ""
    assert all(estimate_tokens(piece) <= most or len(piece) == 1 for piece in pieces)


@given(st.text(min_size=1, max_size=400), st.integers(1, 60))
def test_a_shortened_text_is_a_beginning_that_fits(text, most):
    short = truncate(text, most, estimate_tokens)
    assert text.startswith(short)
    assert short
    assert estimate_tokens(short) <= most or len(short) == 1


def test_a_shortened_text_is_as_long_as_it_may_be():
    assert truncate("a" * 100, 10, len) == "a" * 10


@pytest.mark.parametrize("joined", ["e\u0301", "👩\u200d🚀", "❤\ufe0f"], ids=ascii)
def test_no_character_is_torn_from_what_belongs_to_it(joined):
    text = "ab" + joined + "cd"
    for most in range(3, len(text)):
        short = truncate(text, most, len)
        assert short in {"ab", "ab" + joined, "ab" + joined + "c"}


def test_pieces_end_with_sentences_or_words_where_they_can():
    pieces = split_text(SENTENCE * 10, 100, estimate_tokens)
    assert all(piece.endswith(" ") for piece in pieces[:-1])
    assert all(piece.endswith("。") for piece in split_text("风急天高猿啸哀。" * 40, 50, estimate_tokens)[:-1])


def test_a_counter_that_cannot_tell_still_comes_to_an_end():
    assert "".join(split_text("abcdef", 1, lambda _: 9)) == "abcdef"
    assert truncate("abcdef", 1, lambda _: 9) == "a"


def test_ten_megabytes_are_cut_without_counting_them_over_and_over():
    counted = []

    def count(text):
        counted.append(len(text))
        return len(text)

    truncate("x" * 10_000_000, 100, count)
    assert sum(counted) < 10 * 10_000_000


# ── the mean, pure ───────────────────────────────────────────────────────────────────────────────


def believed(*rows, tokens=1):
    return ValidatedVectors(np.array(rows, dtype=np.float32), None, tokens, None)


def test_the_mean_is_weighted_by_length_and_of_unit_length_whatever_the_order():
    parts = [(range(1, 2), believed([0.0, 1.0])), (range(1), believed([1.0, 0.0]))]
    mean = weighted_mean(parts, [3, 4])
    np.testing.assert_allclose(mean.dense, [[0.6, 0.8]], rtol=1e-6)
    assert mean.total_tokens == 2


def test_pieces_that_cancel_each_other_out_have_no_mean():
    assert weighted_mean([(range(2), believed([1.0, 0.0], [-1.0, 0.0]))], [1, 1]) is None


def test_tokens_that_one_reply_does_not_tell_are_unknown():
    assert weighted_mean([(range(1), believed([1.0], tokens=None))], [1]).total_tokens is None


# ── through the client ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", ROLES)
def test_by_default_a_long_text_alone_fails_and_its_neighbours_are_paid_once(door, connect, simulator, role):
    texts = ["short one", LONG, "short two"]
    with pytest.raises(PartialFailureError) as raised:
        door(connect("zhipu:embedding-2"), texts, role)
    assert {index: type(error) for index, error in raised.value.failures.items()} == {1: InputTooLongError}
    np.testing.assert_array_equal(raised.value.result.vectors[[0, 2]], embed([texts[0], texts[2]], 1024))
    assert len(simulator.requests) == 2


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "model", ["zhipu:embedding-2", "siliconflow:BAAI/bge-large-zh-v1.5", "dashscope:text-embedding-v2"]
)
def test_truncate_embeds_the_beginning(door, connect, simulator, model, role):
    text = LONG * 3
    result = door(connect(model, on_too_long="truncate"), ["short", text], role)
    (long,) = [texts[0] for texts in sent(simulator) if texts[0] != "short"]
    assert text.startswith(long)
    assert len(long) > 400
    np.testing.assert_array_equal(result.vectors, embed(["short", long], result.vectors.shape[1]))


@pytest.mark.parametrize("role", ROLES)
def test_truncate_goes_on_shrinking_while_the_server_refuses(door, connect, simulator, role):
    simulator.fail("text-too-long", characters=300, provider="siliconflow")
    try:
        result = door(connect("siliconflow:BAAI/bge-m3", on_too_long="truncate"), [LONG, "short"], role)
    finally:
        simulator.heal()
    taken = [request.body["input"][0] for request in simulator.requests if request.status == 200]
    cut = next(text for text in taken if text != "short")
    assert 150 < len(cut) <= 300
    assert LONG.startswith(cut)
    np.testing.assert_array_equal(result.vectors, embed([cut, "short"], 1024))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("refused", [False, True], ids=["by the estimate", "on the server's refusal"])
def test_split_embeds_all_pieces_and_takes_their_weighted_mean(door, connect, simulator, role, refused):
    model = "siliconflow:BAAI/bge-m3" if refused else "zhipu:embedding-2"
    if refused:
        simulator.fail("text-too-long", characters=2000)
    try:
        result = door(connect(model, on_too_long="split"), ["short", LONG], role)
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
def test_a_querys_prompt_form_stays_whole_around_each_piece(door, connect, simulator, mode):
    client = connect(
        "siliconflow:Qwen/Qwen3-Embedding-0.6B",
        instruct="Find the passage",
        on_too_long=mode,
        limits={"max_tokens_per_item": 200},
    )
    door(client, [LONG], "query")
    queries = [text for request in simulator.requests for text in request.body["input"]]
    assert all(text.startswith("Instruct: Find the passage\nQuery:") for text in queries)
    assert all(estimate_tokens(text) <= 200 for text in queries)
    rest = "".join(text.removeprefix("Instruct: Find the passage\nQuery:") for text in queries)
    assert rest == LONG if mode == "split" else LONG.startswith(rest)


def test_a_split_of_sparse_vectors_is_refused_before_anything_is_sent(connect):
    with pytest.raises(ConfigurationError, match="truncate"):
        connect("dashscope:text-embedding-v4", output="dense&sparse", on_too_long="split")


def test_what_is_done_about_long_texts_changes_the_name_of_the_space(connect):
    names = {
        connect("zhipu:embedding-2", on_too_long=mode).fingerprint("document")
        for mode in ("error", "truncate", "split")
    }
    assert len(names) == 3
