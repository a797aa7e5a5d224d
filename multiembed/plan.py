"""Texts into batches: no request holds more items, tokens or bytes than the model takes, and order is kept."""

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

    A text that alone is over a limit gets a run of its own: the estimate may err, and the server decides.

    Args:
        sizes: (estimated tokens, UTF-8 bytes) of each text, in order.
        limits: what one request may hold.

    Yields:
        The positions of each run, which together are 0, 1, 2, … without a gap.
    """
    start = count = tokens = size = 0
    token_room = limits.max_tokens_per_request or float("inf")
    byte_room = (limits.max_bytes_per_request or float("inf")) - _BYTES_AROUND_BODY
    for its_tokens, its_bytes in sizes:
        its_bytes += _BYTES_AROUND_TEXT
        full = count - start >= limits.max_items or tokens + its_tokens > token_room or size + its_bytes > byte_room
        if full and count > start:
            yield range(start, count)
            start, tokens, size = count, 0, 0
        tokens += its_tokens
        size += its_bytes
        count += 1
    if count > start:
        yield range(start, count)
