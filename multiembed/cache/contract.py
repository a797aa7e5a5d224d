"""What every cache of vectors can do, whatever keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.records import SparseVector, Vectors


class CacheWarning(UserWarning):
    """The cache could not do its part. No vector is lost or wrong, but some texts may be paid for again."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a lookup found."""

    positions: list[int] = field(default_factory=list)
    """Of the texts that were found, ascending."""
    dense: Vectors | None = None
    """float32, shape (len(positions), dimensions); None when nothing was found, or nothing dense is kept."""
    sparse: list[SparseVector] | None = None
    """One per position; None when nothing was found, or nothing sparse is kept."""


class VectorCache(Protocol):
    """Vectors by space and text. May be used from many threads at once.

    A space is EmbeddingClient.fingerprint(role): a name for everything that changes a vector but the text. A cache
    that has `describe(space, words)` too is told once what a space is in human words. One that has `local`, and there
    True, takes no longer than a local disk, so that a sync call need not start threads for `put`.
    """

    def get(self, space: str, texts: Sequence[str]) -> Found:
        """The vectors of the texts that are known; all of one length. Never raises because a store fails."""

    def put(
        self, space: str, texts: Sequence[str], dense: Vectors | None, sparse: Sequence[SparseVector] | None
    ) -> None:
        """Keep the vectors of texts, all or none. Never raises because a store fails."""

    def close(self) -> None:
        """Give back connections. A later call opens new ones."""
