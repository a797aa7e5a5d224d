"""What people do with a cache file: see what is in it, take old vectors out, and carry vectors elsewhere."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiembed.cache.connection import Connection
from multiembed.cache.record_format import decode, intact_of, names_of
from multiembed.cache.schema import is_busy, refuse
from multiembed.cache.sqlite import DAY
from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from multiembed.types import SparseVector, Vectors

_AT_ONCE = 5000
"""Rows in one transaction, so that whoever embeds meanwhile waits for milliseconds only."""
_NEXT = (
    "SELECT vectors.id, fingerprint, record FROM vectors JOIN spaces ON spaces.id = vectors.space "
    "WHERE vectors.id > ? ORDER BY vectors.id LIMIT 1000"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NamespaceInfo:
    """One space of a cache file: the vectors of one model, role and set of options."""

    fingerprint: str
    words: Mapping[str, Any]
    """What was said of it when it was made: model, role, dimensions. Empty when nothing was."""
    vectors: int
    bytes: int
    """Of its records, without what SQLite needs around them."""
    first: float
    """When its oldest vector was written, in seconds since 1970."""
    last: float
    """When its newest vector was written."""
    used: float
    """The day it was last used, read or written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneResult:
    """What was, or would be, taken out."""

    vectors: int
    bytes: int
    """Of their records."""
    bytes_before: int
    """Of the file."""
    bytes_after: int
    """Of the file; the same as before in a dry run."""


@dataclass(frozen=True, slots=True)
class CachedVector:
    """One vector of a cache file."""

    namespace: NamespaceInfo
    digest: str
    """64 hex digits: SHA-256 over the space's fingerprint, a zero byte and the text in UTF-8."""
    dense: Vectors | None
    """float32, shape (dimensions,)."""
    sparse: SparseVector | None


