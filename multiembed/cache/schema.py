"""Schema of the cache's SQLite file: its tables, how a file is recognised and opened, and the errors of opening it."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

APPLICATION = 0x6D656D62
"""`application_id` of a cache file: "memb"."""
SCHEMA = 1
"""`user_version` of the tables below."""
PATIENCE = 5.0
"""Seconds to wait for another process that writes."""
_CHECKPOINT_BYTES = 16 << 20
"""Size of the write-ahead log at which a commit copies it into the file. A thread for it took 5 to 10 % more CPU, and a
fifth off the time of large writes only (2026-11-28)."""

_TABLES = (
    # `spaces` are the namespaces, and `words` their descriptions. Days are counted from 1970-01-01.
    "CREATE TABLE spaces (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, words TEXT, used INTEGER NOT NULL)",
    # Rows are only ever appended, so vectors that were embedded together lie together. The key is the digest's first
    # eight bytes: the whole digest is in the record, and checked.
    """CREATE TABLE vectors (id INTEGER PRIMARY KEY, key INTEGER NOT NULL, space INTEGER NOT NULL,
    written INTEGER NOT NULL, record BLOB NOT NULL)""",
    "CREATE UNIQUE INDEX vectors_by_key ON vectors (key)",
)


def connect(path: Path) -> sqlite3.Connection:
    """Open a cache file, and make it if it does not exist.

    The connection commits by itself and may be used by one thread after another.

    Raises:
        ConfigurationError: it cannot be opened, or is not a cache file. The message says what to do.
    """
    connection = None
    try:
        _recognise(path)
        connection = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        _prepare(connection, path)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, ConfigurationError) or not isinstance(error, Exception):
            raise
        raise opening_error(error, path) from None
    return connection


def is_busy(error: Exception) -> bool:
    """Whether another process holds the lock."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def opening_error(error: Exception, path: Path) -> ConfigurationError:
    """Turn an error of SQLite or the system into one that says what to do."""
    code = _code(error)
    if isinstance(error, OSError):
        cause = os.strerror(error.errno) if error.errno else type(error).__name__
        problem = f"cannot be read ({cause}): check its rights."
    # If a name in the schema is damaged, Python cannot decode SQLite's message.
    elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(error, UnicodeError):
        problem = (
            "is damaged: move it away, with its -wal and -shm files, and its vectors are embedded again; or bring back "
            "a copy."
        )
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        problem = "cannot be written: check the rights of the file, and of its directory, where SQLite keeps two more."
    elif code == sqlite3.SQLITE_FULL:
        problem = "does not fit on its disk any more: make space, or name a file elsewhere."
    elif is_busy(error):
        problem = f"was locked by another process for {PATIENCE:g} seconds: try again later, or name another file."
    else:
        problem = f"cannot be opened ({str(error) or type(error).__name__}): keep it on a local disk."
    return ConfigurationError(f"The cache {path} {problem}")


def log_index(path: Path) -> Path:
    """Name the file through which all processes that have a cache file open share the index of its log."""
    return Path(f"{os.path.realpath(path)}-shm")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run a transaction: committed at the end or, after an error, rolled back."""
    try:  # Ctrl-C may come as soon as the transaction has begun
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _recognise(path: Path) -> None:
    """Refuse what is not a cache file before it is opened for writing, and leave it as it is.

    The file is read by SQLite alone. When any descriptor of a file is closed, POSIX drops every lock that the process
    holds on it; SQLite takes care of that among its own connections, but knows no other descriptors
    (https://sqlite.org/howtocorrupt.html, 2.2, read 2026-11-28).
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConfigurationError(f"The cache {path} has no directory: make {path.parent} first.") from None
        return
    if stat.S_ISDIR(status.st_mode):
        raise ConfigurationError(f"The cache {path} is a directory: name a file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"The cache {path} is not a regular file: name another file.")
    if status.st_nlink > 1:
        raise ConfigurationError(
            f"The cache {path} has {status.st_nlink} names (hard links). SQLite keeps a log for each name, and vectors "
            "would be lost. Remove the other names, or copy the file and name the copy."
        )
    if status.st_size:
        _check_file(path)


def _check_file(path: Path) -> None:
    """Read who made the file, and in which version.

    `immutable` reads the first page without locks, and makes and deletes no other file, even if another application's
    log is there or missing. What is read is fixed before the log is turned on (`_make_tables`). `writable_schema` lets
    the file be shorter than its first page says, as it is during a checkpoint.
    """
    if not os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            is_database = _number(connection, "page_count") > 0
            if is_database:
                _check_owner(connection, path)
    except sqlite3.DatabaseError as error:
        if _code(error) != sqlite3.SQLITE_NOTADB:
            raise
        is_database = False
    if not is_database:
        raise ConfigurationError(
            f"{path} is no cache file and is left as it is: name another file. If it was a cache, it is damaged: move "
            "it away."
        )


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    if _number(connection, "application_id") != APPLICATION:
        raise ConfigurationError(f"{path} is another application's database and is left as it is: name another file.")
    if _number(connection, "user_version") > SCHEMA:
        raise ConfigurationError(
            f"The cache {path} was made by a newer multiembed and is left as it is: upgrade, or name another file."
        )


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if not _number(connection, "application_id"):
        _make_tables(connection, path)
    _check_owner(connection, path)
    if _turn_log_on(connection) == "wal":
        connection.execute("PRAGMA synchronous = NORMAL")  # kill -9 loses nothing, a power failure the last moments
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_BYTES // _number(connection, 'page_size')}")
        connection.execute(f"PRAGMA journal_size_limit = {_CHECKPOINT_BYTES}")


def _make_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in one transaction, before the log is there: the file's first bytes say at once whose it is."""
    with transaction(connection):
        if any(_number(connection, name) for name in ("application_id", "user_version", "schema_version")):
            return  # another process was faster
        # A file of this name was deleted, and its log was not. SQLite itself deletes the log of an empty file, but
        # would share the index of the log with a process that still has the deleted file open.
        with suppress(OSError):
            log_index(path).unlink(missing_ok=True)
        for table in _TABLES:
            connection.execute(table)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _turn_log_on(connection: sqlite3.Connection) -> str:
    deadline = time.monotonic() + PATIENCE
    while True:  # SQLite does not wait by itself for others here
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _code(error: Exception) -> int:
    """The primary error code of SQLite; 0 for other errors."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
