"""Vectors of the simulated models: those of the provider `local`, cached up to a bound."""

from __future__ import annotations

import base64
import math
import re
import sys
import threading
import zlib
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any

from multiembed.providers import local

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

# A demonstration sends the same texts to five providers, so most vectors are asked for again.
_MAX_BYTES = 64 * 1024 * 1024
# The vendor's example names index 246351, so the vocabulary is not Qwen's own; XLM-R's has this many words.
_VOCABULARY = 250_002
_IDEOGRAPHS = "\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKEN = re.compile(f"[{_IDEOGRAPHS}]|[^\\W{_IDEOGRAPHS}]+")


class VectorStore:
    """Cache of unit vectors by text. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cached: OrderedDict[tuple[str, int], NDArray[np.float32]] = OrderedDict()
        self._bytes = 0

    def embed(self, texts: Sequence[str], dimensions: int) -> list[NDArray[np.float32]]:
        """One float32 vector of unit length per text."""
        found: dict[str, NDArray[np.float32]] = {}
        with self._lock:
            for text in texts:
                vector = self._cached.get((text, dimensions))
                if vector is not None:
                    self._cached.move_to_end((text, dimensions))
                    found[text] = vector
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            # The local embedder refuses a text of blanks alone, which the real models embed.
            rows = local.embed([text if text.strip() else "\u2423" for text in missing], dimensions)
            # A view of one row would keep the rows of all the others alive.
            found.update((text, row.copy()) for text, row in zip(missing, rows, strict=True))
            self._cache(missing, found, dimensions)
        return [found[text] for text in texts]

    def _cache(self, texts: list[str], vectors: dict[str, NDArray[np.float32]], dimensions: int) -> None:
        with self._lock:
            for text in texts:
                if (text, dimensions) not in self._cached:
                    self._cached[text, dimensions] = vectors[text]
                    self._bytes += _size(text, vectors[text])
            while self._bytes > _MAX_BYTES:
                (text, _), vector = self._cached.popitem(last=False)
                self._bytes -= _size(text, vector)


def _size(text: str, vector: NDArray[np.float32]) -> int:
    return sys.getsizeof(text) + vector.nbytes + 256  # the entry itself


def as_base64(vector: NDArray[np.float32]) -> str:
    """The vector in OpenAI's base64 encoding: float32, little-endian."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def sparse_embedding(text: str) -> list[dict[str, Any]]:
    """Hashed bag of words: `index`, `value` and `token` of each word or ideograph, never empty.

    Deterministic, and lexical like the dense vectors: the same word has the same index in every text.
    """
    counts: Counter[int] = Counter()
    tokens: dict[int, str] = {}
    for token in _TOKEN.findall(text) or [text.strip() or " "]:
        index = zlib.crc32(token.casefold().encode("utf-8", "replace")) % _VOCABULARY
        counts[index] += 1
        tokens.setdefault(index, token)
    return [
        {"index": index, "value": round(0.5 + 0.5 * math.log1p(count), 4), "token": tokens[index]}
        for index, count in counts.items()
    ]
