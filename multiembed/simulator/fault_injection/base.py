"""What a fault is: when it can be made, how it alters the answer, how it behaves on the socket."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from multiembed.simulator.api_format import texts_of
from multiembed.simulator.responder import FORMS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from multiembed.simulator.api_format import Form
    from multiembed.simulator.connection import Connection
    from multiembed.simulator.messages import Answer, Request

Where: TypeAlias = Literal["items", "vectors", "body", "status", "headers", "socket"]

EVERY_PROVIDER = tuple(FORMS)
OPENAI_FORMS = tuple(name for name in FORMS if name != "dashscope")


@dataclass(frozen=True, kw_only=True, slots=True)
class Occasion:
    """A request that a fault may be made for."""

    request: Request
    form: Form
    """For CONNECT, which has none, the gateway's."""
    answer: Answer
    """As it would be without the fault."""
    reused: bool
    """The connection has carried another request before."""
    settings: Mapping[str, Any]
    """What the fault was told, with its defaults."""

    @property
    def texts(self) -> list[str]:
        """The texts to embed; none when the request has no place for them."""
        return texts_of(self.request.body)


def always(_occasion: Occasion) -> bool:
    """It can be made for any request, also for one that is refused anyway."""
    return True


def is_good(occasion: Occasion) -> bool:
    """It takes the place of a good answer only."""
    return occasion.answer.status == 200


def has_vectors(occasion: Occasion) -> bool:
    """It needs an answer with dense vectors."""
    return is_good(occasion) and b'"embedding":' in occasion.answer.body


def asks_for_base64(occasion: Occasion) -> bool:
    """It needs a request with encoding_format base64, and an answer with dense vectors."""
    return has_vectors(occasion) and occasion.request.body.get("encoding_format") == "base64"


def unaltered(occasion: Occasion) -> Answer:
    """The answer as it would be without the fault."""
    return occasion.answer


@dataclass(frozen=True)
class InjectedFault:
    """One thing that goes wrong, by the name that tests and the command line know it by."""

    name: str
    does: str
    """In one line, with its settings in backticks."""
    where: Where
    """What is wrong: the list of items, a vector, the body's bytes, the status, a header, or the socket's use."""
    _: KW_ONLY
    applies_to: tuple[str, ...] = EVERY_PROVIDER
    """The providers that answer so."""
    harmless: bool = False
    """A client has to find the right vectors all the same."""
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What it can be told, with what it takes for granted."""
    when: Callable[[Occasion], bool] = field(default=always, repr=False)
    """Whether a request gives occasion for it; others are answered as if it were not there."""
    alter: Callable[[Occasion], Answer] = field(default=unaltered, repr=False)
    """The answer that is sent instead."""
    act: Callable[[Connection, Answer, Mapping[str, Any]], Awaitable[None]] | None = field(default=None, repr=False)
    """How it is sent, where that is not in good order."""
    tells_status: bool = True
    """Whether a client gets to see the answer's status."""
    on_connect: bool = False
    """It is a proxy's, and is made for CONNECT requests too."""
