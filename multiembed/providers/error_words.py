"""What the words of a refusal mean: a text too long, too many texts, a request too large, money, or a rate limit.

Codes differ from server to server, and a gateway passes on the words of what stands behind it. So the words are read in
one place for all providers. Each table names the servers, and where their words were read (all 2026-11-28).

Nothing here raises, and what a server repeats of the user's text in quotation marks is not read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from multiembed.providers.types import ApiFailure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiembed.types import LimitKind

_READ = 1000
"""Characters that are read. Servers say what is wrong first; long messages go on with stack traces or the request."""
_LONGEST_NUMBER = 9
_LARGEST_CAP = 100_000
"""Texts in one request. No API takes more than some thousands, so a larger number counts something else."""
_TOKEN_LIMITS = range(16, 10_000_001)
"""Tokens of one text. Models take from 128 to some millions, so another number counts something else."""

_N = r"[\s:=~`'\"(\[]*(?P<n>[0-9][0-9,]*)(?![0-9])"
"""A number behind the words that introduce it, and the whole of it."""


def _patterns(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern.replace("{n}", _N), re.IGNORECASE | re.DOTALL) for pattern in patterns)


# ── one text is too long ─────────────────────────────────────────────────────────────────────────
#
# The number is the limit, in tokens of one text.
# OpenAI, Azure: "This model's maximum context length is 8192 tokens, however you requested 51435 tokens",
#   "Invalid 'input[0]': maximum input length is 8192 tokens." (sbintuitions/JMTEB#15, neo4j-labs/agent-memory#104)
# vLLM: "… Please reduce the length of the input." (vllm-project/vllm#19798), "longer than the maximum model length of
#   4096" (hiyouga/LlamaFactory#7723)
# DashScope, also behind one-api: "Range of input length should be [1, 8192]" (QwenLM/qwen-code#98)
# TEI, also behind SiliconFlow (20042): "`inputs` must have less than 512 tokens. Given: 534", "… characters"
#   (huggingface/text-embeddings-inference, core/src/tokenization.rs, #356, #394)
# llama.cpp, LM Studio: "input (8129 tokens) is too large to process. increase the physical batch size (current batch
#   size: 1024)" (volcengine/OpenViking#731), "input (1682 tokens) is larger than the max context size (1024 tokens)",
#   "request (66000 tokens) exceeds the available context size (65536 tokens)" (tools/server/server-context.cpp)
# Ollama, status 400 or 500: "the input length exceeds the context length" (lfnovo/open-notebook#350), "input length
#   exceeds maximum context length" (n8n-io/n8n#11144)
# gpustack: "prefill 744 tokens exceed n_ctx_per_seq" (gpustack/gpustack#1845)
# SGLang: "The input (516368 tokens) is longer than the model's context length (262144 tokens)."
# Volcengine: "Input length of input_ids is `4498` and exceed max_sequence_length: `4096`!"
#   (AsyncFuncAI/deepwiki-open#59)
# Mistral: "Prompt contains 66385 tokens, too large for model with 32768 maximum context length"
# NVIDIA NIM: "Input length 678 exceeds maximum allowed token size 512"; Jina: "Single text cannot exceed 8194 tokens";
# Bedrock: "Too many input tokens. Max input tokens: 8192, request input token count: 9000"; Vertex: "the input token
#   count (3000) exceeds the maximum number of tokens allowed (2048)"
# Infinity (pydantic, 422): "String should have at most 122880 characters"
# Zhipu 1261 and others in Chinese: "输入长度超过模型最大长度", "Prompt 超长", "tokens 数量超限"

_CONTEXT = _patterns(  # words that speak of nothing but one text
    r"(?:maximum|max) (?:context|input|prompt) (?:length|size|window)",
    r"(?:larger|longer|more tokens) than (?:the |its )?(?:model's |max\w* |configured )*(?:context|model|batch)",
    r"exceed\w*[^.\n]{0,60}(?:context (?:length|size|window)|context_length|n_ctx)",
    r"context[ _](?:length|size|window)[^.\n]{0,40}(?:exceed|only)",
    r"(?:max|maximum) context{n}",
    r"too large to process",
    r"range of input length",
    r"(?:must|should) have (?:less than|fewer than|at most)\s*[0-9,]+ (?:tokens|characters)",
)
_TOO_LONG = _patterns(
    r"\b(?:string|text|input|prompt|sequence|document|passage|query|content)s?\b[^.\n]{0,30}\btoo long",
    r"\b(?:text|input|prompt|sequence|document|passage) (?:is |was )?too large",
    r"too many (?:input |prompt )?tokens|tokens? exceeds? (?:the |model|max|configured|limit)",
    r"\b(?:input|text|prompt|sequence) length\b[^.\n]{0,60}exceed",
    r"reduce (?:the |your )?(?:length|size of the (?:input|text)|prompt|input|text)",
    r"\b(?:input|text|prompt|sequence)(?: \w+)? length\b[^.\n]{0,40}(?:larger|longer|greater|more) than",
    r"\b(?:input|text|prompt|sequence)(?: \w+)? length (?:should|must)",
    r"(?:no more than|at most|not exceed|less than|equal to|up to|limit of)\s*[0-9,]+ (?:tokens|characters)",
    r"input token count",
    r"expected maxlength",
    r"(?:输入|文本|内容|提示词?|prompt|单条)[^。\n]{0,12}(?:过|太|超)长",
    r"(?:长度|字数|字符数?|上下文|tokens?)[^。\n]{0,16}(?:超过|超出|超限|过大|过多|超长|大于)",
    r"(?:超过|超出)[^。\n]{0,16}(?:长度|上下文|tokens?|字符|字数)",
    r"(?:不能|不得|最大|最多|最长|上限|限制)[^0-9。\n]{0,16}[0-9,]+\s*个?\s*(?:tokens?|字)",
    r"长度[^。\n]{0,8}(?:不能|不得|应|须|必须)(?!为)",
)
_PERHAPS_TOO_LONG = _patterns(  # an overloaded server may say this of its queue
    r"\b(?:input|text|prompt|sequence|tokens?|document|passage)s?\b[^.\n]{0,60}"
    r"\b(?:exceed\w*|longer than|larger than|greater than)\b[^.\n]{0,60}(?:token|character|length|max|limit|allowed)",
)
_LIMITS = _patterns(
    r"context (?:length|size|window)(?: is| of)?(?: only)?{n}",
    r"range of input length should be \[\s*[0-9]+\s*,{n}\s*\]",
    r"current batch size{n}",
    r"max_(?:sequence|seq|model|input)_(?:length|len){n}",
    r"(?:maximum|max)(?: allowed)?(?: input| prompt| model| token| sequence)? (?:length|size|count)(?: is| of)?{n}",
    r"(?:max\w*|number of) (?:input )?tokens(?: allowed)?(?: is| of)?{n}",
    r"(?:less than|fewer than|no more than|exceed|at most|equal to|up to|limit (?:is|of)|maximum of){n} ?tokens",
    r"(?:max|maximum) context{n}",
    r"only supports up to{n}",
    r"{n} maximum (?:context|input)",
    r"tokens >{n} maximum",
    r"(?:超过|超出|大于|不能|不得|最大|最多|最长|上限|限制)[^0-9。\n]{0,16}{n}\s*个?\s*tokens?",
)

# ── too many texts in one request ────────────────────────────────────────────────────────────────
#
# DashScope: "batch size is invalid, it should not be larger than 10." (memodb-io/memobase#142)
# TEI, also behind SiliconFlow: "batch size 132 > maximum allowed batch size 64"
# Zhipu 1214: "input数组最大不得超过64条", "input array max 64"
# Azure: "Too many inputs. The max number of inputs is 16." (langchain-ai/langchain#4575)
# OpenAI: "Invalid 'input': array too long. Expected an array with maximum length 2048, but got an array with length
#   3000 instead.", "'$.input' is invalid … array length must be 2048 or less" (topoteretes/cognee#4954)
# Infinity and other FastAPI servers: "List should have at most 2048 items after validation, not 3000"
# Cohere: "total number of texts must be at most 96"; Gemini: "at most 100 requests can be in one batch"

_THINGS = r"(?:texts|inputs|items|documents|strings|elements|entries|embeddings|sentences)"
_MORE_THAN = (
    r"(?:(?:larger|greater|more|higher) than|at most|equal to|exceed\w*(?: the)?(?: max\w*| limit)?(?: of)?|>|<=)"
)
_NO_UNIT = r"(?! ?(?:tokens|characters|bytes|dimension|[kmg]b))"
_TOO_MANY = _patterns(
    r"max(?:imum)?(?: allowed)? (?:client )?batch size(?: is| of)?{n}",
    r"batch size limit(?: is| of)?{n}",
    rf"\bbatch\b[^.\n]{{0,80}}?{_MORE_THAN}{{n}}{_NO_UNIT}",
    r"batch size\b[^.\n]{0,60}?(?:max\w*|limit)(?: is| of)?{n}",
    r"array(?: max| length must be|[^\n]{0,60}?maximum length){n}",
    rf"\b(?:array|list)(?: length)?\b[^.\n]{{0,30}}?{_MORE_THAN}{{n}}{_NO_UNIT}",
    r"(?:have|has|takes?|allows?|accepts?|contain) at most{n} (?:items|elements|inputs|texts|documents)",
    rf"max(?:imum)? number of {_THINGS}(?: [a-z]+){{0,4}}{{n}}",
    rf"number of {_THINGS}\b[^.\n]{{0,60}}?(?:{_MORE_THAN}|limit(?: is| of)?|max\w*(?: is| of)?){{n}}",
    rf"(?:at most|maximum(?: of)?|up to|more than|limit of){{n}} (?:{_THINGS}|requests)\b",
    r"数组(?!总)[^0-9。\n]{0,12}{n}\s*(?:条|个|项)?(?!\s*个?\s*tokens?)",
    r"(?:批次|批量|批大小|batch)[^0-9。\n]{0,12}(?:超过|大于|最大|最多|上限)[^0-9。\n]{0,6}{n}",
    r"(?:最多|不超过|不得超过|不能超过|上限)[^0-9。\n]{0,8}{n}\s*(?:条|个文本|个输入|段)",
    r"batch size\b[^.\n]{0,40}(?:invalid|too large|too big|exceed|larger|greater)|batch (?:is )?too (?:large|big)",
    rf"too many {_THINGS}|batch size (?:must|should)",
    rf"\b{_THINGS} exceed(?![^.\n]*(?:token|character|length|context))",
    r"\barray (?:is )?too (?:long|large)|input array max",
    r"数组(?!总)[^。\n]{0,8}(?:最大|超过|超出|过长|过大)",
)

# ── the texts of one request are too many or too large together ──────────────────────────────────
#
# OpenAI: "Requested 673477 tokens, max 300000 tokens per request" (langchain-ai/langchain#33668), "Invalid 'input':
#   maximum request size is 300000 tokens per request."
# Mistral: "Too many tokens in batch. Max is 16384 got 17555" (aurelio-labs/semantic-router#297), "Too many tokens
#   overall, split into more batches"; Voyage: "The max allowed tokens per submitted batch is 120000."
# Zhipu: "数组总长度不得超过8K"; DashScope: "Exceeded limit on max bytes per request body"
# One text alone that is refused like this is too long: InputTooLongError either way.

_TOO_LARGE = _patterns(
    r"max(?:imum)? request size|max_tokens_per_request|bytes per request",
    r"tokens? per (?:submitted )?(?:request|batch)\b",
    r"too many tokens (?:in (?:the |your )?(?:batch|request)|overall)",
    r"(?:request|payload|body|entity|content) (?:body |entity |size |payload )?(?:is |was )?too (?:large|big|long)",
    r"request (?:body|payload|size)[^.\n]{0,40}(?:exceed|larger|greater|limit)",
    r"total (?:number of )?(?:input )?tokens?\b[^.\n]{0,60}(?:exceed|larger|greater|more than|limit|max)",
    r"(?:数组总|总)(?:长度|字数|tokens?|字符)|请求体?(?:过大|太大)",
)

_RATE = re.compile(
    r"rate[ _-]?limit|per[ _-]?(?:second|minute|hour|day|min|sec)\b|\b[rtq]p[msd]\b|throttl|too many requests"
    r"|time[ds]?[ -]?out|频率|速率|限流|每分钟|每秒|并发",
    re.IGNORECASE,
)
_TOO_SHORT = re.compile(r"at least|(?:greater|larger|longer|more) than (?:0|zero)|\bempty\b|too short|不能为空", re.I)
_OTHER_SIZE = re.compile(r"^(?!.*(?:batch|number of)).*(?:\bdimensions?\b|维度)", re.IGNORECASE | re.DOTALL)
"""A number of dimensions is neither a length nor a number of texts."""


def size_in(words: str, *, failed: bool = False) -> ApiFailure | None:
    """What the words say is too large, and the number they name; None where they speak of something else.

    Args:
        words: what the server said.
        failed: it says that it failed, not that the request is wrong: words that may mean its own queue do not count.
    """
    words = _own_words(words)
    if _found(_CONTEXT, words):
        return ApiFailure("too_long", token_limit=_token_limit(words))
    if _RATE.search(words) or _OTHER_SIZE.search(words):
        return None
    many = _found(_TOO_MANY, words)
    if many is not None:
        return ApiFailure("too_many_items", max_items=_number(many, _LARGEST_CAP))
    if _found(_TOO_LARGE, words):
        return ApiFailure("request_too_large")
    long = _found(_TOO_LONG, words) or (None if failed else _found(_PERHAPS_TOO_LONG, words))
    if long and not _TOO_SHORT.search(words):
        return ApiFailure("too_long", token_limit=_token_limit(words))
    return None


def _found(patterns: Iterable[re.Pattern[str]], words: str) -> re.Match[str] | None:
    return next((match for pattern in patterns if (match := pattern.search(words))), None)


def _number(match: re.Match[str], largest: int) -> int | None:
    """The number that a pattern names, if it names one that can be meant."""
    digits = (match.groupdict().get("n") or "").replace(",", "")
    cut = digits and match.end("n") == _READ  # the rest of it was not read
    number = int(digits) if 0 < len(digits) <= _LONGEST_NUMBER and not cut else 0
    return number if 0 < number <= largest else None


def _token_limit(words: str) -> int | None:
    """The tokens that one text may have, where the words name a number and do not count characters."""
    found = _found(_LIMITS, words)
    limit = None if found is None else _number(found, _TOKEN_LIMITS.stop)
    if found is None or limit not in _TOKEN_LIMITS:
        return None
    unit = words[found.end("n") : found.end("n") + 14].lower()
    return None if "character" in unit or "字" in unit else limit


# A short quotation names a parameter ('input', "input[0]"); one behind "message": or an exception's name is what
# another server said. All other quotations repeat what was sent, which may say anything. A quotation that is cut off
# goes on to the end.
_QUOTED = re.compile(
    r"""(?<![\w\\])(?:"(?:\\.|[^"\\])*(?:"|\Z)|'.*?(?<!\\)'(?!\w)|“[^”]*(?:”|\Z)|「[^」]*(?:」|\Z))""", re.DOTALL
)
_PASSED_ON = re.compile(
    r"""(?:(?:message|msg|detail|error|reason|description)\\?["']?\s*[:=]|(?:Error|Exception)\()\s*$""", re.IGNORECASE
)
_LONGEST_NAME = 24


