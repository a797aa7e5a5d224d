"""Interface of a vector cache: its methods, what a look-up returns, what is kept, and the warning when it fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.types import SparseVector, Vectors


class CacheWarning(UserWarning):
    """The cache failed. No vector is lost or wrong, but some texts may be paid for again."""


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """Result of a look-up."""

    positions: list[int] = field(default_factory=list)
    """Positions of the texts that were found, ascending."""
    dense: Vectors | None = None
    """float32, shape (len(positions), dimensions). None if nothing dense was found."""
    sparse: list[SparseVector] | None = None
    """One per position. None if nothing sparse was found."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """Vectors to keep: the texts of one finished request."""

    namespace: str
    """EmbeddingClient.fingerprint(role)."""
    texts: Sequence[str] = field(repr=False)
    dense: Vectors | None = field(repr=False)
    """float32, shape (len(texts), dimensions)."""
    sparse: Sequence[SparseVector] | None = field(repr=False)
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


@dataclass(frozen=True, slots=True)
class CacheClaim:
    """Result of a claim: what was found by now, and what is left to another process. The rest is the caller's."""

    found: CacheLookup = field(default_factory=CacheLookup)
    pending: Sequence[int] = ()
    """Positions of the texts that another process embeds at this moment, ascending."""


class VectorCache(Protocol):
    """Cache of vectors by namespace and text. Many threads may use it at once.

    A cache namespace is EmbeddingClient.fingerprint(role): it names everything that changes a vector except the text.

    Two more methods are optional. `describe(namespace, description)` is called once for each namespace, with a dict of
    model, role and dimensions. `put_many(entries)` gets a sequence of CacheEntry: all that finished since the last
    write. Without it, `put` is called for each of them.
    """

    def get(self, namespace: str, texts: Sequence[str]) -> CacheLookup:
        """Look vectors up, all of one length. Does not raise if the store fails."""

    def put(
        self, namespace: str, texts: Sequence[str], dense: Vectors | None, sparse: Sequence[SparseVector] | None
    ) -> None:
        """Keep the vectors of texts, all or none. Does not raise if the store fails."""

    def close(self) -> None:
        """Close connections. A later call opens new ones."""
