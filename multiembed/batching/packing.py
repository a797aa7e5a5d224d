"""Texts into batches: no request holds more items, tokens or bytes than the model takes; few go half empty. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiembed.types import Limits

# JSON around one text: quotes, comma, and now and then an escape.
_BYTES_AROUND_TEXT = 8
_BYTES_AROUND_BODY = 1024
_MOST_OPEN = 8
"""Batches that are filled side by side: enough for long and short texts to find each other."""


@dataclass(slots=True)
class OpenBatch:
    """A batch that is being filled, or is full."""

    positions: list[int] = field(default_factory=list)
    """Positions of its texts, ascending."""
    tokens: int = 0
    """Of all of them, as estimated."""
    size: int = _BYTES_AROUND_BODY


def pack_batches(sizes: Iterable[tuple[int, int]], limits: Limits) -> Iterator[OpenBatch]:
    """Put texts into batches that fit one request each.

    Each text goes into the first of a few open batches that has room for it, so that a long one does not leave those
    before it half empty. A text that alone is over a limit gets a batch of its own: the estimate may err, and the
    server decides. If it refuses, no neighbour has to be sent again.

    Args:
        sizes: (estimated tokens, UTF-8 bytes) of each text, in order.
        limits: what one request may hold.

    Yields:
        The batches, in which each position stands once.
    """
    most = limits.max_tokens_per_item or float("inf")
    token_room = limits.max_tokens_per_request or float("inf")
    byte_room = limits.max_bytes_per_request or float("inf")
    bins: list[OpenBatch] = []
    for place, (tokens, size) in enumerate(sizes):
        size += _BYTES_AROUND_TEXT
        if tokens > most or tokens > token_room:
            yield OpenBatch([place], tokens, _BYTES_AROUND_BODY + size)
            continue
        for bin_ in bins:
            if bin_.tokens + tokens <= token_room and bin_.size + size <= byte_room:
                break
        else:
            if len(bins) == _MOST_OPEN:
                yield bins.pop(0)
            bin_ = OpenBatch()
            bins.append(bin_)
        bin_.positions.append(place)
        bin_.tokens += tokens
        bin_.size += size
        if len(bin_.positions) >= limits.max_items:
            bins.remove(bin_)
            yield bin_
    yield from bins
