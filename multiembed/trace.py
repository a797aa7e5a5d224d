"""A span for each call, by OpenTelemetry's conventions for GenAI clients, where its API is installed.

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
    from multiembed.records import Role, Usage
    from multiembed.target import Target


_PORTS = {"http": 80, "https": 443}


class Span:
    """One call's span; it does nothing where OpenTelemetry is not installed."""

    def __init__(self, target: Target, role: Role) -> None:
        made_by = tracer()
        self._span: Any = None
        if made_by is None:
            return
        from opentelemetry.trace import SpanKind

        address = urlsplit(target.url)
        told = {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": target.provider.id,
            "gen_ai.request.model": target.facts.name,
            "gen_ai.embeddings.dimension.count": target.expected_dimensions,
            "server.address": address.hostname,
            "server.port": address.port or _PORTS.get(address.scheme),
            "multiembed.role": role,
        }
        self._span = made_by.start_span(
            f"embeddings {target.facts.name}",
            kind=SpanKind.CLIENT,
            attributes={name: value for name, value in told.items() if value is not None},
        )

    def end(self, usage: Usage, error: BaseException | None) -> None:
        """The call is over, and cost so much; or it failed."""
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


@cache
def tracer() -> Any:
    """What makes spans; None where OpenTelemetry is not installed."""
    try:
        from opentelemetry.trace import get_tracer
    except ImportError:
        return None
    return get_tracer("multiembed")
