"""A text that makes requests fail is found and fails alone (FINDINGS A5), over real sockets, by every way in."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.flow_driver import BROKEN, BUSY, DOWN, LATE, Play, assert_whole, good, reply
from support.scripted_server import DIMENSIONS, Reply, dashscope_reply, openai_reply, scripted, vector_of

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import EmbeddingClient, PartialFailureError, no_waits
from multiembed.errors import MalformedResponseError, ServerError
from multiembed.flow.isolation import FailureCount, is_this_text
from multiembed.providers.types import ApiFailure
from multiembed.ratelimit.limiter import AccountLimiter

KEY = "sk-of-the-tests-of-bad-texts"
TEXTS = [f"text number {number}" for number in range(1000)]
MODELS = {"gateway": "gateway:m", "openai-compatible": "openai-compatible:m", "dashscope": "dashscope:unlisted"}
BATCH = {"gateway": 10, "openai-compatible": 32, "dashscope": 10}

ANSWERS = {
    "500": Reply({"error": {"message": "inference failed"}}, 500),
    "502 html": Reply(b"<html><title>Bad Gateway</title></html>", 502),
    "broken json": Reply(b'{"data": [{"index": 0, "embed'),
}
ROWS = {"null": None, "zeros": [0.0] * DIMENSIONS, "NaN": [math.nan] * DIMENSIONS, "empty": [], "short": [1.0, 2.0]}


def server_of(bad, how):
    """What a server answers that cannot embed the texts of `bad`."""

    def answer(request):
        right = dashscope_reply(request) if isinstance(request.body["input"], dict) else openai_reply(request)
        ill = [index for index, text in enumerate(request.texts) if text in bad]
        if not ill or how in ANSWERS:
            return ANSWERS[how] if ill else right
        rows = right.body.get("data") or right.body["output"]["embeddings"]
        for index in ill:
            rows[index]["embedding"] = ROWS[how]
        return right

    return answer


def embed(way, provider, url, texts):
    """The failures by position, and the rows of the others."""
    options = {"api_key": KEY, "base_url": url, "dimensions": DIMENSIONS if provider != "dashscope" else None}
    client = EmbeddingClient(MODELS[provider], **options)
    chain = MultiEmbeddings(model=MODELS[provider], **options)
    index = MultiEmbedding(model_name=MODELS[provider], **options)
    ways = {
        "embed": lambda: client.embed(texts),
        "aembed": lambda: asyncio.run(client.aembed(texts)),
        "LangChain": lambda: chain.embed_documents(texts),
        "LangChain async": lambda: asyncio.run(chain.aembed_documents(texts)),
        "LlamaIndex": lambda: index.get_text_embedding_batch(texts),
        "LlamaIndex async": lambda: asyncio.run(index.aget_text_embedding_batch(texts)),
    }
    with no_waits(), pytest.raises(PartialFailureError) as caught:
        ways[way]()
    return caught.value


def assert_only(error, bad, texts=TEXTS):
    assert {texts[position] for position in error.failures} == bad
    for position, text in enumerate(texts):
        if text not in bad:
            assert error.result.vectors[position].tolist() == vector_of(text)


@pytest.mark.parametrize("how", [*ANSWERS, *ROWS])
@pytest.mark.parametrize("position", [0, 500, 999])
@pytest.mark.parametrize("way", ["embed", "aembed"])
@pytest.mark.parametrize("provider", MODELS)
def test_one_bad_text_of_1000_fails_alone(provider, way, position, how):
    bad = {TEXTS[position]}
    with scripted(server_of(bad, how)) as server:
        error = embed(way, provider, server.url, TEXTS)
    assert_only(error, bad)
    without = math.ceil(len(TEXTS) / BATCH[provider])
    assert len(server.requests) - without <= 2 * math.log2(BATCH[provider]) + 6


@pytest.mark.parametrize("way", ["LangChain", "LangChain async", "LlamaIndex", "LlamaIndex async"])
@pytest.mark.parametrize("how", ["500", "null"])
def test_one_bad_text_fails_alone_in_a_framework(way, how):
    bad = {TEXTS[33]}
    with scripted(server_of(bad, how)) as server:
        error = embed(way, "gateway", server.url, TEXTS[:60])
    assert {TEXTS[position] for position in error.failures} == bad
    (message,) = map(str, error.failures.values())
    assert "while it embeds others" in message


@pytest.mark.parametrize("way", ["embed", "aembed"])
@pytest.mark.parametrize(
    ("how", "bad"),
    [
        ("500", {4}),
        ("500", {1, 3}),
        ("500", {5, 6, 9}),
        ("null", {0, 9}),
        ("null", set(range(9))),
    ],
)
def test_bad_texts_of_the_only_batch_are_found(way, how, bad):
    """No other request shows whether the provider works."""
    bad = {TEXTS[position] for position in bad}
    with scripted(server_of(bad, how)) as server:
        assert_only(embed(way, "gateway", server.url, TEXTS[:10]), bad, TEXTS[:10])


def test_many_bad_texts_fail_alone():
    bad = set(TEXTS[::50])
    with scripted(server_of(bad, "500")) as server:
        assert_only(embed("embed", "gateway", server.url, TEXTS), bad)


# ── played by hand: waits, and what an outage costs ──────────────────────────────────────────────


@pytest.mark.parametrize("down", [DOWN, BROKEN, LATE])
@pytest.mark.parametrize("max_retries", [0, 1, 3, 5, 8])
def test_an_outage_takes_no_more_requests_for_being_isolated(down, max_retries):
    play = Play(max_retries=max_retries)
    outcome = play.run([f"text {number}" for number in range(10)], down)
    assert len(outcome.failures) == 10
    assert len(play.sent) == 1 + max_retries


def test_an_outage_that_ends_fails_no_text():
    texts = [f"text {number}" for number in range(10)]
    for failures in range(6):
        play = Play(max_retries=5)
        assert_whole(play.run(texts, [DOWN] * failures + [good] * 10), texts)


@pytest.mark.parametrize("position", range(10))
def test_a_bad_text_is_found_within_three_seconds_of_waits(position):
    texts = [f"text {number}" for number in range(10)]
    play = Play(max_retries=5)
    outcome = play.run(texts, lambda sent: (DOWN if texts[position] in sent else good)(sent))
    assert list(outcome.failures) == [position]
    assert isinstance(outcome.failures[position], ServerError)
    assert sum(play.waits) <= 3.0
    assert len(play.sent) - 1 <= 2 * math.log2(10) + 6


def test_rows_that_are_all_bad_are_retried_as_a_whole():
    def nulls(texts):
        return reply(200, {"data": [{"index": index, "embedding": None} for index in range(len(texts))]})

    texts = ["a", "b", "c"]
    play = Play()
    assert_whole(play.run(texts, [nulls, good]), texts)
    assert play.sent == [texts, texts]


@pytest.mark.parametrize("max_retries", [5, 20])
def test_isolation_in_an_outage_keeps_the_deadline(max_retries):
    texts = [f"text {number}" for number in range(10)]
    play = Play(max_retries=max_retries, deadline=3.0)
    play.limiter.report_success(None, None)

    def down(sent):
        if len(play.sent) == 1:
            play.limiter.report_success(None, None)  # the last answer before the outage
        return DOWN(sent)

    outcome = play.run(texts, down)
    assert sum(play.waits) < 3.0
    assert len(outcome.failures) == 10
    assert all(isinstance(error, ServerError) for error in outcome.failures.values())


@pytest.mark.parametrize("count", [2, 400, 2048])
def test_a_server_that_always_leaves_a_row_empty_is_given_up(count):
    def last_row_null(sent):
        rows = [[1.0, 0.0, 0.0, 0.0]] * (len(sent) - 1) + [None]
        return reply(200, {"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)]})

    play = Play(max_retries=5)
    outcome = play.run([f"text {number}" for number in range(count)], last_row_null)
    assert len(outcome.failures) == count
    assert not outcome.accepted
    assert len(play.sent) <= 40  # it was twice as many as texts, or a RecursionError


def test_a_half_that_was_refused_is_not_sent_again():
    """Its texts have their error; a vector besides would contradict it."""
    texts = [f"text {number}" for number in range(4)]
    play = Play(max_retries=5)
    play.limiter.report_success(None, None)
    outcome = play.run(texts, [DOWN] * 3 + [BUSY] * 6 + [DOWN] + [good] * 9)
    assert set(outcome.failures) == {0, 1}
    assert [list(places) for places, _ in outcome.accepted] == [[2, 3]]


def test_a_text_without_a_usable_row_is_a_malformed_response():
    def zeros(sent):
        rows = [[0.0] * 4 if text == "b" else [1.0, 0.0, 0.0, 0.0] for text in sent]
        return reply(200, {"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)]})

    play = Play()
    outcome = play.run(["a", "b", "c"], zeros)
    assert isinstance(outcome.failures[1], MalformedResponseError)
    assert play.sent[:3] == [["a", "b", "c"], ["a", "c"], ["b"]]
    assert all(sent == ["b"] for sent in play.sent[3:])
    assert len(play.sent) <= 5


@given(st.sets(st.integers(0, 15), max_size=15), st.integers(0, 15))
def test_isolation_fails_only_bad_texts_while_others_succeed(bad, healthy):
    """Whatever texts are bad, the good ones are embedded, and each once."""
    texts = [f"text {number}" for number in range(16)]
    bad = bad - {healthy}
    play = Play(max_retries=5)

    def answer(sent):
        play.limiter.report_success(None, None)  # other requests of the account succeed
        return (DOWN if any(texts[number] in sent for number in bad) else good)(sent)

    outcome = play.run(texts, answer)
    assert set(outcome.failures) == bad


def test_a_text_alone_is_not_given_up_while_others_fail_too():
    limiter = AccountLimiter()
    failing = FailureCount()
    fault = ApiFailure("server")
    for _ in range(4):
        failing.add(fault, 0.0, limiter)
        limiter.report_failure(0.0)
    assert not is_this_text(fault, failing, limiter)
    for _ in range(30):
        limiter.report_success(None, None)
    assert is_this_text(fault, failing, limiter)
    for _ in range(30):
        limiter.report_failure(0.0)
    assert not is_this_text(fault, failing, limiter)


def test_a_rate_limit_is_no_texts_fault():
    limiter = AccountLimiter()
    failing = FailureCount(failures=9, inherited=9, isolated=True)
    assert not is_this_text(ApiFailure("rate_limit"), replace(failing), limiter)
    assert is_this_text(ApiFailure("connection"), replace(failing), limiter)
