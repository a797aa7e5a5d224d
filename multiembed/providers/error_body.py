"""What the body of a refusal says, whatever its form: code, message and request id. Total: nothing here raises."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Names are compared in lower case and without underscores, so that request_id, requestId and RequestId are one.
#
# message: OpenAI, DashScope, SiliconFlow, Zhipu, vLLM (also at the top level). msg: Zhipu's console API, pydantic, many
# Chinese gateways. error_msg: Baidu. detail: FastAPI (text, or pydantic's list), RFC 9457. error as text: Ollama, TEI,
# LM Studio. error_description: OAuth 2. faultstring: Apigee. (Read 2026-11-28.)
_MESSAGES = (
    "message",
    "msg",
    "errormessage",
    "errormsg",
    "errmsg",
    "detail",
    "errordescription",
    "error",
    "errors",
    "reason",
    "description",
    "faultstring",
    "title",
)
_CODES = ("code", "errorcode", "errcode")
_TYPES = ("type", "errortype", "status")
_IDS = ("requestid", "id", "traceid")
_INNER = ("errors", "detail", "details", "message", "msg", "code", "fault", "responsemetadata", "data")
"""Where an envelope may hold another one. What `error` holds comes before its envelope."""
_ECHOES = frozenset({"input", "inputs", "text", "texts", "prompt", "query", "content", "contents", "documents", "ctx"})
"""Where a server repeats what it was sent: nothing there is the server's own word."""

_MOST_ENVELOPES = 20
_MOST_ENTRIES = 5
_DEEPEST = 5
_LONGEST = 8192
_LONGEST_CODE = 200
_NESTED_JSON = 20_000

