"""Counts how often the work on one text moves from one package of the core to another.

    python scripts/trace_moves.py              the number of moves, and each pair of packages
    python scripts/trace_moves.py --verbose    also each move in order, by the functions' names

One text goes through `MultiEmbeddings.embed_documents` to the simulator and back. A move is a call from a function of
one package (or top-level module) of multiembed into a function of another one, in the calling thread or in the I/O
thread. Imports, and what a first call makes once (client, I/O thread, connection), are done before.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_multiembed import MultiEmbeddings
from multiembed.simulator import Simulator

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(__file__).parents[1]
moves: list[tuple[str, str, str]] = []


def package(frame: FrameType | None) -> str | None:
    """The package of a frame's code; None for code that is not ours, or of the simulator."""
    path = Path(frame.f_code.co_filename) if frame is not None else ROOT
    if not path.is_relative_to(ROOT) or path.is_relative_to(ROOT / "multiembed" / "simulator"):
        return None
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] not in ("multiembed", "langchain_multiembed"):
        return None
    return parts[-1] if len(parts) == 2 else parts[1]


def caller_of(frame: FrameType) -> FrameType | None:
    """The nearest calling frame that is ours: calls by asyncio, aiohttp or numpy count for the code that made them."""
    back = frame.f_back
    while back is not None and package(back) is None:
        back = back.f_back
    return back


def profile(frame: FrameType, event: str, _: Any) -> None:
    """Note a call that leads into another package."""
    if event == "call" and (into := package(frame)) is not None and (caller := caller_of(frame)) is not None:
        origin = package(caller)
        if origin is not None and origin != into:
            moves.append((origin, into, frame.f_code.co_qualname))


def main() -> None:
    """Trace the second call of an embedder."""
    threading.setprofile(profile)
    with Simulator() as simulator:
        embedder = MultiEmbeddings(
            model="zhipu:embedding-3", api_key=simulator.api_key, base_url=simulator.base_url("zhipu"), dimensions=256
        )
        embedder.embed_documents(["the first call"])
        moves.clear()
        sys.setprofile(profile)
        embedder.embed_documents(["one text"])
        sys.setprofile(None)
        seen = list(moves)
    for (origin, into), number in Counter((origin, into) for origin, into, _ in seen).most_common():
        print(f"{number:4} {origin} -> {into}")
    if "--verbose" in sys.argv:
        print(*(f"{origin} -> {into}: {name}" for origin, into, name in seen), sep="\n")
    print(f"{len(seen)} moves between packages")


if __name__ == "__main__":
    main()
