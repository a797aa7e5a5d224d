"""The cache: the right vectors or none, from every store, whatever happens to it."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import pickle
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import multiembed
from multiembed import CacheEntry, CacheWarning, ConfigurationError, EmbeddingClient, SparseVector, open_cache
from multiembed.cache import connection, sqlite
from multiembed.cache.framework_stores import COLLECTION, PREFIX
from multiembed.cache.record_format import decode, digests, encode, form_of, intact_of, names_of
from multiembed.cache.schema import APPLICATION, SCHEMA
from multiembed.cache.sqlite import SqliteCache

HOUSE = Path(multiembed.__file__).parents[1]
SPACE, OTHER = "a" * 64, "b" * 64
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def texts_of(numbers):
    return [f"text {number} 文" for number in numbers]


def dense_of(numbers, dimensions=8):
    """A vector that tells which text it belongs to."""
    return np.array([[number + 1, *range(1, dimensions)] for number in numbers], dtype=np.float32)


def holds(cache, numbers, space=SPACE, dimensions=8):
    found = cache.get(space, texts_of(numbers))
    return found.positions == list(range(len(numbers))) and (found.dense == dense_of(numbers, dimensions)).all()


def fill(cache, numbers, space=SPACE, dimensions=8):
    cache.put(space, texts_of(numbers), dense_of(numbers, dimensions), None)


def run_python(code, *arguments, **options):
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HOUSE), str(HOUSE / "tests"), str(Path(__file__).parent)]),
    }
    command = [sys.executable, "-c", f"from test_cache import *\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


@contextmanager
def writing_elsewhere(path):
    """Somebody else holds the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors.sqlite"


@pytest.fixture
def make_store():
    """`make_store(name)`: what a user may give as a cache; they are closed when the test ends."""
    opened = []

    def make(name, tmp_path):
        if name == "sqlite":
            given = tmp_path / "vectors.sqlite"
        elif name == "kv":
            given = pytest.importorskip("llama_index.core.storage.kvstore").SimpleKVStore()
        elif name == "memory":
            given = pytest.importorskip("langchain_core.stores").InMemoryByteStore()
        else:
            given = FolderByteStore(tmp_path)
        opened.append(open_cache(given))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


class FolderByteStore:
    """A ByteStore as a user may write one: a file for each key."""

    def __init__(self, folder):
        self.folder = folder

    def mget(self, keys):
        files = [self.folder / key for key in keys]
        return [file.read_bytes() if file.exists() else None for file in files]

    def mset(self, key_value_pairs):
        for key, value in key_value_pairs:
            (self.folder / key).write_bytes(value)


@pytest.fixture(params=["sqlite", "memory", "folder", "kv"])
def store(request, make_store, tmp_path):
    return make_store(request.param, tmp_path)


@pytest.fixture
def cache(make_store, tmp_path):
    return make_store("sqlite", tmp_path)


# ── the same from every store ────────────────────────────────────────────────────────────────────


def test_what_was_put_is_found_and_nothing_else(store):
    fill(store, range(70))
    found = store.get(SPACE, [*texts_of([999, 3]), "new", *texts_of([0, 3])])
    assert found.positions == [1, 3, 4]
    assert (found.dense == dense_of([3, 0, 3])).all()
    assert found.dense.dtype == np.float32
    assert found.sparse is None
    assert holds(store, range(70))


def test_nothing_is_found_where_nothing_is(store):
    assert store.get(SPACE, texts_of(range(3))) == multiembed.CacheLookup()
    assert store.get(SPACE, []).positions == []
    store.put(SPACE, [], np.empty((0, 8), dtype=np.float32), None)


def test_a_vector_is_found_in_its_own_space_only(store):
    fill(store, range(3), SPACE)
    assert store.get(OTHER, texts_of(range(3))).positions == []
    store.put(OTHER, texts_of(range(3)), dense_of(range(3)) * 2, None)
    assert holds(store, range(3), SPACE)
    assert (store.get(OTHER, texts_of(range(3))).dense == dense_of(range(3)) * 2).all()


