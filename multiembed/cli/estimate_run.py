"""What a run would take, told in constant memory however large the inputs are, without sending anything."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiembed import EmbeddingClient, Role

_BLOCK_TEXTS, _BLOCK_CHARACTERS = 1024, 2_000_000
"""Where a stream ends its blocks, within which a text that stands twice is sent once."""
_SECONDS = 0.5
"""A request's time, supposed as long as none was sent."""
_IN_FLIGHT = 8
_TRIED = 64
"""Texts that are embedded to see how fast it goes where nothing is sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run would take."""

    texts: int
    twice: int
    """Those of them that stood somewhere before."""
    requests: int
    tokens: int
    cost: float | None
    """CNY; None when the price is unknown."""
    seconds: float
    basis: str
    """What the seconds suppose."""


def foretell(
    client: EmbeddingClient,
    texts: Iterable[str],
    role: Role,
    *,
    shares: bool,
    in_flight: int | None,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
) -> Forecast:
    """Sum up the estimates of blocks of texts.

    Args:
        client: whose options count.
        texts: any number of them.
        role: of all.
        shares: whether a text that stands in several blocks is paid for once, because there is a cache.
        in_flight: the most requests at once, where it is known.
        requests_per_minute: the quota, where it is known.
        tokens_per_minute: likewise.
    """
    count = twice = requests = tokens = 0
    cost: float | None = 0.0
    seen = Seen()
    tried: list[str] = []
    for block in _blocks(texts):
        new = [text for text in block if seen.new(text)]
        count += len(block)
        twice += len(block) - len(new)
        estimate = client.estimate(new if shares else block, role)
        requests += estimate.requests
        tokens += estimate.tokens
        cost = None if cost is None or estimate.cost is None else cost + estimate.cost
        tried += block[: _TRIED - len(tried)]
    if requests:
        many = in_flight or _IN_FLIGHT
        seconds, basis = requests * _SECONDS / many, f"{_SECONDS} s a request and {many} in flight"
        for amount, ceiling, name in (
            (requests, requests_per_minute, "requests"),
            (tokens, tokens_per_minute, "tokens"),
        ):
            if ceiling and 60.0 * amount / ceiling > seconds:
                seconds, basis = 60.0 * amount / ceiling, f"{ceiling:,} {name} a minute"
    elif tokens:
        seconds, basis = _by_trial(client, tried, role) * count, "what a few of the texts took on this machine"
    else:
        seconds, basis = 0.0, "what is known already"
    return Forecast(
        texts=count,
        twice=twice,
        requests=requests,
        tokens=tokens,
        cost=cost,
        seconds=seconds,
        basis=basis,
    )


class Seen:
    """Which texts came before, in bounded memory: a Bloom filter, which may take a new text for one it knows.

    It errs for 0.01 % of ten million different texts, and for 8 % of a hundred million.

    Args:
        bits: the binary logarithm of its size in bits; 64 MiB, of which only what is used is taken.
    """

    def __init__(self, bits: int = 29) -> None:
        self._mask = (1 << bits) - 1
        self._table = bytearray(1 << (bits - 3))

    def new(self, text: str) -> bool:
        """Whether a text was not seen before; it is from now on."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=24).digest()
        unknown = False
        for start in (0, 8, 16):
            place = int.from_bytes(digest[start : start + 8], "little") & self._mask
            byte, bit = place >> 3, 1 << (place & 7)
            if not self._table[byte] & bit:
                unknown = True
                self._table[byte] |= bit
        return unknown


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if len(block) == _BLOCK_TEXTS or size >= _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _by_trial(client: EmbeddingClient, texts: list[str], role: Role) -> float:
    """Seconds a text where texts are embedded on this machine."""
    begun = time.perf_counter()
    client.embed(texts, role)
    return (time.perf_counter() - begun) / len(texts)
