"""One cache file used by several processes and objects: what `put` has returned from is found by all of them."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.cache_worker import find, put, use_second_cache
from support.killed_runs import RUN, assert_paid_once

from multiembed import CacheFile, CacheWarning, ConfigurationError, open_cache
from multiembed.cache.connection import Connection
from multiembed.cli.side_files import remove_cache

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX file names, locks and signals")


class Worker:
    """A process that uses the cache file one command after the other."""

    def __init__(self, start, path, *arguments):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = start("from support.cache_worker import main; main()", path, *arguments, **pipes)
        self.lines = self._process.stdout

    def __call__(self, *command):
        """Run a command to its end; its result."""
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return json.loads(self.lines.readline())

    def kill(self):
        self._process.kill()
        self._process.wait()

    def end(self):
        """Let it close the cache and end."""
        if self._process.returncode is None:
            self._process.stdin.close()
            assert self._process.wait() == 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            self.kill()
        self.end()
        self.close()

    def close(self):
        self._process.__exit__(None, None, None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors.sqlite"


@pytest.fixture
def worker(path, programs):
    """`worker(path)`: another process with the cache open; all end with the test."""
    with ExitStack() as stack:
        yield lambda given=path: stack.enter_context(Worker(programs.start, given))


def check_integrity(path):
    with closing(sqlite3.connect(path)) as file:
        return file.execute("PRAGMA integrity_check").fetchone()[0]


# ── several processes ────────────────────────────────────────────────────────────────────────────


def test_three_processes_find_what_each_has_put(path, worker):
    first, second = worker(), worker()
    first("put", 0, 50)
    assert first("find", 0, 50) == 50
    first("put", 50, 100)
    assert second("find", 0, 100) == 100
    second("put", 1000, 1050)
    second.end()
    first("put", 100, 600)
    third = worker()
    assert third("find", 0, 600) == 600
    assert third("find", 1000, 1050) == 50


def test_two_processes_in_turn_lose_nothing(path, worker):
    first = worker()
    for turn in range(5):
        first("put", turn * 200, turn * 200 + 100)
        assert first("find", 0, turn * 200 + 100) == turn * 200 + 100
        second = worker()
        assert second("find", 0, turn * 200 + 100) == turn * 200 + 100
        second("put", turn * 200 + 100, turn * 200 + 200)
        second.end()
    first.end()
    assert worker()("find", 0, 1000) == 1000
    assert check_integrity(path) == "ok"


@pytest.mark.parametrize("use", ["second cache", "check", "info", "export", "half an export"])
def test_second_object_in_a_process_keeps_the_locks(path, worker, use):
    first = worker()
    first("put", 0, 50)
    first("find", 0, 50)
    first(use)
    second = worker()
    second("find", 0, 1)
    second.end()
    first("put", 50, 500)
    first.kill()
    assert worker()("find", 0, 500) == 500


@pytest.mark.parametrize("end", [Worker.end, Worker.kill])
def test_prune_by_another_process_loses_nothing_else(path, worker, end):
    first, second = worker(), worker()
    first("put", 0, 500)
    first("find", 0, 500)
    second("prune", 1.0)
    second.end()
    first("put", 500, 600)
    third = worker()
    third("prune", 4e9)
    third.end()
    assert first("find", 0, 600) == 0
    first("put", 600, 1100)
    end(first)
    assert worker()("find", 0, 1100) == 500
    assert check_integrity(path) == "ok"


@posix
@pytest.mark.parametrize("name", ["a b?mode=ro&x#y%00%41.sqlite", "file:x.sqlite", "词向量.sqlite", "\udcff.sqlite"])
def test_file_of_any_name_serves_several_processes(tmp_path, worker, name):
    path = tmp_path / name
    first, second = worker(path), worker(path)
    first("put", 0, 50)
    first("find", 0, 1)
    second("put", 50, 100)
    second.end()
    first("put", 100, 150)
    first.kill()
    assert worker(path)("find", 0, 150) == 150
    assert {each.name.removesuffix("-wal").removesuffix("-shm") for each in tmp_path.iterdir()} == {name}


@posix
def test_symbolic_link_and_file_are_one_cache(tmp_path, path, worker):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.sqlite"
    link.symlink_to(path)
    first, second = worker(), worker(link)
    first("put", 0, 50)
    second("put", 50, 100)
    assert first("find", 0, 100) == second("find", 0, 100) == 100
    assert CacheFile(link).bytes == CacheFile(path).bytes > path.stat().st_size
    second.end()
    first("put", 100, 150)
    first.kill()
    assert worker(link)("find", 0, 150) == 150


@posix
def test_file_with_two_hard_links_is_refused(tmp_path, path):
    with closing(open_cache(path)) as cache:
        put(cache, 0, 10)
    (tmp_path / "second.sqlite").hardlink_to(path)
    for name in (path, tmp_path / "second.sqlite"):
        with pytest.raises(ConfigurationError, match="2 names"):
            open_cache(name)
    (tmp_path / "second.sqlite").unlink()
    with closing(open_cache(path)) as cache:
        assert len(find(cache, 0, 10)) == 10


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="locks cannot be seen here")
def test_working_cache_holds_its_locks(path):
    def locked():
        numbers = {each.stat().st_ino: each.name for each in path.parent.iterdir()}
        lines = (line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line)
        held = ((line[4], numbers.get(int(line[5].rpartition(":")[2]))) for line in lines)
        return {name for process, name in held if process == str(os.getpid()) and name}

    everything = {"vectors.sqlite", "vectors.sqlite-shm"}
    with closing(open_cache(path)) as cache:
        put(cache, 0, 10)
        assert locked() == everything
        find(cache, 0, 10)
        assert locked() == everything
        for use in (lambda: use_second_cache(path), lambda: CacheFile(path).prune(), cache.check):
            put(cache, 0, 10)
            use()
            assert locked() == everything


# ── what is not ours ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def run_elsewhere(programs):
    """`run_elsewhere(code, …)`: what code prints. Files are read there: this process would lose its locks on them."""

    def run(code, *arguments):
        done = programs.run(f"import hashlib, shutil, sqlite3, sys\nfrom pathlib import Path\n{code}", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


@pytest.fixture
def files_of(run_elsewhere):
    """`files_of(folder)`: the names and contents of its files."""
    return lambda folder: run_elsewhere(
        "for each in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    print(each.name, hashlib.sha256(each.read_bytes()).hexdigest())",
        folder,
    )


@pytest.fixture
def copy_as_crashed(run_elsewhere):
    """`copy_as_crashed(path, folder)`: what a process that is killed now leaves behind."""

    def copy(path, folder):
        code = "shutil.copytree(sys.argv[1], sys.argv[2], ignore=shutil.ignore_patterns('*-shm'))"
        run_elsewhere(code, path.parent, folder)
        return folder / path.name

    return copy


def make_foreign(path, *, journal, application=77):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA application_id = {application}")
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.execute("CREATE TABLE precious (id)")
    return connection


@pytest.mark.parametrize(
    ("use", "journal", "application"),
    [(open_cache, "DELETE", 0), (open_cache, "WAL", 77), (CacheFile, "DELETE", 77), (CacheFile, "WAL", 0)],
)
def test_foreign_database_is_unchanged(tmp_path, files_of, copy_as_crashed, use, journal, application):
    path = tmp_path / "in use" / "foreign.sqlite"
    path.parent.mkdir()
    with closing(make_foreign(path, journal=journal, application=application)) as foreign:
        crashed = copy_as_crashed(path, tmp_path / "crashed")
        foreign.execute("INSERT INTO precious VALUES (1)")
        for each in (path, crashed):
            before = files_of(each.parent)
            with pytest.raises(ConfigurationError, match="another application's database and is left"):
                use(each)
            assert files_of(each.parent) == before
    closed = files_of(path.parent)
    assert [each.name for each in path.parent.iterdir()] == ["foreign.sqlite"]
    with pytest.raises(ConfigurationError, match="another application's database and is left"):
        use(path)
    assert files_of(path.parent) == closed


def test_foreign_database_keeps_its_locks(path, run_elsewhere):
    """SQLite's locks belong to the process, not to the object that opened the file."""
    with closing(make_foreign(path, journal="WAL")) as foreign:
        foreign.execute("INSERT INTO precious VALUES (1)")
        with pytest.raises(ConfigurationError, match="another application"):
            open_cache(path)
        run_elsewhere("c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM precious'); c.close()", path)
        foreign.execute("INSERT INTO precious VALUES (2)")
        count = "c = sqlite3.connect(sys.argv[1]); print(*c.execute('SELECT count(*) FROM precious')); c.close()"
        counted = run_elsewhere(count, path)
        assert counted.strip() == "(2,)"


