"""Administration of a cache file: list its namespaces, prune old vectors, and export vectors."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiembed.cache.connection import Connection
from multiembed.cache.record_format import decode, digests_of, intact_of
from multiembed.cache.schema import is_busy, opening_error
from multiembed.cache.sqlite import DAY
from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from multiembed.types import SparseVector, Vectors

_ROWS_PER_DELETE = 5000
"""Rows in one transaction, so that other writers wait for milliseconds only."""
_PAGE = (
    "SELECT vectors.id, fingerprint, record FROM vectors JOIN spaces ON spaces.id = vectors.space "
    "WHERE vectors.id > ? ORDER BY vectors.id LIMIT 1000"
)
# Rows are only ever appended, so the oldest have the lowest ids. `before` is the size of those that are chosen before.
_CHOOSE = (
    "CREATE TEMP TABLE chosen AS SELECT id, size FROM ("
    "SELECT vectors.id, length(record) AS size, "
    "sum(length(record)) OVER (ORDER BY vectors.id) - length(record) AS before "
    "FROM vectors JOIN spaces ON spaces.id = vectors.space WHERE {}) WHERE ? IS NULL OR before < ? ORDER BY id"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NamespaceInfo:
    """Cache namespace: the vectors of one model, role and set of options."""

    fingerprint: str
    description: Mapping[str, Any]
    """Model, role, dimensions and more. Empty if the namespace was not described."""
    vectors: int
    bytes: int
    """Size of its records, without what SQLite needs around them."""
    first: float
    """When its oldest vector was written, in seconds since 1970."""
    last: float
    """When its newest vector was written."""
    used: float
    """The day it was last used, read or written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneResult:
    """What was deleted, or would be."""

    vectors: int
    bytes: int
    """Size of their records."""
    bytes_before: int
    """Size of the file."""
    bytes_after: int
    """Size of the file; the same as before in a dry run."""


@dataclass(frozen=True, slots=True)
class CachedVector:
    """Vector of a cache file."""

    namespace: NamespaceInfo
    digest: str
    """64 hex digits: SHA-256 over the namespace's fingerprint, a zero byte and the text in UTF-8."""
    dense: Vectors | None = field(repr=False)
    """float32, shape (dimensions,)."""
    sparse: SparseVector | None


class CacheFile:
    """Cache file that exists.

    Args:
        path: of the file.

    Raises:
        ConfigurationError: it does not exist, or is not a cache file. Nothing is made or changed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        try:
            exists = self.path.is_file() and self.path.stat().st_size > 0
        except OSError as error:
            raise opening_error(error, self.path) from None
        if not exists:
            raise ConfigurationError(f"There is no cache at {self.path}: name the file that was given as cache=….")
        with self._opened() as file, file.use():
            pass

    @property
    def bytes(self) -> int:
        """Size of the file and its log."""
        size = 0
        for path in (self.path, Path(f"{os.path.realpath(self.path)}-wal")):
            with suppress(FileNotFoundError):  # another process may close the file meanwhile
                size += path.stat().st_size
        return size

    def namespaces(self) -> list[NamespaceInfo]:
        """List the namespaces, the one with most vectors first."""
        found = []
        # One pass for each: GROUP BY would sort the records themselves, for many seconds.
        measure = "SELECT count(*), sum(length(record)), min(written), max(written) FROM vectors WHERE space = ?"
        with self._opened() as file, file.use() as connection:
            rows = connection.execute("SELECT id, fingerprint, words, used FROM spaces").fetchall()
            for id_, fingerprint, description, used in rows:
                vectors, size, first, last = connection.execute(measure, (id_,)).fetchone()
                if vectors:
                    info = NamespaceInfo(
                        fingerprint=fingerprint,
                        description=parse_description(description),
                        vectors=vectors,
                        bytes=size,
                        first=first,
                        last=last,
                        used=used * DAY,
                    )
                    found.append(info)
        return sorted(found, key=lambda info: info.vectors, reverse=True)

    def prune(
        self,
        namespaces: Collection[str] | None = None,
        *,
        written_before: float | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
    ) -> PruneResult:
        """Delete vectors, and make the file smaller. Others may use the file meanwhile.

        Args:
            namespaces: fingerprints; only their vectors. None: of all.
            written_before: seconds since 1970; only vectors that are older.
            max_bytes: only the oldest, until the file is about as small as this.
            dry_run: True: delete nothing.

        Raises:
            ConfigurationError: the file is locked or damaged, or its disk has no space to write it anew.
        """
        before = self.bytes
        names = tuple(namespaces or ())
        condition = "TRUE" if namespaces is None else f"fingerprint IN ({','.join('?' * len(names))})"
        condition += "" if written_before is None else f" AND written < {written_before!r}"
        with self._opened() as file, file.use() as connection:
            limit = None
            if max_bytes is not None:  # of the records: each has its share of the file
                records = connection.execute("SELECT sum(length(record)) FROM vectors").fetchone()[0] or 0
                limit = (before - max_bytes) * records / max(1, before)
            connection.execute(_CHOOSE.format(condition), (*names, limit, limit))
            vectors, size = connection.execute("SELECT count(*), coalesce(sum(size), 0) FROM chosen").fetchone()
            if vectors and not dry_run:
                for begin in range(0, vectors, _ROWS_PER_DELETE):
                    some = "SELECT id FROM chosen WHERE rowid > ? AND rowid <= ?"
                    bounds = (begin, begin + _ROWS_PER_DELETE)
                    connection.execute(f"DELETE FROM vectors WHERE id IN ({some})", bounds)  # noqa: S608 - constant
                connection.execute("DELETE FROM spaces WHERE id NOT IN (SELECT space FROM vectors)")
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return PruneResult(vectors=vectors, bytes=size, bytes_before=before, bytes_after=self.bytes)

    def vectors(self, namespaces: Collection[str] | None = None) -> Iterator[CachedVector]:
        """Read all vectors, or those of some namespaces, in the order they were written. Damaged ones are left out.

        Memory stays small, however large the file is.
        """
        known = {info.fingerprint: info for info in self.namespaces()}
        last = 0
        with self._opened() as file:
            while True:
                with file.use() as connection:  # not during `yield`: a fork would wait for it
                    rows = connection.execute(_PAGE, (last,)).fetchall()
                if not rows:
                    return
                last = rows[-1][0]
                for _, fingerprint, record in rows:
                    wanted = fingerprint in known and (namespaces is None or fingerprint in namespaces)
                    if wanted and intact_of([record]):
                        dense, sparse = decode([record])
                        yield CachedVector(
                            known[fingerprint],
                            digests_of([record])[0].hex(),
                            None if dense is None else dense[0],
                            None if sparse is None else sparse[0],
                        )

    @contextmanager
    def _opened(self) -> Iterator[Connection]:
        """The file, which is closed at the end, and during a fork as every Connection."""
        try:
            with closing(Connection(self.path)) as file:
                yield file
        except (sqlite3.Error, UnicodeError) as error:
            problem = "another process holds it: try again later" if is_busy(error) else str(error)
            raise ConfigurationError(f"The cache {self.path} could not be used: {problem}.") from None


def parse_description(text: object) -> dict[str, Any]:
    """The description of a namespace; empty if it is damaged."""
    try:
        description = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return description if isinstance(description, dict) else {}