def _own_words(words: str) -> str:
    """The words without what they quote."""
    words = words.strip()[: 4 * _READ]

    def keep(match: re.Match[str]) -> str:
        short = len(match[0]) <= _LONGEST_NAME or match[0] == words
        return match[0] if short or _PASSED_ON.search(words[max(0, match.start() - 40) : match.start()]) else "…"

    return _QUOTED.sub(keep, words)[:_READ]


# ── money ────────────────────────────────────────────────────────────────────────────────────────
#
# one-api, new-api: "user quota is not enough" (songquanpeng/one-api#1270), "user [3446] quota [-20847155]
#   preConsumedQuota [743]is not enough" (#1846), "token quota is not enough, token remain quota: $0.1", "chat
#   pre-consumed quota failed, user quota: 13810, need quota: 15000", "用户额度不足, 剩余额度: …"
#   (QuantumNous/new-api#6929), "该令牌额度已用尽" (401), "令牌额度不足"
# OpenRouter 402: "Insufficient credits", "This request requires more credits"; DeepSeek 402: "Insufficient Balance"
# LiteLLM 400 or 429: "Budget has been exceeded! Current cost: …" (BerriAI/litellm#22726), "ExceededBudget: …"
# Anthropic: "Your credit balance is too low"; OpenAI: "You exceeded your current quota", "Billing hard limit has been
#   reached"; Volcengine: "… has an overdue balance", "has exhausted its free trial quota", "has reached the set
#   inference limit"; DashScope: "Free allocated quota exceeded."; Zhipu 1113: "余额不足或无可用资源包,请充值。"