_MARKUP = re.compile(r"\s*(?:<\?xml|<!doctype|<[a-z][a-z0-9:]*[\s/>])", re.IGNORECASE)
_TAG = re.compile(r"<(?:style|script)\b.*?</(?:style|script)\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_XML_CODE = re.compile(r"<(?:\w+:)?code[^>]*>([^<]*)<", re.IGNORECASE)
_XML_WORDS = (
    re.compile(r"<(?:\w+:)?(?:message|faultstring|detail)[^>]*>([^<]*)<", re.IGNORECASE),
    re.compile(r"<title[^>]*>([^<]*)<", re.IGNORECASE),
)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """What a refusal says."""

    code: str | None = None
    type: str | None = None
    """OpenAI's `error.type` and the like: a code where there is no better one."""
    message: str | None = None
    """None where no known field holds words."""
    request_id: str | None = None
    words: str = ""
    """All that the server says, for the tables of words: every message, or in an unknown form every text."""


def read_error(body: object) -> ErrorBody:
    """What a body says.

    Args:
        body: parsed JSON of any form, or the text of a body that is not JSON.
    """
    if isinstance(body, str):
        return _read_text(body)
    envelopes = list(islice(_envelopes(body), _MOST_ENVELOPES))
    messages = [message for envelope in envelopes if (message := _message_of(envelope))]
    if not messages and isinstance(body, list):
        messages = list(filter(None, [_words_in(body)]))
    return ErrorBody(
        code=_first(envelopes, _CODES),
        type=_first(envelopes, _TYPES),
        message=messages[0] if messages else None,
        request_id=next(filter(None, (_first(envelopes, (name,)) for name in _IDS)), None),
        words="\n".join(messages or islice(_texts_in(body), _MOST_ENVELOPES))[:_LONGEST],
    )


def _read_text(text: str) -> ErrorBody:
    text = text.strip()
    nested = _nested_json(text)
    if nested is not None:
        return read_error(nested)
    if not _MARKUP.match(text):
        return ErrorBody(message=text[:_LONGEST] or None, words=text[:_LONGEST])
    text = text[:_LONGEST]
    found = [html.unescape(match[1]) for pattern in _XML_WORDS if (match := pattern.search(text))]
    plain = _one_line(html.unescape(_TAG.sub(" ", text)))
    message = next((word for word in map(_one_line, found) if word), plain or text)
    code = _XML_CODE.search(text)
    return ErrorBody(code=text_of(code[1].strip()) if code else None, message=message, words=f"{message}\n{plain}")


def _one_line(words: str) -> str:
    return " ".join(words.split())


def _nested_json(text: str) -> object:
    """What JSON within a text says; None where the text is none. A gateway may hand another server's body through."""
    if text[:1] not in ("{", "[") or len(text) > _NESTED_JSON:
        return None
    try:
        parsed: object = orjson.loads(text)
    except ValueError:  # lone surrogates are one, too
        return None
    return parsed if isinstance(parsed, (dict, list)) else None


def _envelopes(body: object, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The objects that may hold the words, by comparable names, most telling first."""
    if depth > _DEEPEST:
        return
    if isinstance(body, str):
        yield from _envelopes(_nested_json(body.strip()), depth + 1)
    elif isinstance(body, list):
        for each in body[:_MOST_ENTRIES]:
            yield from _envelopes(each, depth + 1)
    elif isinstance(body, dict):
        named = _plain_names(body)
        yield from _envelopes(named.get("error"), depth + 1)
        yield named
        for name in _INNER:
            yield from _envelopes(named.get(name), depth + 1)


def _plain_names(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """The envelope by comparable names; the first of equal ones counts."""
    named: dict[str, Any] = {}
    for name, value in envelope.items():
        named.setdefault(str(name).lower().replace("_", ""), value)
    return named


def _message_of(envelope: Mapping[str, Any]) -> str | None:
    message = next((words for name in _MESSAGES if (words := _words_in(envelope.get(name)))), None)
    title, detail = _words_in(envelope.get("title")), _words_in(envelope.get("detail"))
    return f"{title}: {detail}" if title and detail and message == detail else message  # RFC 9457


def _words_in(value: object) -> str | None:
    """The words that a field holds itself. Objects in it are envelopes of their own, but for pydantic's entries."""
    if isinstance(value, list):
        entries = [_entry(each) for each in value[:_MOST_ENTRIES]]
        return "; ".join(filter(None, entries))[:_LONGEST] or None
    if isinstance(value, str) and _MARKUP.match(value):
        return _read_text(value).message
    if isinstance(value, str) and _nested_json(value.strip()) is not None:
        return None  # an envelope of its own
    words = text_of(value)
    return words[:_LONGEST] if words and words.strip() else None


def _entry(entry: object) -> str | None:
    """One entry of a list of errors. Pydantic's repeats the user's text as `input`, which is left out."""
    if not isinstance(entry, dict):
        return text_of(entry)
    named = _plain_names(entry)
    words = next((words for name in ("msg", "message", "detail", "title") if (words := text_of(named.get(name)))), None)
    where = named.get("loc")
    if words and isinstance(where, list):
        place = ".".join(filter(None, map(text_of, where[:_MOST_ENTRIES])))
        return f"{place}: {words}" if place else words
    return words


def _first(envelopes: list[dict[str, Any]], names: tuple[str, ...]) -> str | None:
    """The first code, type or id of one of these names."""
    values = (text_of(envelope.get(name)) for envelope in envelopes for name in names)
    return next((value[:_LONGEST_CODE] for value in values if value and value.strip()), None)


def _texts_in(body: object, depth: int = 0) -> Iterator[str]:
    """Every text of an unknown form, but for what repeats the request."""
    if isinstance(body, str):
        yield body[:_LONGEST]
    elif depth < _DEEPEST and isinstance(body, list):
        for each in body[:_MOST_ENVELOPES]:
            yield from _texts_in(each, depth + 1)
    elif depth < _DEEPEST and isinstance(body, dict):
        for name, value in body.items():
            if str(name).lower() not in _ECHOES:
                yield from _texts_in(value, depth + 1)


def text_of(value: object) -> str | None:
    """A code or message as text; None when it is absent, empty or of another kind."""
    if value is None or value == "" or isinstance(value, (bool, dict, list)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return str(value)
    except ValueError:  # a whole number of more digits than Python writes
        return None
