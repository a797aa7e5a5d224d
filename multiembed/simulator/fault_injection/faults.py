"""Faults that users meet: rate limits, outages, refusals, broken connections and incomplete responses."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import Refusal
from multiembed.simulator.fault_injection.base import (
    InjectedFault,
    items_fault,
    middle_of,
    refusal_fault,
    refusals_for,
)
from multiembed.simulator.messages import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from multiembed.simulator.connection import Connection
    from multiembed.simulator.fault_injection.base import Occasion, Send

HTML = (
    b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head>"
    b"<body><h1>Welcome to the network</h1><p>Sign in to go on.</p></body></html>\n"
)
RATE_LIMIT = {
    **refusals_for("over_requests"),
    "gateway": Refusal(429, "429", "too many requests"),  # a response that has only its status to go by
}
_TOO_MANY_TEXTS = {
    **refusals_for("too_many_texts"),
    # TEI's message: https://github.com/huggingface/text-embeddings-inference (read 2026-11-28)
    "openai-compatible": Refusal(422, 422, "batch size {sent} > maximum allowed batch size {limit}"),
}
_READ = 64 * 1024
# So that a client has read what came before a reset.
_SETTLE = 0.02
# On close, discard and send RST: struct linger, which has shorts on Windows.
_RESET = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)


def rate_limit_with(
    name: str, description: str, header: str, value: Callable[[Mapping[str, Any]], str], **settings: Any
) -> InjectedFault:
    """Each provider's rate limit with one more header, whose value depends on the settings."""

    def alter(occasion: Occasion) -> Answer:
        refused = occasion.refused(RATE_LIMIT[occasion.api_format.provider])
        return refused.with_headers((header, value(occasion.settings)))

    return InjectedFault(name, description, "headers", settings=MappingProxyType(settings), alter=alter)


def reset_after(part: Callable[[Answer], bytes]) -> Send:
    """Sends a part and then RST, so that the client's socket fails instead of ending."""

    async def send(connection: Connection, answer: Answer, _settings: Mapping[str, Any]) -> None:
        writer = connection.writer
        if data := part(answer):
            writer.write(data)
            await writer.drain()
            await asyncio.sleep(_SETTLE)
        peer = writer.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()

    return send


async def _send_nothing(connection: Connection, _answer: Answer, _settings: Mapping[str, Any]) -> None:
    while await connection.reader.read(_READ):
        pass


def _remove_middle(items: list[Any], _index: str) -> None:
    del items[middle_of(items)]


def _too_many(occasion: Occasion) -> bool:
    return len(occasion.texts) > int(occasion.settings["cap"])


def _too_many_fields(occasion: Occasion) -> dict[str, object]:
    return {"limit": occasion.settings["cap"], "sent": len(occasion.texts)}


USER_FAULTS = (
    items_fault("item-missing-middle", "The middle item is missing.", _remove_middle),
    InjectedFault(
        "html-200",
        "A sign-in page in HTML, with status 200.",
        "body",
        alter=lambda _: Answer(200, (("content-type", "text/html; charset=utf-8"),), HTML),
    ),
    refusal_fault("rate-limit", "Too many requests: 429 with each vendor's own code.", RATE_LIMIT),
    refusal_fault("overloaded", "The model is overloaded: 503, or Zhipu's 429 with 1305.", refusals_for("overloaded")),
    refusal_fault("server-error", "An internal error: 500.", refusals_for("server_error")),
    refusal_fault(
        "money", "The account is in arrears, in each vendor's own way: 429, 403 or 400.", refusals_for("money")
    ),
    refusal_fault("bad-key", "The key is wrong: 401.", refusals_for("wrong_key")),
    refusal_fault(
        "unknown-model",
        "No such model: 400 or 404.",
        refusals_for("unknown_model"),
        values=lambda occasion: {"model": occasion.model},
    ),
    refusal_fault(
        "batch-too-large-with-cap",
        "Refuses more than `cap` texts and names the number.",
        _TOO_MANY_TEXTS,
        when=_too_many,
        values=_too_many_fields,
        cap=5,
    ),
    refusal_fault(
        "text-too-long",
        "Refuses a request with a text of more than `characters` characters.",
        refusals_for("text_too_long"),
        when=lambda occasion: any(len(text) > occasion.settings["characters"] for text in occasion.texts),
        values=lambda occasion: {"limit": occasion.settings["characters"]},
        characters=1000,
    ),
    refusal_fault(
        "moderated",
        "Refuses a request with a text that holds `marker`.",
        refusals_for("moderated"),
        when=lambda occasion: any(occasion.settings["marker"] in text for text in occasion.texts),
        marker="MODERATED",
    ),
    rate_limit_with(
        "retry-after-seconds",
        "429 with Retry-After: `delay` seconds.",
        "retry-after",
        lambda settings: f"{settings['delay']:g}",
        delay=1,
    ),
    InjectedFault(
        "connection-reset",
        "The connection is reset before the response.",
        "socket",
        send=reset_after(lambda _: b""),
        sends_status=False,
    ),
    InjectedFault("silence", "No response comes.", "socket", send=_send_nothing, sends_status=False),
)
