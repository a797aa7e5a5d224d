"""Zhipu (BigModel): embedding-2 and embedding-3.

Vendor pages: https://www.bigmodel.cn/dev/api/vector/embedding and
https://docs.bigmodel.cn/cn/guide/models/embedding/embedding-2 ; error codes:
https://docs.bigmodel.cn/cn/api/api-code (all read 2026-11).
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from multiembed.providers.base import Provider
from multiembed.providers.error_parsing import classify_error
from multiembed.types import Limits, ModelInfo

if TYPE_CHECKING:
    from multiembed.providers.types import ApiFailure
    from multiembed.types import ErrorKind

_CHECKED = "2026-11-01"

_MODELS = (
    ModelInfo(
        name="embedding-3",
        limits=Limits(max_items=64, max_tokens_per_item=3072),
        dimensions=(256, 512, 1024, 2048),
        default_dimensions=2048,
        price_cny_per_mtok=0.5,
        source="https://docs.bigmodel.cn/api-reference/模型-api/文本嵌入",
        checked=_CHECKED,
        notes="An older page says 2048 tokens a request; live errors (1214 above 64 texts, 1210 above about "
        "3072 tokens a text) agree with the newer one.",
    ),
    ModelInfo(
        name="embedding-2",
        # 512 tokens a text and 8K an array; no number of texts is documented, so as many as always fit: 8192/512.
        limits=Limits(max_items=16, max_tokens_per_item=512, max_tokens_per_request=8192),
        dimensions=(1024,),
        default_dimensions=1024,
        dimensions_on_wire=False,
        price_cny_per_mtok=0.5,
        source="https://docs.bigmodel.cn/cn/guide/models/embedding/embedding-2",
        checked=_CHECKED,
        notes="The API has no dimensions parameter for it.",
    ),
)

_UNKNOWN = ModelInfo(
    name="",
    limits=Limits(max_items=16, max_tokens_per_item=512, max_tokens_per_request=8192),
    dimensions=None,
    default_dimensions=None,
)

# A locked account (1112, 1121), arrears (1113) and the plan's own limits come as HTTP 429 and must not be retried.
_CODES: dict[str, ErrorKind] = {
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004", "1005"), "authentication"),
    **dict.fromkeys(("1110", "1111", "1220", "1221", "1222"), "permission"),
    **dict.fromkeys(("1112", "1113", "1121", "1304", "1308", "1309", "1310", "1311", "1313"), "quota"),
    **dict.fromkeys(("1120", "1200", "1230", "1234"), "server"),
    **dict.fromkeys(("1302", "1303", "1305", "1312"), "rate_limit"),
    **dict.fromkeys(("1212", "1213", "1214", "1215"), "invalid"),
    **dict.fromkeys(("1300", "1301"), "content"),
    "1210": "invalid_or_too_long",
    "1211": "model",
    "1261": "too_long",
}  # fmt: skip


def _classify(status: int, body: object) -> ApiFailure | None:
    """Classify a response. The message of 1302 names a frequency and means requests in flight."""
    failure = classify_error(status, body, _CODES)
    return failure and replace(failure, limit_kind="requests" if failure.code == "1303" else None)


ZHIPU = Provider(
    id="zhipu",
    title="Zhipu BigModel",
    models=_MODELS,
    unknown=_UNKNOWN,
    # Z.ai is the same vendor abroad, with accounts of its own. Its embeddings endpoint is not a documented product
    # (2026-11-28), so only region="intl", base_url or an address variable selects it. A ZAI_API_KEY alone does not: the
    # vendor's SDK (zai-sdk 0.2.3) reads that variable for both hosts.
    regions=MappingProxyType({"cn": "https://open.bigmodel.cn/api/paas/v4", "intl": "https://api.z.ai/api/paas/v4"}),
    base_url_env=("ZHIPUAI_BASE_URL", "ZAI_BASE_URL"),
    key_env=("ZHIPUAI_API_KEY", "ZAI_API_KEY"),
    key_of=MappingProxyType(
        {
            "ZHIPUAI_BASE_URL": "ZHIPUAI_API_KEY",
            "cn": "ZHIPUAI_API_KEY",
            "ZAI_BASE_URL": "ZAI_API_KEY",
            "intl": "ZAI_API_KEY",
        }
    ),
    key_page="https://bigmodel.cn/usercenter/proj-mgmt/apikeys",
    own_fields=frozenset({"model", "input", "dimensions", "encoding_format"}),
    request_id_headers=("x-log-id",),
    quota="in_flight",
    classify=_classify,
)
