"""The record of a measured client, and the table of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MODEL = "bench"
OURS = "multiembed"
QUERY = "embed_query: "
"""The names of clients for queries begin with it."""


class Setting(NamedTuple):
    """The settings of a client."""

    base_url: str
    batch: int
    concurrency: int


class Client(NamedTuple):
    """One way from texts to vectors."""

    name: str
    package: str
    module: str
    returns: str
    """"list" (of lists of float), "float32" (an array), "blocks" (arrays, one after the other), "bytes" (nothing)."""
    opens: Callable[[Any, Setting], Callable[[Iterable[str]], Any]]
    most: int | None
    """So many texts show its pace; more would take minutes. None: any number."""
    sequential: bool
    """Sends one batch after the other, so how many may be in flight changes nothing."""


CLIENTS: dict[str, Client] = {}


def register(name: str, package: str, module: str, returns: str, *, most: int | None = None, sequential: bool = False):
    """Register a function that makes the embedding call from the imported module and a setting."""

    def enter(function):
        CLIENTS[name] = Client(name, package, module, returns, function, most, sequential)
        return function

    return enter


async def in_turn(embed, texts: Iterable[str]) -> list[list[float]]:
    """One query after the other."""
    return [await embed(text) for text in texts]
