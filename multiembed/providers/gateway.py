"""A generic AI gateway: POST {base_url}/api/v1/embeddings, any model, limits unknown.

The gateway's page documents the request and an envelope {success, code, message, data}; its example of `data` is a
resource record (id, name, status, createTime) without vectors. Gateways that work put an OpenAI list there, or send
the bare list, so both are read, and the documented record is reported as an error.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from multiembed.providers import openai_format
from multiembed.providers.base import Provider
from multiembed.providers.error_body import text_of
from multiembed.providers.error_parsing import tokens_in
from multiembed.providers.types import DecodedResponse
from multiembed.types import Limits, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.providers.types import EncodeInput

# The server behind a gateway is unknown: small batches, any dimensions, and base64 only where it is asked for.
_UNKNOWN = ModelInfo(
    name="",
    limits=Limits(max_items=10),
    dimensions=None,
    default_dimensions=None,
    source="the gateway's page",
    checked="2026-11-01",
)


def _encode(request: EncodeInput) -> dict[str, Any]:
    """Write OpenAI's format, with extra parameters in an object of their own."""
    parameters = {"parameters": dict(request.parameters)} if request.parameters else {}
    return openai_format.encode_with_encoding(replace(request, parameters=parameters))


def _decode(payload: Mapping[str, Any]) -> DecodedResponse:
    """Read OpenAI's list, bare or inside `data`."""
    data = payload.get("data")
    inner = data if isinstance(data, dict) else payload
    if not isinstance(inner.get("data"), list):
        record = ", ".join(f"{key}: {inner[key]}" for key in ("id", "status") if inner.get(key) is not None)
        raise ValueError("the reply holds no vectors" + (f", only a record ({record})" if record else ""))
    total_tokens = tokens_in(inner)
    return DecodedResponse(
        items=openai_format.items_in(inner["data"]),
        total_tokens=tokens_in(payload) if total_tokens is None else total_tokens,
        request_id=text_of(payload.get("request_id")) or text_of(inner.get("id")),
        model=text_of(inner.get("model")) or text_of(payload.get("model")),
    )


GATEWAY = Provider(
    id="gateway",
    title="AI gateway",
    models=(),
    unknown=_UNKNOWN,
    base_url_env=("MULTIEMBED_GATEWAY_BASE_URL",),
    path="/api/v1/embeddings",
    not_found_hint=" gateway adds /api/v1/embeddings to base_url unless it ends in /embeddings; any other "
    "OpenAI-compatible server is reached by the provider openai-compatible.",
    key_env=("MULTIEMBED_GATEWAY_API_KEY",),
    key_page="your gateway's page for API keys",
    refuses="empty",
    request_id_headers=("x-request-id",),
    encode=_encode,
    decode=_decode,
)
