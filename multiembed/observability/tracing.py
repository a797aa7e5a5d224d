"""Tracing and metrics: a span for each call, by OpenTelemetry's conventions for GenAI clients, where it is installed.

One span covers the whole call with all its requests and retries, as the conventions ask
(https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/client-embeddings.md, read 2026-11-21). It
holds no text, no key, and no message of a provider, which may repeat either.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from multiembed.errors import MultiEmbedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.config.request_config import RequestConfig
    from multiembed.types import Role, Usage


class Span:
    """Span and metrics of one call; it does nothing where OpenTelemetry is not installed."""

    def __init__(self, config: RequestConfig, role: Role) -> None:
        self._span: Any = None
        self._labels = {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": config.provider.id,
            "gen_ai.request.model": config.model.name,
        }
        if (otel_tracer := tracer()) is None:
            return
        from opentelemetry.trace import SpanKind

        url = urlsplit(config.url)
        attributes = {
            **self._labels,
            "gen_ai.embeddings.dimension.count": config.expected_dimensions,
            "server.address": url.hostname,
            "server.port": url.port or {"http": 80, "https": 443}.get(url.scheme),
            "multiembed.role": role,
        }
        name = f"embeddings {config.model.name}"
        self._span = otel_tracer.start_span(name, kind=SpanKind.CLIENT, attributes=_without_none(attributes))

    def event(self, name: str, **attributes: str | float | None) -> None:
        """Add an event. Two underscores in an attribute's name stand for a dot; None is left out."""
        if self._span is not None:
            dotted = {key.replace("__", "."): value for key, value in attributes.items()}
            self._span.add_event(f"multiembed.{name}", _without_none(dotted))

    def end(self, usage: Usage, error: BaseException | None, seconds: float) -> None:
        """End the span, and record the metrics of the call."""
        labels, metrics = self._labels, meters()
        failed = {} if error is None else {"error.type": type(error).__qualname__}
        if metrics is not None:
            metrics["seconds"].record(seconds, {**labels, **failed})
            if usage.total_tokens:
                metrics["tokens"].record(usage.total_tokens, {**labels, "gen_ai.token.type": "input"})
            for name in ("requests", "retries", "cached_texts"):
                metrics[name].add(getattr(usage, name), labels)
        if self._span is None:
            return
        attributes = {
            "gen_ai.usage.input_tokens": usage.total_tokens,
            "multiembed.requests": usage.requests,
            "multiembed.retries": usage.retries,
            "multiembed.cached_texts": usage.cached_texts,
            "http.response.status_code": error.status if isinstance(error, MultiEmbedError) else None,
            **failed,
        }
        self._span.set_attributes(_without_none(attributes))
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            # The error's own message may repeat the provider's, so the docstring of its class describes it.
            description = (type(error).__doc__ or "").partition("\n")[0] if isinstance(error, MultiEmbedError) else None
            self._span.set_status(Status(StatusCode.ERROR, description))
        self._span.end()


def _without_none(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


@cache
def meters() -> Mapping[str, Any] | None:
    """Metrics of all calls in this process; None where OpenTelemetry is not installed.

    The first two are of the conventions for GenAI clients (docs/gen-ai/gen-ai-metrics.md, read 2026-11-28).
    """
    try:
        from opentelemetry.metrics import get_meter
    except ImportError:
        return None
    meter = get_meter("multiembed")
    return {
        "seconds": meter.create_histogram("gen_ai.client.operation.duration", "s", "Duration of a call"),
        "tokens": meter.create_histogram("gen_ai.client.token.usage", "{token}", "Tokens billed for a call"),
        "requests": meter.create_counter("multiembed.requests", "{request}", "Requests sent, retries among them"),
        "retries": meter.create_counter("multiembed.retries", "{request}", "Requests sent again"),
        "cached_texts": meter.create_counter("multiembed.cached_texts", "{text}", "Texts found in the cache"),
    }


@cache
def tracer() -> Any:
    """OpenTelemetry's tracer; None where it is not installed."""
    try:
        from opentelemetry.trace import get_tracer
    except ImportError:
        return None
    return get_tracer("multiembed")
