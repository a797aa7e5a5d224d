"""The cache's SQLite file: how it is recognised, made and opened, and what is said when that cannot be done."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APPLICATION = 0x6D656D62
"""`application_id` of our files: "memb"."""
SCHEMA = 1
"""`user_version` of the tables below."""
PATIENCE = 5.0
"""Seconds to wait for another process that writes."""

# With pages of 1 KiB a vector of 256 float32 fills one, its digest and what else is known of it share another with
# seven more, and a page of the index that a new digest dirties is small. With SQLite's 4 KiB three such rows fill
# a page and a fourth of it stays empty (measured in benchmarks/cache.py).
_PAGE = 1024
_CHECKPOINT = 16 << 20
"""Bytes of the write-ahead log that are taken over into the file at a time."""

_TABLES = (
    # Days are counted from 1970-01-01.
    "CREATE TABLE spaces (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, words TEXT, used INTEGER NOT NULL)",
    # Rows are only ever appended, so vectors that were embedded together lie together. The key is the digest's first
    # eight bytes: the whole digest is in the record, and checked.
    """CREATE TABLE vectors (id INTEGER PRIMARY KEY, key INTEGER NOT NULL, space INTEGER NOT NULL,
    written INTEGER NOT NULL, record BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX vectors_by_key ON vectors (key)",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open a cache file, and make it when there is none.

    The connection commits by itself and may be used by one thread after another.

    Raises:
        ConfigurationError: it cannot be opened, or is no cache file of ours; the message says what to do.
    """
    _recognise(path)
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        _prepare(connection, path)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise refuse(error, path) from None
        raise
    return connection


def is_busy(error: Exception) -> bool:
    """Whether another process holds the lock."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def refuse(error: Exception, path: Path) -> ConfigurationError:
    """What SQLite or the system said of a cache file, as an error that says what to do."""
    return ConfigurationError(f"The cache {path} {_why(error)}")


def _recognise(path: Path) -> None:
    """Look at the file's first bytes, so that a file of others is not even opened as a database."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConfigurationError(f"The cache {path} has no directory: make {path.parent} first.") from None
        return
    except IsADirectoryError:
        raise ConfigurationError(f"The cache {path} is a directory: name a file in it.") from None
    except OSError as error:
        raise refuse(error, path) from None
    if not head:
        return
    if not head.startswith(b"SQLite format 3\0"):
        raise ConfigurationError(
            f"{path} is no cache file and is left as it is: name another file. If it was a cache, it is damaged: move "
            "it away."
        )
    _check(int.from_bytes(head[68:72], "big"), int.from_bytes(head[60:64], "big"), path)


def _check(application: int, schema: int, path: Path) -> None:
    if application != APPLICATION:
        raise ConfigurationError(f"{path} is another application's database and is left as it is: name another file.")
    if schema > SCHEMA:
        raise ConfigurationError(
            f"The cache {path} was made by a newer multiembed and is left as it is: upgrade, or name another file."
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE}")  # of no effect in a file that has pages
    if not _number(connection, "application_id"):
        _make(connection)
    _check(_number(connection, "application_id"), _number(connection, "user_version"), path)
    if _journal(connection) == "wal":
        connection.execute("PRAGMA synchronous = NORMAL")  # kill -9 loses nothing, a power failure the last moments
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT // _number(connection, 'page_size')}")
        connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """To write in: committed at the end or, after an error, taken back."""
    try:  # Ctrl-C may come as soon as the transaction stands
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _make(connection: sqlite3.Connection) -> None:
    """Make the tables in one transaction, before the log is there: the file's first bytes say at once whose it is."""
    with transaction(connection):
        if not _number(connection, "application_id"):  # else another process was faster
            for table in _TABLES:
                connection.execute(table)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _journal(connection: sqlite3.Connection) -> str:
    """Turn the write-ahead log on. SQLite does not wait by itself for others to let it."""
    ends = time.monotonic() + PATIENCE
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > ends:
                raise
            time.sleep(0.01)


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return (
            f"cannot be read ({os.strerror(error.errno) if error.errno else type(error).__name__}): check its rights."
        )
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return "is damaged: move it away, and its vectors are embedded again; or bring back a copy."
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return (
            "cannot be written: check the rights of the file, and of its directory, where SQLite keeps two more files."
        )
    if code == sqlite3.SQLITE_FULL:
        return "has no room left on its disk: make some, or name a file elsewhere."
    if is_busy(error):
        return f"was locked by another process for {PATIENCE:g} seconds: try again later, or name another file."
    return f"cannot be opened ({error}): keep it on a local disk."
