"""SiliconFlow: the bge, bce and Qwen3-Embedding models, at its hosts in China (.cn) and abroad (.com).

Vendor page: https://docs.siliconflow.cn/cn/api-reference/embeddings/create-embeddings ; errors:
https://docs.siliconflow.cn/cn/faqs/error-code (all read 2026-11). Keys belong to one region.
"""

from __future__ import annotations

import re
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from multiembed.providers import openai_format
from multiembed.providers.base import MULTIMODAL, Provider
from multiembed.providers.error_parsing import classify_error
from multiembed.types import Limits, ModelInfo

if TYPE_CHECKING:
    from multiembed.providers.types import ApiFailure
    from multiembed.types import ErrorKind

# 32 texts by the vendor's page; 64 and more were accepted at times.
_MAX_ITEMS = 32

_BASE = ModelInfo(
    name="",
    limits=Limits(max_items=_MAX_ITEMS, max_tokens_per_item=512),
    dimensions=(1024,),
    default_dimensions=1024,
    dimensions_on_wire=False,
    base64=True,
    price_cny_per_mtok=0.0,
    source="https://docs.siliconflow.cn/cn/api-reference/embeddings/create-embeddings",
    checked="2026-11-01",
)
_LONG = replace(_BASE, limits=Limits(max_items=_MAX_ITEMS, max_tokens_per_item=8192))

# The API adds nothing to queries, so the instruction is written as the model's card says
# (https://github.com/QwenLM/Qwen3-Embedding; no space after "Query:").
_QWEN_FORM = "Instruct: {instruct}\nQuery:{text}"
_QWEN_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_QWEN = replace(
    _BASE,
    limits=Limits(max_items=_MAX_ITEMS, max_tokens_per_item=32768),
    dimensions_on_wire=True,
    instruct=_QWEN_FORM,
    query_prefix=_QWEN_FORM.format(instruct=_QWEN_TASK, text=""),
)

_MODELS = (
    replace(_BASE, name="BAAI/bge-large-zh-v1.5", query_prefix="为这个句子生成表示以用于检索相关文章："),
    replace(
        _BASE,
        name="BAAI/bge-large-en-v1.5",
        query_prefix="Represent this sentence for searching relevant passages: ",
    ),
    replace(_BASE, name="netease-youdao/bce-embedding-base_v1", dimensions=(768,), default_dimensions=768),
    replace(_LONG, name="BAAI/bge-m3"),
    replace(_LONG, name="Pro/BAAI/bge-m3", price_cny_per_mtok=0.7, notes="cn only"),
    replace(
        _QWEN,
        name="Qwen/Qwen3-Embedding-8B",
        dimensions=(64, 128, 256, 512, 768, 1024, 1536, 2048, 2560, 4096),
        default_dimensions=4096,
        price_cny_per_mtok=0.28,
        notes="The .com page leaves out 1536 and 2560.",
    ),
    replace(
        _QWEN,
        name="Qwen/Qwen3-Embedding-4B",
        dimensions=(64, 128, 256, 512, 768, 1024, 1536, 2048, 2560),
        default_dimensions=2560,
        price_cny_per_mtok=0.14,
        notes="The .com page leaves out 1536 and 2560.",
    ),
    replace(
        _QWEN,
        name="Qwen/Qwen3-Embedding-0.6B",
        dimensions=(64, 128, 256, 512, 768, 1024),
        default_dimensions=1024,
        price_cny_per_mtok=0.07,
    ),
)

_UNKNOWN = ModelInfo(
    name="",
    limits=Limits(max_items=_MAX_ITEMS, max_tokens_per_item=512),
    dimensions=None,
    default_dimensions=None,
    base64=True,
)

_CODES: dict[str, ErrorKind] = {
    "20012": "model",
    "20015": "invalid",
    "20042": "request_too_large",
    "30001": "quota",  # balance insufficient; seen as 402 and as 403
    "50505": "server",
}


def _classify(status: int, body: object) -> ApiFailure | None:
    """Classify a response. The bodies of 401, 404 and 504 are bare strings."""
    failure = classify_error(status, body, _CODES)
    # 20042 means both too many texts and a text that is too long.
    if failure is not None and failure.kind == "request_too_large" and "token" in (failure.message or "").lower():
        return replace(failure, kind="too_long")
    return failure


SILICONFLOW = Provider(
    id="siliconflow",
    title="SiliconFlow",
    models=_MODELS,
    unknown=_UNKNOWN,
    regions=MappingProxyType({"cn": "https://api.siliconflow.cn/v1", "intl": "https://api.siliconflow.com/v1"}),
    base_url_env=("SILICONFLOW_BASE_URL",),
    key_env=("SILICONFLOW_API_KEY",),
    key_page="https://cloud.siliconflow.cn/account/ak",
    request_id_headers=("x-siliconcloud-trace-id",),
    quota="requests",
    # Its inputs are objects, {"text": …} or {"image": …}:
    # https://api-docs.siliconflow.cn/docs/api/embeddings-post (read 2026-11-28).
    unsupported=((re.compile(r"VL-Embedding", re.IGNORECASE), MULTIMODAL),),
    encode=openai_format.encode_with_encoding,
    classify=_classify,
)
