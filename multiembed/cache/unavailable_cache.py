"""Stand-in for a cache object that could not be pickled: it holds nothing, and warns once in each process."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

from multiembed.cache.base import CacheLookup, CacheWarning

if TYPE_CHECKING:
    from collections.abc import Sequence


class UnavailableCache:
    """Stand-in for a cache that did not reach this process. It finds and keeps nothing.

    Its first use in a process is a CacheWarning.

    Args:
        kind: the type of the cache object.
        option: the option by which it was given.
    """

    def __init__(self, kind: str, option: str = "cache") -> None:
        self.kind = kind
        self.option = option
        self._warned_in = 0

    def get(self, namespace: str, texts: Sequence[str]) -> CacheLookup:  # noqa: ARG002 - the protocol has them
        """Find nothing."""
        self.warn()
        return CacheLookup()

    def put(self, *_: object) -> None:
        """Keep nothing."""

    def close(self) -> None:
        """Do nothing."""

    def warn(self) -> None:
        """Warn once in this process that the cache is missing."""
        if self._warned_in == os.getpid():
            return
        self._warned_in = os.getpid()
        warnings.warn(
            f"The embedder was given {self.option}={self.kind} in another process. That object could not be pickled, "
            "so this process has no cache and pays for every text. Give the path of a cache file, or an object that "
            "can be pickled.",
            CacheWarning,
            stacklevel=4,
        )

    def __repr__(self) -> str:
        return f"UnavailableCache({self.kind!r})"

    def __reduce__(self) -> Any:
        return UnavailableCache, (self.kind, self.option)

    def __deepcopy__(self, memo: dict[int, Any]) -> UnavailableCache:
        return self  # as every cache does: a copy of the embedder shares it
