"""Usage and statistics for every way to embed, and their events in LangChain, LlamaIndex and OpenTelemetry."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.runnables import RunnableLambda
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.storage.kvstore import SimpleKVStore
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.adapters import ALL_ENTRY_POINTS, ASYNC_ENTRY_POINTS, DASHSCOPE, call, client_of, options_for, texts_of

from langchain_multiembed import MultiEmbeddings
from langchain_multiembed.events import EVENT
from llamaindex_multiembed import MultiEmbedding
from llamaindex_multiembed.events import EmbeddingUsageEvent
from multiembed import (
    AuthenticationError,
    ContentRejectedError,
    EmbeddingClient,
    MultiEmbedError,
    PartialFailureError,
    Usage,
    no_waits,
)
from multiembed.execution.runtime import account_id
from multiembed.observability import tracing
from multiembed.observability.stats import StatsCollector
from multiembed.providers.local import embed
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.ratelimit.registry import limiter_for
from multiembed.simulator.messages import Answer

PRICES = {
    "dashscope:text-embedding-v4": 0.5,
    "zhipu:embedding-3": 0.5,
    "siliconflow:BAAI/bge-m3": 0.0,
    "gateway:any-model": None,
}
"""CNY for a million tokens."""
PER_REQUEST = 10
"""Texts in one of DashScope's requests."""


@pytest.fixture(params=ALL_ENTRY_POINTS.values(), ids=ALL_ENTRY_POINTS.keys())
def any_entry_point(request):
    """All ways to embed, streams among them."""
    return request.param


@pytest.fixture
def options(simulator):
    return options_for(simulator)


@pytest.fixture
def at_once():
    """No wait between attempts."""
    with no_waits():
        yield


def billed(simulator):
    """Tokens that the server counted."""
    return sum(arrival.tokens for arrival in simulator.arrivals if arrival.accepted)


# ── usage and cost ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", PRICES)
def test_usage_is_the_billed_tokens_and_cost_their_price(simulator, model, any_entry_point):
    embedder = any_entry_point.make(model, **options_for(simulator, model))
    for turn in range(1, 3):
        call(any_entry_point.embed, embedder, texts_of(70, f"turn {turn}"))
        usage = client_of(embedder).usage
        assert usage.total_tokens == billed(simulator) > 0
        assert usage.requests == len(simulator.requests) >= turn
        price = PRICES[model]
        assert usage.cost == (None if price is None else pytest.approx(usage.total_tokens * price / 1e6))


def _without_usage(_, answer):
    body = json.loads(answer.body)
    del body["usage"]
    return Answer(answer.status, answer.headers, json.dumps(body).encode())


