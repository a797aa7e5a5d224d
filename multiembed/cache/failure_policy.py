"""What a cache does when its store fails: it warns once, and goes on without."""

from __future__ import annotations

import warnings

from multiembed.cache.base import CacheWarning
from multiembed.redaction import clean


class StoreHealth:
    """Whether the store is still read and written. It is asked first, told of every failure, and shared by threads.

    Args:
        name: of the store, for people.
    """

    def __init__(self, name: str) -> None:
        self.reads = True
        self.writes = True
        self._name = name
        self._said: dict[str, object] = {}

    def cannot_read(self, error: Exception) -> None:
        """From now on nothing is found. What cannot be read is not written either, so that nothing gets worse."""
        self.reads = self.writes = False
        self._warn("read", f"{self._name} cannot be read: {_say(error)}. Every text is embedded again from now on.")

    def cannot_write(self, error: Exception) -> None:
        """From now on nothing is kept; what was kept is still found, as long as it can be read."""
        self.writes = False
        self._warn("write", f"{self._name} cannot be written: {_say(error)}. New vectors are not kept from now on.")

    def cannot_encode(self, error: Exception) -> None:
        """These vectors are not kept; others are."""
        self._warn("encode", f"{self._name} cannot hold some vectors, which are not kept: {_say(error)}.")

    def cannot_close(self, error: Exception) -> None:
        """Nothing follows from it."""
        self._warn("close", f"{self._name} cannot be closed: {_say(error)}.")

    def is_locked(self) -> None:
        """These vectors are not found or not kept; later ones are, when the lock is free again."""
        self._warn(
            "locked",
            f"{self._name} is locked by another process. Until it is free again, vectors are not found, and new ones "
            "are not kept.",
        )

    def is_damaged(self) -> None:
        """A record is not as it was written, and counts as not found."""
        self._warn("damaged", f"{self._name} holds damaged vectors. Their texts are embedded again, and kept again.")

    def is_mixed(self) -> None:
        """Vectors of one space have two lengths or kinds, and only one of them is found."""
        self._warn(
            "mixed",
            f"{self._name} holds vectors of two lengths for the same model and options. The texts of one of them are "
            "embedded again.",
        )

    def _warn(self, about: str, words: str) -> None:
        this = object()
        if self._said.setdefault(about, this) is this:  # one of the threads that come here together
            warnings.warn(f"The cache {words}", CacheWarning, stacklevel=4)


def _say(error: Exception) -> str:
    """The error's type and the first line of what it says."""
    try:
        words = str(error).strip().rstrip(".").splitlines()
    except Exception:  # noqa: BLE001 - the error may be of the user's own class
        words = []
    return f"{type(error).__name__}: {clean(words[0]):.200}" if words else type(error).__name__
