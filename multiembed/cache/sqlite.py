"""Vector cache in one SQLite file: looked up in bulk; every write is committed before it returns."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from multiembed.cache.connection import Connection
from multiembed.cache.record_cache import RecordCache
from multiembed.cache.schema import PATIENCE, is_busy, opening_error

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from multiembed.cache.base import CacheLookup
    from multiembed.cache.record_cache import LookupBuilder, Records

DAY = 86400
_KEYS_PER_SELECT = 16_384
"""Texts in one statement; SQLite before 3.32 takes 999 variables."""
_ROWS_PER_FETCH = 250
"""Rows that are fetched and checked together."""
# The inner SELECT reads the index in the order of the keys, the outer one the rows in the order they lie in, so that no
# page is read twice. The query plan shows that ORDER BY sorts nothing.
_SELECT = "SELECT record FROM vectors WHERE id IN (SELECT id FROM vectors WHERE key IN ({})) ORDER BY id"
# One row at a time: statements of up to 128 rows took a fifth more time (2026-11-28).
_INSERT = "INSERT OR REPLACE INTO vectors (key, space, written, record) VALUES (?, ?, ?, ?)"


class SqliteCache(RecordCache):
    """Vector cache in one SQLite file, for all threads and processes of one machine.

    kill -9 loses nothing that `put` has returned from; a power failure may lose the last moments. Pickling keeps the
    path only, and each process opens the file for itself.

    Args:
        path: of the file. Its directory must exist and be on a local disk.
    """

    claim_age: ClassVar[float] = 1.0  # a look-up for each request would add up to a fifth to its CPU (2026-11-28)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()
        super().__init__(str(self.path), lambda error: "locked" if is_busy(error) else None)
        self._reading, self._writing = Connection(self.path), Connection(self.path)  # a long look-up delays no write
        self._patience = PATIENCE
        self._descriptions: dict[str, str] = {}
        self._used: dict[str, int] = {}

    def check(self) -> None:
        """Open the file, make it if it does not exist, and close it again.

        Raises:
            ConfigurationError: that cannot be done. The message says what to do.
        """
        try:
            with self._writing.write(patience=0.0):
                pass  # shows whether it can be written
        except sqlite3.Error as error:
            if not is_busy(error):
                raise opening_error(error, self.path) from None
        finally:
            self._writing.close()

    def describe(self, namespace: str, description: Mapping[str, Any]) -> None:
        """Describe a namespace in plain JSON: model, role, dimensions. It is written with its first vectors."""
        self._descriptions[namespace] = json.dumps(dict(description), default=str, ensure_ascii=False)

    def get(self, namespace: str, texts: Sequence[str]) -> CacheLookup:
        """Look vectors up, all of one length. Finds nothing if the file fails."""
        found = super().get(namespace, texts)
        if found.positions:
            self._mark_used(namespace)
        return found

    def close(self) -> None:
        """Close the file in this process. A later call opens it again."""
        self._reading.close()
        self._writing.close()

    def __repr__(self) -> str:
        return f"SqliteCache({str(self.path)!r})"

    def __reduce__(self) -> Any:
        return SqliteCache, (str(self.path),)

    def _read(self, namespace: str, builder: LookupBuilder) -> None:  # noqa: ARG002 - digests hold it
        keys = np.sort(_keys_of(builder.digests)).tolist()
        with self._reading.use() as connection:
            maximum = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
            step = _KEYS_PER_SELECT if maximum >= _KEYS_PER_SELECT else 512
            try:
                connection.execute("BEGIN")  # one state of the file for the whole look-up
                for begin in range(0, len(keys), step):
                    part = _pad_keys(keys[begin : begin + step])
                    rows = connection.execute(_SELECT.format(",".join("?" * len(part))), part)
                    while fetched := rows.fetchmany(_ROWS_PER_FETCH):
                        builder.add([record for (record,) in fetched])
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _write(self, encoded: Mapping[str, Records]) -> None:
        now = int(time.time())
        rows: list[tuple[int, int, int, bytes]] = []
        try:
            with self._writing.write(patience=self._patience) as connection:
                for namespace, records in encoded.items():
                    id_ = self._namespace_id(connection, namespace, now // DAY)
                    keys = _keys_of([digest for digest, _ in records]).tolist()
                    rows += [(key, id_, now, record) for key, (_, record) in zip(keys, records, strict=True)]
                connection.executemany(_INSERT, rows)
        except Exception as error:
            if is_busy(error):
                self._patience = 0.0  # one write that waited in vain is enough: later ones only try
            raise
        self._patience = PATIENCE

    def _namespace_id(self, connection: sqlite3.Connection, namespace: str, today: int) -> int:
        """The id of a namespace, selected each time: another process may have pruned it."""
        description = self._descriptions.get(namespace)
        select = "SELECT id FROM spaces WHERE fingerprint = ? AND used = ? AND (words IS NOT NULL OR ? IS NULL)"
        row = connection.execute(select, (namespace, today, description)).fetchone()
        if row is None:
            connection.execute(
                "INSERT INTO spaces (fingerprint, words, used) VALUES (?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE "
                "SET words = coalesce(excluded.words, words), used = excluded.used",
                (namespace, description, today),
            )
            row = connection.execute("SELECT id FROM spaces WHERE fingerprint = ?", (namespace,)).fetchone()
        return int(row[0])

    def _mark_used(self, namespace: str) -> None:
        """Write the day of use, once a day and process, and only if the file is not locked."""
        today = int(time.time()) // DAY
        if self._used.get(namespace) == today or not self._health.writes:
            return
        self._used[namespace] = today
        # It is only for people to read, and a `put` will meet the same problem and report it.
        with suppress(Exception), self._writing.write(patience=0.0) as connection:
            connection.execute(
                "UPDATE spaces SET used = ?, words = coalesce(?, words) WHERE fingerprint = ?",
                (today, self._descriptions.get(namespace), namespace),
            )


def _keys_of(digests: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The first eight bytes of each digest, as the table has them."""
    return np.frombuffer(b"".join(digests), dtype="<i8")[::4]


def _pad_keys(keys: list[int]) -> list[int]:
    """Repeat the last key up to a size of three significant bits.

    sqlite3 keeps 128 compiled statements, one per size. This way they are few, and of a few MB together.
    """
    step = 1 << max(0, len(keys).bit_length() - 3)
    return keys + keys[-1:] * (-len(keys) % step)
