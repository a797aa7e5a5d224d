"""Batch packing: texts into batches that fit the model's limits of one request, few of them half empty. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiembed.types import Limits

_BYTES_AROUND_TEXT = 8  # in JSON: quotes, comma, and an occasional escape
_BYTES_AROUND_BODY = 1024
_MAX_OPEN = 8  # open batches: enough to combine long and short texts


@dataclass(slots=True)
class OpenBatch:
    """A batch that is being packed: positions of its texts, ascending, their estimated tokens, and bytes."""

    positions: list[int] = field(default_factory=list)
    tokens: int = 0
    size: int = _BYTES_AROUND_BODY


def pack_batches(sizes: Iterable[tuple[int, int]], limits: Limits) -> Iterator[OpenBatch]:
    """Pack texts, given as (estimated tokens, UTF-8 bytes) in order, into batches that fit one request each.

    Each text goes into the first of a few open batches that it fits into. A text that is over a limit alone gets its
    own batch: the estimate may be wrong, so the server decides, and a rejection affects no other text.
    """
    max_tokens = limits.max_tokens_per_request or float("inf")
    max_tokens_alone = min(limits.max_tokens_per_item or max_tokens, max_tokens)
    max_bytes = limits.max_bytes_per_request or float("inf")
    open_batches: list[OpenBatch] = []
    for position, (tokens, size) in enumerate(sizes):
        size += _BYTES_AROUND_TEXT
        if tokens > max_tokens_alone:
            yield OpenBatch([position], tokens, _BYTES_AROUND_BODY + size)
            continue
        for batch in open_batches:
            if batch.tokens + tokens <= max_tokens and batch.size + size <= max_bytes:
                break
        else:
            if len(open_batches) == _MAX_OPEN:
                yield open_batches.pop(0)
            batch = OpenBatch()
            open_batches.append(batch)
        batch.positions.append(position)
        batch.tokens += tokens
        batch.size += size
        if len(batch.positions) >= limits.max_items:
            open_batches.remove(batch)
            yield batch
    yield from open_batches
