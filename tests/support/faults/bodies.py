"""Responses with status 200 and a wrong body, and a gateway's other responses."""

from __future__ import annotations

import gzip
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from multiembed.simulator.api_format import NO_CODE
from multiembed.simulator.fault_injection.base import InjectedFault, find_items, middle_of, refusals_for
from multiembed.simulator.fault_injection.faults import RATE_LIMIT
from multiembed.simulator.formats import API_FORMATS
from support.faults.refusals import asks_for_base64
from support.faults.vectors import in_base64, numbers, wrong

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.simulator.fault_injection.base import Occasion
    from multiembed.simulator.messages import Answer

_RECORD = {
    "id": "emb_1a2b3c4d",
    "name": "embedding-result",
    "status": "COMPLETED",
    "createTime": "2026-04-10T10:00:00Z",
}
_TWIN = "#twin"


def _bytes(
    name: str, description: str, change: Callable[[bytes], bytes], *headers: tuple[str, str], harmless: bool = False
) -> InjectedFault:
    """A fault that changes the bytes of a good answer's body."""

    def alter(occasion: Occasion) -> Answer:
        answer = occasion.answer
        return replace(answer.with_headers(*headers), body=change(answer.body))

    return InjectedFault(
        name, description, "body", harmless=harmless, when=lambda occasion: occasion.succeeds, alter=alter
    )


def _broken(body: bytes) -> bytes:
    packed = bytearray(gzip.compress(body))
    for place in range(10, len(packed), 7):
        packed[place] ^= 0xFF
    return bytes(packed)


def _list_twice(occasion: Occasion) -> Answer:
    payload = orjson.loads(occasion.answer.body)
    holder, key = find_items(payload)
    holder[key + _TWIN] = [{**item, "embedding": wrong(item["embedding"])} for item in holder[key]]
    return _with_twins(occasion.answer, payload)


def _vector_twice(occasion: Occasion) -> Answer:
    payload = orjson.loads(occasion.answer.body)
    holder, key = find_items(payload)
    item = holder[key][middle_of(holder[key])]
    item["embedding" + _TWIN] = wrong(item["embedding"])
    return _with_twins(occasion.answer, payload)


def _with_twins(answer: Answer, payload: object) -> Answer:
    return replace(answer, body=orjson.dumps(payload).replace(f'{_TWIN}":'.encode(), b'":'))


def _inside_200(name: str, description: str, refusals: dict) -> InjectedFault:
    """A refusal whose status is 200; only the envelopes that have a code can say it so."""
    with_code = {provider: refusal for provider, refusal in refusals.items() if refusal.code not in (None, NO_CODE)}

    def alter(occasion: Occasion) -> Answer:
        refusal = replace(with_code[occasion.api_format.provider], status=200)
        return occasion.refused(refusal)

    return InjectedFault(name, description, "body", applies_to=tuple(with_code), alter=alter)


def _in_numbers(occasion: Occasion) -> Answer:
    reply = orjson.loads(occasion.answer.body)
    holder, key = find_items(reply)
    for item in holder[key]:
        item["embedding"] = numbers(item["embedding"])
    return replace(occasion.answer, body=orjson.dumps(reply))


def _gateway(
    name: str, description: str, change: Callable[[dict[str, Any]], object], *, harmless: bool = True
) -> InjectedFault:
    """A fault that puts something else in the place of the envelope with OpenAI's list in it."""

    def alter(occasion: Occasion) -> Answer:
        return replace(occasion.answer, body=orjson.dumps(change(orjson.loads(occasion.answer.body))))

    return InjectedFault(
        name,
        description,
        "body",
        applies_to=("gateway",),
        harmless=harmless,
        when=lambda occasion: occasion.has_vectors,
        alter=alter,
    )


def _in_base64(reply: dict[str, Any]) -> dict[str, Any]:
    holder, key = find_items(reply)
    for item in holder[key]:
        item["embedding"] = in_base64(numbers(item["embedding"]))
    return reply


def _bare(reply: dict[str, Any]) -> dict[str, Any]:
    return find_items(reply)[0]


BODIES = (
    InjectedFault(
        "empty-200",
        "No body, with status 200.",
        "body",
        alter=lambda occasion: replace(occasion.answer, status=200, body=b""),
    ),
    _bytes(
        "truncated-json",
        "The first half of the JSON, and a Content-Length that fits.",
        lambda body: body[: len(body) // 2],
    ),
    _bytes("bom", "A byte order mark before the JSON.", lambda body: b"\xef\xbb\xbf" + body, harmless=True),
    InjectedFault(
        "duplicate-keys",
        "The list of items comes twice under the same key, the second time with wrong vectors.",
        "body",
        when=lambda occasion: occasion.has_vectors,
        alter=_list_twice,
    ),
    InjectedFault(
        "duplicate-keys-in-item",
        "The middle item has two vectors under the same key, and the second one is wrong.",
        "body",
        when=lambda occasion: occasion.has_vectors,
        alter=_vector_twice,
    ),
    _inside_200("error-in-200", "The envelope of a server error, with status 200.", refusals_for("server_error")),
    _inside_200("auth-in-200", "The envelope of a wrong key, with status 200.", refusals_for("wrong_key")),
    _inside_200("money-in-200", "The envelope of an account in arrears, with status 200.", refusals_for("money")),
    _inside_200("rate-limit-in-200", "The envelope of a rate limit, with status 200.", RATE_LIMIT),
    InjectedFault(
        "base64-ignored",
        "The vectors in numbers, though base64 was asked for.",
        "body",
        applies_to=tuple(name for name in API_FORMATS if name not in ("zhipu", "dashscope")),
        harmless=True,
        when=asks_for_base64,
        alter=_in_numbers,
    ),
    InjectedFault(
        "base64-honored",
        "The vectors in base64 where it was asked for. Without this fault, Zhipu ignores encoding_format.",
        "body",
        applies_to=("zhipu",),
        harmless=True,
        when=asks_for_base64,
        alter=lambda occasion: replace(
            occasion.answer, body=orjson.dumps(_in_base64(orjson.loads(occasion.answer.body)))
        ),
    ),
    _gateway(
        "gateway-record",
        "The record without vectors that the gateway's page shows.",
        lambda reply: {**reply, "data": _RECORD},
        harmless=False,
    ),
    _gateway("gateway-base64", "The vectors in base64, though numbers were asked for.", _in_base64),
    _gateway("gateway-bare-list", "OpenAI's list without the envelope.", _bare),
    _gateway(
        "gateway-bare-base64", "OpenAI's list without the envelope, in base64.", lambda reply: _bare(_in_base64(reply))
    ),
    _gateway("gateway-bare-array", "The array of items alone.", lambda reply: _bare(reply)["data"]),
    _bytes("gzip-good", "The body packed with gzip.", gzip.compress, ("content-encoding", "gzip"), harmless=True),
    _bytes("gzip-broken", "The body packed with gzip, and then spoilt.", _broken, ("content-encoding", "gzip")),
    _bytes("gzip-missing", "The body as it is, said to be packed with gzip.", bytes, ("content-encoding", "gzip")),
)
