"""Alibaba DashScope (Model Studio): text-embedding-v1 to v4, by the native API and by the OpenAI-compatible one.

Vendor page: https://help.aliyun.com/en/model-studio/text-embedding-synchronous-api ; errors:
https://help.aliyun.com/zh/model-studio/error-code ; request size: https://help.aliyun.com/zh/model-studio/rate-limit
(all read 2026-11). Keys belong to one region: another one answers 401.

Addresses: the regions' hosts below; `https://{WorkspaceId}.{region}.maas.aliyuncs.com` (cn-beijing, ap-southeast-1,
cn-hongkong, us-east-1, eu-central-1, ap-northeast-1), which the vendor recommends; and
https://dashscope-finance.aliyuncs.com. Embedding models are listed for Beijing, Singapore and Hong Kong only (read
2026-11-28).

Only the native API keeps queries and documents apart (`text_type`), takes an instruction for queries and gives sparse
vectors. The compatible API embeds everything as a document.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.providers import openai_format
from multiembed.providers.base import MULTIMODAL, Provider
from multiembed.providers.error_body import text_of
from multiembed.providers.error_parsing import classify_error, tokens_in
from multiembed.providers.types import DecodedResponse
from multiembed.types import Limits, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.providers.types import EncodeInput
    from multiembed.types import ErrorKind

_MAX_BYTES = 16 * 1024 * 1024

_V4 = ModelInfo(
    name="text-embedding-v4",
    limits=Limits(max_items=10, max_tokens_per_item=8192, max_bytes_per_request=_MAX_BYTES),
    dimensions=(64, 128, 256, 512, 768, 1024, 1536, 2048),
    default_dimensions=1024,
    role_parameter=True,
    instruct="parameter",
    sparse=True,
    price_cny_per_mtok=0.5,
    source="https://help.aliyun.com/en/model-studio/text-embedding-synchronous-api",
    checked="2026-11-01",
)
_V3 = replace(
    _V4,
    name="text-embedding-v3",
    dimensions=(64, 128, 256, 512, 768, 1024),
    instruct=None,
    notes="Singapore's page lists 512, 768 and 1024 only. Whether v3 heeds `instruct` is not documented.",
)
_V2 = replace(
    _V4,
    name="text-embedding-v2",
    limits=Limits(max_items=25, max_tokens_per_item=2048, max_bytes_per_request=_MAX_BYTES),
    dimensions=(1536,),
    default_dimensions=1536,
    dimensions_on_wire=False,
    instruct=None,
    sparse=False,
    price_cny_per_mtok=0.7,
    notes="Beijing only. No free quota any more.",
)
_V1 = replace(_V2, name="text-embedding-v1")

_QWEN37 = replace(
    _V4,
    name="qwen3.7-text-embedding",
    limits=Limits(max_items=20, max_tokens_per_item=128_000, max_bytes_per_request=_MAX_BYTES),
    dimensions=(256, 512, 768, 1024, 1536, 2048, 2560),
    source="https://help.aliyun.com/zh/model-studio/text-embedding-api",
    checked="2026-11-28",
    notes="Beijing and Singapore (there 0.07 USD for a million tokens). 0.25 CNY in a batch, Beijing only.",
)
_QWEN37_FLASH = replace(
    _QWEN37,
    name="qwen3.7-text-embedding-flash",
    # Two users report that the call hangs, without an error, above about 4,500 tokens in one request.
    limits=replace(_QWEN37.limits, max_tokens_per_request=4096),
    dimensions=(256, 512, 768, 1024),
    price_cny_per_mtok=0.125,
    source="https://help.aliyun.com/en/model-studio/qwen3-7-text-embedding-flash",
    notes="Beijing only. Packed to 4,096 tokens a request, because larger ones were reported to hang. 0.063 CNY in a "
    "batch.",
)

_UNKNOWN = replace(
    _V4,
    name="",
    limits=Limits(max_items=10, max_tokens_per_item=2048, max_bytes_per_request=_MAX_BYTES),
    dimensions=None,
    default_dimensions=None,
    price_cny_per_mtok=None,
    source="",
    checked="",
)


def _compatible(model: ModelInfo) -> ModelInfo:
    """The same model by the OpenAI-compatible API, which has no text_type, no instruct and no sparse output."""
    return replace(model, role_parameter=False, instruct=None, sparse=False)


# Both spellings of each code: the native API's and the compatible one's. `insufficient_quota` is the tokens-per-minute
# limit here, unlike with OpenAI. Codes of server errors are not listed, because a wrong parameter is also reported as
# 400 InternalError: the status decides.
_CODES: dict[str, ErrorKind] = {
    "NOT AUTHORIZED": "authentication",
    **dict.fromkeys(("*AccessDenied*", "access_denied", "WorkSpaceNotFound"), "permission"),
    **dict.fromkeys(("AllocationQuota.FreeTierOnly", "CommodityNotPurchased", "P*BillOverdue"), "quota"),
    **dict.fromkeys(("ModelNotFound", "model_not_supported"), "model"),
    **dict.fromkeys(("FaqRuleBlocked", "CustomRoleBlocked", "IPInfringementSuspect"), "content"),
    **dict.fromkeys(
        ("Throttling*", "LimitRequests", "limit_requests", "limit_burst_rate", "insufficient_quota"), "rate_limit"
    ),
    **dict.fromkeys(
        ("*InvalidParameter*", "BadRequest.*", "InvalidURL", "UnsupportedOperation", "invalid_request_error"), "invalid"
    ),
    "RequestTimeOut": "timeout",
    "BadRequest.TooLarge": "request_too_large",
}


def _encode_native(request: EncodeInput) -> dict[str, Any]:
    parameters: dict[str, Any] = {"text_type": request.role}
    if request.dimensions is not None and request.model.dimensions_on_wire:
        parameters["dimension"] = request.dimensions
    if request.output != "dense" or (request.model.sparse and request.model.known):
        parameters["output_type"] = request.output
    if request.instruct:
        parameters["instruct"] = request.instruct
    return {
        "model": request.model.name,
        "input": {"texts": list(request.texts)},
        "parameters": {**parameters, **request.parameters},
    }


def _decode_native(payload: Mapping[str, Any]) -> DecodedResponse:
    output = payload.get("output")
    elements = output.get("embeddings") if isinstance(output, dict) else None
    return DecodedResponse(
        items=openai_format.items_in(elements, index="text_index", where="output.embeddings"),
        total_tokens=tokens_in(payload),
        request_id=text_of(payload.get("request_id")),
    )


# Names of models.json's sources (read 2026-11-28), and their later versions. `text-embedding-async-v1` and -v2 take the
# address of a file and are polled: https://help.aliyun.com/zh/model-studio/text-embedding-batch-api
_UNSUPPORTED = (
    (re.compile(r"-vl-embedding|embedding-vision|multimodal-embedding", re.IGNORECASE), MULTIMODAL),
    (re.compile(r"embedding-async", re.IGNORECASE), "embeds files in asynchronous jobs, which are not supported."),
)
_NATIVE_BASE, _COMPATIBLE_BASE = "/api/v1", "/compatible-mode/v1"

DASHSCOPE = Provider(
    id="dashscope",
    title="Alibaba DashScope",
    models=(_V4, _V3, _V2, _V1, _QWEN37, _QWEN37_FLASH),
    unknown=_UNKNOWN,
    regions=MappingProxyType(
        {
            "cn": f"https://dashscope.aliyuncs.com{_NATIVE_BASE}",
            "intl": f"https://dashscope-intl.aliyuncs.com{_NATIVE_BASE}",
            "hk": f"https://cn-hongkong.dashscope.aliyuncs.com{_NATIVE_BASE}",
        }
    ),
    address_hint=" A workspace's own host goes into base_url, for instance "
    f"https://llm-123.cn-beijing.maas.aliyuncs.com{_NATIVE_BASE}.",
    # The order of the vendor's SDK (dashscope 2.0.2, v2/_config.py; 1.x knew the second one only).
    base_url_env=("DASHSCOPE_BASE_URL", "DASHSCOPE_HTTP_BASE_URL"),
    other_paths=(_COMPATIBLE_BASE,),
    path="/services/embeddings/text-embedding/text-embedding",
    key_env=("DASHSCOPE_API_KEY",),
    key_page="https://bailian.console.aliyun.com/?tab=model#/api-key",
    own_fields=frozenset({"text_type", "dimension", "dimensions", "output_type", "instruct", "encoding_format"}),
    request_id_headers=("x-request-id",),
    encode=_encode_native,
    decode=_decode_native,
    quota="requests",
    per_second=True,
    unsupported=_UNSUPPORTED,
    classify=partial(classify_error, codes=_CODES),
)


DASHSCOPE_COMPATIBLE = replace(
    DASHSCOPE,
    id="dashscope-compatible",
    title="Alibaba DashScope, OpenAI-compatible",
    models=tuple(_compatible(model) for model in (_V4, _V3, _V2, _V1)),
    unknown=_compatible(_UNKNOWN),
    regions=MappingProxyType(
        {region: url.replace(_NATIVE_BASE, _COMPATIBLE_BASE) for region, url in DASHSCOPE.regions.items()}
    ),
    address_hint=DASHSCOPE.address_hint.replace(_NATIVE_BASE, _COMPATIBLE_BASE),
    base_url_env=("DASHSCOPE_COMPATIBLE_BASE_URL", *DASHSCOPE.base_url_env),
    other_paths=(_NATIVE_BASE,),
    path="/embeddings",
    own_fields=frozenset({"model", "input", "dimensions", "encoding_format"}),
    encode=partial(openai_format.encode, encoding="float"),  # the default of OpenAI's clients differs
    decode=openai_format.decode,
)
