"""The cache in one SQLite file: looked up in bulk, and every `put` committed before it returns."""

from __future__ import annotations

import json
import sqlite3
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from multiembed.cache.codec import digests, encode
from multiembed.cache.connection import Connection
from multiembed.cache.contract import Found
from multiembed.cache.file import PATIENCE, is_busy, refuse
from multiembed.cache.gathering import Gathering
from multiembed.cache.guard import Guard

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from multiembed.records import SparseVector, Vectors

    Numbers: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]

DAY = 86400
_AT_ONCE = 999
"""Placeholders in one statement; every SQLite takes as many."""
_PAGES = 400
"""Pages that SQLite keeps for lookups. Few come twice, and a small heap stays in the processor's caches."""


class SqliteCache:
    """Vectors in one SQLite file, for all threads and processes of one machine.

    kill -9 loses nothing that `put` has returned from; a power failure may lose the last moments. What is
    pickled is the path, and each process opens the file for itself.

    Args:
        path: of the file. Its directory must exist and be on a local disk.
    """

    local = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        self._guard = Guard(str(self.path))
        # Two, so that a long lookup holds no finished request up.
        self._reading = Connection(self.path, pages=_PAGES)
        self._writing = Connection(self.path)
        self._patience = PATIENCE
        self._words: dict[str, Mapping[str, Any]] = {}
        self._used: dict[str, int] = {}

    def check(self) -> None:
        """Open the file, make it when there is none, and close it again.

        Raises:
            ConfigurationError: that cannot be done; the message says what to do.
        """
        try:
            with self._writing.write(patience=0.0):
                pass  # says whether it can be written
        except sqlite3.Error as error:
            if not is_busy(error):
                raise refuse(error, self.path) from None
        finally:
            self._writing.close()

    def describe(self, space: str, words: Mapping[str, Any]) -> None:
        """Say what a space is, in plain JSON: model, role, dimensions. Written down with its first vectors."""
        self._words[space] = dict(words)

    def get(self, space: str, texts: Sequence[str]) -> Found:
        """The vectors of the texts that are known; all of one length.

        A store that fails is a CacheWarning, and nothing is found.
        """
        if not self._guard.reads or not texts:
            return Found()
        gathering = Gathering(digests(space, texts))
        try:
            with self._reading.use() as connection:
                try:
                    connection.execute("BEGIN")  # one state of the file for the whole lookup
                    _look_up(connection, gathering)
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
        except Exception as error:  # noqa: BLE001 - a damaged file makes sqlite3 raise more than its own errors
            if is_busy(error):
                self._guard.is_locked()
            else:
                self._guard.cannot_read(error)
            return Found()
        if gathering.damaged:
            self._guard.is_damaged()
        if gathering.mixed:
            self._guard.is_mixed()
        found = gathering.found()
        if found.positions:
            self._stamp(space)
        return found

    def put(
        self,
        space: str,
        texts: Sequence[str],
        dense: Vectors | None,
        sparse: Sequence[SparseVector] | None = None,
    ) -> None:
        """Keep the vectors of texts in one committed transaction; what was kept of the same texts is replaced.

        A store that fails is a CacheWarning, and nothing is kept.

        Raises:
            ValueError: there are not as many vectors as texts.
        """
        if not self._guard.writes or not texts:
            return
        named = encode(digests(space, texts), dense, sparse)
        try:
            with self._writing.write(patience=self._patience) as connection:
                self._write(connection, space, named)
        except Exception as error:  # noqa: BLE001 - as above
            if is_busy(error):
                self._patience = 0.0  # one `put` that waited in vain is enough: later ones only try
                self._guard.is_locked()
            else:
                self._guard.cannot_write(error)
        else:
            self._patience = PATIENCE

    def close(self) -> None:
        """Close the file in this process. A later call opens it again."""
        self._reading.close()
        self._writing.close()

    def __repr__(self) -> str:
        return f"SqliteCache({str(self.path)!r})"

    def __reduce__(self) -> Any:
        return SqliteCache, (str(self.path),)

    def __deepcopy__(self, memo: dict[int, Any]) -> SqliteCache:
        return self  # a cache is there to be shared

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    def _write(self, connection: sqlite3.Connection, space: str, named: Iterable[tuple[bytes, bytes]]) -> None:
        now = int(time.time())
        place = self._place_of(connection, space, now // DAY)
        connection.executemany(
            "INSERT OR REPLACE INTO vectors (key, space, written, record) VALUES (?, ?, ?, ?)",
            [(int.from_bytes(name[:8], "little", signed=True), place, now, record) for name, record in named],
        )

    def _place_of(self, connection: sqlite3.Connection, space: str, today: int) -> int:
        """The id of a space, asked each time: another process may have pruned it away."""
        words = self._words_of(space)
        select = "SELECT id FROM spaces WHERE fingerprint = ? AND used = ? AND (words IS NOT NULL OR ? IS NULL)"
        row = connection.execute(select, (space, today, words)).fetchone()
        if row is None:
            connection.execute(
                "INSERT INTO spaces (fingerprint, words, used) VALUES (?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE "
                "SET words = coalesce(excluded.words, words), used = excluded.used",
                (space, words, today),
            )
            row = connection.execute("SELECT id FROM spaces WHERE fingerprint = ?", (space,)).fetchone()
        return int(row[0])

    def _words_of(self, space: str) -> str | None:
        return json.dumps(self._words[space], default=str, ensure_ascii=False) if space in self._words else None

    def _stamp(self, space: str) -> None:
        """Write down that a space is used, once a day and process, and only if that can be done at once."""
        today = int(time.time()) // DAY
        if self._used.get(space) == today or not self._guard.writes:
            return
        self._used[space] = today
        try:
            with self._writing.write(patience=0.0) as connection:
                connection.execute(
                    "UPDATE spaces SET used = ?, words = coalesce(?, words) WHERE fingerprint = ?",
                    (today, self._words_of(space), space),
                )
        except Exception:  # noqa: BLE001, S110 - as above
            pass  # it is only for people to read, and a `put` will meet the same trouble and say so


# ── looking up ───────────────────────────────────────────────────────────────────────────────────


def _look_up(connection: sqlite3.Connection, gathering: Gathering) -> None:
    """Bring the records of a gathering's texts: first by sorted key where they lie, then in the order they lie in.

    Both orders are those of the whole lookup, so that no page of the file is read twice, however many texts there are.
    """
    keys = gathering.digests.view("<i8")[:, 0]
    order = np.argsort(keys)
    ids, places = [], []
    for some in _parts(keys[order], order):
        pairs = np.array(_select(connection, "key, id", "key", some[0]), dtype=np.int64).reshape(-1, 2)
        ids.append(pairs[:, 1])
        places.append(_of(pairs[:, 0], *some))
    lying, asked = np.concatenate(ids), np.concatenate(places)
    order = np.argsort(lying)
    for some in _parts(lying[order], asked[order]):
        rows = _select(connection, "id, record", "id", some[0])
        gathering.add(_of([id_ for id_, _ in rows], *some), [_bytes(record) for _, record in rows])


def _parts(values: Numbers, places: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    for begin in range(0, len(values), _AT_ONCE):
        yield values[begin : begin + _AT_ONCE], places[begin : begin + _AT_ONCE]


def _of(found: Numbers | Sequence[int], values: Numbers, places: Numbers) -> Numbers:
    """The places of those values that were found."""
    return places if len(found) == len(values) else places[np.searchsorted(values, found)]


def _select(connection: sqlite3.Connection, columns: str, by: str, values: Numbers) -> list[tuple[Any, Any]]:
    """The rows of ascending values, in their order."""
    asked = values.tolist()
    if len(asked) > 1 and asked[-1] - asked[0] == len(asked) - 1:  # what was put together is looked up together
        return connection.execute(_statement(columns, by, 0), (asked[0], asked[-1])).fetchall()
    return connection.execute(_statement(columns, by, len(asked)), asked).fetchall()


def _bytes(value: object) -> bytes:
    """The value, or what counts as damaged where a damaged row holds something else."""
    return value if isinstance(value, bytes) else b""


@cache
def _statement(columns: str, by: str, count: int) -> str:
    """For so many values, or for all between two."""
    which = f"IN ({','.join('?' * count)})" if count else "BETWEEN ? AND ?"
    return f"SELECT {columns} FROM vectors WHERE {by} {which} ORDER BY {by}"  # noqa: S608 - ours
