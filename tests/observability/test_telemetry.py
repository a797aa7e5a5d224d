"""Span events and metrics of OpenTelemetry."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from support.scripted_server import Reply, openai_reply, scripted

from multiembed import EmbeddingClient, MultiEmbedError, no_waits
from multiembed.observability import tracing

NUMBERS = itertools.count()
LABELS = {
    "gen_ai.operation.name": "embeddings",
    "gen_ai.provider.name": "gateway",
    "gen_ai.request.model": "m",
}


@pytest.fixture
def telemetry(monkeypatch):
    """The ended spans and the metrics, as a program that sets OpenTelemetry up gets them."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider(metric_readers=[reader])
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", tracers.get_tracer)
    monkeypatch.setattr("opentelemetry.metrics.get_meter", meters.get_meter)
    tracing.tracer.cache_clear()
    tracing.meters.cache_clear()
    yield spans, reader
    meters.shutdown()
    tracing.tracer.cache_clear()
    tracing.meters.cache_clear()


def points(reader):
    """Of each metric, its unit and its points by their attributes."""
    data = reader.get_metrics_data()
    return {
        metric.name: (
            metric.unit,
            {tuple(sorted(point.attributes.items())): point for point in metric.data.data_points},
        )
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def labels(**more):
    return tuple(sorted({**LABELS, **{name.replace("__", "."): value for name, value in more.items()}}.items()))


@pytest.fixture(params=["sync", "async"])
def embed(request):
    """`embed(answer, texts, times=1)`: calls against a server that answers so."""

    def run(answer, texts, times=1):
        with scripted(answer) as server, no_waits():
            client = EmbeddingClient("gateway:m", api_key=f"sk-measured-{next(NUMBERS)}", base_url=server.url)
            for _ in range(times):
                with suppress(MultiEmbedError):
                    client.embed(texts) if request.param == "sync" else asyncio.run(client.aembed(texts))

    return run


def test_calls_requests_and_tokens_are_metrics(telemetry, embed):
    embed(openai_reply, [f"text {number}" for number in range(25)], times=2)
    found = points(telemetry[1])
    unit, seconds = found["gen_ai.client.operation.duration"]
    assert (unit, seconds[labels()].count) == ("s", 2)
    unit, tokens = found["gen_ai.client.token.usage"]
    assert (unit, tokens[labels(gen_ai__token__type="input")].sum) == ("{token}", 50)
    assert found["multiembed.requests"][1][labels()].value == 6
    assert found["multiembed.retries"][1][labels()].value == 0
    assert found["multiembed.cached_texts"][1][labels()].value == 0


def test_failed_call_is_measured_with_its_error(telemetry, embed):
    embed(lambda _: Reply({"error": {"message": "wrong key"}}, 401), ["text"])
    _, seconds = points(telemetry[1])["gen_ai.client.operation.duration"]
    assert seconds[labels(error__type="AuthenticationError")].count == 1


def test_retries_are_events_of_the_span(telemetry, embed):
    answers = iter([Reply(b"", 503), Reply({"error": {"message": "slow down"}}, 429)])
    embed(lambda request: next(answers, openai_reply(request)), ["text"])
    (span,) = telemetry[0].get_finished_spans()
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        (
            "multiembed.retry",
            {"error.type": "server", "http.response.status_code": 503, "multiembed.delay": 0.0},
        ),
        (
            "multiembed.retry",
            {"error.type": "rate_limit", "http.response.status_code": 429, "multiembed.delay": 0.0},
        ),
    ]
    assert points(telemetry[1])["multiembed.retries"][1][labels()].value == 2


def test_batch_that_is_halved_is_an_event_of_the_span(telemetry, embed):
    def answer(request):
        return Reply(b"", 500) if "text 3" in request.texts else openai_reply(request)

    embed(answer, [f"text {number}" for number in range(40)])
    (span,) = telemetry[0].get_finished_spans()
    assert [dict(event.attributes) for event in span.events if event.name == "multiembed.halved"] == [
        {"multiembed.texts": 10}
    ]
