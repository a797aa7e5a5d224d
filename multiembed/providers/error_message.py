"""Meaning of an error message: texts too long or too many, a request too large, no money left, or a rate limit.

Error codes differ from server to server, and a gateway passes on the messages of the server behind it. So one set of
patterns reads them for all providers. tests/providers/test_error_messages.py holds the messages that the patterns were
made for, each with its server and source (read 2026-11-28).

Nothing here raises. Quotations of the user's text are removed before a pattern is applied.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, cast

from multiembed.providers.types import ApiFailure

if TYPE_CHECKING:
    from multiembed.types import LimitKind

_MAX_CHARS = 1000
"""Characters that are read: servers say first what is wrong, and stack traces or the request may follow."""
_ITEM_LIMITS = range(1, 100_001)
"""Texts in one request. No API takes more than some thousands, so a larger number counts something else."""
_TOKEN_LIMITS = range(16, 10_000_001)
"""Tokens of one text. Models take from 128 to some millions, so another number counts something else."""


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives), re.IGNORECASE | re.DOTALL)


_TEXT = r"\b(?:string|text|input|prompt|sequence|document|passage|query|content)s?\b"
_ITEMS = r"(?:texts|inputs|items|documents|strings|elements|entries|embeddings|sentences)"
_OVER = r"(?:exceed\w*|(?:longer|larger|greater|more|higher) than)"
_UP_TO = r"(?:at most|maximum of|up to|(?:more|less|fewer) than|exceed|equal to|limit of)"
_COUNT = r"[^.\n0-9]{0,20}[0-9][0-9,]*(?![0-9,]| ?(?:tokens|characters|bytes|dimension|[kmg]b))"

# A long text, in words that mean nothing else.
_CONTEXT = _pattern(
    r"(?:maximum|max) (?:context|input|prompt) (?:length|size|window)",
    r"(?:larger|longer|more tokens) than (?:the |its )?(?:model's |max\w* |configured )*(?:context|model|batch)",
    r"exceed[^.\n]{0,60}(?:context[ _](?:length|size|window)|n_ctx)",
    r"context[ _](?:length|size|window)[^.\n]{0,40}(?:exceed|only)",
    r"(?:max|maximum) context[\s:=]*[0-9]|too large to process|range of input length",
    r"(?:must|should) have (?:less than|fewer than|at most)\s*[0-9,]+ (?:tokens|characters)",
)
# A long text, unless the message speaks of a rate, a number of texts or all texts together.
_TOO_LONG = _pattern(
    rf"{_TEXT}[^.\n]{{0,30}}\btoo (?:long|large)",
    rf"{_TEXT}(?: \w+)? length\b[^.\n]{{0,60}}(?:{_OVER}|should|must)",
    r"too many (?:input |prompt )?tokens|tokens? exceeds? (?:the |model|max|configured|limit)|input token count",
    r"reduce (?:the |your )?(?:length|size of the (?:input|text)|prompt|input|text)|expected maxlength",
    rf"{_UP_TO}\s*[0-9,]+ (?:tokens|characters)",
    r"(?:输入|文本|内容|提示词?|prompt|单条)[^。\n]{0,12}(?:过|太|超)长",
    r"(?:长度|字数|字符数?|上下文|tokens?)[^。\n]{0,16}(?:超过|超出|超限|过大|过多|超长|大于)",
    r"(?:超过|超出)[^。\n]{0,16}(?:长度|上下文|tokens?|字符|字数)",
    r"(?:不能|不得|最大|最多|最长|上限|限制)[^0-9。\n]{0,16}[0-9,]+\s*个?\s*(?:tokens?|字)",
    r"长度[^。\n]{0,8}(?:不能|不得|应|须|必须)(?!为)",
)
# An overloaded server may say this of its queue.
_PERHAPS_TOO_LONG = _pattern(
    rf"\b(?:input|text|prompt|sequence|token|document|passage)s?\b[^.\n]{{0,60}}\b{_OVER}"
    r"[^.\n]{0,60}(?:token|character|length|max|limit|allowed)"
)
_TOO_MANY = _pattern(
    r"\bbatch size\b[^.\n]{0,60}(?:invalid|too large|too big|exceed|larger|greater|must|should|max|limit)",
    r"max(?:imum)?(?: allowed)? (?:client )?batch size|\bbatch (?:is )?too (?:large|big)",
    rf"\b(?:batch|array|list)\b[^.\n]{{0,80}}(?:{_OVER}|at most|equal to|>|<=){_COUNT}",
    r"\barray (?:is )?too (?:long|large)|array(?: max| length must be|[^\n]{0,60}?maximum length)",
    rf"too many {_ITEMS}|\b{_ITEMS} exceed(?![^.\n]*(?:token|character|length|context))",
    rf"max(?:imum)? number of {_ITEMS}|number of {_ITEMS}\b[^.\n]{{0,60}}(?:{_OVER}|at most|equal to|limit|max)",
    rf"{_UP_TO}\s*[0-9,]+ (?:{_ITEMS}|requests)\b",
    r"数组(?!总)[^。\n]{0,8}(?:最大|超过|超出|过长|过大)",
    r"(?:批次|批量|批大小|batch)[^0-9。\n]{0,12}(?:超过|大于|最大|最多|上限)",
    r"(?:数组|最多|超过|上限)[^0-9。\n]{0,12}[0-9]+\s*(?:条|个文本|个输入|段|项)",
)
# All texts of one request together. A single text that is refused like this is too long.
_TOO_LARGE = _pattern(
    r"max(?:imum)? request size|max_tokens_per_request|bytes per request",
    r"tokens? per (?:submitted )?(?:request|batch)\b|too many tokens (?:in (?:the |your )?(?:batch|request)|overall)",
    r"(?:request|payload|body|entity|content) (?:body |entity |size |payload )?(?:is |was )?too (?:large|big|long)",
    r"request (?:body|payload|size)[^.\n]{0,40}(?:exceed|larger|greater|limit)",
    r"total (?:number of )?(?:input )?tokens?\b[^.\n]{0,60}(?:exceed|larger|greater|more than|limit|max)",
    r"(?:数组总|总)(?:长度|字数|tokens?|字符)|请求体?(?:过大|太大)",
)
_RATE = _pattern(
    r"rate[ _-]?limit|per[ _-]?(?:second|minute|hour|day|min|sec)\b|\b[rtq]p[msd]\b|throttl|too many requests",
    r"time[ds]?[ -]?out|频率|速率|限流|每分钟|每秒|并发",
)
_TOO_SHORT = _pattern(r"at least|(?:greater|larger|longer|more) than (?:0|zero)|\bempty\b|too short|不能为空")
_DIMENSIONS = _pattern(r"^(?!.*(?:batch|number of)).*(?:\bdimensions?\b|维度)")
"""A number of dimensions is neither a length nor a number of texts."""


_LIMIT = _pattern(
    r"(?:exceed\w*|(?:longer|larger|greater|more|higher|less|fewer) than|at most|up to|equal to|max\w*|limit|only|>|<="
    r"|context (?:length|size|window)|range of input length should be \[\s*[0-9]+|batch size:"
    r"|超过|超出|大于|不能|不得|最大|最多|最长|上限|限制)[^.。\n0-9]{0,60}(?<![a-z0-9_-])"
    r"(?P<after>[0-9][0-9,]*)(?P<unit>\s*个?\s*\w*)",
    r"(?<![a-z0-9_-])(?P<before>[0-9][0-9,]*) (?:or (?:less|fewer)|maximum (?:context|input))",
)
_COUNTS_TOKENS = _pattern(r"token|context|model length|max_\w+_len|range of input length|batch size:")
_NOT_ITEMS = _pattern(r"token|char|字|byte|dimension|^\s*[kmg]b")
_NOT_TOKENS = _pattern(r"char|字|byte|^\s*[kmg]b")


def size_failure(message: str, *, server_failed: bool = False) -> ApiFailure | None:
    """What the message says is too large, and the limit it names; None where it speaks of something else.

    Args:
        message: what the server said.
        server_failed: it reports its own failure, so a message that may mean its queue does not count.
    """
    message = _without_quotations(message)
    limit = _named_limit(message, _TOKEN_LIMITS, _NOT_TOKENS) if _COUNTS_TOKENS.search(message) else None
    too_long = ApiFailure("too_long", token_limit=limit)
    if _CONTEXT.search(message):
        return too_long
    if _RATE.search(message) or _DIMENSIONS.search(message):
        return None
    if _TOO_MANY.search(message):
        return ApiFailure("too_many_items", max_items=_named_limit(message, _ITEM_LIMITS, _NOT_ITEMS))
    if _TOO_LARGE.search(message):
        return ApiFailure("request_too_large")
    found = _TOO_LONG.search(message) or (not server_failed and _PERHAPS_TOO_LONG.search(message))
    return too_long if found and not _TOO_SHORT.search(message) else None


def _named_limit(message: str, allowed: range, other_unit: re.Pattern[str]) -> int | None:
    """The first number that a limit's name leads to and that can be meant."""
    for match in _LIMIT.finditer(message):
        if not other_unit.search(match["unit"] or ""):
            digits = (match["after"] or match["before"]).replace(",", "")
            is_cut_off = match.end("after") == _MAX_CHARS
            limit = int(digits) if len(digits) <= 9 and not is_cut_off else 0  # int() refuses thousands of digits
            return limit if limit in allowed else None
    return None


