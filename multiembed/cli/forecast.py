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
_ROOM = 1 << 17
"""The most texts that are remembered to know which stand twice."""
_SECONDS = 0.5
"""A request's time, supposed as long as none was sent."""
_IN_FLIGHT = 8
_TRIED = 64
"""Texts that are embedded to see how fast it goes where nothing is sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run would take."""

    texts: int
    unique: int
    twice: bool
    """Whether some stand twice."""
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
    count = requests = tokens = 0
    cost: float | None = 0.0
    distinct = Distinct()
    tried: list[str] = []
    for block in _blocks(texts):
        estimate = client.estimate(block, role)
        count += estimate.texts
        requests += estimate.requests
        tokens += estimate.tokens
        cost = None if cost is None or estimate.cost is None else cost + estimate.cost
        tried += block[: _TRIED - len(tried)]
        sizes = {text: len(text.encode("utf-8", "replace")) for text in block}
        each = estimate.tokens / sum(sizes.values())
        for text, size in sizes.items():
            distinct.add(text, size * each)
    share = min(1.0, distinct.weight / tokens) if shares and tokens else 1.0
    requests, tokens = round(requests * share), round(tokens * share)
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
        unique=min(count, distinct.count),
        twice=distinct.count < count * 0.99,
        requests=requests,
        tokens=tokens,
        cost=None if cost is None else cost * share,
        seconds=seconds,
        basis=basis,
    )


class Distinct:
    """How many different texts there are, and their weight together, remembering a bounded number of them.

    Once more are seen than may be remembered, only those whose hash falls into a smaller and smaller share of all
    hashes are kept, and stand for the others (distinct sampling, Gibbons 2001). Exact until then; afterwards, with at
    least 65,536 of them kept, right within about 1 %.
    """

    def __init__(self, room: int = _ROOM) -> None:
        self._room = room
        self._level = 0
        self._kept: dict[int, float] = {}

    def add(self, text: str, weight: float) -> None:
        """Take a text that may have been seen before."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        if number & ((1 << self._level) - 1):
            return
        self._kept.setdefault(number, weight)
        while len(self._kept) > self._room:
            self._level += 1
            mask = (1 << self._level) - 1
            self._kept = {number: its for number, its in self._kept.items() if not number & mask}

    @property
    def count(self) -> int:
        """Different texts."""
        return len(self._kept) << self._level

    @property
    def weight(self) -> float:
        """The weight of the different texts together."""
        return sum(self._kept.values()) * (1 << self._level)


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
