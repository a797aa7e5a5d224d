"""What a run would take, told in constant memory however large the inputs are, without sending anything."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiembed import EmbeddingClient, Role

_SAMPLE = 1 << 17
"""The most texts that are remembered to know which stand twice."""
_SECONDS = 0.5
"""A request's time, as long as nobody has sent one."""
_TRIED = 64
"""Texts that are embedded to see how fast it goes where it costs nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run would take."""

    texts: int
    unique: int
    requests: int
    tokens: int
    cost: float | None
    """CNY; None when the price is unknown."""
    seconds: float
    basis: str
    """What the seconds suppose."""


def foretell(
    client: EmbeddingClient,
    blocks: Iterable[list[str]],
    role: Role,
    *,
    in_flight: int,
    requests_per_minute: float | None,
    tokens_per_minute: float | None,
) -> Forecast:
    """Sum up the estimates of blocks of texts."""
    texts = requests = tokens = 0
    cost: float | None = 0.0
    twice = Distinct()
    tried: list[str] = []
    for block in blocks:
        if not block:
            continue
        estimate = client.estimate(block, role)
        texts += estimate.texts
        requests += estimate.requests
        tokens += estimate.tokens
        cost = None if cost is None or estimate.cost is None else cost + estimate.cost
        each = estimate.tokens / len(set(block))
        for text in set(block):
            twice.add(text, each)
        if len(tried) < _TRIED:
            tried += block[: _TRIED - len(tried)]
    # A block knows its own duplicates; what stands in several of them is sent once too.
    share = twice.weight / tokens if tokens else 1.0
    requests, tokens = round(requests * share), round(tokens * share)
    if requests:
        seconds, basis = requests * _SECONDS / in_flight, f"{_SECONDS} s a request and {in_flight} in flight"
        for many, ceiling, name in (
            (requests, requests_per_minute, "requests"),
            (tokens, tokens_per_minute, "tokens"),
        ):
            if ceiling and many / ceiling * 60 > seconds:
                seconds, basis = many / ceiling * 60, f"{ceiling:,.0f} {name} a minute"
    else:
        seconds, basis = _by_trial(client, tried, role) * twice.count, "what a few texts took on this machine"
    return Forecast(
        texts=texts,
        unique=twice.count,
        requests=requests,
        tokens=tokens,
        cost=None if cost is None else cost * share,
        seconds=seconds,
        basis=basis,
    )


class Distinct:
    """How many different texts there are, and their weight together, remembering a bounded number of them.

    Once more are seen than may be remembered, only those whose hash falls into a smaller and smaller share of all
    hashes are kept, and stand for the others (distinct sampling, Gibbons 2001): exact until then, and afterwards with
    an error of about 1 / sqrt(65,536), 0.4 %.
    """

    def __init__(self, room: int = _SAMPLE) -> None:
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
            self._kept = {number: weight for number, weight in self._kept.items() if not number & mask}

    @property
    def count(self) -> int:
        """Different texts."""
        return len(self._kept) << self._level

    @property
    def weight(self) -> float:
        """The weight of the different texts together."""
        return sum(self._kept.values()) * (1 << self._level)


def _by_trial(client: EmbeddingClient, texts: list[str], role: Role) -> float:
    """Seconds a text where texts are embedded on this machine."""
    if not texts:
        return 0.0
    begun = time.perf_counter()
    client.embed(texts, role)
    return (time.perf_counter() - begun) / len(texts)
