"""Any server with OpenAI's embeddings API: vLLM, TEI, Ollama, LM Studio, LiteLLM, one-api, Azure, Ark and others.

Requests hold only what every such server accepts: `model` and `input`. `dimensions` and `encoding_format` are added
when the user asks for them, because some servers refuse them: vLLM refuses `dimensions` for models that are not trained
for it (https://github.com/vllm-project/vllm/pull/16331, read 2026-11-28).

Responses are read as a gateway's, with or without an envelope.
"""

from __future__ import annotations

from multiembed.providers import openai_format
from multiembed.providers.base import Provider
from multiembed.providers.gateway import GATEWAY
from multiembed.types import Limits, ModelInfo

_UNKNOWN = ModelInfo(
    name="",
    # The lowest default limit of a server (TEI, --max-client-batch-size:
    # https://huggingface.co/docs/text-embeddings-inference/cli_arguments). OpenAI, Azure and Infinity take 2,048. Where
    # a gateway passes requests on to a vendor that takes 10, its error message names that, and the limit is learned.
    limits=Limits(max_items=32),
    dimensions=None,
    default_dimensions=None,
    source="https://platform.openai.com/docs/api-reference/embeddings/create",
    checked="2026-11-28",
)


OPENAI_COMPATIBLE = Provider(
    id="openai-compatible",
    title="OpenAI-compatible server",
    models=(),
    unknown=_UNKNOWN,
    address_hint=" For instance base_url='http://localhost:8000/v1'.",
    base_url_env=("OPENAI_COMPATIBLE_BASE_URL",),
    not_found_hint=" /embeddings is added to base_url unless it ends so; most servers need a base that ends in /v1.",
    key_env=("OPENAI_COMPATIBLE_API_KEY",),
    key_required=False,
    key_page="your server's page for API keys",
    refuses="empty",
    request_id_headers=("x-request-id", "apim-request-id", "x-litellm-call-id", "x-oneapi-request-id", "request-id"),
    encode=lambda request: openai_format.encode(request, encoding=request.encoding),
    decode=GATEWAY.decode,
)