@pytest.mark.parametrize("data", [b"\n", b"a", b"col1,col2\n" * 200, b"\0" * 4096, b"SQLite format 3\0", b"\xff" * 99])
def test_file_that_is_no_database_is_unchanged(path, files_of, data):
    path.write_bytes(data)
    before = files_of(path.parent)
    for use in (open_cache, CacheFile):
        with pytest.raises(ConfigurationError, match="no cache file and is left as it is"):
            use(path)
    assert files_of(path.parent) == before


@posix
def test_special_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for name in (tmp_path / "fifo", "/dev/null"):
        with pytest.raises(ConfigurationError, match="not a regular file"):
            open_cache(name)


def test_database_that_appears_meanwhile_is_refused(path, monkeypatch):
    """Another application makes the file between our look and our opening."""
    monkeypatch.setattr("multiembed.cache.schema._recognise", lambda path: None)
    make_foreign(path, journal="DELETE", application=0).close()
    with pytest.raises(ConfigurationError, match="another application"):
        open_cache(path)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT name FROM sqlite_schema").fetchall() == [("precious",)]


def test_file_in_the_middle_of_a_checkpoint_is_recognised(tmp_path, copy_as_crashed):
    """The first page is written back first, so the file is shorter than it says until the last one is."""
    path = tmp_path / "in use" / "vectors.sqlite"
    path.parent.mkdir()
    with closing(open_cache(path)) as cache:
        put(cache, 0, 500)
        crashed = copy_as_crashed(path, tmp_path / "crashed")
    log = crashed.with_name(f"{path.name}-wal").read_bytes()
    size = struct.unpack_from(">I", log, 8)[0]
    frames = range(32, len(log), 24 + size)
    first = [log[at + 24 : at + 24 + size] for at in frames if struct.unpack_from(">I", log, at)[0] == 1]
    with crashed.open("r+b") as file:
        file.write(first[-1])
    assert struct.unpack_from(">I", first[-1], 28)[0] * size > crashed.stat().st_size
    with closing(open_cache(crashed)) as cache:
        assert len(find(cache, 0, 500)) == 500