# A short quotation names a parameter ('input', "input[0]"), and one after "message": or an exception's name is another
# server's message. Every other quotation repeats what was sent. A quotation that is cut off goes on to the end.
_QUOTATION = re.compile(
    r"""(?<![\w\\])(?:"(?:\\.|[^"\\])*(?:"|\Z)|'.*?(?<!\\)'(?!\w)|“[^”]*(?:”|\Z)|「[^」]*(?:」|\Z))""", re.DOTALL
)
_PASSED_ON = _pattern(
    r"""(?:(?:message|msg|detail|error|reason|description)\\?["']?\s*[:=]|(?:Error|Exception)\()\s*$"""
)
_MAX_NAME_CHARS = 24


def _without_quotations(message: str) -> str:
    message = message.strip()[: 4 * _MAX_CHARS]

    def keep(match: re.Match[str]) -> str:
        is_name = len(match[0]) <= _MAX_NAME_CHARS or match[0] == message
        return match[0] if is_name or _PASSED_ON.search(message[max(0, match.start() - 40) : match.start()]) else "…"

    return _QUOTATION.sub(keep, message)[:_MAX_CHARS]


_NO_MONEY = _pattern(
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
_OPENAI_NO_MONEY = _pattern(r"exceeded your current quota")
_DASHSCOPE = _pattern(r"aliyun|dashscope|model-studio")
_MAX_START = 120
"""Where the message of a 400 must speak of money: what comes later may be the user's text."""


def reports_no_money(message: str, *, at_start: bool = False, openai: bool = False) -> bool:
    """Whether the message says that money, a package or a plan is used up.

    Args:
        message: what the server said.
        at_start: it counts only at the beginning of the message.
        openai: OpenAI's sentence for it counts, which DashScope uses for its tokens a minute.
    """
    message = _without_quotations(message)
    found = _NO_MONEY.search(message)
    if found is None and openai and not is_dashscope_rate(message):
        found = _OPENAI_NO_MONEY.search(message)
    return found is not None and not _RATE.search(message) and (not at_start or found.start() < _MAX_START)


def is_dashscope_rate(message: str) -> bool:
    """Whether DashScope sent OpenAI's code and sentence for no money, which mean its tokens a minute there.

    Behind a gateway, only the link to DashScope's documentation tells the two apart.
    """
    return _DASHSCOPE.search(message) is not None


# DashScope: "Throttling.Concurrency", "Allocated quota exceeded" (tokens a minute). SiliconFlow: "TPM limit reached",
# "RPM limit reached". Zhipu: "并发数过高" (requests in flight).
_LIMIT_KINDS = _pattern(
    r"(?P<in_flight>concurren|in flight|simultaneous|并发)",
    r"(?P<tokens>\btpm\b|tokens? per|per-token|allocat|insufficient_quota)",
    r"(?P<requests>\b[rq]p[ms]\b|requests? per|ratequota|limit_requests|burst|频率)",
)


def limit_kind_of(message: str | None) -> LimitKind | None:
    """What a rate limit's code or message counts; None where it does not tell."""
    found = _LIMIT_KINDS.search(message or "")
    return None if found is None else cast("LimitKind", found.lastgroup)
