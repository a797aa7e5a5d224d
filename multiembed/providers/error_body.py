"""Reads the body of an error response in any format: code, type, message and request id. Nothing here raises."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Names are compared in lower case and without underscores, so request_id, requestId and RequestId are one name.
#
# message: OpenAI, DashScope, SiliconFlow, Zhipu, vLLM. msg: Zhipu's console API, pydantic, Chinese gateways. error_msg:
# Baidu. detail: FastAPI (text, or pydantic's list), RFC 9457. error as text: Ollama, TEI, LM Studio. error_description:
# OAuth 2. faultstring: Apigee. (Read 2026-11-28.)
_MESSAGES = (
    *("message", "msg", "errormessage", "errormsg", "errmsg", "detail", "errordescription", "error", "errors"),
    *("reason", "description", "faultstring", "title"),
)
_CODES = ("code", "errorcode", "errcode")
_TYPES = ("type", "errortype", "status")
_REQUEST_IDS = ("requestid", "id", "traceid")
_NESTED = ("errors", "detail", "details", "message", "msg", "code", "fault", "responsemetadata", "data")
"""Fields that may hold another envelope. The content of `error` comes before its envelope."""
_ECHOES = frozenset({"input", "inputs", "text", "texts", "prompt", "query", "content", "contents", "documents", "ctx"})
"""Fields in which a server repeats the request."""

_MAX_ENVELOPES = 20
_MAX_ENTRIES = 5
_MAX_DEPTH = 5
_MAX_CHARS = 8192
_MAX_CODE_CHARS = 200
_MAX_NESTED_JSON = 20_000

_MARKUP = re.compile(r"\s*(?:<\?xml|<!doctype|<html\b|<[a-z][a-z0-9:]*[\s/>].*</)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<(?:style|script)\b.*?</(?:style|script)\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_XML_CODE = re.compile(r"<(?:\w+:)?code[^>]*>([^<]*)<", re.IGNORECASE)
_XML_MESSAGES = (
    re.compile(r"<(?:\w+:)?(?:message|faultstring|detail)[^>]*>([^<]*)<", re.IGNORECASE),
    re.compile(r"<title[^>]*>([^<]*)<", re.IGNORECASE),
)


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """Content of an error response."""

    code: str | None
    type: str | None
    """OpenAI's `error.type` and the like: a code where there is no better one."""
    message: str | None
    """None where no known field holds one."""
    request_id: str | None
    all_text: str
    """Every message, or every text of an unknown format."""


def read_error(body: object) -> ErrorBody:
    """Read an error response.

    Args:
        body: parsed JSON of any form, or the text of a body that is not JSON.
    """
    if isinstance(body, str):
        body = _parse(body) or {"message": body.strip()}
    elif isinstance(body, list):
        body = {"errors": body}
    envelopes = list(islice(_envelopes(body), _MAX_ENVELOPES))
    messages = [message for envelope in envelopes if (message := _message_of(envelope))]
    return ErrorBody(
        code=_first(envelopes, _CODES),
        type=_first(envelopes, _TYPES),
        message=messages[0] if messages else None,
        request_id=next(filter(None, (_first(envelopes, (name,)) for name in _REQUEST_IDS)), None),
        all_text="\n".join(messages or islice(_texts_in(body), _MAX_ENVELOPES))[:_MAX_CHARS],
    )


def _parse(text: str) -> object:
    """The envelopes in a text that is JSON, XML or HTML; None for plain text. A gateway may pass on another's body."""
    text = text.strip()
    if text[:1] in ("{", "[") and len(text) <= _MAX_NESTED_JSON:
        try:
            return orjson.loads(text)
        except ValueError:
            return None
    if not _MARKUP.match(text):
        return None
    text = text[:_MAX_CHARS]
    fields = [" ".join(html.unescape(match[1]).split()) for each in _XML_MESSAGES if (match := each.search(text))]
    plain = " ".join(html.unescape(_TAG.sub(" ", text)).split())
    code = _XML_CODE.search(text)
    message = next(filter(None, fields), plain or text)
    return [{"code": code[1].strip() if code else None, "message": message}, {"message": plain}]


def _envelopes(body: object, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The objects that may hold a code or a message, by comparable names, the most specific first."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(body, str):
        yield from _envelopes(_parse(body), depth + 1)
    elif isinstance(body, list):
        for entry in body[:_MAX_ENTRIES]:
            yield from _envelopes(entry, depth + 1)
    elif isinstance(body, dict):
        named = _by_comparable_name(body)
        yield from _envelopes(named.get("error"), depth + 1)
        yield named
        for name in _NESTED:
            yield from _envelopes(named.get(name), depth + 1)


def _by_comparable_name(envelope: dict[str, Any]) -> dict[str, Any]:
    return {str(name).lower().replace("_", ""): value for name, value in reversed(envelope.items())}


def _message_of(envelope: dict[str, Any], read: Callable[[object], str | None] | None = None) -> str | None:
    """The message that an envelope holds itself, with the position that pydantic gives and the title of RFC 9457."""
    read = read or _text_in
    message = next((text for name in _MESSAGES if (text := read(envelope.get(name)))), None)
    if message is None:
        return None
    title, location = read(envelope.get("title")), envelope.get("loc")
    if isinstance(location, list):
        title = ".".join(filter(None, map(text_of, location[:_MAX_ENTRIES])))
    elif message != envelope.get("detail"):
        return message
    return f"{title}: {message}" if title else message


def _text_in(field: object) -> str | None:
    """The text of a field. An object in it, also as JSON or XML, is an envelope of its own."""
    if isinstance(field, list):
        entries = [
            _message_of(_by_comparable_name(entry), text_of) if isinstance(entry, dict) else text_of(entry)
            for entry in field[:_MAX_ENTRIES]
        ]
        return "; ".join(filter(None, entries))[:_MAX_CHARS] or None
    if isinstance(field, str) and _parse(field) is not None:
        return None
    text = text_of(field)
    return text[:_MAX_CHARS] if text and text.strip() else None


def _first(envelopes: list[dict[str, Any]], names: tuple[str, ...]) -> str | None:
    """The first code, type or id of one of these names."""
    values = (text_of(envelope.get(name)) for envelope in envelopes for name in names)
    return next((value[:_MAX_CODE_CHARS] for value in values if value and value.strip()), None)


def _texts_in(body: object, depth: int = 0) -> Iterator[str]:
    """Every text of an unknown format, except those that repeat the request."""
    if isinstance(body, str):
        yield body[:_MAX_CHARS]
    elif depth < _MAX_DEPTH and isinstance(body, list):
        for entry in body[:_MAX_ENVELOPES]:
            yield from _texts_in(entry, depth + 1)
    elif depth < _MAX_DEPTH and isinstance(body, dict):
        for name, value in body.items():
            if str(name).lower() not in _ECHOES:
                yield from _texts_in(value, depth + 1)


def text_of(value: object) -> str | None:
    """A code or message as text; None when it is absent, empty or of another type."""
    if value is None or value == "" or isinstance(value, (bool, dict, list)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return str(value)
    except ValueError:  # an integer of more digits than Python writes
        return None