def test_a_query_never_gets_a_documents_vector_nor_one_model_anothers(store):
    clients = [EmbeddingClient("local:ngrams", dimensions=size) for size in (64, 128)]
    for client in clients:
        for role in ("document", "query"):
            fill(store, [len(role)], client.fingerprint(role), client.target.dimensions)
    for client in clients:
        document, query = (store.get(client.fingerprint(role), texts_of([8, 5])) for role in ("document", "query"))
        assert (document.positions, query.positions) == ([0], [1])
        assert document.dense.shape == query.dense.shape == (1, client.target.dimensions)


def test_a_second_put_replaces_the_first(store):
    fill(store, range(3))
    store.put(SPACE, texts_of([1]), dense_of([7]), None)
    assert (store.get(SPACE, texts_of(range(3))).dense == dense_of([0, 7, 2])).all()


def test_sparse_vectors_come_back_as_they_were(store):
    sparse = [
        SparseVector((3, 70_000), (0.5, 1 / 3), ("风", "a")),
        SparseVector((2**40,), (2.5,)),
        SparseVector((), ()),
    ]
    store.put(SPACE, texts_of(range(3)), dense_of(range(3)), sparse)
    found = store.get(SPACE, texts_of(range(3)))
    assert found.sparse == sparse
    assert (found.dense == dense_of(range(3))).all()
    store.put(OTHER, texts_of(range(3)), None, sparse)
    found = store.get(OTHER, texts_of([2, 5, 0]))
    assert found.positions == [0, 2]
    assert found.sparse == [sparse[2], sparse[0]]
    assert found.dense is None


def test_of_two_lengths_in_a_space_only_one_is_found_and_the_user_is_told(store):
    fill(store, range(5), dimensions=8)
    fill(store, range(5, 9), dimensions=4)
    with pytest.warns(CacheWarning, match="two lengths"):
        found = store.get(SPACE, texts_of(range(9)))
    assert found.positions == [5, 6, 7, 8]
    assert found.dense.shape == (4, 4)
    fill(store, range(5), dimensions=4)
    assert store.get(SPACE, texts_of(range(9))).dense.shape == (9, 4)


def test_texts_and_vectors_that_do_not_match_are_a_mistake(store):
    with pytest.raises(ValueError, match="as many"):
        store.put(SPACE, texts_of(range(3)), dense_of(range(2)), None)
    with pytest.raises(ValueError, match="nothing to keep"):
        store.put(SPACE, texts_of(range(3)), None, None)


def test_mixed_lengths_in_a_long_lookup_finds_the_last_put(store):
    fill(store, range(600), dimensions=8)
    fill(store, range(600, 1200), dimensions=4)
    with pytest.warns(CacheWarning, match="two lengths"):
        found = store.get(SPACE, texts_of(range(1200)))
    assert found.positions == list(range(600, 1200))
    assert (found.dense == dense_of(range(600, 1200), 4)).all()


def entry(numbers, space=SPACE, **changes):
    return CacheEntry(
        **{"namespace": space, "texts": texts_of(numbers), "dense": dense_of(numbers), "sparse": None} | changes
    )


def test_put_many_keeps_every_entry(store):
    weights = [SparseVector((7,), (0.5,))] * 2
    both = entry([5, 6], OTHER, sparse=weights)
    store.put_many([entry(range(3)), both, entry([]), entry(range(2, 9))])
    assert holds(store, range(9))
    assert holds(store, [5, 6], OTHER)
    assert store.get(OTHER, both.texts).sparse == weights


def test_put_many_with_nothing_keeps_nothing(store):
    store.put_many([])
    store.put_many([entry([])])
    assert store.get(SPACE, texts_of(range(3))) == multiembed.CacheLookup()


@pytest.mark.parametrize(
    "bad",
    [
        entry([5], dense=dense_of([5, 6])),
        entry([5], dense=None),
        entry([5], dense=dense_of([5])[0]),
        entry([5], dense=np.array([["a"]])),
        entry([5], texts=[7]),
        entry([5], sparse=[SparseVector((1,), ("a",))]),
        entry([5], sparse=[None]),
    ],
    ids=["more rows", "no vectors", "flat", "words", "no text", "weight of text", "no weights"],
)
def test_put_many_with_a_bad_entry_keeps_the_others(store, bad):
    with pytest.warns(CacheWarning, match="cannot hold some vectors"):
        store.put_many([entry([1]), bad, entry([2])])
    store.put_many([bad, entry([3])])  # with no second warning, which would be an error
    assert holds(store, [1, 2, 3])