_MONEY = _patterns(
    r"insufficient[ _](?:user[ _]quota|account[ _]balance|balance|credits?|funds)",
    r"balance (?:is )?(?:insufficient|too low|not enough|exhausted|not sufficient)",
    r"(?:not enough|no more|out of|requires? more) (?:credits?|balance|funds)",
    r"quota\b[^.\n]{0,40}\bis not enough|pre-?consumed? quota failed",
    r"budget has been exceeded|exceeded\w*budget|over budget|exceeded (?:your |its |the )?budget",
    r"billing (?:hard )?limit|overdue|arrear|in good standing|\bkey limit exceeded",
    r"free (?:allocated|trial|tier)[^.\n]{0,20} quota[^.\n]{0,30}(?:exceeded|exhausted)",
    r"exhausted (?:its|your|the) free (?:trial |tier )?quota|reached the set inference limit",
    r"预扣费?额度失败|欠费|余额(?:不足|已?用[尽完]|已?耗尽)|(?:额度|配额)(?:已经?)?(?:不足|用[尽完]|耗尽|不够)",
)
_OPENAI_MONEY = _patterns(r"exceeded your current quota")
_VENDOR_OF_RATE = re.compile(r"aliyun|dashscope|model-studio", re.IGNORECASE)
"""DashScope uses OpenAI's words and code for its tokens a minute. Behind a gateway its link tells them apart."""
_FIRST = 120
"""Where a refusal of a text's form (400) must speak of money to be believed: what comes later may be the text."""


