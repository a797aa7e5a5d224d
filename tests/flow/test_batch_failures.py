"""What a server or a callable does in one batch does not affect the others, over real sockets and all methods."""

from __future__ import annotations

import asyncio
import json
from typing import ClassVar

import certifi
import pytest
from support.flow_driver import FlowDriver, always, good, reply
from support.scripted_server import DIMENSIONS, Reply, openai_reply, scripted, vector_of

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import (
    ConfigurationError,
    EmbeddingClient,
    MalformedResponseError,
    MultiEmbedError,
    PartialFailureError,
    no_waits,
)
from multiembed.flow.context import MAX_ITEMS_TTL
from multiembed.responses.duplicate_responses import DuplicateGuard
from multiembed.transport.types import HttpRequest, HttpResponse

KEY = "sk-of-the-tests-of-batches"
TEXTS = [f"text {number}" for number in range(40)]
DEEP = b'{"a\\":b":' + b"[" * 900 + b"]" * 900 + b"}"


def _embed(client, texts):
    return client.embed(texts)


def _aembed(client, texts):
    return asyncio.run(client.aembed(texts))


def _stream(client, texts):
    (result,) = client.stream(texts)
    return result


def _astream(client, texts):
    async def only():
        return [result async for result in client.astream(texts)]

    (result,) = asyncio.run(only())
    return result


WAYS = {"embed": _embed, "aembed": _aembed, "stream": _stream, "astream": _astream}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def call(request):
    return request.param


def client_of(server, **options):
    return EmbeddingClient("gateway:m", api_key=KEY, base_url=server.url, **options)


def assert_right(result, texts, *, but=()):
    for position, text in enumerate(texts):
        if position not in but:
            assert result.vectors[position].tolist() == vector_of(text)


# ── unexpected responses ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "surprise",
    [
        Reply({"error": {"message": f"batch size is invalid, it should not be larger than {'9' * 5000}"}}, 400),
        Reply({"code": "²", "data": []}),
        Reply({"code": "１２", "success": False}),
        Reply(DEEP),
        Reply(b"[" * 100_000),
        Reply({"error": {"code": {"deep": [1]}, "message": ["x", None]}}, 400),
        Reply({"data": [{"index": 10**400, "embedding": [1.0]}]}),
        Reply({"data": [{"index": 0, "embedding": [10**400]}]}),
        Reply({"usage": {"total_tokens": 10**400}, "data": "no list"}),
        Reply({"object": "list", "data": [{"embedding": "\ud800"}]}),
        Reply(b"\xff\xfe\x00\x00", 418),
    ],
    ids=["digits", "superscript", "wide digits", "deep", "unclosed", "nested code", "index", "number", "usage",
         "surrogate", "teapot"],
)  # fmt: skip
def test_unexpected_response_fails_no_other_batch(call, surprise):
    def answer(request):
        return surprise if "text 13" in request.texts else openai_reply(request)

    with scripted(answer) as server, no_waits(), pytest.raises(PartialFailureError) as caught:
        call(client_of(server, max_retries=1), TEXTS)
    failed = set(caught.value.failures)
    assert 13 in failed
    assert failed <= set(range(10, 20))
    assert_right(caught.value.result, TEXTS, but=failed)


def test_token_counter_that_raises_keeps_embedded_texts(call):
    """An exception while batches are packed: what was sent before is answered and kept."""

    def count(text):
        if text == "text 39":
            raise ZeroDivisionError
        return 4

    texts = [f"text {number}" for number in range(400)]
    limits = {"max_items": 1, "max_tokens_per_request": 8}
    with scripted(openai_reply) as server, no_waits():
        client = client_of(server, token_counter=count, limits=limits, max_concurrency=1)
        with pytest.raises(MultiEmbedError) as caught:
            call(client, texts)
        sent = {text for request in server.requests for text in request.texts}
    if isinstance(caught.value, PartialFailureError):
        failed = set(caught.value.failures)
        assert_right(caught.value.result, texts, but=failed)
    else:
        failed = set(range(400))
    assert {texts[position] for position in range(400) if position not in failed} == sent
    assert "ZeroDivisionError" in str(caught.value)


@pytest.mark.parametrize("name", ["\ud800", "m\x1b[31m", "m\n", "a\x00b"])
def test_model_name_that_cannot_be_sent_is_rejected(name):
    with pytest.raises(ConfigurationError, match="characters") as caught:
        EmbeddingClient(f"gateway:m{name}m", api_key=KEY, base_url="http://127.0.0.1:9")
    assert str(caught.value).isprintable()


def test_call_without_asyncio_raises_configuration_error():
    coroutine = EmbeddingClient("local:char-ngrams").aembed(["text"])
    with pytest.raises(ConfigurationError, match="trio"):
        coroutine.send(None)


