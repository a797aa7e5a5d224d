"""Failure policy of a cache: each kind of failure is one CacheWarning, and the run goes on without the cache."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

from multiembed.cache.base import CacheWarning
from multiembed.redaction import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Failure: TypeAlias = Literal["read", "write", "encode", "close", "locked", "away", "damaged", "mixed"]

_MESSAGES: dict[Failure, str] = {
    "read": "cannot be read: {}. Every text is embedded again from now on.",
    "write": "cannot be written: {}. New vectors are not kept from now on.",
    "encode": "cannot hold some vectors, which are not kept: {}.",
    "close": "cannot be closed: {}.",
    "locked": "is locked by another process. Until it is free again, vectors are not found, and new ones are not kept.",
    "away": "cannot be used at the moment: {}. Until it can be reached, vectors are not found, and new ones are not "
    "kept.",
    "damaged": "holds damaged vectors. Their texts are embedded again, and kept again.",
    "mixed": "holds vectors of two lengths for the same model and options. The texts of one of them are embedded "
    "again.",
}


class StoreError(Exception):
    """Failure of a store, with a message for users."""


class StoreAwayError(StoreError):
    """Failure to reach a store. Later calls may work."""


class StoreHealth:
    """Health of a cache's store: whether it is still read and written. Shared by threads.

    After a failed read nothing is read or written any more, and after a failed write nothing is written.

    Args:
        name: of the store, for messages.
        temporary: how an error is reported after which later calls try again; None for other errors.
    """

    def __init__(self, name: str, *, temporary: Callable[[Exception], Failure | None] = lambda _: None) -> None:
        self.reads = True
        self.writes = True
        self._name = name
        self._temporary = temporary
        self._reported: dict[Failure, object] = {}

    @contextmanager
    def reporting(self, failure: Failure) -> Iterator[None]:
        """Report an exception instead of raising it. A store may raise anything: it may be the user's own.

        Raises:
            CacheWarning: warnings are errors.
        """
        try:
            yield
        except CacheWarning:
            raise
        except Exception as error:  # noqa: BLE001 - as above; a damaged file makes sqlite3 raise other errors, too
            self.report(self._temporary(error) or failure, error)

    def report(self, failure: Failure, error: Exception | None = None) -> None:
        """Warn of the first failure of its kind."""
        self.reads = self.reads and failure != "read"
        self.writes = self.writes and failure not in ("read", "write")
        this = object()
        if self._reported.setdefault(failure, this) is this:  # only one of several threads that fail together
            message = _MESSAGES[failure].format(_describe(error))
            warnings.warn(f"The cache {self._name} {message}", CacheWarning, stacklevel=4)


def _describe(error: Exception | None) -> str:
    """The error's type and the first line of its message."""
    try:
        lines = str(error).strip().rstrip(".").splitlines()
    except Exception:  # noqa: BLE001 - the error may be of the user's own class
        lines = []
    if isinstance(error, StoreError) and lines:
        return clean(lines[0])
    return f"{type(error).__name__}: {clean(lines[0]):.200}" if lines else type(error).__name__
