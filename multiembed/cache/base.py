"""What every cache of vectors can do, whatever keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.types import SparseVector, Vectors


class CacheWarning(UserWarning):
    """The cache could not do its part. No vector is lost or wrong, but some texts may be paid for again."""


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """What a lookup found."""

    positions: list[int] = field(default_factory=list)
    """Of the texts that were found, ascending."""
    dense: Vectors | None = None
    """float32, shape (len(positions), dimensions); None when nothing was found, or nothing dense is kept."""
    sparse: list[SparseVector] | None = None
    """One per position; None when nothing was found, or nothing sparse is kept."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Vectors to keep: the texts of one finished request."""

    namespace: str
    """EmbeddingClient.fingerprint(role)."""
    texts: Sequence[str]
    dense: Vectors | None
    """float32, shape (len(texts), dimensions)."""
    sparse: Sequence[SparseVector] | None
    """One per text."""

    def check(self) -> None:
        """Compare the numbers of texts and vectors.

        Raises:
            ValueError: there are not as many vectors as texts, or none at all.
        """
        if self.dense is None and self.sparse is None:
            raise ValueError("There is nothing to keep: neither dense nor sparse vectors.")
        if any(vectors is not None and len(vectors) != len(self.texts) for vectors in (self.dense, self.sparse)):
            raise ValueError("There are not as many vectors as texts.")


class VectorCache(Protocol):
    """Vectors by space and text. May be used from many threads at once.

    A space is EmbeddingClient.fingerprint(role): a name for everything that changes a vector but the text.

    Two more methods are optional. `describe(space, words)` is called once with a description of a space: a dict of
    model, role, dimensions. `put_many(entries)` gets a sequence of CacheEntry, all that finished since the last write;
    without it, `put` is called for each of them.
    """

    def get(self, space: str, texts: Sequence[str]) -> CacheLookup:
        """The vectors of the texts that are known; all of one length. Never raises because a store fails."""

    def put(
        self, space: str, texts: Sequence[str], dense: Vectors | None, sparse: Sequence[SparseVector] | None
    ) -> None:
        """Keep the vectors of texts, all or none. Never raises because a store fails."""

    def close(self) -> None:
        """Give back connections. A later call opens new ones."""