# ── wrong numbers ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tokens", [10**10, 2**63, 10_000])
def test_implausible_token_count_changes_no_batch(call, tokens):
    def answer(request):
        right = openai_reply(request)
        if len(server.requests) == 1:
            right.body["usage"]["total_tokens"] = tokens
        return right

    with scripted(answer) as server:
        client = client_of(server, limits={"max_items": 10, "max_tokens_per_request": 200})
        result = call(client, TEXTS)
        again = call(client, [f"more {text}" for text in TEXTS])
    assert_right(result, TEXTS)
    assert result.usage.total_tokens is None  # what was billed is not known
    assert again.usage.total_tokens == 40
    assert len(server.requests) == 8


def test_plausible_token_count_is_kept():
    with scripted(openai_reply) as server:
        assert client_of(server).embed(["你好"]).usage.total_tokens == 1

    def dear(request):
        right = openai_reply(request)
        right.body["usage"]["total_tokens"] = 6  # a token for each byte
        return right

    with scripted(dear) as server:
        assert client_of(server).embed(["你好"]).usage.total_tokens == 6


def test_learned_max_items_expire_after_some_minutes():
    def one(texts):
        words = "batch size is invalid, it should not be larger than 1"
        return good(texts) if len(texts) == 1 else reply(400, {"error": {"message": words}})

    driver, texts = FlowDriver(), ["a", "b", "c", "d"]
    driver.run(texts, one)
    assert driver.sent == [texts, ["a"], ["b"], ["c"], ["d"]]
    driver.sent.clear()
    driver.run(texts, one)
    assert driver.sent == [["a"], ["b"], ["c"], ["d"]]
    driver.sent.clear()
    driver.now += MAX_ITEMS_TTL
    driver.run(texts, good)
    assert driver.sent == [texts]


def test_max_items_above_the_batch_are_not_learned():
    driver = FlowDriver()
    driver.run(["a", "b"], [lambda _: reply(400, {"error": {"message": "maximum allowed batch size 64"}}), good, good])
    assert driver.learned.max_items_at(driver.now) is None


# ── dedup ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("call", [_embed, _aembed])
def test_20000_equal_texts_are_sent_once(call):
    with scripted(openai_reply) as server:
        result = call(client_of(server), ["the same"] * 20_000)
        assert len(result.vectors) == 20_000
        assert sum(len(request.texts) for request in server.requests) == 1


@pytest.mark.parametrize("way", ["stream", "astream"])
@pytest.mark.parametrize("different", [1, 7])
def test_stream_of_equal_texts_sends_each_once(way, different):
    texts = [f"text {number % different}" for number in range(20_000)]
    with scripted(openai_reply) as server:
        client = client_of(server)
        if way == "stream":
            results = list(client.stream(texts))
        else:

            async def collect():
                return [result async for result in client.astream(texts)]

            results = asyncio.run(collect())
        assert sum(len(request.texts) for request in server.requests) == different
    rows = [row for result in results for row in result.vectors.tolist()]
    assert rows == [vector_of(text) for text in texts]
    assert client.report.texts == 20_000
    assert sum(result.usage.requests for result in results) == len(server.requests)


def test_shared_text_in_flight_fails_in_every_chunk():
    def answer(request):
        if "bad" in request.texts:
            return Reply({"error": {"message": "content policy", "code": "content_filter"}}, 400)
        return openai_reply(request)

    texts = (["bad"] + [f"text {number}" for number in range(1023)]) * 3
    with scripted(answer) as server, no_waits():
        client = client_of(server)
        results = list(client.stream(texts, on_error="keep"))
    assert client.report.failed_texts == 3
    position = 0
    for result in results:
        for row in range(result.texts):
            text = texts[position]
            position += 1
            if text == "bad":
                assert result.failures[row].indices == (row,)
            else:
                assert result.vectors[row].tolist() == vector_of(text)
    assert position == len(texts)


# ── late duplicates, and a model that changes ────────────────────────────────────────────────────


class Doubler:
    """Sends answers twice, the second time when the next request comes on the same connection.

    As a reader of the bytes sees it, the copy is the answer to that request.
    """

    def __init__(self, every):
        self.every, self.count = every, 0

    def __call__(self, request):
        self.count += 1
        right = openai_reply(request)
        right.late_copy = self.count % self.every == 0
        return right


async def _each(call, texts):
    return [await call(text) for text in texts]


