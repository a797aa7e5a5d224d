"""Refusals that depend on what is sent: too many texts, too large, too long, moderated. All else is answered well."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import Refusal
from multiembed.simulator.fault_injection.base import (
    EVERY_PROVIDER,
    OPENAI_FORMS,
    InjectedFault,
    asks_for_base64,
    is_good,
)
from multiembed.simulator.fault_injection.refusals import INVALID_PARAMETER, MODERATED
from multiembed.simulator.messages import Answer
from multiembed.simulator.responder import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multiembed.simulator.fault_injection.base import Occasion

_INVALID = "<400> InternalError.Algo.InvalidParameter: "
_WRONG_CALL = Refusal(400, "1210", "API 调用参数有误，请检查文档。")
_NGINX_413 = (
    b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>\r\n<center>"
    b"<h1>413 Request Entity Too Large</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


def _conditional(
    name: str,
    does: str,
    when: Callable[[Occasion], bool],
    refusal: Callable[[Occasion], Refusal],
    *,
    applies_to: Sequence[str] = EVERY_PROVIDER,
    **settings: Any,
) -> InjectedFault:
    def alter(occasion: Occasion) -> Answer:
        return refused(occasion.form, refusal(occasion), occasion.request)

    return InjectedFault(
        name,
        does,
        "status",
        applies_to=tuple(applies_to),
        settings=MappingProxyType(settings),
        when=lambda occasion: is_good(occasion) and when(occasion),
        alter=alter,
    )


def _too_many(occasion: Occasion) -> bool:
    cap: int = occasion.settings["cap"]
    return len(occasion.texts) > cap


def _too_many_with_cap(occasion: Occasion) -> Refusal:
    cap, sent = occasion.settings["cap"], len(occasion.texts)
    words = f"batch size is invalid, it should not be larger than {cap}.: "
    chinese = f"input数组最大不得超过{cap}条"
    return {
        "zhipu": Refusal(400, "1214", f"input array max {cap}" if occasion.settings["english"] else chinese),
        "siliconflow": Refusal(413, 20042, f"input batch size {sent} > maximum allowed batch size {cap}"),
        "dashscope": Refusal(400, "InvalidParameter", f"{words}parameters.texts"),
        "dashscope-compatible": Refusal(400, "InvalidParameter", f"{_INVALID}Value error, {words}input.contents"),
        # TEI's words: https://github.com/huggingface/text-embeddings-inference (read 2026-11-28)
        "openai-compatible": Refusal(422, 422, f"batch size {sent} > maximum allowed batch size {cap}"),
        "gateway": Refusal(400, "400", f"the input array must not be larger than {cap}"),
    }[occasion.form.provider]


def _too_many_without_cap(occasion: Occasion) -> Refusal:
    return {
        "zhipu": _WRONG_CALL,
        "siliconflow": Refusal(413, 20042, "input batch size is too large"),
        "dashscope": Refusal(400, "InvalidParameter", "batch size is invalid: parameters.texts"),
        "dashscope-compatible": Refusal(
            400, "InvalidParameter", f"{_INVALID}Value error, batch size is invalid.: input.contents"
        ),
        "openai-compatible": Refusal(413, "413", "too many inputs"),
        "gateway": Refusal(413, "413", "too many inputs"),
    }[occasion.form.provider]


def _too_large(occasion: Occasion) -> bool:
    most: int = occasion.settings["bytes"]
    return len(occasion.request.raw) > most


def _too_large_in_html(_occasion: Occasion) -> Answer:
    return Answer(413, (("content-type", "text/html"),), _NGINX_413)


def _too_long(occasion: Occasion) -> bool:
    return any(len(text) > occasion.settings["characters"] for text in occasion.texts)


def _too_long_words(occasion: Occasion) -> Refusal:
    most = occasion.settings["characters"]
    words = f"Range of input length should be [1, {most}]"
    openai = f"This model's maximum context length is {most} tokens. Please reduce your input."
    return {
        "zhipu": _WRONG_CALL,
        "siliconflow": Refusal(413, 20042, f"input must have less than {most} tokens"),
        "dashscope": Refusal(400, "InvalidParameter", words),
        "dashscope-compatible": Refusal(400, "InvalidParameter", f"{_INVALID}{words}"),
        "openai-compatible": Refusal(400, "context_length_exceeded", openai),
        "gateway": Refusal(400, "context_length_exceeded", openai),
    }[occasion.form.provider]


def _marked(occasion: Occasion) -> bool:
    return any(occasion.settings["marker"] in text for text in occasion.texts)


CONDITIONS = (
    _conditional(
        "batch-too-large-with-cap",
        "Refuses more than `cap` texts and names the number; Zhipu in Chinese unless `english`.",
        _too_many,
        _too_many_with_cap,
        cap=5,
        english=False,
    ),
    _conditional(
        "batch-too-large-without-cap",
        "Refuses more than `cap` texts and does not name the number.",
        _too_many,
        _too_many_without_cap,
        cap=5,
    ),
    _conditional(
        "request-too-large",
        "Refuses a request of more than `bytes` bytes: 413.",
        _too_large,
        lambda occasion: occasion.form.refusals["too_large"],
        bytes=10_000,
    ),
    InjectedFault(
        "request-too-large-html",
        "Refuses a request of more than `bytes` bytes: 413 with a proxy's HTML.",
        "status",
        settings=MappingProxyType({"bytes": 10_000}),
        when=lambda occasion: is_good(occasion) and _too_large(occasion),
        alter=_too_large_in_html,
    ),
    _conditional(
        "text-too-long",
        "Refuses a request with a text of more than `characters` characters.",
        _too_long,
        _too_long_words,
        characters=1000,
    ),
    _conditional(
        "moderated",
        "Refuses a request with a text that holds `marker`.",
        _marked,
        lambda occasion: MODERATED[occasion.form.provider],
        applies_to=tuple(MODERATED),
        marker="MODERATED",
    ),
    _conditional(
        "base64-refused",
        "Refuses encoding_format base64, as older pages of DashScope's compatible API do.",
        asks_for_base64,
        lambda occasion: INVALID_PARAMETER[occasion.form.provider],
        applies_to=OPENAI_FORMS,
    ),
)
