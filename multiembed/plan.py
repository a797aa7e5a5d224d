"""Texts into batches: no request holds more items, tokens or bytes than the model takes, and order is kept. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiembed.records import Limits

# JSON around one text: quotes, comma, and now and then an escape.
_BYTES_AROUND_TEXT = 8
_BYTES_AROUND_BODY = 1024


def pack(sizes: Iterable[tuple[int, int]], limits: Limits) -> Iterator[range]:
    """Cut a row of texts into runs that fit one request each.

    A text that alone is over a limit gets a run of its own: the estimate may err, and the server decides. If it
    refuses, no neighbour has to be sent again.

    Args:
        sizes: (estimated tokens, UTF-8 bytes) of each text, in order.
        limits: what one request may hold.

    Yields:
        The positions of each run, which together are 0, 1, 2, … without a gap.
    """
    start = count = tokens = size = 0
    most = limits.max_tokens_per_item or float("inf")
    token_room = limits.max_tokens_per_request or float("inf")
    byte_room = (limits.max_bytes_per_request or float("inf")) - _BYTES_AROUND_BODY
    shut = False
    for its_tokens, its_bytes in sizes:
        tokens += its_tokens
        size += its_bytes + _BYTES_AROUND_TEXT
        too_long = its_tokens > most
        full = count - start >= limits.max_items or tokens > token_room or size > byte_room
        if count > start and (full or too_long or shut):
            yield range(start, count)
            start, tokens, size = count, its_tokens, its_bytes + _BYTES_AROUND_TEXT
        shut = too_long
        count += 1
    if count > start:
        yield range(start, count)