@pytest.mark.parametrize(
    ("way", "every"),
    [("embed", 1), ("aembed", 3), ("LangChain", 3), ("LangChain async", 1), ("LlamaIndex", 1), ("LlamaIndex async", 3)],
)
def test_late_duplicate_response_is_not_used(way, every):
    texts = [f"text {number}" for number in range(60)]
    with scripted(Doubler(every)) as server:
        options = {"api_key": KEY, "base_url": server.url}
        client = EmbeddingClient("gateway:m", **options)
        chain = MultiEmbeddings(model="gateway:m", **options)
        index = MultiEmbedding(model_name="gateway:m", **options)

        async def aembed(text):
            return (await client.aembed([text])).vectors[0].tolist()

        rows = {
            "embed": lambda: [client.embed([text]).vectors[0].tolist() for text in texts],
            "aembed": lambda: asyncio.run(_each(aembed, texts)),
            "LangChain": lambda: [chain.embed_query(text) for text in texts],
            "LangChain async": lambda: asyncio.run(_each(chain.aembed_query, texts)),
            "LlamaIndex": lambda: [index.get_query_embedding(text) for text in texts],
            "LlamaIndex async": lambda: asyncio.run(_each(index.aget_query_embedding, texts)),
        }[way]()
    assert rows == [vector_of(text) for text in texts]
    assert len(server.requests) > len(texts)


@pytest.mark.parametrize("way", [_embed, _aembed], ids=["embed", "aembed"])
def test_late_duplicates_with_many_in_flight_are_not_used(way):
    texts = [f"text {number}" for number in range(200)]
    with scripted(Doubler(2)) as server:
        assert_right(way(client_of(server, limits={"max_items": 1}, max_concurrency=16), texts), texts)


def test_server_with_constant_vectors_is_used():
    """A test double that gives every text the same vector."""

    def constant(request):
        data = [{"index": index, "embedding": [1.0] * DIMENSIONS} for index in range(len(request.texts))]
        return Reply({"data": data})

    with scripted(constant) as server:
        client = client_of(server)
        for number in range(20):
            assert client.embed([f"text {number}"]).vectors.tolist() == [[1.0] * DIMENSIONS]
        assert len(server.requests) == 21


@pytest.mark.parametrize("way", [_embed, _aembed], ids=["embed", "aembed"])
def test_equal_response_on_a_fresh_connection_is_used(way):
    """There, nothing can come twice. A bundle of its own gives the second client connections of its own."""
    with scripted(openai_reply) as server:
        for options in ({}, {"parameters": {"user": "a"}, "ca_bundle": certifi.where()}):
            with client_of(server, **options) as client:
                assert way(client, ["text"]).vectors.tolist() == [vector_of("text")]
        assert len(server.requests) == 2


def test_duplicate_guard_compares_the_requests():
    guard = DuplicateGuard()
    answer = HttpResponse(200, {}, b'{"data": [{"embedding": [1]}]}')
    assert not guard.is_duplicate(b"a", answer)
    assert not guard.is_duplicate(b"a", answer)
    assert guard.is_duplicate(b"b", answer)
    refusal = HttpResponse(429, {}, b'{"error": "slow down"}')
    assert not guard.is_duplicate(b"a", refusal)
    assert not guard.is_duplicate(b"b", refusal)
    named = HttpResponse(400, {"x-request-id": "1"}, b'{"error": "too long"}')
    assert not guard.is_duplicate(b"a", named)
    assert guard.is_duplicate(b"b", named)
    guard.confirm(answer)
    assert not guard.is_duplicate(b"c", answer)


def test_duplicate_guard_compares_the_middle_of_bodies():
    guard, ends = DuplicateGuard(), b'"embedding"' + b" " * 20_000
    assert not guard.is_duplicate(b"a", HttpResponse(200, {}, ends + b"1" * 100 + ends))
    assert not guard.is_duplicate(b"b", HttpResponse(200, {}, ends + b"2" * 100 + ends))
    asked, other = b"1" * 50_000, b"1" * 25_000 + b"2" + b"1" * 24_999
    assert not guard.is_duplicate(asked, HttpResponse(200, {}, ends))
    assert guard.is_duplicate(other, HttpResponse(200, {}, ends))


def test_duplicate_is_counted_when_the_resend_fails():
    answers = []

    def answer(request):
        if len(server.requests) == 3:
            raise ConnectionResetError
        answers.append(openai_reply(request))
        return answers[0] if len(server.requests) == 2 else answers[-1]

    with scripted(answer) as server, no_waits():
        client = client_of(server)
        for text in ("a", "b"):
            assert_right(client.embed([text]), [text])
        assert client.usage.requests == len(server.requests)