def speaks_of_money(words: str, *, at_once: bool = False, openai: bool = False) -> bool:
    """Whether money, a package or a plan is used up.

    Args:
        words: what the server said.
        at_once: believe it only where the words begin with it.
        openai: OpenAI's words for it count, which DashScope uses for its tokens a minute.
    """
    words = _own_words(words)
    found = _found(_MONEY, words)
    if found is None and openai and not is_dashscope_rate(words):
        found = _found(_OPENAI_MONEY, words)
    return found is not None and not _RATE.search(words) and (not at_once or found.start() < _FIRST)


def is_dashscope_rate(words: str) -> bool:
    """Whether OpenAI's words for money come from DashScope, where they mean its tokens a minute."""
    return _VENDOR_OF_RATE.search(words) is not None


# ── what a rate limit counts ─────────────────────────────────────────────────────────────────────

# DashScope: "Throttling.Concurrency", "Allocated quota exceeded" (its tokens a minute); SiliconFlow: "TPM limit
# reached", "RPM limit reached"; Zhipu: "并发数过高", "并发" for requests in flight.
_QUOTAS = re.compile(
    r"(?P<in_flight>concurren|in flight|simultaneous|并发)"
    r"|(?P<tokens>\btpm\b|tokens? per|per-token|allocat|insufficient_quota)"
    r"|(?P<requests>\b[rq]p[ms]\b|requests? per|ratequota|limit_requests|burst|频率)",
    re.IGNORECASE,
)


def quota_in(words: str | None) -> LimitKind | None:
    """What a rate limit's words say is used up, in English or Chinese; None where they do not tell."""
    found = _QUOTAS.search(words or "")
    return None if found is None else cast("LimitKind", found.lastgroup)