def test_usage_missing_in_one_response_makes_the_total_unknown(simulator, options, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    simulator.fail(_without_usage, times=1)
    call(any_entry_point.embed, embedder, texts_of(25))
    call(any_entry_point.embed, embedder, texts_of(25, "later"))
    client = client_of(embedder)
    assert (client.usage.total_tokens, client.usage.cost) == (None, None)
    assert (client.report.total_tokens, client.report.cost) == (None, None)
    assert client.usage.requests == len(simulator.requests) == 6


def test_local_provider_costs_nothing(any_entry_point):
    embedder = any_entry_point.make("local:char-ngrams", dimensions=64)
    call(any_entry_point.embed, embedder, texts_of(50))
    assert client_of(embedder).usage == Usage()
    assert client_of(embedder).report.texts == 50
    assert client_of(embedder).report.p50 is None


def test_cached_texts_cost_nothing_and_are_counted(simulator, options, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, cache=InMemoryByteStore(), **options)
    texts = [*texts_of(30), *texts_of(5)]
    call(any_entry_point.embed, embedder, texts)
    paid = client_of(embedder).usage
    call(any_entry_point.embed, embedder, texts)
    assert client_of(embedder).usage == replace(paid, cached_texts=35)
    report = client_of(embedder).report
    assert (report.texts, report.cached_texts, report.failed_texts) == (70, 35, 0)
    assert report.requests == len(simulator.requests) == 3


def test_result_holds_the_usage_of_its_own_call(simulator, options):
    client = EmbeddingClient(DASHSCOPE, cache=InMemoryByteStore(), **options)
    first, second = client.embed(texts_of(30)).usage, client.embed(texts_of(40)).usage
    assert (first.requests, first.cached_texts) == (3, 0)
    assert (second.requests, second.cached_texts) == (1, 30)
    assert first + second == client.usage
    assert client.usage.total_tokens == billed(simulator)


# ── statistics ───────────────────────────────────────────────────────────────────────────────────


def test_stats_hold_all_that_usage_holds(options, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    call(any_entry_point.embed, embedder, texts_of(25))
    client = client_of(embedder)
    report = asdict(client.stats)
    assert client.report == client.stats
    assert {name: value for name, value in report.items() if name in asdict(client.usage)} == asdict(client.usage)
    assert 0.0 < report["p50"] <= report["p99"] < 60.0


@pytest.mark.usefixtures("at_once")
def test_retries_are_requests_and_each_text_is_billed_once(simulator, options, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    call(any_entry_point.embed, embedder, ["the account is known"])
    simulator.clear()
    before = client_of(embedder).usage
    simulator.fail("server-error", times=2)
    call(any_entry_point.embed, embedder, texts_of(40))
    report = client_of(embedder).report
    assert (report.retries, report.rate_errors, report.failed_texts) == (2, 0, 0)
    assert report.requests - before.requests == len(simulator.requests) == 6
    good = [request.body["input"]["texts"] for request in simulator.requests if request.status == 200]
    assert sorted(text for texts in good for text in texts) == sorted(texts_of(40))
    reference = EmbeddingClient(DASHSCOPE, **options).embed(texts_of(40)).usage
    assert report.total_tokens - before.total_tokens == reference.total_tokens


@pytest.mark.usefixtures("at_once")
def test_rate_errors_are_counted_and_fail_no_text(simulator, options, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **{**options, "max_concurrency": 2})
    call(any_entry_point.embed, embedder, ["the account is known"])
    simulator.fail("rate-limit", times=3)
    call(any_entry_point.embed, embedder, texts_of(40))
    report = client_of(embedder).report
    assert report.rate_errors == 3
    assert (report.texts, report.failed_texts) == (41, 0)
    assert report.requests == len(simulator.requests) == 1 + 4 + 3


def test_failed_text_is_counted_and_the_others_are_billed(simulator, options, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    texts = texts_of(30)
    texts[17] = "this is MODERATED"
    simulator.fail("moderated")
    with pytest.raises(PartialFailureError) as caught:
        call(any_entry_point.embed, embedder, texts)
    simulator.heal()
    client = client_of(embedder)
    assert isinstance(caught.value.failures[17], ContentRejectedError)
    assert (client.report.texts, client.report.failed_texts) == (30, 1)
    assert client.usage == caught.value.result.usage
    assert client.usage.requests == len(simulator.requests) > 3
    good = [request.body["input"]["texts"] for request in simulator.requests if request.status == 200]
    reference = EmbeddingClient(DASHSCOPE, **options).embed([text for texts in good for text in texts]).usage
    assert client.usage.total_tokens == reference.total_tokens


def test_failed_call_counts_all_its_texts_as_failed(simulator, options, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **{**options, "api_key": "sk-wrong"})
    with pytest.raises(AuthenticationError):
        call(any_entry_point.embed, embedder, texts_of(30))
    report = client_of(embedder).report
    assert report.texts == report.failed_texts == 30
    assert (report.requests, report.total_tokens, report.cost) == (len(simulator.requests), 0, 0.0) == (1, 0, 0.0)


def test_blank_text_of_a_stream_is_a_failed_text(options):
    client = EmbeddingClient(DASHSCOPE, **options)
    list(client.stream(["one", "", "three"], on_error="keep"))
    assert (client.report.texts, client.report.failed_texts) == (3, 1)


def test_calls_at_the_same_time_add_up(simulator, options, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: call(any_entry_point.embed, embedder, texts_of(30, f"{number}")), range(6)))
    report = client_of(embedder).report
    assert (report.texts, report.failed_texts) == (180, 0)
    assert report.requests == len(simulator.requests) == 18
    assert report.total_tokens == billed(simulator)


@given(st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=60))
def test_latency_quantiles_are_right_within_one_percent(seconds):
    stats = StatsCollector()
    stats.add(Usage(), seconds=seconds)
    report = stats.snapshot()
    assert report.p50 == pytest.approx(np.quantile(seconds, 0.50, method="inverted_cdf"), rel=0.01)
    assert report.p99 == pytest.approx(np.quantile(seconds, 0.99, method="inverted_cdf"), rel=0.01)


# ── interrupted calls ────────────────────────────────────────────────────────────────────────────


class Interrupting:
    """Server that sends Ctrl-C while two requests are in flight, and answers them later."""

    def __init__(self):
        self.resume = threading.Event()
        self.received = 0
        self.armed = False

    def __call__(self, request):
        texts = json.loads(request.content)["input"]["texts"]
        if self.armed:
            self.received += 1
            if self.received == 2:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert self.resume.wait(30)
        rows = [{"text_index": index, "embedding": row} for index, row in enumerate(embed(texts, 1024).tolist())]
        return httpx.Response(200, json={"output": {"embeddings": rows}, "usage": {"total_tokens": 7}})


def wait_until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_requests_in_flight_at_ctrl_c_are_counted_and_cached(options):
    answers, kept = Interrupting(), InMemoryByteStore()
    with httpx.Client(transport=httpx.MockTransport(answers)) as mine:
        client = EmbeddingClient(DASHSCOPE, max_concurrency=2, cache=kept, http_client=mine, **options)
        client.embed(["the account is known"])
        answers.armed = True
        with pytest.raises(KeyboardInterrupt):
            client.embed(texts_of(60))
        assert client.usage.total_tokens == 7
        answers.resume.set()
        assert wait_until(lambda: not client.pending)
    assert answers.received == 2
    assert client.usage.requests == 1 + 2
    assert client.usage.total_tokens == 21
    assert client.report.texts == 1 + 2 * PER_REQUEST
    assert len(list(kept.yield_keys())) == 1 + 2 * PER_REQUEST


@pytest.mark.parametrize("entry_point", ASYNC_ENTRY_POINTS.values(), ids=ASYNC_ENTRY_POINTS)
async def test_requests_of_a_cancelled_task_are_counted(options, entry_point):
    received, four = [], asyncio.Event()

    async def hold(request):
        received.append(request)
        if len(received) == 4:
            four.set()
        await asyncio.Event().wait()

    async with httpx.AsyncClient(transport=httpx.MockTransport(hold)) as mine:
        embedder = entry_point.make(DASHSCOPE, max_concurrency=4, http_async_client=mine, **options)
        limiter_for(account_id(client_of(embedder).target)).permit(AccountLimits()).report_success()
        tasks = [asyncio.create_task(entry_point.embed(embedder, [f"text {number}"])) for number in range(6)]
        async with asyncio.timeout(30):
            await four.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert client_of(embedder).usage == Usage(requests=4)


# ── LangChain's custom event ─────────────────────────────────────────────────────────────────────


METHODS = {
    "embed_documents": ["a secret text", "another"],
    "aembed_documents": ["a secret text", "another"],
    "embed_query": "a secret text",
    "aembed_query": "a secret text",
}


class Listener(BaseCallbackHandler):
    """Keeps the custom events of its runs, and raises an error if it has one."""

    raise_error = True

    def __init__(self, raises=None):
        self.seen = []
        self._raises = raises

    def on_custom_event(self, name, data, **_):
        self.seen.append((name, data))
        if self._raises is not None:
            raise self._raises


class AsyncListener(AsyncCallbackHandler):
    raise_error = True

    def __init__(self, raises=None):
        self.seen = []
        self._raises = raises

    async def on_custom_event(self, name, data, **_):
        await asyncio.sleep(0)
        self.seen.append((name, data))
        if self._raises is not None:
            raise self._raises


def in_a_chain(embeddings, method, listener):
    """Result of a method within the run of a chain."""
    config = {"callbacks": [listener]}
    if not method.startswith("a"):
        return RunnableLambda(getattr(embeddings, method)).invoke(METHODS[method], config)
    return asyncio.run(RunnableLambda(getattr(embeddings, method)).ainvoke(METHODS[method], config))


@pytest.mark.parametrize("make", [Listener, AsyncListener])
@pytest.mark.parametrize("method", METHODS)
def test_langchain_run_gets_the_usage_of_each_call(simulator, options, method, make):
    embeddings, listener = MultiEmbeddings(model=DASHSCOPE, **options), make()
    vectors = in_a_chain(embeddings, method, listener)
    assert np.array_equal(
        np.array(vectors, np.float32), embed(_listed(METHODS[method]), 1024).reshape(np.shape(vectors))
    )
    tokens = billed(simulator)
    assert listener.seen == [
        (
            EVENT,
            {
                "model": DASHSCOPE,
                "texts": len(_listed(METHODS[method])),
                "cached_texts": 0,
                "total_tokens": tokens,
                "requests": 1,
                "retries": 0,
                "cost_cny": pytest.approx(tokens * 0.5 / 1e6),
            },
        )
    ]
    sent = json.dumps(listener.seen)
    assert "secret" not in sent
    assert options["api_key"] not in sent


def _listed(texts):
    return [texts] if isinstance(texts, str) else texts


def test_usage_event_counts_cached_texts(options):
    embeddings = MultiEmbeddings(model=DASHSCOPE, cache=InMemoryByteStore(), **options)
    first, second = Listener(), Listener()
    in_a_chain(embeddings, "embed_documents", first)
    in_a_chain(embeddings, "embed_documents", second)
    [(_, data)] = second.seen
    assert (data["texts"], data["cached_texts"], data["requests"], data["total_tokens"]) == (2, 2, 0, 0)


def test_retriever_in_a_chain_sends_the_usage_event(options):
    embeddings, listener = MultiEmbeddings(model=DASHSCOPE, **options), Listener()
    retriever = InMemoryVectorStore.from_texts(["one", "two"], embeddings).as_retriever(search_kwargs={"k": 1})
    (RunnableLambda(str) | retriever).invoke("one", {"callbacks": [listener]})
    assert [(name, data["texts"]) for name, data in listener.seen] == [(EVENT, 1)]


@pytest.mark.parametrize("make", [Listener, AsyncListener])
@pytest.mark.parametrize("raises", [ValueError("of the callback"), RuntimeError("of the callback")], ids=repr)
@pytest.mark.parametrize("method", METHODS)
def test_callback_that_raises_loses_no_vector(options, method, make, raises, caplog):
    listener = make(raises)
    with caplog.at_level(logging.WARNING):
        vectors = in_a_chain(MultiEmbeddings(model=DASHSCOPE, **options), method, listener)
    assert np.shape(vectors)[-1] == 1024
    assert len(listener.seen) == 1
    assert "of the callback" in caplog.text


@pytest.mark.parametrize("config", [{}, {"callbacks": []}, {"callbacks": None}])
def test_no_event_is_sent_outside_of_a_run(options, caplog, config):
    embeddings = MultiEmbeddings(model=DASHSCOPE, **options)
    config_module = pytest.importorskip("langchain_core.runnables.config")
    if not hasattr(config_module, "set_config_context"):
        pytest.skip("this langchain-core cannot set a config without a runnable")
    with config_module.set_config_context(config) as context:
        for method, texts in METHODS.items():
            assert np.shape(context.run(call, getattr(embeddings, method), texts))[-1] == 1024
    assert caplog.records == []


# ── LlamaIndex's instrumentation ─────────────────────────────────────────────────────────────────


class Events(BaseEventHandler):
    """Keeps the usage events."""

    seen: list[EmbeddingUsageEvent] = []  # noqa: RUF012 - a pydantic field, copied for each instance
    raises: bool = False

    @classmethod
    def class_name(cls):
        return "Events"

    def handle(self, event, **_):
        if isinstance(event, EmbeddingUsageEvent):
            self.seen.append(event)
            if self.raises:
                raise ValueError


@pytest.fixture
def events():
    dispatcher, handler = get_dispatcher(), Events()
    dispatcher.add_event_handler(handler)
    yield handler
    dispatcher.event_handlers.remove(handler)


LLAMA_METHODS = {
    "get_query_embedding": "a secret text",
    "aget_query_embedding": "a secret text",
    "get_text_embedding": "a secret text",
    "aget_text_embedding": "a secret text",
    "get_text_embedding_batch": ["a secret text", "another"],
    "aget_text_embedding_batch": ["a secret text", "another"],
}


@pytest.mark.parametrize("raises", [False, True], ids=["a handler", "a handler that raises"])
@pytest.mark.parametrize("method", LLAMA_METHODS)
def test_llamaindex_gets_the_usage_of_each_call(simulator, options, events, method, raises):
    events.raises = raises
    texts = LLAMA_METHODS[method]
    vectors = call(getattr(MultiEmbedding(model_name=DASHSCOPE, **options), method), texts)
    assert np.shape(vectors)[-1] == 1024
    [event] = events.seen
    tokens = billed(simulator)
    assert (event.model, event.texts, event.cached_texts) == (DASHSCOPE, len(_listed(texts)), 0)
    assert (event.requests, event.retries, event.total_tokens) == (1, 0, tokens)
    assert event.cost_cny == pytest.approx(tokens * 0.5 / 1e6)
    sent = event.model_dump_json()
    assert "secret" not in sent
    assert options["api_key"] not in sent


@pytest.mark.parametrize("method", LLAMA_METHODS)
def test_usage_event_counts_texts_of_our_cache_only(options, events, method):
    ours = MultiEmbedding(model_name=DASHSCOPE, cache=SimpleKVStore(), **options)
    theirs = MultiEmbedding(model_name=DASHSCOPE, embeddings_cache=SimpleKVStore(), **options)
    texts = LLAMA_METHODS[method]
    for embedding, expected in ((ours, [0, len(_listed(texts))]), (theirs, [0])):
        events.seen.clear()
        for _ in range(2):
            call(getattr(embedding, method), texts)
        assert [event.cached_texts for event in events.seen] == expected


def test_windows_of_one_call_are_one_event(options, events):
    embedding = MultiEmbedding(model_name=DASHSCOPE, embed_batch_size=20, **options)
    embedding.get_text_embedding_batch(texts_of(70))
    assert [(event.texts, event.requests) for event in events.seen] == [(70, 7)]


# ── OpenTelemetry's span ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def provider(monkeypatch):
    """OpenTelemetry's tracer provider; `spans()` are those that have ended."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.spans = exporter.get_finished_spans
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
    tracing.tracer.cache_clear()
    yield provider
    tracing.tracer.cache_clear()


def test_call_is_one_span_by_the_conventions(simulator, options, provider, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, dimensions=64, **options)
    call(any_entry_point.embed, embedder, texts_of(25, "secret"))
    [span] = provider.spans()
    assert (span.name, span.kind, span.status.status_code) == (
        "embeddings text-embedding-v4",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    address = httpx.URL(simulator.url)
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "dashscope",
        "gen_ai.request.model": "text-embedding-v4",
        "gen_ai.embeddings.dimension.count": 64,
        "gen_ai.usage.input_tokens": billed(simulator),
        "server.address": address.host,
        "server.port": address.port,
        "multiembed.role": "document",
        "multiembed.requests": 3,
        "multiembed.retries": 0,
        "multiembed.cached_texts": 0,
    }
    assert "secret" not in span.to_json()
    assert options["api_key"] not in span.to_json()


@pytest.mark.parametrize(("base_url", "port"), [("http://127.0.0.1/v1", 80), ("https://a.example/v1", 443)])
def test_span_has_the_default_port_of_the_address(provider, base_url, port):
    answers = httpx.MockTransport(lambda _: httpx.Response(401, json={"error": {"message": "no"}}))
    with httpx.Client(transport=answers) as mine:
        client = EmbeddingClient("gateway:m", api_key="sk-any", base_url=base_url, http_client=mine)
        with pytest.raises(AuthenticationError):
            client.embed(["text"])
    assert provider.spans()[0].attributes["server.port"] == port


def test_span_has_the_current_span_as_parent(options, provider, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    with provider.get_tracer("a program").start_as_current_span("its own") as outer:
        call(any_entry_point.embed, embedder, ["text"])
    inner, _ = provider.spans()
    assert inner.parent.span_id == outer.get_span_context().span_id


@pytest.mark.usefixtures("at_once")
def test_one_span_covers_all_retries(simulator, options, provider, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    simulator.fail("server-error", times=2)
    call(any_entry_point.embed, embedder, ["text"])
    [span] = provider.spans()
    assert (span.attributes["multiembed.requests"], span.attributes["multiembed.retries"]) == (3, 2)
    assert span.status.status_code is StatusCode.UNSET


def _repeating(request, _):
    """Response 400 that repeats the text and, in a header, the key."""
    body = {"code": "InvalidParameter", "message": f"{request.body} {request.headers['authorization']}"}
    return Answer(400, (("x-request-id", request.headers["authorization"]),), json.dumps(body).encode())


def test_span_has_type_and_status_of_the_error_but_no_message(simulator, options, provider, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    simulator.fail(_repeating)
    with pytest.raises(MultiEmbedError) as caught:
        call(any_entry_point.embed, embedder, ["a secret text"])
    assert "a secret text" in str(caught.value)
    [span] = provider.spans()
    assert span.attributes["error.type"] == type(caught.value).__name__ == "InvalidRequestError"
    assert span.attributes["http.response.status_code"] == 400
    assert span.status.status_code is StatusCode.ERROR
    assert "refused" in span.status.description
    assert "secret" not in span.to_json()
    assert options["api_key"] not in span.to_json()


def test_span_of_a_partial_failure_has_error_and_usage(simulator, options, provider, any_entry_point):
    embedder = any_entry_point.make(DASHSCOPE, **options)
    simulator.fail("moderated")
    with pytest.raises(PartialFailureError):
        call(any_entry_point.embed, embedder, ["one", "this is MODERATED", "three"])
    [span] = provider.spans()
    assert span.attributes["error.type"] == "PartialFailureError"
    assert span.attributes["gen_ai.usage.input_tokens"] == client_of(embedder).usage.total_tokens > 0
    assert "MODERATED" not in span.to_json()


@pytest.mark.parametrize("entry_point", ASYNC_ENTRY_POINTS.values(), ids=ASYNC_ENTRY_POINTS)
async def test_cancelled_call_ends_its_span_with_an_error(options, provider, entry_point):
    sending = asyncio.Event()

    async def hold(_):
        sending.set()
        await asyncio.Event().wait()

    async with httpx.AsyncClient(transport=httpx.MockTransport(hold)) as mine:
        embedder = entry_point.make(DASHSCOPE, http_async_client=mine, **options)
        task = asyncio.create_task(entry_point.embed(embedder, ["text"]))
        await sending.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    [span] = provider.spans()
    assert (span.attributes["error.type"], span.status.status_code) == ("CancelledError", StatusCode.ERROR)


def test_stream_closed_early_ends_its_span_without_an_error(options, provider):
    client = EmbeddingClient(DASHSCOPE, **options)
    with closing(client.stream(iter(texts_of(1500)))) as stream:
        next(stream)
        assert provider.spans() == ()
    [span] = provider.spans()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["gen_ai.usage.input_tokens"] > 0


def test_calls_work_without_opentelemetry(monkeypatch, options, any_entry_point):
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    tracing.tracer.cache_clear()
    try:
        assert len(call(any_entry_point.embed, any_entry_point.make(DASHSCOPE, **options), ["text"])) == 1
        assert tracing.tracer() is None
    finally:
        tracing.tracer.cache_clear()
