"""The vendors' refusals, each in its own status, code, words and envelope.

The words are those of the vendors' pages of error codes (https://docs.bigmodel.cn/cn/api/api-code,
https://docs.siliconflow.cn/cn/faqs/error-code, https://help.aliyun.com/zh/model-studio/error-code) where they
are there, and plausible where they are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from multiembed.simulator.api_format import Refusal
from multiembed.simulator.fault_injection.base import InjectedFault
from multiembed.simulator.responder import FORMS, refused
from multiembed.simulator.siliconflow import NO_CODE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.simulator.fault_injection.base import Occasion
    from multiembed.simulator.messages import Answer

    Refusals: TypeAlias = Mapping[str, Refusal]
    """By the provider's id."""

_INVALID = "<400> InternalError.Algo.InvalidParameter: "


def of_form(reason: str) -> Refusals:
    """A refusal that the forms know themselves."""
    return {name: form.refusals[reason] for name, form in FORMS.items()}  # type: ignore[index]


def both(status: int, code: str, message: str, *, compatible: str | None = None) -> Refusals:
    """A refusal that DashScope's two APIs share, with the compatible one's own code where it has one."""
    return {
        "dashscope": Refusal(status, code, message),
        "dashscope-compatible": Refusal(status, compatible or code, message),
    }


def refusal_fault(name: str, does: str, refusals: Refusals) -> InjectedFault:
    """A fault that refuses whatever comes."""

    def alter(occasion: Occasion) -> Answer:
        return refused(occasion.form, refusals[occasion.form.provider], occasion.request)

    return InjectedFault(name, does, "status", applies_to=tuple(refusals), alter=alter)


RATE_LIMIT: Refusals = {
    **{name: form.over_quota["requests"] for name, form in FORMS.items()},
    "gateway": Refusal(429, "429", "too many requests"),  # one that has only the status to go by
}
MONEY: Refusals = {
    "zhipu": Refusal(429, "1113", "您的账户已欠费，请充值后重试。"),
    "siliconflow": Refusal(403, 30001, "Sorry, your account balance is insufficient"),
    **both(400, "Arrearage", "Access denied, please make sure your account is in good standing."),
    **dict.fromkeys(
        ("openai-compatible", "gateway"),
        Refusal(429, "insufficient_quota", "You exceeded your current quota, please check your plan."),
    ),
}
SERVER_ERROR: Refusals = {
    "zhipu": Refusal(500, "1234", "网络错误，错误id：20261121093000，请联系客服。"),
    "siliconflow": Refusal(500, 50507, "Unknown error, please try again later."),
    **both(
        500,
        "InternalError",
        "An internal error has occured, please try again later or contact service support.",
        compatible="internal_error",
    ),
    **dict.fromkeys(("openai-compatible", "gateway"), Refusal(500, "500", "internal server error")),
}
BAD_KEY = of_form("wrong_key")
MODERATED: Refusals = {
    "zhipu": Refusal(
        400,
        "1301",
        "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合。",
    ),
    **both(
        400,
        "DataInspectionFailed",
        "Input data may contain inappropriate content.",
        compatible="data_inspection_failed",
    ),
    **dict.fromkeys(
        ("openai-compatible", "gateway"),
        Refusal(400, "content_filter", "The input was rejected by the content filter."),
    ),
}
_OVERLOADED: Refusals = {
    "zhipu": Refusal(429, "1305", "该模型当前访问量过大，请您稍后再试"),
    "siliconflow": Refusal(503, 50505, "Model service overloaded. Please try again later."),
    **both(503, "ServiceUnavailable", "The service is overloaded, please try again later."),
    **dict.fromkeys(("openai-compatible", "gateway"), Refusal(503, "503", "no upstream is available")),
}
_FORBIDDEN: Refusals = {
    "zhipu": Refusal(403, "1220", "您无权访问 embeddings"),
    "siliconflow": Refusal(403, NO_CODE, "This model requires real-name verification of the account."),
    **both(403, "AccessDenied", "Access denied.", compatible="access_denied"),
    **dict.fromkeys(("openai-compatible", "gateway"), Refusal(403, "403", "this key may not use the model")),
}
_UNKNOWN_MODEL: Refusals = {
    "zhipu": Refusal(400, "1211", "模型不存在，请检查模型代码。"),
    "siliconflow": Refusal(400, 20012, "Model does not exist. Please check it carefully."),
    "dashscope": Refusal(404, "ModelNotFound", "Model can not be found."),
    "dashscope-compatible": Refusal(
        404, "model_not_found", "The model does not exist or you do not have access to it."
    ),
    **dict.fromkeys(("openai-compatible", "gateway"), Refusal(404, "model_not_found", "no such model")),
}
INVALID_PARAMETER: Refusals = {
    "zhipu": Refusal(400, "1214", "encoding_format参数非法。请检查文档。"),
    "siliconflow": Refusal(400, 20015, "The parameter is invalid. Please check again."),
    **both(400, "InvalidParameter", "Value error, text_type must be document or query: parameters.text_type"),
    **dict.fromkeys(("openai-compatible", "gateway"), Refusal(400, "400", "encoding_format must be float or base64")),
}

STATUSES = (
    refusal_fault("rate-limit", "Too many requests: 429 with each vendor's own code.", RATE_LIMIT),
    refusal_fault(
        "rate-limit-tokens",
        "Too many tokens a minute: 429. DashScope calls it insufficient_quota, and it passes.",
        {name: FORMS[name].over_quota["tokens"] for name in ("siliconflow", "dashscope", "dashscope-compatible")},
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
    refusal_fault("overloaded", "The model is overloaded: 503, or Zhipu's 429 with 1305.", _OVERLOADED),
    refusal_fault("server-error", "An internal error: 500.", SERVER_ERROR),
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
    refusal_fault("money", "The account is in arrears, in each vendor's own way: 429, 403 or 400.", MONEY),
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
    refusal_fault("bad-key", "The key is wrong: 401.", BAD_KEY),
    refusal_fault("forbidden", "The account may not do this: 403.", _FORBIDDEN),
    refusal_fault("not-found", "Nothing at this address: 404.", of_form("no_such_path")),
    refusal_fault("unknown-model", "No such model: 400 or 404.", _UNKNOWN_MODEL),
    refusal_fault("invalid-parameter", "A parameter is wrong: 400.", INVALID_PARAMETER),
    refusal_fault(
        "http-400-internal-error-text",
        "DashScope's 400 whose code and words begin with InternalError, and which is the caller's mistake.",
        both(400, "InternalError.Algo.InvalidParameter", f"{_INVALID}Value error, dimension is invalid."),
    ),
)
