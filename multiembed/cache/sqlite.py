"""The cache in one SQLite file: looked up in bulk; every write is committed before it returns."""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from multiembed.cache.connection import Connection
from multiembed.cache.record_cache import RecordCache
from multiembed.cache.schema import PATIENCE, is_busy, refuse

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from multiembed.cache.base import CacheLookup
    from multiembed.cache.lookup import LookupBuilder

DAY = 86400
_AT_ONCE = 16_384
"""Texts in one statement; SQLite before 3.32 takes 999."""
_FETCHED = 250
"""Rows that are fetched and checked together."""
# The inner SELECT reads the index in the order of the keys, the outer one the rows in the order they lie in, so that no
# page is read twice. The query plan shows that ORDER BY sorts nothing.
_SELECT = "SELECT record FROM vectors WHERE id IN (SELECT id FROM vectors WHERE key IN ({})) ORDER BY id"


class SqliteCache(RecordCache):
    """Vectors in one SQLite file, for all threads and processes of one machine.

    kill -9 loses nothing that `put` has returned from; a power failure may lose the last moments. What is
    pickled is the path, and each process opens the file for itself.

    Args:
        path: of the file. Its directory must exist and be on a local disk.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        super().__init__(str(self.path))
        # Two, so that a long lookup holds no finished request up.
        self._reading = Connection(self.path)
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

    def get(self, space: str, texts: Sequence[str]) -> CacheLookup:
        """The vectors of the texts that are known; all of one length. Nothing when the file fails."""
        found = super().get(space, texts)
        if found.positions:
            self._stamp(space)
        return found

    def close(self) -> None:
        """Close the file in this process. A later call opens it again."""
        self._reading.close()
        self._writing.close()

    def __repr__(self) -> str:
        return f"SqliteCache({str(self.path)!r})"

    def __reduce__(self) -> Any:
        return SqliteCache, (str(self.path),)

    def _read(self, builder: LookupBuilder) -> None:
        keys = np.sort(_keys_of(builder.names)).tolist()
        with self._reading.use() as connection:
            at_once = _AT_ONCE if connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) >= _AT_ONCE else 512
            try:
                connection.execute("BEGIN")  # one state of the file for the whole lookup
                for begin in range(0, len(keys), at_once):
                    some = _padded(keys[begin : begin + at_once])
                    rows = connection.execute(_SELECT.format(",".join("?" * len(some))), some)
                    while fetched := rows.fetchmany(_FETCHED):
                        builder.add([record for (record,) in fetched])
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _write(self, encoded: Sequence[tuple[str, Sequence[tuple[bytes, bytes]]]]) -> None:
        now = int(time.time())
        try:
            with self._writing.write(patience=self._patience) as connection:
                for space, records in encoded:
                    place = self._place_of(connection, space, now // DAY)
                    keys = _keys_of([name for name, _ in records]).tolist()
                    connection.executemany(
                        "INSERT OR REPLACE INTO vectors (key, space, written, record) VALUES (?, ?, ?, ?)",
                        [(key, place, now, record) for key, (_, record) in zip(keys, records, strict=True)],
                    )
        except Exception as error:
            if is_busy(error):
                self._patience = 0.0  # one write that waited in vain is enough: later ones only try
            raise
        self._patience = PATIENCE

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


def _keys_of(names: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The first eight bytes of each digest, as the table has them."""
    return np.frombuffer(b"".join(names), dtype="<i8")[::4]


def _padded(keys: list[int]) -> list[int]:
    """Keys with the last one repeated up to a size that three bits can tell.

    sqlite3 keeps 128 compiled statements, one per size. This way they are few, and of a few MB together.
    """
    step = 1 << max(0, len(keys).bit_length() - 3)
    return keys + keys[-1:] * (-len(keys) % step)
