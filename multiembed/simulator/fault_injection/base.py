"""Injected fault: when it may be injected, how it alters the response, how it sends it. And what faults share."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import orjson

from multiembed.simulator.api_format import texts_of
from multiembed.simulator.formats import API_FORMATS
from multiembed.simulator.responder import refused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from multiembed.simulator.api_format import ApiFormat, Reason, Refusal
    from multiembed.simulator.connection import Connection
    from multiembed.simulator.messages import Answer, Request

Where: TypeAlias = Literal["items", "vectors", "body", "status", "headers", "socket"]
Send: TypeAlias = "Callable[[Connection, Answer, Mapping[str, Any]], Awaitable[None]]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Occasion:
    """A request for which a fault may be injected."""

    request: Request
    api_format: ApiFormat
    """For CONNECT, which has none, the gateway's."""
    answer: Answer
    """The response without the fault."""
    reused: bool
    """Whether the connection has carried another request before."""
    settings: Mapping[str, Any]
    """The fault's settings, defaults included."""

    @property
    def texts(self) -> list[str]:
        """The texts to embed; empty when the request has no place for them."""
        return texts_of(self.request.body)

    @property
    def model(self) -> object:
        """The model that the request names."""
        return self.request.body.get("model") if isinstance(self.request.body, dict) else None

    @property
    def succeeds(self) -> bool:
        """Whether the response without the fault is a success."""
        return self.answer.status == 200

    @property
    def has_vectors(self) -> bool:
        """Whether the response without the fault has dense vectors."""
        return self.succeeds and b'"embedding":' in self.answer.body

    def refused(self, refusal: Refusal) -> Answer:
        """The error response for a refusal."""
        return refused(self.api_format, refusal, self.request)


@dataclass(frozen=True)
class InjectedFault:
    """One failure by the name that tests and the command line use."""

    name: str
    description: str
    """One line, with the settings in backticks."""
    where: Where
    """What is wrong: the list of items, a vector, the body's bytes, the status, a header, or the use of the socket."""
    _: KW_ONLY
    applies_to: tuple[str, ...] = tuple(API_FORMATS)
    """The providers that respond so."""
    harmless: bool = False
    """Whether a client must find the right vectors all the same."""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Settings and their defaults."""
    when: Callable[[Occasion], bool] = field(default=lambda _: True, repr=False)
    """Whether it may be injected for a request; others get the response without it."""
    alter: Callable[[Occasion], Answer] = field(default=lambda occasion: occasion.answer, repr=False)
    """The response that is sent instead."""
    send: Send | None = field(default=None, repr=False)
    """Sends the response, where that is not done properly."""
    sends_status: bool = True
    """Whether a client receives the response's status."""
    on_connect: bool = False
    """Whether it is a proxy's, and is injected for CONNECT requests too."""


def refusals_for(reason: Reason) -> dict[str, Refusal]:
    """The refusal of each provider that has one for this reason."""
    return {name: each.refusals[reason] for name, each in API_FORMATS.items() if reason in each.refusals}


def refusal_fault(
    name: str,
    description: str,
    refusals: Mapping[str, Refusal],
    *,
    when: Callable[[Occasion], bool] | None = None,
    values: Callable[[Occasion], Mapping[str, object]] | None = None,
    **settings: Any,
) -> InjectedFault:
    """A fault that refuses requests.

    Args:
        name: the fault's.
        description: the fault's.
        refusals: by provider; the fault is injected for these providers only.
        when: which of the requests that would succeed it refuses; without it, all requests.
        values: the fields of the refusal's message.
        settings: the fault's, with their defaults.
    """

    def alter(occasion: Occasion) -> Answer:
        refusal = refusals[occasion.api_format.provider]
        return occasion.refused(refusal.filled(**values(occasion)) if values else refusal)

    return InjectedFault(
        name,
        description,
        "status",
        applies_to=tuple(refusals),
        settings=MappingProxyType(settings),
        when=lambda occasion: when is None or (occasion.succeeds and when(occasion)),
        alter=alter,
    )


def find_items(payload: Any) -> tuple[dict[str, Any], str]:
    """The object that has the list of items, and the list's name in it, in a response of any format."""
    if "output" in payload:
        return payload["output"], "embeddings"
    return payload if isinstance(payload["data"], list) else payload["data"], "data"


def middle_of(items: list[Any]) -> int:
    """The position of the middle item, or of the one before the middle."""
    return (len(items) - 1) // 2


def items_fault(
    name: str, description: str, change: Callable[[list[Any], str], object], *, minimum: int = 1, harmless: bool = False
) -> InjectedFault:
    """A fault that changes the list of items in place.

    Args:
        name: the fault's.
        description: the fault's.
        change: takes the items and the name of their index.
        minimum: texts that the request must have.
        harmless: as in InjectedFault.
    """

    def alter(occasion: Occasion) -> Answer:
        payload = orjson.loads(occasion.answer.body)
        holder, key = find_items(payload)
        change(holder[key], "text_index" if key == "embeddings" else "index")
        return replace(occasion.answer, body=orjson.dumps(payload))

    def when(occasion: Occasion) -> bool:
        return occasion.has_vectors and len(occasion.texts) >= minimum

    return InjectedFault(name, description, "items", harmless=harmless, when=when, alter=alter)
