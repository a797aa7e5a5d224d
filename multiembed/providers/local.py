"""Models that are computed locally: no key, no network. Hashed character n-grams are defined here.

These are lexical, not semantic: texts come close when they share words and word parts, not when they mean the same.
They have any dimensions and are the same on every machine. They are for tests, demonstrations and machines without a
network.
"""

from __future__ import annotations

import difflib
import encodings.utf_32_le  # noqa: F401 - its first use imports it, and a fork during that would leave the child waiting
import unicodedata
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.providers import use_multilingual
from multiembed.providers.base import Provider
from multiembed.types import Limits, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from multiembed.providers.types import LocalEmbedder
    from multiembed.types import Vectors

# Chinese, Japanese and Korean words are short, so one and two characters carry them; alphabets take three to five.
_IDEOGRAPHS = ((0x2E80, 0x9FFF), (0xAC00, 0xD7AF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
_MAX_WIDTH = 5
_DIMENSIONS = 1024
_SPACE = 0x20


def embed(texts: Sequence[str], dimensions: int | None = None) -> Vectors:
    """Embed texts as float32 vectors of unit length, shape (len(texts), dimensions); 1024 dimensions by default.

    All sums are of integers and only the last division rounds, so every processor gives the same result.
    """
    import numpy as np

    dimensions = dimensions or _DIMENSIONS
    vectors = np.empty((len(texts), dimensions), dtype=np.float32)
    for row, text in enumerate(texts):
        hashes, counts = np.unique(_ngrams(text), return_counts=True)
        buckets = (hashes % np.uint64(dimensions)).astype(np.intp)
        # A word that occurs ten times says little more than one that occurs three times: weight is the root.
        weights = np.floor(np.sqrt(counts * 4096.0))
        signs = np.where(hashes >> np.uint64(63), -1.0, 1.0)
        sums = np.bincount(buckets, weights=weights * signs, minlength=dimensions)
        length = np.sqrt(np.dot(sums, sums))
        if length == 0.0:  # every bucket cancelled out: the text's own hash selects one
            sums[buckets[0]] = length = 1.0
        vectors[row] = sums / length
    return vectors


def _ngrams(text: str) -> NDArray[np.uint64]:
    """Hash each n-gram that starts and ends inside one word, or crosses one boundary of it."""
    import numpy as np

    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    points = np.frombuffer(f" {folded} ".encode("utf-32-le", "replace"), dtype="<u4").astype(np.uint64)
    dense = np.zeros(len(points), dtype=bool)
    for first, last in _IDEOGRAPHS:
        dense |= (points >= first) & (points <= last)
    blank = points == _SPACE
    found = [_mix(points[~blank & ~dense], 1), _mix(points[dense], 1)]
    hashes = points
    inner_blank = np.zeros(len(points), dtype=bool)
    has_dense = dense
    for width in range(2, min(_MAX_WIDTH, len(points)) + 1):
        # hashes[i] covers points[i : i + width]
        hashes = hashes[:-1] * np.uint64(0x100000001B3) ^ points[width - 1 :]
        has_dense = has_dense[:-1] | dense[width - 1 :]
        inner_blank = inner_blank[:-1] | blank[width - 2 : -1] if width > 2 else blank[:-1] & blank[1:]
        wanted = ~inner_blank & (has_dense if width == 2 else ~has_dense)
        found.append(_mix(hashes[wanted], width))
    return np.concatenate(found)


def _mix(hashes: NDArray[np.uint64], width: int) -> NDArray[np.uint64]:
    """Spread the bits, so that the low ones choose the bucket and the highest one the sign (splitmix64)."""
    import numpy as np

    mixed = hashes + np.uint64(0x9E3779B97F4A7C15 * width % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    spread: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return spread


_NGRAMS = ModelInfo(
    name="char-ngrams",
    limits=Limits(max_items=256),
    dimensions=None,
    default_dimensions=_DIMENSIONS,
    price_cny_per_mtok=0.0,
    source="multiembed/providers/local.py",
    checked="2026-11-21",
    notes="Lexical, not semantic: for tests and demonstrations.",
)

_MODELS = (_NGRAMS, use_multilingual.USE_MULTILINGUAL)


def find_embedder(model: str) -> LocalEmbedder:
    """Find the function of a local model.

    Raises:
        ConfigurationError: there is no such model, or its package is missing or in another version.
    """
    if model == _NGRAMS.name:
        return embed
    if model == use_multilingual.USE_MULTILINGUAL.name:
        use_multilingual.check_installed()
        return use_multilingual.embed
    names = [each.name for each in _MODELS]
    near = difflib.get_close_matches(model, names, n=1)
    hint = f" Did you mean 'local:{near[0]}'?" if near else ""
    raise ConfigurationError(f"There is no local model {model[:80]!r}.{hint} Local models: {', '.join(names)}.")


LOCAL = Provider(
    id="local",
    title="local models (character n-grams; Universal Sentence Encoder)",
    models=_MODELS,
    unknown=_NGRAMS,
    path="",
    compute=find_embedder,
)
