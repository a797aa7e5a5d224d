"""Estimate of a run, in bounded memory and without sending anything."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiembed import EmbeddingClient, Role
    from multiembed.cli.job_options import JobOptions

_CHUNK_TEXTS, _CHUNK_CHARACTERS = 1024, 2_000_000
"""Limits of a stream's chunks, within which a duplicate text is sent once."""
_TRIAL_TEXTS = 64
"""Texts that are embedded to measure the speed of a local model."""


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """Estimate of a run."""

    texts: int
    duplicates: int
    """Texts that came before."""
    requests: int
    tokens: int
    cost: float | None
    """CNY; None when the price is unknown."""
    seconds: float | None
    """None: unknown."""
    basis: str
    """What the seconds follow from, or why they are unknown."""


def estimate_run(client: EmbeddingClient, texts: Iterable[str], options: JobOptions) -> RunEstimate:
    """Sum up the estimates of chunks of texts. With a cache, a text in several chunks is paid for once."""
    count = duplicates = requests = tokens = 0
    cost: float | None = 0.0
    seen = SeenTexts()
    trial: list[str] = []
    for chunk in _chunks(texts):
        new = [text for text in chunk if seen.add(text)]
        count += len(chunk)
        duplicates += len(chunk) - len(new)
        estimate = client.estimate(new if options.vectors or options.has_cache_url else chunk, options.role)
        requests += estimate.requests
        tokens += estimate.tokens
        cost = None if cost is None or estimate.cost is None else cost + estimate.cost
        trial += chunk[: _TRIAL_TEXTS - len(trial)]
    seconds, basis = _duration(requests, tokens, options)
    if not requests and tokens:  # a model on this machine
        seconds, basis = _seconds_per_text(client, trial, options.role) * count, "the time of a few texts here"
    return RunEstimate(count, duplicates, requests, tokens, cost, seconds, basis)


class SeenTexts:
    """Bloom filter of the texts that came before, in bounded memory.

    It takes 0.01 % of ten million different texts for duplicates, and 8 % of a hundred million.

    Args:
        bits: binary logarithm of its size in bits. The default is 64 MiB, of which only used pages take memory.
    """

    def __init__(self, bits: int = 29) -> None:
        self._mask = (1 << bits) - 1
        self._table = bytearray(1 << (bits - 3))

    def add(self, text: str) -> bool:
        """Add a text. Returns True if it is new."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=24).digest()
        is_new = False
        for start in (0, 8, 16):
            position = int.from_bytes(digest[start : start + 8], "little") & self._mask
            byte, bit = position >> 3, 1 << (position & 7)
            if not self._table[byte] & bit:
                is_new = True
                self._table[byte] |= bit
        return is_new


def _duration(requests: int, tokens: int, options: JobOptions) -> tuple[float | None, str]:
    """Seconds by the account's quotas, and their basis. Only those that the user gave are known."""
    if not requests:
        return 0.0, "the vectors in the cache"
    quotas = ((requests, "requests"), (tokens, "tokens"))
    times = [
        (60.0 * amount / quota, f"{quota:,} {name} a minute")
        for amount, name in quotas
        if (quota := options.client.get(f"{name}_per_minute"))
    ]
    if times:
        return max(times)
    return None, "unknown: the server's speed decides, or the account's quota (--requests-per-minute)"


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if len(chunk) == _CHUNK_TEXTS or size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _seconds_per_text(client: EmbeddingClient, texts: list[str], role: Role) -> float:
    started = time.perf_counter()
    client.embed(texts, role)
    return (time.perf_counter() - started) / len(texts)
