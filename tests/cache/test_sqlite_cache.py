"""The SQLite file: shared by threads, processes and forks, and never a wrong vector from a damaged file."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import signal
import sqlite3
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from support.cache_vectors import NAMESPACE, OTHER, dense_of, entry, fill, holds, run_python, texts_of

import multiembed
from multiembed import CacheWarning, ConfigurationError, SparseVector, open_cache
from multiembed.cache import connection, sqlite
from multiembed.cache.schema import APPLICATION, SCHEMA
from multiembed.cache.sqlite import SqliteCache

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@contextmanager
def writing_elsewhere(path):
    """Hold the write lock by another connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors.sqlite"


@pytest.fixture
def cache(path):
    with closing(open_cache(path)) as opened:
        yield opened


# ── writing ──────────────────────────────────────────────────────────────────────────────────────


def test_put_many_commits_once(cache):
    statements = []
    with cache._writing.use() as opened:
        opened.set_trace_callback(statements.append)
    cache.put_many([entry([number], namespace) for number in range(9) for namespace in (NAMESPACE, OTHER)])
    assert [statement for statement in statements if statement in ("COMMIT", "ROLLBACK")] == ["COMMIT"]
    assert holds(cache, range(9))


def test_put_many_on_a_full_disk_keeps_all_or_nothing(cache):
    fill(cache, range(5))
    with cache._writing.use() as opened:
        pages = opened.execute("PRAGMA page_count").fetchone()[0]
        opened.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.warns(CacheWarning, match="cannot be written: OperationalError: database or disk is full"):
        cache.put_many([entry([6]), entry(range(100, 400))])
    assert cache.get(NAMESPACE, texts_of([6, 100])).positions == []
    assert holds(cache, range(5))


def test_sparse_index_beyond_64_bits_is_not_kept(cache):
    sparse = [SparseVector((2**64,), (1.0,)), SparseVector((1,), (1.0,))]
    cache.put(NAMESPACE, texts_of(range(2)), None, sparse)
    assert cache.get(NAMESPACE, texts_of(range(2))).positions == [1]


# ── one file, many users ─────────────────────────────────────────────────────────────────────────


def test_closed_file_keeps_its_vectors_and_opens_again(cache, path):
    fill(cache, range(200))
    cache.close()
    assert list(path.parent.iterdir()) == [path]
    assert holds(open_cache(path), range(200))
    assert holds(cache, range(200))  # a closed cache opens again


def test_relative_path_ignores_later_chdir(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = open_cache("vectors.sqlite")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    fill(cache, range(3))
    cache.close()
    assert holds(open_cache(tmp_path / "vectors.sqlite"), range(3))


def test_threads_read_and_write_concurrently(cache):
    def work(number):
        numbers = range(number * 10, number * 10 + 10)
        fill(cache, numbers)
        return holds(cache, numbers)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(40)))
    assert holds(cache, range(400))


def test_processes_make_and_fill_one_file_concurrently(path):
    code = "fill_from = int(sys.argv[2])\nfor number in range(fill_from, fill_from + 300, 10):\n"
    code += "    cache = open_cache(sys.argv[1])\n    fill(cache, range(number, number + 10))\n    cache.close()"
    running = [run_python(code, path, begin) for begin in (0, 0, 200, 400)]
    assert [process.wait() for process in running] == [0] * 4
    for process in running:
        process.stdout.close()
    assert holds(open_cache(path), range(700))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
