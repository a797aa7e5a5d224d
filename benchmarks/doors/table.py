"""What a door is, and the table that doors are entered into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MODEL = "bench"
OURS = "multiembed"
QUERY = "embed_query: "
"""What the names of doors for queries begin with."""


class Setting(NamedTuple):
    """How a door is to ask."""

    base_url: str
    batch: int
    concurrency: int


class Door(NamedTuple):
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


DOORS: dict[str, Door] = {}


def door(name: str, package: str, module: str, returns: str, *, most: int | None = None, sequential: bool = False):
    """Put a function from the imported module and a setting to what embeds into the table of doors."""

    def enter(function):
        DOORS[name] = Door(name, package, module, returns, function, most, sequential)
        return function

    return enter


async def in_turn(embed, texts: Iterable[str]) -> list[list[float]]:
    """One query after the other."""
    return [await embed(text) for text in texts]
