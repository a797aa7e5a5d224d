"""Refusals of providers that only tests inject, each with the vendor's own status, code and message."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiembed.simulator.api_format import Refusal
from multiembed.simulator.fault_injection.base import InjectedFault, refusal_fault, refusals_for
from multiembed.simulator.formats import API_FORMATS
from multiembed.simulator.messages import Answer

if TYPE_CHECKING:
    from collections.abc import Mapping

INVALID = "<400> InternalError.Algo.InvalidParameter: "
NGINX_413 = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n<center>"
    b"<h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


def both(status: int, code: str, message: str, *, compatible: str | None = None) -> Mapping[str, Refusal]:
    """A refusal that DashScope's two APIs share, with the compatible one's own code where it has one."""
    return {
        "dashscope": Refusal(status, code, message),
        "dashscope-compatible": Refusal(status, compatible or code, message),
    }


TOO_MANY_TEXTS = {
    "zhipu": API_FORMATS["zhipu"].refusals["no_json"],
    "siliconflow": Refusal(413, 20042, "input batch size is too large"),
    "dashscope": Refusal(400, "InvalidParameter", "batch size is invalid: parameters.texts"),
    "dashscope-compatible": Refusal(
        400, "InvalidParameter", f"{INVALID}Value error, batch size is invalid.: input.contents"
    ),
    **dict.fromkeys(("openai-compatible", "gateway"), Refusal(413, "413", "too many inputs")),
}


def asks_for_base64(occasion):
    """Whether the request has encoding_format base64, and the response has dense vectors."""
    return occasion.has_vectors and occasion.request.body.get("encoding_format") == "base64"


def is_large(occasion):
    return len(occasion.request.raw) > occasion.settings["bytes"]


REFUSALS = (
    refusal_fault(
        "rate-limit-tokens",
        "Too many tokens a minute: 429. DashScope calls it insufficient_quota, and it passes.",
        {
            name: API_FORMATS[name].refusals["over_tokens"]
            for name in ("siliconflow", "dashscope", "dashscope-compatible")
        },
    ),
    refusal_fault(
        "rate-limit-burst",
        "The rate grew too fast: 429.",
        {
            "zhipu": Refusal(429, "1303", "您当前使用该 API 的频率过高，请降低频率，或联系客服增加限额。"),
            **both(
                429,
                "Throttling.BurstRate",
                "Request rate increased too quickly. Please scale requests more smoothly over time.",
                compatible="limit_burst_rate",
            ),
        },
    ),
    refusal_fault(
        "request-timeout",
        "DashScope's 408 RequestTimeOut.",
        both(408, "RequestTimeOut", "Request timed out, please try again later."),
    ),
    refusal_fault(
        "gateway-timeout-string",
        "SiliconFlow's 504 with a bare string for a body.",
        {"siliconflow": Refusal(504, None, "Gateway Timeout")},
    ),
    refusal_fault(
        "money-402",
        "SiliconFlow's arrears as 402.",
        {"siliconflow": Refusal(402, 30001, "Sorry, your account balance is insufficient")},
    ),
    refusal_fault(
        "money-free-quota",
        "DashScope's free quota is used up: 429 with the code of a rate limit.",
        both(429, "Throttling.AllocationQuota", "Free allocated quota exceeded.", compatible="insufficient_quota"),
    ),
    refusal_fault(
        "money-overdue",
        "DashScope's bill is overdue: 429.",
        both(429, "PostpaidBillOverdue", "The postpaid bill is overdue."),
    ),
    refusal_fault(
        "plan-expired",
        "The plan has expired or was never bought: 429.",
        {
            "zhipu": Refusal(429, "1309", "您的 GLM Coding Plan 套餐已到期，暂无法使用，前往官方续订后即可恢复"),
            **both(429, "CommodityNotPurchased", "Commodity has not been purchased yet."),
        },
    ),
    refusal_fault(
        "plan-used-up",
        "The plan is used up until it is reset: Zhipu's 429, DashScope's 403.",
        {
            "zhipu": Refusal(429, "1308", "已达到 600 次 的使用上限。您的限额将在 2026-11-22 00:00:00 重置。"),
            **both(403, "AllocationQuota.FreeTierOnly", "The free tier of the model has been exhausted."),
        },
    ),
    refusal_fault(
        "plan-daily",
        "Zhipu's daily limit: 429 with 1304.",
        {"zhipu": Refusal(429, "1304", "该 API 已达今日调用次数限额，如有更多需求，请联系客服购买")},
    ),
    refusal_fault(
        "account-locked",
        "Zhipu's locked account: 429 with 1112.",
        {"zhipu": Refusal(429, "1112", "您的账户已被锁定，请联系客服解锁。")},
    ),
    refusal_fault("forbidden", "The account may not do this: 403.", refusals_for("forbidden")),
    refusal_fault("not-found", "Nothing at this address: 404.", refusals_for("no_such_path")),
    refusal_fault("invalid-parameter", "A parameter is wrong: 400.", refusals_for("invalid_parameter")),
    refusal_fault(
        "http-400-internal-error-text",
        "DashScope's 400 whose code and words begin with InternalError, and which is the caller's mistake.",
        both(400, "InternalError.Algo.InvalidParameter", f"{INVALID}Value error, dimension is invalid."),
    ),
    refusal_fault(
        "batch-too-large-without-cap",
        "Refuses more than `cap` texts and does not name the number.",
        TOO_MANY_TEXTS,
        when=lambda occasion: len(occasion.texts) > occasion.settings["cap"],
        cap=5,
    ),
    refusal_fault(
        "request-too-large",
        "Refuses a request of more than `bytes` bytes: 413.",
        refusals_for("too_large"),
        when=is_large,
        bytes=10_000,
    ),
    InjectedFault(
        "request-too-large-html",
        "Refuses a request of more than `bytes` bytes: 413 with a proxy's HTML.",
        "status",
        settings={"bytes": 10_000},
        when=lambda occasion: occasion.succeeds and is_large(occasion),
        alter=lambda _: Answer(413, (("content-type", "text/html"),), NGINX_413),
    ),
    refusal_fault(
        "base64-refused",
        "Refuses encoding_format base64, as older pages of DashScope's compatible API do.",
        {name: refusal for name, refusal in refusals_for("invalid_parameter").items() if name != "dashscope"},
        when=asks_for_base64,
    ),
)