def test_killed_process_loses_no_put_that_returned(path):
    code = "cache = open_cache(sys.argv[1])\nfor number in range(int(sys.argv[2]), 10**9):\n"
    code += "    fill(cache, [number], dimensions=300)\n    print(number, flush=True)"
    begin = 0
    for lines in (1, 40, 300):
        process = run_python(code, path, begin)
        for _ in range(lines):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = [begin + lines - 1, *map(int, process.stdout.read().split("\n")[:-1])]
        process.stdout.close()
        process.wait()
        begin = acknowledged[-1] + 1
        with closing(open_cache(path)) as cache:
            assert holds(cache, range(begin), dimensions=300)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_lets_parent_and_child_use_the_file(cache, path):
    fill(cache, range(10))
    closed, closing_end = os.pipe()
    child = os.fork()
    if not child:
        failed = 1
        try:
            os.close(closing_end)
            os.read(closed, 1)  # until the parent has closed its side of the file
            fill(cache, range(10, 20))
            failed = not holds(cache, range(20))
            cache.close()
        finally:
            os._exit(failed)
    os.close(closed)
    fill(cache, range(20, 30))
    cache.close()
    os.close(closing_end)
    assert os.waitpid(child, 0)[1] == 0
    assert holds(open_cache(path), range(30))


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_during_puts_loses_nothing(cache):
    stop = threading.Event()
    kept = []

    def go_on():
        while not stop.is_set():
            fill(cache, [1000 + len(kept)])
            kept.append(1000 + len(kept))

    writer = threading.Thread(target=go_on)
    writer.start()
    children = []
    for number in range(8):
        children.append(os.fork())
        if not children[-1]:
            signal.alarm(30)
            fill(cache, [number])
            os._exit(not holds(cache, [number]))
    ended = [os.waitpid(child, 0)[1] for child in children]
    stop.set()
    writer.join()
    assert ended == [0] * 8
    assert holds(cache, range(8))
    assert holds(cache, kept)


def test_fork_without_hooks_is_one_warning_and_no_cache(cache, monkeypatch):
    fill(cache, range(3))
    assert holds(cache, range(3))
    with monkeypatch.context() as child:
        child.setattr(connection.os, "getpid", lambda: -1)
        with pytest.warns(CacheWarning, match="cannot be written: OperationalError: the process was forked"):
            fill(cache, [3])
        with pytest.warns(CacheWarning, match="cannot be read: OperationalError: the process was forked"):
            assert cache.get(NAMESPACE, texts_of(range(3))).positions == []
        cache.close()


def test_pickled_cache_opens_the_file_itself(cache):
    fill(cache, range(3))
    again = pickle.loads(pickle.dumps(cache))
    assert holds(again, range(3))
    again.close()


def test_pickled_cache_without_directory_is_one_warning(cache, tmp_path):
    away = pickle.loads(pickle.dumps(SqliteCache(tmp_path / "missing" / "vectors.sqlite")))
    with pytest.warns(CacheWarning, match="no directory"):
        assert away.get(NAMESPACE, texts_of([0])).positions == []
    fill(away, [0])


def test_long_lock_loses_only_puts_made_meanwhile(cache, path, monkeypatch):
    monkeypatch.setattr(sqlite, "PATIENCE", 0.0)
    cache._patience = 0.0
    fill(cache, [0])
    with writing_elsewhere(path):
        with pytest.warns(CacheWarning, match="locked"):
            fill(cache, [1])
        fill(cache, [2])
        assert cache.get(NAMESPACE, texts_of(range(3))).positions == [0]
    fill(cache, [3])
    assert cache.get(NAMESPACE, texts_of(range(4))).positions == [0, 3]


def test_lock_is_waited_for_once(cache, path, monkeypatch):
    waited = []
    real = connection.Connection.write
    monkeypatch.setattr(
        connection.Connection, "write", lambda self, patience: waited.append(patience) or real(self, patience=0.0)
    )
    with writing_elsewhere(path):
        with pytest.warns(CacheWarning, match="locked"):
            fill(cache, [1])
        fill(cache, [2])
    fill(cache, [3])
    fill(cache, [4])
    assert waited == [sqlite.PATIENCE, 0.0, 0.0, sqlite.PATIENCE]


def test_deleted_file_is_made_again(cache, path):
    fill(cache, range(3))
    assert holds(cache, range(3))
    for each in path.parent.iterdir():
        each.unlink()
    assert cache.get(NAMESPACE, texts_of(range(3))).positions == []
    fill(cache, range(3, 6))
    cache.close()
    assert open_cache(path).get(NAMESPACE, texts_of(range(6))).positions == [3, 4, 5]


