"""A span and metrics for each call, by OpenTelemetry's conventions for GenAI clients, where its API is installed.

One span covers the whole call with all its requests and retries, as the conventions ask
(https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai/client-embeddings.md, read 2026-11-21). It
holds no text and no key, and so none of a provider's words, which may repeat either.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from multiembed.errors import MultiEmbedError

if TYPE_CHECKING:
    from multiembed.config.request_config import RequestConfig
    from multiembed.types import Role, Usage


_PORTS = {"http": 80, "https": 443}


class Span:
    """One call's span; it does nothing where OpenTelemetry is not installed."""

    def __init__(self, target: RequestConfig, role: Role) -> None:
        made_by = tracer()
        self._span: Any = None
        self._labels = {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": target.provider.id,
            "gen_ai.request.model": target.model.name,
        }
        if made_by is None:
            return
        from opentelemetry.trace import SpanKind

        address = urlsplit(target.url)
        told = {
            **self._labels,
            "gen_ai.embeddings.dimension.count": target.expected_dimensions,
            "server.address": address.hostname,
            "server.port": address.port or _PORTS.get(address.scheme),
            "multiembed.role": role,
        }
        self._span = made_by.start_span(
            f"embeddings {target.model.name}",
            kind=SpanKind.CLIENT,
            attributes={name: value for name, value in told.items() if value is not None},
        )

    def event(self, name: str, **attributes: str | float | None) -> None:
        """Note a decision of the call, such as a retry, with its attributes; those that are None are left out.

        In names of attributes, two underscores stand for a dot.
        """
        if self._span is not None:
            told = {key.replace("__", "."): value for key, value in attributes.items() if value is not None}
            self._span.add_event(f"multiembed.{name}", told)

    def end(self, usage: Usage, error: BaseException | None, seconds: float) -> None:
        """End the call's span, and record its metrics.

        Args:
            usage: what the call cost.
            error: what it failed with.
            seconds: that it took.
        """
        instruments = meters()
        if instruments is not None:
            instruments.record(self._labels, usage, error, seconds)
        if self._span is None:
            return
        told = {
            "gen_ai.usage.input_tokens": usage.total_tokens,
            "multiembed.requests": usage.requests,
            "multiembed.retries": usage.retries,
            "multiembed.cached_texts": usage.cached_texts,
            "error.type": None if error is None else type(error).__qualname__,
            "http.response.status_code": error.status if isinstance(error, MultiEmbedError) else None,
        }
        self._span.set_attributes({name: value for name, value in told.items() if value is not None})
        if error is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, _meaning(error)))
        self._span.end()


def _meaning(error: BaseException) -> str | None:
    """What this kind of error means; what this one says may be the provider's words."""
    return (type(error).__doc__ or "").partition("\n")[0] if isinstance(error, MultiEmbedError) else None


class Meters:
    """The instruments of all calls in this process.

    Two are of the conventions for GenAI clients (docs/gen-ai/gen-ai-metrics.md, read 2026-11-28).
    """

    def __init__(self, meter: Any) -> None:
        self._seconds = meter.create_histogram("gen_ai.client.operation.duration", "s", "Duration of a call")
        self._tokens = meter.create_histogram("gen_ai.client.token.usage", "{token}", "Tokens billed for a call")
        self._requests = meter.create_counter("multiembed.requests", "{request}", "Requests sent, retries among them")
        self._retries = meter.create_counter("multiembed.retries", "{request}", "Requests sent again")
        self._cached = meter.create_counter("multiembed.cached_texts", "{text}", "Texts found in the cache")

    def record(self, labels: dict[str, str], usage: Usage, error: BaseException | None, seconds: float) -> None:
        """Record one call."""
        failed = labels if error is None else {**labels, "error.type": type(error).__qualname__}
        self._seconds.record(seconds, failed)
        if usage.total_tokens:
            self._tokens.record(usage.total_tokens, {**labels, "gen_ai.token.type": "input"})
        self._requests.add(usage.requests, labels)
        self._retries.add(usage.retries, labels)
        self._cached.add(usage.cached_texts, labels)


@cache
def meters() -> Meters | None:
    """The instruments; None where OpenTelemetry is not installed."""
    try:
        from opentelemetry.metrics import get_meter
    except ImportError:
        return None
    return Meters(get_meter("multiembed"))


@cache
def tracer() -> Any:
    """What makes spans; None where OpenTelemetry is not installed."""
    try:
        from opentelemetry.trace import get_tracer
    except ImportError:
        return None
    return get_tracer("multiembed")
