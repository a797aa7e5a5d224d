"""A generic AI gateway: POST {base_url}/api/v1/embeddings, any model, limits unknown.

The gateway's page documents the request and an envelope {success, code, message, data}; its example of `data` is a
resource record (id, name, status, createTime) without vectors. Gateways that work put an OpenAI list there, or answer
with a bare one, so both are read and the documented record is an error that says what it is.
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

# Nothing is known of what stands behind a gateway: small batches, any dimensions, and no base64 unless asked for.
_UNKNOWN = ModelInfo(
    name="",
    limits=Limits(max_items=10),
    dimensions=None,
    default_dimensions=None,
    source="the gateway's page",
    checked="2026-11-01",
)


def _encode(request: EncodeInput) -> dict[str, Any]:
    """The OpenAI form with `encoding_format`, and extra parameters in an object of their own."""
    parameters = {"parameters": dict(request.parameters)} if request.parameters else {}
    return openai_format.encode(replace(request, parameters=parameters), encoding=request.encoding or "float")


def _decode(payload: Mapping[str, Any]) -> DecodedResponse:
    """An OpenAI list, bare or inside `data`."""
    data = payload.get("data")
    inner = data if isinstance(data, dict) else payload
    if not isinstance(inner.get("data"), list):
        record = {key: inner.get(key) for key in ("id", "status") if inner.get(key) is not None}
        raise ValueError(
            f"the reply holds no vectors, only a record ({', '.join(f'{k}: {v}' for k, v in record.items())})"
            if record
            else "the reply holds no vectors"
        )
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