def test_put_many_keeps_the_others_before_it_raises(store):
    """Where warnings are errors, too, nothing is lost that was paid."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CacheWarning, match="cannot hold some vectors"):
            store.put_many([entry([1]), entry([5], dense=None), entry([2])])
    assert holds(store, [1, 2])


def test_put_many_commits_once(cache):
    statements = []
    with cache._writing.use() as opened:
        opened.set_trace_callback(statements.append)
    cache.put_many([entry([number], space) for number in range(9) for space in (SPACE, OTHER)])
    assert [statement for statement in statements if statement in ("COMMIT", "ROLLBACK")] == ["COMMIT"]
    assert holds(cache, range(9))


def test_put_many_writes_to_a_store_once():
    calls = []
    stores = [
        SimpleNamespace(mget=list, mset=lambda pairs: calls.append(len(pairs))),
        SimpleNamespace(get=list, put=list, put_all=lambda pairs, collection: calls.append((len(pairs), collection))),
    ]
    for each in stores:
        open_cache(each).put_many([entry(range(3)), entry(range(3, 7))])
    assert calls == [7, (7, COLLECTION)]


def test_put_many_on_a_full_disk_keeps_all_or_nothing(cache):
    fill(cache, range(5))
    with cache._writing.use() as opened:
        pages = opened.execute("PRAGMA page_count").fetchone()[0]
        opened.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.warns(CacheWarning, match="cannot be written: OperationalError: database or disk is full"):
        cache.put_many([entry([6]), entry(range(100, 400))])
    assert cache.get(SPACE, texts_of([6, 100])).positions == []
    assert holds(cache, range(5))


def test_a_deep_copy_is_the_same_cache(store):
    assert copy.deepcopy(store) is store


def test_a_lone_surrogate_is_a_text_like_others(store):
    store.put(SPACE, ["\ud800"], dense_of([1]), None)
    assert store.get(SPACE, ["\ud801", "\ud800"]).positions == [1]


# ── what may be given ────────────────────────────────────────────────────────────────────────────


def test_a_cache_of_ones_own_is_taken_as_it_is():
    class Own:
        def get(self, space, texts): ...
        def put(self, space, texts, dense, sparse): ...

    own = Own()
    assert open_cache(own) is own
    with pytest.raises(ConfigurationError, match="the class Own"):
        open_cache(Own)


@pytest.mark.parametrize("given", [7, None, {}, b"vectors.sqlite", object()])
def test_what_is_no_cache_is_refused_with_what_is_taken(given):
    with pytest.raises(ConfigurationError, match="ByteStore"):
        open_cache(given)


@pytest.mark.parametrize("given", ["", " ", ":memory:"])
def test_what_is_no_path_is_refused_with_what_to_take(given):
    with pytest.raises(ConfigurationError, match="InMemoryByteStore"):
        open_cache(given)


def test_langchains_folder_takes_our_keys(tmp_path):
    classic = pytest.importorskip("langchain_classic.storage")
    store = open_cache(classic.LocalFileStore(tmp_path))
    fill(store, range(3))
    assert holds(store, range(3))


def test_a_kv_store_can_be_written_as_json(tmp_path):
    kvstore = pytest.importorskip("llama_index.core.storage.kvstore")
    kept = kvstore.SimpleKVStore()
    fill(open_cache(kept), range(3))
    kept.persist(str(tmp_path / "kept.json"))
    assert holds(open_cache(kvstore.SimpleKVStore.from_persist_path(str(tmp_path / "kept.json"))), range(3))


class BrokenStore:
    def __init__(self, reads=True):
        self.reads = reads
        self.calls = 0

    def mget(self, keys):
        self.calls += 1
        if self.reads:
            return [None] * len(keys)
        raise ConnectionError("Connection refused")

    def mset(self, pairs):
        self.calls += 1
        raise ConnectionError("Connection refused")


def test_a_store_that_cannot_be_read_is_told_once_and_left_alone():
    broken = BrokenStore(reads=False)
    store = open_cache(broken)
    with pytest.warns(CacheWarning, match="BrokenStore cannot be read: ConnectionError: Connection refused"):
        assert store.get(SPACE, texts_of(range(3))).positions == []
    fill(store, range(3))
    assert store.get(SPACE, texts_of(range(3))).positions == []
    assert broken.calls == 1


def test_a_store_that_cannot_be_written_is_still_read():
    broken = BrokenStore()
    store = open_cache(broken)
    with pytest.warns(CacheWarning, match="cannot be written"):
        fill(store, range(3))
    fill(store, range(3))
    assert broken.calls == 1
    store.get(SPACE, texts_of(range(3)))
    assert broken.calls == 2


@pytest.mark.parametrize("value", [b"", b"\0" * 80, "text", 7])
def test_a_value_of_somebody_else_is_not_found(value):
    memory = pytest.importorskip("langchain_core.stores").InMemoryStore()
    store = open_cache(memory)
    memory.mset([(PREFIX + digests(SPACE, texts_of([0]))[0].hex(), value)])
    with pytest.warns(CacheWarning, match="damaged"):
        assert store.get(SPACE, texts_of([0])).positions == []


@pytest.mark.parametrize("value", [{}, {"record": 7}, {"record": "no base64!"}])
def test_a_dict_of_somebody_else_is_not_found(value):
    kept = pytest.importorskip("llama_index.core.storage.kvstore").SimpleKVStore()
    store = open_cache(kept)
    kept.put(PREFIX + digests(SPACE, texts_of([0]))[0].hex(), value, collection=COLLECTION)
    with pytest.warns(CacheWarning, match="damaged"):
        assert store.get(SPACE, texts_of([0])).positions == []


def test_a_record_under_anothers_key_is_not_found():
    memory = pytest.importorskip("langchain_core.stores").InMemoryByteStore()
    store = open_cache(memory)
    fill(store, [0])
    names = [PREFIX + name.hex() for name in digests(SPACE, texts_of([0, 1]))]
    memory.mset([(names[1], memory.mget(names[:1])[0])])
    assert store.get(SPACE, texts_of([0, 1])).positions == [0]


# ── the record ───────────────────────────────────────────────────────────────────────────────────

SPARSE = st.builds(
    lambda pairs, tokens: SparseVector(
        tuple(pairs), tuple(pairs.values()), tuple(tokens[: len(pairs)]) if len(tokens) >= len(pairs) else None
    ),
    st.dictionaries(st.integers(0, 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False), max_size=5),
    st.lists(st.text(st.characters(exclude_categories=())), max_size=8),
)


@given(
    st.lists(st.tuples(st.lists(st.floats(width=32), min_size=3, max_size=3), SPARSE), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_a_record_holds_exactly_what_was_put_into_it(rows, with_dense, with_sparse):
    with_dense = with_dense or not with_sparse
    dense = np.array([row for row, _ in rows], dtype=np.float32) if with_dense else None
    sparse = [vector for _, vector in rows] if with_sparse else None
    texts = texts_of(range(len(rows)))
    kept = encode(CacheEntry(SPACE, texts, dense, sparse))
    assert names_of(record for _, record in kept) == [name for name, _ in kept] == digests(SPACE, texts)
    assert intact_of(record for _, record in kept) == [record for _, record in kept]
    assert len({form_of(record) for _, record in kept}) == 1
    again, sparse_again = decode([record for _, record in kept])
    assert (again is None) == (dense is None)
    assert dense is None or again.tobytes() == dense.tobytes()
    assert sparse_again == sparse


@given(st.data())
def test_no_flipped_bit_goes_unnoticed(data):
    [(_, record)] = encode(CacheEntry(SPACE, ["text"], dense_of([1]), [SparseVector((1,), (0.5,), ("a",))]))
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    flipped = bytearray(record)
    flipped[bit // 8] ^= 1 << bit % 8
    assert intact_of([bytes(flipped), record, record[: bit // 8]]) == [record]


@given(st.lists(st.tuples(st.sampled_from([SPACE, OTHER, ""]), st.text(max_size=5)), unique=True, min_size=2))
def test_every_space_and_text_has_a_digest_of_its_own(pairs):
    assert len({digests(space, [text])[0] for space, text in pairs}) == len(pairs)


def test_a_digest_is_what_the_documentation_says():
    assert digests(SPACE, ["文"]) == [hashlib.sha256(SPACE.encode() + b"\0" + "文".encode()).digest()]


def test_an_index_that_no_record_can_hold_is_not_kept(cache):
    sparse = [SparseVector((2**64,), (1.0,)), SparseVector((1,), (1.0,))]
    cache.put(SPACE, texts_of(range(2)), None, sparse)
    assert cache.get(SPACE, texts_of(range(2))).positions == [1]


# ── one file, many users ─────────────────────────────────────────────────────────────────────────


def test_the_file_survives_its_closing_and_serves_the_next_process(cache, path):
    fill(cache, range(200))
    cache.close()
    assert list(path.parent.iterdir()) == [path]
    assert holds(open_cache(path), range(200))
    assert holds(cache, range(200))  # a closed cache opens again


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = open_cache("vectors.sqlite")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    fill(cache, range(3))
    cache.close()
    assert holds(open_cache(tmp_path / "vectors.sqlite"), range(3))


def test_threads_read_and_write_at_once(cache):
    def work(number):
        numbers = range(number * 10, number * 10 + 10)
        fill(cache, numbers)
        return holds(cache, numbers)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(40)))
    assert holds(cache, range(400))


def test_processes_make_and_fill_one_file_at_once(path):
    code = "fill_from = int(sys.argv[2])\nfor number in range(fill_from, fill_from + 300, 10):\n"
    code += "    cache = open_cache(sys.argv[1])\n    fill(cache, range(number, number + 10))\n    cache.close()"
    running = [run_python(code, path, begin) for begin in (0, 0, 200, 400)]
    assert [process.wait() for process in running] == [0] * 4
    for process in running:
        process.stdout.close()
    assert holds(open_cache(path), range(700))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
def test_a_killed_process_loses_nothing_it_was_told_is_kept(path):
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
def test_parent_and_child_of_a_fork_both_go_on(cache, path):
    fill(cache, range(10))
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        failed = 1
        try:
            os.close(tell)
            os.read(told, 1)  # until the parent has closed its side of the file
            fill(cache, range(10, 20))
            failed = not holds(cache, range(20))
            cache.close()
        finally:
            os._exit(failed)
    os.close(told)
    fill(cache, range(20, 30))
    cache.close()
    os.close(tell)
    assert os.waitpid(child, 0)[1] == 0
    assert holds(open_cache(path), range(30))


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forks_in_the_middle_of_puts_lose_nothing(cache):
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


def test_a_fork_that_python_did_not_see_ends_in_no_cache(cache, monkeypatch):
    fill(cache, range(3))
    assert holds(cache, range(3))
    with monkeypatch.context() as child:
        child.setattr(connection.os, "getpid", lambda: -1)
        with pytest.warns(CacheWarning, match="cannot be written: OperationalError: the process was forked"):
            fill(cache, [3])
        with pytest.warns(CacheWarning, match="cannot be read: OperationalError: the process was forked"):
            assert cache.get(SPACE, texts_of(range(3))).positions == []
        cache.close()


def test_a_pickled_cache_opens_the_file_for_itself(cache):
    fill(cache, range(3))
    again = pickle.loads(pickle.dumps(cache))
    assert holds(again, range(3))
    again.close()


def test_a_pickled_cache_whose_directory_is_missing_is_told_and_goes_on_without(cache, tmp_path):
    away = pickle.loads(pickle.dumps(SqliteCache(tmp_path / "missing" / "vectors.sqlite")))
    with pytest.warns(CacheWarning, match="no directory"):
        assert away.get(SPACE, texts_of([0])).positions == []
    fill(away, [0])


def test_a_lock_that_is_held_for_long_loses_only_what_came_meanwhile(cache, path, monkeypatch):
    monkeypatch.setattr(sqlite, "PATIENCE", 0.0)
    cache._patience = 0.0
    fill(cache, [0])
    with writing_elsewhere(path):
        with pytest.warns(CacheWarning, match="locked"):
            fill(cache, [1])
        fill(cache, [2])
        assert cache.get(SPACE, texts_of(range(3))).positions == [0]
    fill(cache, [3])
    assert cache.get(SPACE, texts_of(range(4))).positions == [0, 3]


def test_a_lock_is_waited_for_once_only(cache, path, monkeypatch):
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


def test_a_file_that_was_deleted_is_made_anew(cache, path):
    fill(cache, range(3))
    assert holds(cache, range(3))
    for each in path.parent.iterdir():
        each.unlink()
    assert cache.get(SPACE, texts_of(range(3))).positions == []
    fill(cache, range(3, 6))
    cache.close()
    assert open_cache(path).get(SPACE, texts_of(range(6))).positions == [3, 4, 5]


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


def test_ctrl_c_as_soon_as_a_transaction_stands_keeps_nobody_from_the_file(cache, path, monkeypatch):
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


def test_a_full_disk_is_told_once_and_what_was_kept_is_still_found(cache, path):
    fill(cache, range(5))
    with cache._writing.use() as opened:
        pages = opened.execute("PRAGMA page_count").fetchone()[0]
        opened.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.warns(CacheWarning, match="cannot be written: OperationalError: database or disk is full"):
        fill(cache, range(100), dimensions=64)
    fill(cache, [200])
    assert cache.get(SPACE, texts_of([50, 200])).positions == []
    assert holds(cache, range(5))


def test_a_flipped_bit_in_the_file_is_a_miss_and_heals(cache, path):
    fill(cache, range(20), dimensions=256)
    cache.close()
    data = bytearray(path.read_bytes())
    at = data.find(dense_of([7], 256)[0, 200:].tobytes()[:40])
    assert at > 0
    data[at + 5] ^= 4
    path.write_bytes(data)
    with pytest.warns(CacheWarning, match="damaged"):
        found = cache.get(SPACE, texts_of(range(20)))
    assert len(found.positions) == 19
    assert cache.get(SPACE, texts_of(range(20))).positions == found.positions  # and no second warning
    assert (found.dense == dense_of(found.positions, 256)).all()
    fill(cache, range(20), dimensions=256)
    assert holds(cache, range(20), dimensions=256)


@pytest.mark.parametrize("part", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_an_overwritten_part_of_the_file_never_gives_a_wrong_vector(cache, path, part):
    fill(cache, range(300), dimensions=64)
    cache.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * part))
        file.write(np.random.default_rng(1).bytes(size // 10))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = cache.get(SPACE, texts_of(range(300)))
        fill(cache, range(300, 303), dimensions=64)
        later = cache.get(SPACE, texts_of(range(303)))
    assert told
    assert {warning.category for warning in told} == {CacheWarning}
    for each in (found, later):
        assert len(each.positions) < 303
        assert not each.positions or (each.dense == dense_of(each.positions, 64)).all()


def test_a_cut_file_never_gives_a_wrong_vector(cache, path):
    fill(cache, range(300), dimensions=64)
    cache.close()
    os.truncate(path, path.stat().st_size // 2)
    with pytest.warns(CacheWarning):
        found = cache.get(SPACE, texts_of(range(300)))
    assert not found.positions or (found.dense == dense_of(found.positions, 64)).all()


@pytest.mark.parametrize("variables", [999, 250_000])
def test_a_lookup_of_several_statements_finds_each_text_in_its_place(cache, monkeypatch, variables):
    """SQLite before 3.32 takes 999 variables in one statement."""
    monkeypatch.setattr(sqlite, "_AT_ONCE", 2048)
    fill(cache, range(0, 6000, 2))
    with cache._reading.use() as opened:
        opened.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, variables)
    asked = np.random.default_rng(1).permutation(6000).tolist()
    found = cache.get(SPACE, texts_of([*asked, *asked[:50]]))
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
    padded = sqlite._padded(list(range(count)))
    assert padded[:count] == list(range(count))
    assert set(padded[count:]) <= {count - 1}
    assert count <= len(padded) <= count * 1.25
    assert len({len(sqlite._padded([0] * each)) for each in range(1, 16_385)}) < 60


@pytest.mark.parametrize("record", ["a text", 5, b"", b"\1\0\1\0"])
def test_one_damaged_row_among_many_is_missed_alone(cache, path, record):
    fill(cache, range(2500))
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE vectors SET record = ? WHERE id IN (1, 1200)", (record,))
    with pytest.warns(CacheWarning, match="damaged"):
        found = cache.get(SPACE, texts_of(range(2500)))
    assert found.positions == [number for number in range(2500) if number not in (0, 1199)]
    assert (found.dense == dense_of(found.positions)).all()


def test_a_whole_record_in_anothers_row_is_missed(cache, path):
    fill(cache, range(2500))
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE vectors SET record = (SELECT record FROM vectors WHERE id = 7) WHERE id = 1200")
    found = cache.get(SPACE, texts_of(range(2500)))
    assert found.positions == [number for number in range(2500) if number != 1199]
    assert (found.dense == dense_of(found.positions)).all()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files cannot be seen here")
def test_a_cache_that_is_dropped_closes_its_file(path):
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
    name = hashlib.sha256(f"{SPACE}\0text {number} 文".encode()).digest()
    record = struct.pack("<HHI", 1, 1, 8) + name + struct.pack("<8f", number + 1, *range(1, 8))
    return struct.unpack("<q", name[:8])[0], 1, 1_700_000_000, record + struct.pack("<I", zlib.crc32(record))


def test_file_of_version_1_is_read_and_written(path):
    with closing(sqlite3.connect(path)) as file, file:
        for statement in (*FORM_1, "PRAGMA application_id = 0x6D656D62", "PRAGMA user_version = 1"):
            file.execute(statement)
        file.execute("INSERT INTO spaces VALUES (1, ?, NULL, 19000)", (SPACE,))
        rows = [row_of_form_1(number) for number in range(20)]
        file.executemany("INSERT INTO vectors (key, space, written, record) VALUES (?, ?, ?, ?)", rows)
    with closing(open_cache(path)) as cache:
        assert holds(cache, range(20))
        fill(cache, range(20, 30))
        assert holds(cache, range(30))


def test_file_is_written_in_the_form_of_its_version(cache, path):
    fill(cache, range(3))
    cache.close()
    with closing(sqlite3.connect(path)) as file:
        made = file.execute("SELECT sql FROM sqlite_schema WHERE sql NOT NULL").fetchall()
        assert made == [(statement,) for statement in FORM_1]
        assert file.execute("PRAGMA user_version").fetchone() == (1,)
        kept = file.execute("SELECT key, space, record FROM vectors ORDER BY id").fetchall()
    assert kept == [(key, space, record) for key, space, _, record in map(row_of_form_1, range(3))]


# ── opening ──────────────────────────────────────────────────────────────────────────────────────


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"make .*missing first"):
        open_cache(tmp_path / "missing" / "vectors.sqlite")


def test_a_directory_is_no_cache(tmp_path):
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
    ("make", "words"), [(_no_database, "no cache file"), (_anothers, "another application"), (_newer, "newer")]
)
def test_a_file_that_is_not_ours_is_refused_and_not_touched(path, make, words):
    make(path)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=words):
        open_cache(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_file_damaged_at_its_beginning_is_refused_with_what_to_do(path):
    header = bytearray(b"SQLite format 3\0".ljust(4096, b"\xff"))
    header[60:64], header[68:72] = struct.pack(">I", SCHEMA), struct.pack(">I", APPLICATION)
    path.write_bytes(header)
    with pytest.raises(ConfigurationError, match="damaged: move it away"):
        open_cache(path)


def test_an_empty_file_becomes_a_cache(path):
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
def test_a_file_that_cannot_be_written_is_refused_with_what_to_do():
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


def test_a_busy_file_can_be_opened_all_the_same(cache, path, monkeypatch):
    monkeypatch.setattr("multiembed.cache.schema.PATIENCE", 0.0)
    fill(cache, range(3))
    with writing_elsewhere(path), closing(open_cache(path)) as second:
        assert second.get(SPACE, texts_of(range(3))).positions == [0, 1, 2]


def test_the_day_a_space_is_used_is_written_once_a_day(cache, path, monkeypatch):
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
    [space] = multiembed.CacheFile(path).namespaces()
    assert space.used == now // sqlite.DAY * sqlite.DAY
    assert space.last == 1_800_000_000


def test_a_long_lookup_holds_no_put_up(cache):
    fill(cache, range(3))
    with cache._reading.use(), ThreadPoolExecutor(1) as threads:
        threads.submit(fill, cache, [5]).result(timeout=30)
    assert cache.get(SPACE, texts_of([5])).positions == [0]