class CacheFile:
    """A cache file that exists.

    Args:
        path: of the file.

    Raises:
        ConfigurationError: there is none, or it is no cache file; nothing is made or touched.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        try:
            exists = self.path.is_file() and self.path.stat().st_size > 0
        except OSError as error:
            raise refuse(error, self.path) from None
        if not exists:
            raise ConfigurationError(f"There is no cache at {self.path}: name the file that was given as cache=….")
        with self._opened() as file, file.use():
            pass

    @property
    def bytes(self) -> int:
        """The size of the file with the log beside it."""
        size = 0
        for path in (self.path, Path(f"{os.path.realpath(self.path)}-wal")):
            with suppress(FileNotFoundError):  # another process may close the file meanwhile
                size += path.stat().st_size
        return size

    def namespaces(self) -> list[NamespaceInfo]:
        """What is in the file, the fullest space first."""
        with self._opened() as file, file.use() as connection:
            rows = connection.execute("SELECT id, fingerprint, words, used FROM spaces").fetchall()
            # One pass for each: GROUP BY would sort the records themselves, for many seconds.
            measures = "SELECT count(*), sum(length(record)), min(written), max(written) FROM vectors WHERE space = ?"
            measured = [connection.execute(measures, (id_,)).fetchone() for id_, *_ in rows]
        found = [
            NamespaceInfo(
                fingerprint=fingerprint,
                words=_words_of(words),
                vectors=vectors,
                bytes=size,
                first=first,
                last=last,
                used=used * DAY,
            )
            for (_, fingerprint, words, used), (vectors, size, first, last) in zip(rows, measured, strict=True)
            if vectors
        ]
        return sorted(found, key=lambda info: info.vectors, reverse=True)

    def prune(
        self,
        spaces: Collection[str] | None = None,
        *,
        written_before: float | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
    ) -> PruneResult:
        """Take vectors out, and make the file smaller. Others may go on with the file meanwhile.

        Args:
            spaces: fingerprints; only vectors of these. None: of all.
            written_before: seconds since 1970; only vectors that are older.
            max_bytes: the oldest of them, until the file is about as small as this.
            dry_run: True: only tell.

        Raises:
            ConfigurationError: the file is locked, damaged, or there is no room to write it anew.
        """
        before = self.bytes
        with self._opened() as file, file.use() as connection:
            going = _Choice(connection, spaces, written_before)
            if max_bytes is not None:
                going.until(before - max_bytes, before)
            vectors, size = going.measure()
            if vectors and not dry_run:
                going.delete()
                connection.execute("DELETE FROM spaces WHERE id NOT IN (SELECT space FROM vectors)")
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return PruneResult(vectors=vectors, bytes=size, bytes_before=before, bytes_after=self.bytes)

    def vectors(self, spaces: Collection[str] | None = None) -> Iterator[CachedVector]:
        """Every vector, or those of some spaces, in the order they were written. Damaged ones are left out.

        Memory stays small, however large the file is.
        """
        known = {info.fingerprint: info for info in self.namespaces() if spaces is None or info.fingerprint in spaces}
        last = 0
        with self._opened() as file:
            while True:
                with file.use() as connection:  # not during `yield`: a fork would wait for it
                    rows = connection.execute(_NEXT, (last,)).fetchall()
                if not rows:
                    return
                last = rows[-1][0]
                for _, fingerprint, record in rows:
                    if fingerprint in known and intact_of([record]):
                        dense, sparse = decode([record])
                        yield CachedVector(
                            known[fingerprint],
                            names_of([record])[0].hex(),
                            None if dense is None else dense[0],
                            None if sparse is None else sparse[0],
                        )

    @contextmanager
    def _opened(self) -> Iterator[Connection]:
        """The file, which is closed at the end; one that stays closed during a fork, as every Connection does."""
        try:
            with closing(Connection(self.path)) as file:
                yield file
        except (sqlite3.Error, UnicodeError) as error:
            what = "another process holds it: try again later" if is_busy(error) else str(error)
            raise ConfigurationError(f"The cache {self.path} could not be worked on: {what}.") from None


def _words_of(text: object) -> dict[str, Any]:
    """What was said of a space; nothing where it is damaged."""
    try:
        words = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return words if isinstance(words, dict) else {}


class _Choice:
    """The rows that may go, the oldest first: rows are only ever appended, so that is the order of their ids."""

    def __init__(
        self, connection: sqlite3.Connection, spaces: Collection[str] | None, written_before: float | None
    ) -> None:
        some = () if spaces is None else tuple(spaces)
        fingerprints = f"fingerprint IN ({','.join('?' * len(some))})"
        self._connection = connection
        self._begin, self._end = connection.execute("SELECT min(id) - 1, max(id) FROM vectors").fetchone()
        self._from = (
            "FROM vectors WHERE id > ? AND id <= ? AND written < ? "  # noqa: S608 - placeholders
            f"AND space IN (SELECT id FROM spaces WHERE ? OR {fingerprints})"
        )
        self._rest = (sys.maxsize if written_before is None else written_before, spaces is None, *some)

    def until(self, too_much: float, file: int) -> None:
        """Choose no more than what must go for the file to lose some bytes; each row has its share of the file."""
        records = self._connection.execute("SELECT sum(length(record)) FROM vectors").fetchone()[0]
        self._end, everything = self._begin, self._end
        for id_, size in self._select("id, length(record)", self._begin, everything, "ORDER BY id"):
            if too_much <= 0:
                break
            too_much -= size * file / records
            self._end = id_

    def measure(self) -> tuple[int, int]:
        """How many they are, and the bytes of their records."""
        vectors, size = self._select("count(*), coalesce(sum(length(record)), 0)", self._begin, self._end).fetchone()
        return vectors, size

    def delete(self) -> None:
        for begin in range(self._begin, self._end, _AT_ONCE):
            self._connection.execute(f"DELETE {self._from}", (begin, min(begin + _AT_ONCE, self._end), *self._rest))

    def _select(self, columns: str, begin: int, end: int, order: str = "") -> sqlite3.Cursor:
        return self._connection.execute(f"SELECT {columns} {self._from} {order}", (begin, end, *self._rest))
