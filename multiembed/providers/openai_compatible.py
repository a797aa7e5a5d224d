"""Any server with OpenAI's embeddings API: vLLM, TEI, Ollama, LM Studio, LiteLLM, one-api, Azure, Ark and others.

Only what every such server takes is sent: `model` and `input`. `dimensions` and `encoding_format` go along when the
user asks for them, because some servers refuse them: vLLM refuses `dimensions` for models that are not trained for it
(https://github.com/vllm-project/vllm/pull/16331, read 2026-11-28).

Answers and refusals are read as those of gateways, which are the same with or without an envelope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiembed.providers import openai_format
from multiembed.providers.base import Provider
from multiembed.providers.gateway import GATEWAY
from multiembed.types import Limits, ModelInfo

if TYPE_CHECKING:
    from multiembed.providers.types import EncodeInput

_UNKNOWN = ModelInfo(
    name="",
    # 32 texts is the lowest default of a server's own limit (TEI, --max-client-batch-size:
    # https://huggingface.co/docs/text-embeddings-inference/cli_arguments). OpenAI, Azure and Infinity take 2,048,
    # vLLM and Ollama name no number. A gateway may pass requests on to a vendor that takes 10: its refusal names that,
    # and the number is learned.
    limits=Limits(max_items=32),
    dimensions=None,
    default_dimensions=None,
    source="https://platform.openai.com/docs/api-reference/embeddings/create",
    checked="2026-11-28",
)


def _encode(request: EncodeInput) -> dict[str, Any]:
    """The OpenAI form, with `encoding_format` where it was asked for."""
    return openai_format.encode(request, encoding=request.encoding)


OPENAI_COMPATIBLE = Provider(
    id="openai-compatible",
    title="OpenAI-compatible server",
    models=(),
    unknown=_UNKNOWN,
    address_hint=" For instance base_url='http://localhost:8000/v1'.",
    base_url_env=("OPENAI_COMPATIBLE_BASE_URL",),
    not_found_hint=" /embeddings is added to base_url unless it ends so; most servers want a base that ends in /v1.",
    key_env=("OPENAI_COMPATIBLE_API_KEY",),
    key_required=False,
    key_page="your server's page for API keys",
    refuses="empty",
    request_id_headers=("x-request-id", "apim-request-id", "x-litellm-call-id", "x-oneapi-request-id", "request-id"),
    encode=_encode,
    decode=GATEWAY.decode,
)
