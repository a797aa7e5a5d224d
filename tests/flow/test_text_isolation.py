"""A text that makes requests fail is isolated and fails alone, over real sockets and by every method."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.flow_driver import BROKEN, BUSY, DOWN, LATE, FlowDriver, assert_whole, good, reply
from support.scripted_server import DIMENSIONS, Reply, dashscope_reply, openai_reply, scripted, vector_of

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import EmbeddingClient, PartialFailureError, no_waits
from multiembed.errors import MalformedResponseError, ServerError
from multiembed.flow.isolation import FailureCount
from multiembed.providers.types import ApiFailure
from multiembed.ratelimit.limiter import AccountLimiter

KEY = "sk-of-the-tests-of-bad-texts"
TEXTS = [f"text number {number}" for number in range(300)]
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
        failing = [index for index, text in enumerate(request.texts) if text in bad]
        if not failing or how in ANSWERS:
            return ANSWERS[how] if failing else right
        rows = right.body.get("data") or right.body["output"]["embeddings"]
        for index in failing:
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


CASES = [
    (provider, ("embed", "aembed")[(row + column) % 2], (0, 150, 299)[(row + column) % 3], how)
    for row, provider in enumerate(MODELS)
    for column, how in enumerate([*ANSWERS, *ROWS])
]
"""Every provider with every failure; every method and position with every provider and with most failures."""


@pytest.mark.parametrize(("provider", "way", "position", "how"), CASES)
def test_one_bad_text_of_300_fails_alone(provider, way, position, how):
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
def test_bad_texts_of_the_only_batch_fail_alone(way, how, bad):
    """No other request shows whether the provider works."""
    bad = {TEXTS[position] for position in bad}
    with scripted(server_of(bad, how)) as server:
        assert_only(embed(way, "gateway", server.url, TEXTS[:10]), bad, TEXTS[:10])


def test_many_bad_texts_fail_alone():
    bad = set(TEXTS[::15])
    with scripted(server_of(bad, "500")) as server:
        assert_only(embed("embed", "gateway", server.url, TEXTS), bad)


# ── flow driven by hand: delays, and requests in an outage ──────────────────────────────────────────────


@pytest.mark.parametrize("down", [DOWN, BROKEN, LATE])
@pytest.mark.parametrize("max_retries", [0, 1, 3, 5, 8])
def test_isolation_adds_no_requests_in_an_outage(down, max_retries):
    driver = FlowDriver(max_retries=max_retries)
    outcome = driver.run([f"text {number}" for number in range(10)], down)
    assert len(outcome.failures) == 10
    assert len(driver.sent) == 1 + max_retries


def test_outage_that_ends_fails_no_text():
    texts = [f"text {number}" for number in range(10)]
    for failures in range(6):
        driver = FlowDriver(max_retries=5)
        assert_whole(driver.run(texts, [DOWN] * failures + [good] * 10), texts)


@pytest.mark.parametrize("position", range(10))
def test_bad_text_is_isolated_within_3_seconds_of_delay(position):
    texts = [f"text {number}" for number in range(10)]
    driver = FlowDriver(max_retries=5)
    outcome = driver.run(texts, lambda sent: (DOWN if texts[position] in sent else good)(sent))
    assert list(outcome.failures) == [position]
    assert isinstance(outcome.failures[position], ServerError)
    assert sum(driver.waits) <= 3.0
    assert len(driver.sent) - 1 <= 2 * math.log2(10) + 6


def test_response_with_only_bad_rows_is_retried():
    def nulls(texts):
        return reply(200, {"data": [{"index": index, "embedding": None} for index in range(len(texts))]})

    texts = ["a", "b", "c"]
    driver = FlowDriver()
    assert_whole(driver.run(texts, [nulls, good]), texts)
    assert driver.sent == [texts, texts]


@pytest.mark.parametrize("max_retries", [5, 20])
def test_isolation_in_an_outage_keeps_the_deadline(max_retries):
    texts = [f"text {number}" for number in range(10)]
    driver = FlowDriver(max_retries=max_retries, deadline=3.0)
    driver.limiter.permit().report_success()

    def down(sent):
        if len(driver.sent) == 1:
            driver.limiter.permit().report_success()  # the last answer before the outage
        return DOWN(sent)

    outcome = driver.run(texts, down)
    assert sum(driver.waits) < 3.0
    assert len(outcome.failures) == 10
    assert all(isinstance(error, ServerError) for error in outcome.failures.values())


@pytest.mark.parametrize("count", [2, 400, 2048])
def test_server_with_an_empty_last_row_takes_few_requests(count):
    def last_row_null(sent):
        rows = [[1.0, 0.0, 0.0, 0.0]] * (len(sent) - 1) + [None]
        return reply(200, {"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)]})

    driver = FlowDriver(max_retries=5)
    outcome = driver.run([f"text {number}" for number in range(count)], last_row_null)
    assert len(outcome.failures) == count
    assert not outcome.accepted
    assert len(driver.sent) <= 40  # it was twice as many as texts, or a RecursionError


def test_rate_limited_half_is_not_sent_again():
    """Its texts have their error; a vector besides would contradict it."""
    texts = [f"text {number}" for number in range(4)]
    driver = FlowDriver(max_retries=5)
    driver.limiter.permit().report_success()
    outcome = driver.run(texts, [DOWN] * 3 + [BUSY] * 6 + [DOWN] + [good] * 9)
    assert set(outcome.failures) == {0, 1}
    assert [list(positions) for positions, _ in outcome.accepted] == [[2, 3]]


def test_text_with_a_bad_row_is_sent_apart():
    def zeros(sent):
        rows = [[0.0] * 4 if text == "b" else [1.0, 0.0, 0.0, 0.0] for text in sent]
        return reply(200, {"data": [{"index": index, "embedding": row} for index, row in enumerate(rows)]})

    driver = FlowDriver()
    outcome = driver.run(["a", "b", "c"], zeros)
    assert isinstance(outcome.failures[1], MalformedResponseError)
    assert driver.sent[:3] == [["a", "b", "c"], ["a", "c"], ["b"]]
    assert all(sent == ["b"] for sent in driver.sent[3:])
    assert len(driver.sent) <= 5


@given(st.sets(st.integers(0, 15), max_size=15), st.integers(0, 15))
def test_isolation_fails_only_bad_texts_while_others_succeed(bad, healthy):
    """Whatever texts are bad, the good ones are embedded, and each once."""
    texts = [f"text {number}" for number in range(16)]
    bad = bad - {healthy}
    driver = FlowDriver(max_retries=5)

    def answer(sent):
        driver.limiter.permit().report_success()  # other requests of the account succeed
        return (DOWN if any(texts[number] in sent for number in bad) else good)(sent)

    outcome = driver.run(texts, answer)
    assert set(outcome.failures) == bad


def test_single_text_is_not_bad_while_others_fail():
    limiter = AccountLimiter()
    failing = FailureCount()
    failure = ApiFailure("server")
    for _ in range(4):
        failing.add(failure, 0.0, limiter)
        limiter.permit().report_failure(0.0)
    assert not failing.is_bad_text(failure, limiter)
    for _ in range(30):
        limiter.permit().report_success()
    assert failing.is_bad_text(failure, limiter)
    for _ in range(30):
        limiter.permit().report_failure(0.0)
    assert not failing.is_bad_text(failure, limiter)


def test_rate_limit_makes_no_text_bad():
    limiter = AccountLimiter()
    failing = FailureCount(failures=9, inherited=9, isolated=True)
    assert not failing.is_bad_text(ApiFailure("rate_limit"), limiter)
    assert failing.is_bad_text(ApiFailure("connection"), limiter)