def test_duplicate_and_its_resend_share_a_timeout():
    class Wire:
        sent: ClassVar = []

        async def send(self, request):
            self.sent.append(request)
            return HttpResponse(200, {}, b'{"data": [{"embedding": [1]}]}', 2.0)

    runtime = EmbeddingClient("gateway:m", api_key=KEY, base_url="https://shared.example")._runtime()
    runtime._transport = Wire()
    for body in (b"a", b"b"):
        asyncio.run(runtime.send(HttpRequest("", {}, body, 5.0, 100), None))
    assert [(request.body, request.timeout) for request in Wire.sent] == [(b"a", 5.0), (b"b", 5.0), (b"b", 3.0)]


FAILURES = {
    "empty": Reply(b""),
    "broken": Reply(b'{"data": [{"index": 0, "embed'),
    "no vectors": Reply({"data": []}),
    "500": Reply({"error": {"message": "failed"}}, 500, {"x-request-id": "always the same"}),
    "429": Reply({"error": {"message": "slow down"}}, 429, {"x-request-id": "always the same"}),
}


@pytest.mark.parametrize(
    ("how", "max_retries", "call"),
    [
        (how, max_retries, WAYS[way])
        for n, how in enumerate(FAILURES)
        for m, max_retries in enumerate([0, 1, 5, 8])
        for way in [list(WAYS)[(n + m) % 4], list(WAYS)[(n + m + 1) % 4]]
    ],
)
def test_equal_failures_take_no_more_than_the_retries(call, how, max_retries):
    """An answer that came before, and is retried anyway, is not asked for once more. Each failure meets each way."""
    with scripted(lambda _: FAILURES[how]) as server, no_waits(), pytest.raises(MultiEmbedError):
        call(client_of(server, max_retries=max_retries), TEXTS[:10])
    assert len(server.requests) == 1 + max_retries


def test_response_of_another_model_is_rejected(call):
    def answer(request):
        model = "fallback" if "text 25" in request.texts else "m"
        return openai_reply(request, model=model)

    with scripted(answer) as server, no_waits(), pytest.raises(PartialFailureError) as caught:
        call(client_of(server, max_concurrency=1), TEXTS)
    assert set(caught.value.failures) == set(range(20, 30))
    error = caught.value.failures[25]
    assert isinstance(error, MalformedResponseError)
    assert "'fallback'" in str(error)
    assert "'m'" in str(error)
    assert_right(caught.value.result, TEXTS, but=range(20, 30))


def test_response_of_another_model_is_retried(call):
    def answer(request):
        return openai_reply(request, model="fallback" if len(server.requests) == 2 else "m")

    with scripted(answer) as server, no_waits():
        assert_right(call(client_of(server), TEXTS), TEXTS)


# ── response formats ────────────────────────────────────────────────────────────────────────────


def without_index(request):
    right = openai_reply(request)
    for item in right.body["data"]:
        del item["index"]
    return right


def null_index(request):
    right = openai_reply(request)
    for item in right.body["data"]:
        item["index"] = None
    return right


def one_based(request):
    right = openai_reply(request)
    for item in right.body["data"]:
        item["index"] += 1
    return right


def nested(request):
    right = openai_reply(request)
    for item in right.body["data"]:
        item["embedding"] = [item["embedding"]]
    return right


def html(request):
    return Reply(f"<html><title>Login</title>{len(request.texts)}</html>".encode())


@pytest.mark.parametrize("form", [without_index, null_index])
def test_single_vector_needs_no_index(call, form):
    with scripted(form) as server:
        assert call(client_of(server), ["text"]).vectors.tolist() == [vector_of("text")]


@pytest.mark.parametrize("form", [without_index, null_index, one_based, nested, html])
@pytest.mark.parametrize("count", [2, 200])
def test_format_error_is_retried_once(call, form, count):
    texts = [f"text {number}" for number in range(count)]
    with scripted(form) as server, no_waits(), pytest.raises(MalformedResponseError):
        call(client_of(server, max_concurrency=1), texts)
    assert len(server.requests) <= 4


@pytest.mark.parametrize("form", [one_based, nested, html])
def test_format_error_of_one_text_is_retried_once(call, form):
    with scripted(form) as server, no_waits(), pytest.raises(MalformedResponseError):
        call(client_of(server), ["text"])
    assert len(server.requests) == 2


def test_response_without_vectors_is_retried():
    """Unlike a failure of form, it may be complete the next time."""
    driver = FlowDriver(max_retries=3)
    short = always(reply(200, {"data": []}))
    assert driver.run(["a"], [short, short, short, good]).failures == {}


def test_byte_order_mark_is_accepted(call):
    def answer(request):
        return Reply(b"\xef\xbb\xbf" + json.dumps(openai_reply(request).body).encode())

    with scripted(answer) as server:
        assert_right(call(client_of(server), TEXTS), TEXTS)
