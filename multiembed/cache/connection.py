"""One connection to the cache file for all threads of a process, and closed whenever the process forks."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakSet, finalize

from multiembed.cache.schema import connect, log_index, transaction

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Connection:
    """Opened at the first use and used by one thread at a time.

    SQLite must not be carried over a fork: the child would believe in locks that only its parent holds, and both would
    lose what they write. So the connection is closed before a fork, and parent and child each open their own. It is
    also closed when it is dropped, by whichever thread drops it last, and at the end of the process.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self._path = path
        self._open: sqlite3.Connection | None = None
        self._opened_by = 0
        self._closing: finalize[..., Connection] | None = None
        self._file: tuple[int, int] | None = None
        self._index: tuple[int, int] | None = None
        with _opening:
            _all.add(self)

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone.

        Raises:
            ConfigurationError: the file cannot be opened.
            sqlite3.OperationalError: the process was forked behind Python's back.
        """
        with self.lock:
            yield self._opened()

    @contextmanager
    def write(self, *, patience: float) -> Iterator[sqlite3.Connection]:
        """The connection within a transaction, which is committed at the end or, after an error, taken back.

        Args:
            patience: seconds to wait for another process that writes.

        Raises:
            sqlite3.OperationalError: it writes for longer; `is_busy` tells.
        """
        with self.use() as connection:
            connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
            with transaction(connection):
                yield connection

    def close(self) -> None:
        """Close it; the next use opens it again."""
        with self.lock:
            if self._closing is not None and self._opened_by == os.getpid():
                self._closing()
                self._open = self._closing = None

    def _opened(self) -> sqlite3.Connection:
        if self._open is not None and self._opened_by != os.getpid():
            # A fork in C that Python's hooks did not see. Neither using nor closing nor opening is safe here.
            raise sqlite3.OperationalError("the process was forked while the cache was open")
        file = _identity(self._path)
        if self._open is not None and self._file != file:
            self._leave_moved(replaced=file is not None)
        if self._open is None:
            with _opening:
                self._open = connect(self._path)
                self._opened_by = os.getpid()
                self._closing = finalize(self, _close, self._open, self._opened_by)
            self._file = file or _identity(self._path)
            self._index = _identity(log_index(self._path))
        return self._open

    def _leave_moved(self, *, replaced: bool) -> None:
        """Close a file that was moved or deleted, because what is written to it may go nowhere.

        Raises:
            sqlite3.OperationalError: another file has its name, but the log there is still the old file's.
        """
        if self._open is not None:
            with suppress(sqlite3.Error):  # SQLite does not do so at closing, and a moved file would lose its log
                self._open.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if replaced and self._index is not None and self._index == _identity(log_index(self._path)):
            raise sqlite3.OperationalError(
                "the file was replaced while it was in use, and the -wal and -shm files beside it are the old one's: "
                "stop the programs that use it, and move these two away"
            )
        self.close()


def _close(opened: sqlite3.Connection, by: int) -> None:
    if by == os.getpid():
        with suppress(sqlite3.Error):
            opened.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino


# ── forks ────────────────────────────────────────────────────────────────────────────────────────

_all: WeakSet[Connection] = WeakSet()
_forking = threading.Lock()
_opening = threading.RLock()
"""Held while a connection is made or a file opened, and during a fork, so that neither happens then."""
_held: list[Connection] = []


def _before_fork() -> None:
    """Wait until no thread is in SQLite, and close everything: its own locks would stay locked in the child."""
    _forking.acquire()
    while True:
        _opening.acquire()
        others = [each for each in list(_all) if each not in _held]
        if not others:
            return
        _opening.release()  # a thread may wait for it that holds the lock of one of the others
        for each in others:
            each.lock.acquire()
            _held.append(each)
            each.close()


def _after_fork_in_parent() -> None:
    for each in _held:
        each.lock.release()
    _held.clear()
    _opening.release()
    _forking.release()


def _after_fork_in_child() -> None:
    for each in list(_all):
        each.lock = threading.RLock()
    _held.clear()
    _opening.release()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