# ── a file that is moved, deleted or replaced while it is in use ─────────────────────────────────


@posix
def test_moved_file_takes_its_vectors_along(tmp_path, path):
    with closing(open_cache(path)) as cache:
        put(cache, 0, 100)
        path.rename(tmp_path / "moved.sqlite")
        put(cache, 100, 200)
        assert len(find(cache, 0, 200)) == 100
    for name, numbers in ((tmp_path / "moved.sqlite", (0, 100)), (path, (100, 200))):
        with closing(open_cache(name)) as cache:
            assert find(cache, 0, 200) == list(range(*numbers))
        assert check_integrity(name) == "ok"


@posix
def test_deleted_file_is_made_again_despite_its_old_log(path, worker):
    """Another process still has the deleted file open, and shares the index of its log."""
    first, second = worker(), worker()
    first("put", 0, 100)
    assert second("find", 0, 100) == 100
    path.unlink()
    third = worker()
    third("put", 100, 200)
    assert first("find", 0, 200) == 100
    first("put", 200, 300)
    second("put", 300, 400)
    third("put", 400, 500)
    for each in (first, second, third):
        assert each("find", 0, 500) == 400
    first.kill()
    second.end()
    third.kill()
    assert worker()("find", 0, 500) == 400
    assert check_integrity(path) == "ok"


@posix
def test_replaced_file_whose_log_stays_is_not_used(tmp_path, path):
    with closing(open_cache(tmp_path / "other.sqlite")) as other:
        put(other, 500, 600)
    with closing(open_cache(path)) as cache:
        put(cache, 0, 100)
        assert len(find(cache, 0, 100)) == 100
        (tmp_path / "other.sqlite").rename(path)
        with pytest.warns(CacheWarning, match="replaced while it was in use"):
            assert find(cache, 0, 1000) == []
        put(cache, 100, 200)
        assert find(cache, 0, 1000) == []


def open_files(path):
    """What this process has open of a cache file, where that can be seen."""
    names = [each.readlink() for each in Path("/proc/self/fd").glob("*") if each.is_symlink()]
    return [name for name in names if str(name).startswith(str(path))]


@posix
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_in_the_middle_of_an_export_closes_the_file(path):
    with closing(open_cache(path)) as cache:
        put(cache, 0, 1500)
        vectors = CacheFile(path).vectors()
        assert next(vectors).digest
        child = os.fork()
        if not child:
            signal.alarm(60)
            os._exit(bool(open_files(path)) or sum(1 for _ in vectors) != 1499)
        assert os.waitpid(child, 0)[1] == 0
        put(cache, 1500, 1600)
        assert sum(1 for _ in vectors) == 1599


@posix
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork_closes_caches_that_threads_open_meanwhile(path):
    stop = threading.Event()

    def open_and_close():
        while not stop.is_set():
            with closing(Connection(path)) as file, file.use():
                pass

    threads = [threading.Thread(target=open_and_close) for _ in range(3)]
    with closing(open_cache(path)) as cache:
        put(cache, 0, 10)
        for thread in threads:
            thread.start()
        ended = []
        for _ in range(8):
            child = os.fork()
            if not child:
                signal.alarm(60)
                os._exit(bool(open_files(path)) or len(find(cache, 0, 10)) != 10)
            ended.append(os.waitpid(child, 0)[1])
        stop.set()
        for thread in threads:
            thread.join()
    assert ended == [0] * 8