class Interrupted:
    """A connection in which Ctrl-C comes as soon as a transaction stands."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def execute(self, statement, *values):
        done = self._real.execute(statement, *values)
        if statement.startswith("BEGIN"):
            raise KeyboardInterrupt
        return done


def test_ctrl_c_after_begin_leaves_no_lock(cache, path, monkeypatch):
    fill(cache, [1])
    opened = connection.Connection._opened
    with monkeypatch.context() as patched:
        patched.setattr(connection.Connection, "_opened", lambda each: Interrupted(opened(each)))
        with pytest.raises(KeyboardInterrupt):
            fill(cache, [2])
        with pytest.raises(KeyboardInterrupt):
            holds(cache, [1])
    with closing(sqlite3.connect(path, timeout=0.1, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    fill(cache, [3])
    assert holds(cache, [1, 3])


# ── damage ───────────────────────────────────────────────────────────────────────────────────────


def test_full_disk_is_one_warning_and_lookups_go_on(cache, path):
    fill(cache, range(5))
    with cache._writing.use() as opened:
        pages = opened.execute("PRAGMA page_count").fetchone()[0]
        opened.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.warns(CacheWarning, match="cannot be written: OperationalError: database or disk is full"):
        fill(cache, range(100), dimensions=64)
    fill(cache, [200])
    assert cache.get(NAMESPACE, texts_of([50, 200])).positions == []
    assert holds(cache, range(5))


def test_flipped_bit_in_the_file_is_a_miss_and_repaired(cache, path):
    fill(cache, range(20), dimensions=256)
    cache.close()
    data = bytearray(path.read_bytes())
    at = data.find(dense_of([7], 256)[0, 200:].tobytes()[:40])
    assert at > 0
    data[at + 5] ^= 4
    path.write_bytes(data)
    with pytest.warns(CacheWarning, match="damaged"):
        found = cache.get(NAMESPACE, texts_of(range(20)))
    assert len(found.positions) == 19
    assert cache.get(NAMESPACE, texts_of(range(20))).positions == found.positions  # and no second warning
    assert (found.dense == dense_of(found.positions, 256)).all()
    fill(cache, range(20), dimensions=256)
    assert holds(cache, range(20), dimensions=256)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_overwritten_part_of_the_file_gives_no_wrong_vector(cache, path, part):
    fill(cache, range(300), dimensions=64)
    cache.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * part))
        file.write(np.random.default_rng(1).bytes(size // 10))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = cache.get(NAMESPACE, texts_of(range(300)))
        fill(cache, range(300, 303), dimensions=64)
        later = cache.get(NAMESPACE, texts_of(range(303)))
    assert caught
    assert {warning.category for warning in caught} == {CacheWarning}
    for each in (found, later):
        assert len(each.positions) < 303
        assert not each.positions or (each.dense == dense_of(each.positions, 64)).all()


def test_truncated_file_gives_no_wrong_vector(cache, path):
    fill(cache, range(300), dimensions=64)
    cache.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.warns(CacheWarning):
        found = cache.get(NAMESPACE, texts_of(range(300)))
    assert not found.positions or (found.dense == dense_of(found.positions, 64)).all()


@pytest.mark.parametrize("variables", [999, 250_000])
def test_lookup_by_several_statements_keeps_positions(cache, monkeypatch, variables):
    """SQLite before 3.32 takes 999 variables in one statement."""
    monkeypatch.setattr(sqlite, "_KEYS_PER_SELECT", 2048)
    fill(cache, range(0, 6000, 2))
    with cache._reading.use() as opened:
        opened.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, variables)
    asked = np.random.default_rng(1).permutation(6000).tolist()
    found = cache.get(NAMESPACE, texts_of([*asked, *asked[:50]]))
    assert found.positions == [place for place, number in enumerate([*asked, *asked[:50]]) if number % 2 == 0]
    assert (found.dense == dense_of([[*asked, *asked[:50]][place] for place in found.positions])).all()


def test_lookup_sorts_no_rows(cache):
    """The rows are read in the order they lie in by the query plan itself."""
    with cache._reading.use() as opened:
        plan = opened.execute(f"EXPLAIN QUERY PLAN {sqlite._SELECT.format('?,?,?')}", (1, 2, 3)).fetchall()
    steps = [step for *_, step in plan]
    assert any("USING COVERING INDEX" in step for step in steps)
    assert not any("ORDER BY" in step for step in steps)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 999, 1000, 10_000, 16_383, 16_384])
def test_padded_keys_have_few_sizes(count):
    padded = sqlite._pad_keys(list(range(count)))
    assert padded[:count] == list(range(count))
    assert set(padded[count:]) <= {count - 1}
    assert count <= len(padded) <= count * 1.25
    assert len({len(sqlite._pad_keys([0] * each)) for each in range(1, 16_385)}) < 60


@pytest.mark.parametrize("record", ["a text", 5, b"", b"\1\0\1\0"])
def test_damaged_rows_are_missed_alone(cache, path, record):
    fill(cache, range(2500))
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE vectors SET record = ? WHERE id IN (1, 1200)", (record,))
    with pytest.warns(CacheWarning, match="damaged"):
        found = cache.get(NAMESPACE, texts_of(range(2500)))
    assert found.positions == [number for number in range(2500) if number not in (0, 1199)]
    assert (found.dense == dense_of(found.positions)).all()


def test_intact_record_in_another_row_is_missed(cache, path):
    fill(cache, range(2500))
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE vectors SET record = (SELECT record FROM vectors WHERE id = 7) WHERE id = 1200")
    found = cache.get(NAMESPACE, texts_of(range(2500)))
    assert found.positions == [number for number in range(2500) if number != 1199]
    assert (found.dense == dense_of(found.positions)).all()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be seen here")
def test_dropped_cache_closes_its_file(path):
    def open_files():
        names = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
        return [name for name in names if name.startswith(str(path))]

    dropped = [open_cache(path)]
    fill(dropped[0], range(3))
    assert holds(dropped[0], range(3))
    assert open_files()
    with ThreadPoolExecutor(1) as threads:  # the last one to hold it need not be the one that opened it
        threads.submit(lambda: (dropped.clear(), gc.collect())).result()
    assert open_files() == []


# ── the form of the file ─────────────────────────────────────────────────────────────────────────

VECTORS_1 = """CREATE TABLE vectors (id INTEGER PRIMARY KEY, key INTEGER NOT NULL, space INTEGER NOT NULL,
    written INTEGER NOT NULL, record BLOB NOT NULL)"""
FORM_1 = (
    "CREATE TABLE spaces (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, words TEXT, used INTEGER NOT NULL)",
    VECTORS_1,
    "CREATE UNIQUE INDEX vectors_by_key ON vectors (key)",
)
"""What version 1 of the file consists of. Another form needs another version and a way from this one."""


def row_of_form_1(number):
    """A row as version 1 has it, made without the code that is tested."""
    name = hashlib.sha256(f"{NAMESPACE}\0text {number} 文".encode()).digest()
    record = struct.pack("<HHI", 1, 1, 8) + name + struct.pack("<8f", number + 1, *range(1, 8))
    return struct.unpack("<q", name[:8])[0], 1, 1_700_000_000, record + struct.pack("<I", zlib.crc32(record))


def test_file_of_version_1_is_read_and_written(path):
    with closing(sqlite3.connect(path)) as file, file:
        for statement in (*FORM_1, "PRAGMA application_id = 0x6D656D62", "PRAGMA user_version = 1"):
            file.execute(statement)
        file.execute("INSERT INTO spaces VALUES (1, ?, NULL, 19000)", (NAMESPACE,))
        rows = [row_of_form_1(number) for number in range(20)]
        file.executemany("INSERT INTO vectors (key, space, written, record) VALUES (?, ?, ?, ?)", rows)
    with closing(open_cache(path)) as cache:
        assert holds(cache, range(20))
        fill(cache, range(20, 30))
        assert holds(cache, range(30))


def test_file_is_written_in_the_format_of_its_version(cache, path):
    fill(cache, range(3))
    cache.close()
    with closing(sqlite3.connect(path)) as file:
        made = file.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL").fetchall()
        assert made == [(statement,) for statement in FORM_1]
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
        kept = file.execute("SELECT key, space, record FROM vectors ORDER BY id").fetchall()
    assert kept == [(key, space, record) for key, space, _, record in map(row_of_form_1, range(3))]


# ── opening ──────────────────────────────────────────────────────────────────────────────────────


def test_missing_directory_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"make .*missing first"):
        open_cache(tmp_path / "missing" / "vectors.sqlite")


def test_directory_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="directory"):
        open_cache(tmp_path)


def _no_database(path):
    path.write_bytes(b"col1,col2\n" * 200)


def _anothers(path):
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE precious (id)")


def _newer(path):
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE vectors (something_else)")
        file.execute(f"PRAGMA application_id = {APPLICATION}")
        file.execute(f"PRAGMA user_version = {SCHEMA + 1}")


@pytest.mark.parametrize(
    ("make", "message"), [(_no_database, "no cache file"), (_anothers, "another application"), (_newer, "newer")]
)
def test_foreign_file_is_refused_and_unchanged(path, make, message):
    make(path)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=message):
        open_cache(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_file_with_damaged_header_is_refused(path):
    header = bytearray(b"SQLite format 3\0".ljust(4096, b"\xff"))
    header[60:64], header[68:72] = struct.pack(">I", SCHEMA), struct.pack(">I", APPLICATION)
    path.write_bytes(header)
    with pytest.raises(ConfigurationError, match="damaged: move it away"):
        open_cache(path)


def test_empty_file_becomes_a_cache(path):
    path.touch()
    with closing(open_cache(path)) as cache:
        fill(cache, range(3))
        assert holds(cache, range(3))


@contextmanager
def without_rights(*paths):
    """Paths that may only be read, by a user who is bound by that."""
    is_root = os.geteuid() == 0
    for each in paths:
        each.chmod(0o555)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for each in paths:
            each.chmod(0o755)


@pytest.mark.skipif(sys.platform == "win32", reason="rights are of another kind there")
def test_read_only_file_is_refused():
    import tempfile

    with tempfile.TemporaryDirectory() as name:  # pytest's own is closed to other users
        folder = Path(name)
        with closing(open_cache(folder / "vectors.sqlite")) as cache:
            fill(cache, range(3))
        for given in ("vectors.sqlite", "new.sqlite"):
            with (
                without_rights(folder, folder / "vectors.sqlite"),
                pytest.raises(ConfigurationError, match="check the rights"),
            ):
                open_cache(folder / given)


def test_locked_file_can_be_opened(cache, path, monkeypatch):
    monkeypatch.setattr("multiembed.cache.schema.PATIENCE", 0.0)
    fill(cache, range(3))
    with writing_elsewhere(path), closing(open_cache(path)) as second:
        assert second.get(NAMESPACE, texts_of(range(3))).positions == [0, 1, 2]


def test_day_of_use_is_written_once_a_day(cache, path, monkeypatch):
    now = 1_800_000_000
    monkeypatch.setattr(sqlite.time, "time", lambda: now)
    fill(cache, range(3))
    now += 3 * sqlite.DAY
    written = []
    real = connection.Connection.write
    monkeypatch.setattr(connection.Connection, "write", lambda *a, **k: written.append(1) or real(*a, **k))
    for _ in range(5):
        assert holds(cache, range(3))
    assert len(written) == 1
    [namespace] = multiembed.CacheFile(path).namespaces()
    assert namespace.used == now // sqlite.DAY * sqlite.DAY
    assert namespace.last == 1_800_000_000


def test_long_lookup_does_not_block_put(cache):
    fill(cache, range(3))
    with cache._reading.use(), ThreadPoolExecutor(1) as threads:
        threads.submit(fill, cache, [5]).result(timeout=30)
    assert cache.get(NAMESPACE, texts_of([5])).positions == [0]
