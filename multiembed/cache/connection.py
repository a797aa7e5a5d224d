"""Connection to the cache file: shared by the threads of a process, and closed whenever the process forks."""

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
    """Connection that is opened at its first use. One thread at a time uses it.

    SQLite must not be carried over a fork: the child would rely on locks that only its parent holds, and both would
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
        self._finalizer: finalize[..., Connection] | None = None
        self._file: tuple[int, int] | None = None
        self._index: tuple[int, int] | None = None
        with _registering:
            _connections.add(self)

    @contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Hold the connection for this thread alone.

        Raises:
            ConfigurationError: the file cannot be opened.
            sqlite3.OperationalError: the process was forked by code that Python did not see.
        """
        with self.lock:
            yield self._opened()

    @contextmanager
    def write(self, *, patience: float) -> Iterator[sqlite3.Connection]:
        """Hold the connection within a transaction, which is committed at the end or, after an error, rolled back.

        Args:
            patience: seconds to wait for another process that writes.

        Raises:
            sqlite3.OperationalError: another process writes for longer (see `is_busy`).
        """
        with self.use() as connection:
            connection.execute(f"PRAGMA busy_timeout = {int(patience * 1000)}")
            with transaction(connection):
                yield connection

    def close(self) -> None:
        """Close it; the next use opens it again."""
        with self.lock:
            if self._finalizer is not None and self._opened_by == os.getpid():
                self._finalizer()
                self._open = self._finalizer = None

    def _opened(self) -> sqlite3.Connection:
        if self._open is not None and self._opened_by != os.getpid():
            # A fork in C that Python's hooks did not see. Neither using nor closing nor opening is safe here.
            raise sqlite3.OperationalError("the process was forked while the cache was open")
        file = _identity(self._path)
        if self._open is not None and self._file != file:
            self._leave_moved_file(self._open, is_replaced=file is not None)
        if self._open is None:
            self._open = connect(self._path)
            self._opened_by = os.getpid()
            self._finalizer = finalize(self, _close, self._open, self._opened_by)
            self._file = file or _identity(self._path)
            self._index = _identity(log_index(self._path))
        return self._open

    def _leave_moved_file(self, connection: sqlite3.Connection, *, is_replaced: bool) -> None:
        """Close a file that was moved or deleted, because what is written to it may be lost.

        Raises:
            sqlite3.OperationalError: another file has its name, but the log there is still the old file's.
        """
        with suppress(sqlite3.Error):  # SQLite does not do so at closing, and a moved file would lose its log
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        if is_replaced and self._index is not None and self._index == _identity(log_index(self._path)):
            raise sqlite3.OperationalError(
                "the file was replaced while it was in use, and its -wal and -shm files are the old one's: stop the "
                "programs that use it, and move these two away"
            )
        self.close()


def _close(connection: sqlite3.Connection, opened_by: int) -> None:
    if opened_by == os.getpid():
        with suppress(sqlite3.Error):
            connection.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


# ── forks ────────────────────────────────────────────────────────────────────────────────────────

_connections: WeakSet[Connection] = WeakSet()
_registering = threading.RLock()
"""Held while a connection is made, and during a fork."""
_held: list[Connection] = []


def _before_fork() -> None:
    """Wait until no thread uses SQLite, and close everything: its own locks would stay locked in the child."""
    _registering.acquire()
    for connection in list(_connections):
        connection.lock.acquire()
        connection.close()
        _held.append(connection)


def _after_fork_in_parent() -> None:
    for connection in _held:
        connection.lock.release()
    _held.clear()
    _registering.release()


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection.lock = threading.RLock()
    _held.clear()
    _registering.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