def test_cache_of_a_finished_run_is_not_removed_in_use(path, worker):
    first, second = worker(), worker()
    first("put", 0, 100)
    assert second("find", 0, 100) == 100
    first.end()
    remove_cache(path)
    second("put", 100, 200)
    assert second("find", 0, 200) == 200
    second.end()
    remove_cache(path)
    assert not list(path.parent.iterdir())


# ── kill -9 ──────────────────────────────────────────────────────────────────────────────────────


@posix
def test_cache_info_during_a_killed_ingestion_loses_nothing(programs, simulator, tmp_path):
    cache, out = tmp_path / "cache.sqlite", tmp_path / "vectors.npy"
    arguments = (RUN, "sync", simulator.base_url("dashscope"), cache, out)
    info = ("import sys; from multiembed.cli import main; main()", "cache", "info", cache, "--json")
    seen = []
    arrived = Counter()

    def look_then_kill(_, answer):
        arrived["requests"] += 1
        if arrived["requests"] == 40:
            seen.append(json.loads(programs.run(*info).stdout)["namespaces"])
        if arrived["requests"] == 200:
            run.kill()
        return answer

    simulator.fail(look_then_kill)
    with programs.start(*arguments) as run:
        assert run.wait() == -signal.SIGKILL
    simulator.heal()
    assert seen
    assert programs.run(*arguments).returncode == 0
    assert_paid_once(simulator, out, kills=1)
    assert check_integrity(cache) == "ok"


TEXTS_OF_A_SLOT = 1_000_000


class Soak:
    """Workers that pay for texts and keep them; each prints what it has paid and what it has kept."""

    def __init__(self, start_program, path, seed):
        self._start_program = start_program
        self._path = path
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._workers = {}
        self._readers = {}
        self.paid = Counter()
        self.kept = set()
        self.in_flight = Counter()
        """How often a text was paid and not yet known as kept when its worker was killed."""
        self.batches = Counter()
        """Kept by each slot since its worker began."""
        self.ended = set()
        """Workers that ended by themselves."""

    def start(self, slot):
        begin = slot * TEXTS_OF_A_SLOT
        with self._changed:
            known = max((text + 1 for text in self.paid if text // TEXTS_OF_A_SLOT == slot), default=begin)
        seed = self._random.randrange(1000)
        worker = self._workers[slot] = Worker(self._start_program, self._path, begin, known, seed)
        self.batches[slot] = 0
        self._readers[slot] = threading.Thread(target=self._read, args=(slot, worker))
        self._readers[slot].start()

    def _read(self, slot, worker):
        paid = set()
        for line in worker.lines:
            if not line.endswith("\n"):
                break  # cut off by the kill
            what, *numbers = line.split()
            numbers = set(map(int, numbers))
            with self._changed:
                if what == "paid":
                    self.paid.update(numbers)
                    paid = numbers
                else:
                    self.kept |= numbers
                    self.batches[slot] += 1
                    paid = set()
                self._changed.notify_all()
        self.in_flight.update(paid)
        with self._changed:
            self.ended.add(worker)
            self._changed.notify_all()

    def wait_for_batches(self, slots, count):
        """Wait until so many batches more are kept, and each of these slots has kept one."""
        with self._changed:
            goal = sum(self.batches.values()) + count

            def reached():
                return sum(self.batches.values()) >= goal and all(self.batches[slot] for slot in slots)

            assert self._changed.wait_for(lambda: self.ended or reached(), timeout=120)
        assert not self.ended

    def kill(self, *slots):
        for slot in slots:
            if worker := self._workers.pop(slot, None):
                worker.kill()
                self._readers.pop(slot).join()
                self.ended.discard(worker)
                worker.close()


@posix
@pytest.mark.parametrize("kills", [8, pytest.param(25, marks=pytest.mark.slow)])
def test_soak_with_kills_pays_nothing_twice_but_in_flight(programs, path, kills):
    """So many times, one of four writers and readers is killed, some of them while they open the file."""
    numbers = random.Random(12)
    soak = Soak(programs.start, path, 12)
    slots = range(4)
    try:
        for slot in slots:
            soak.start(slot)
        for _ in range(kills):
            begun = slots if numbers.random() < 0.7 else ()
            soak.wait_for_batches(begun, numbers.randrange(200))
            slot = numbers.choice(slots)
            soak.kill(slot)
            soak.start(slot)
        soak.wait_for_batches(slots, 50)
    finally:
        soak.kill(*slots)
    assert check_integrity(path) == "ok"
    again = {text: times for text, times in soak.paid.items() if times > 1 + soak.in_flight[text]}
    assert not again
    with closing(open_cache(path)) as cache:
        for slot in slots:
            mine = {text for text in soak.kept if text // TEXTS_OF_A_SLOT == slot}
            assert mine <= set(find(cache, min(mine), max(mine) + 1))
