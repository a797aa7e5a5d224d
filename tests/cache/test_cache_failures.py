"""A cache that fails or returns nonsense: one CacheWarning, an uncached run, and every vector right."""

from __future__ import annotations

import asyncio
import math
import pickle
import sqlite3
import threading
import warnings
from contextlib import closing
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest
from langchain_core.stores import InMemoryByteStore
from llama_index.core.storage.kvstore import SimpleKVStore
from support.adapters import DASHSCOPE, ENTRY_POINTS, are_right, call, client_of, options_for, run_python, texts_of

from multiembed import CacheEntry, CacheFile, CacheLookup, CacheWarning, EmbeddingClient, SparseVector, open_cache
from multiembed.cache.checked_cache import CheckedCache, validate_lookup
from multiembed.cache.connection import Connection

TEXTS = texts_of(20)
SIZE = 64


WAYS = {
    "sync": lambda client, texts: client.embed(texts),
    "async": lambda client, texts: asyncio.run(client.aembed(texts)),
}
"""Tables of failures take the entry points in turn: what a failure does is decided in one place for all of them."""


class Cache:
    """A user's own cache that does as it should."""

    def __init__(self):
        self.kept = {}

    def get(self, namespace, texts):
        positions = [position for position, text in enumerate(texts) if (namespace, text) in self.kept]
        rows = [self.kept[namespace, texts[position]] for position in positions]
        return CacheLookup(positions, np.array(rows)) if rows else CacheLookup()

    def put(self, namespace, texts, dense, sparse):
        self.kept.update({(namespace, text): row.copy() for text, row in zip(texts, dense, strict=True)})

    def close(self):
        pass


class BadWordsError(Exception):
    def __str__(self):
        raise ValueError


ERRORS = [
    ValueError("embedded null character"),
    OverflowError("Python int too large to convert to SQLite INTEGER"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    sqlite3.Warning("You can only execute one statement at a time."),
    sqlite3.ProgrammingError("Cannot operate on a closed database."),
    RecursionError(),
    MemoryError(),
    StopIteration(),
    BadWordsError(),
]


def raising(error):
    def raise_it(*_):
        raise error

    return raise_it


def cache_with(**methods):
    """A cache whose methods are these."""
    cache = Cache()
    vars(cache).update(methods)
    return cache


class Awaited(Cache):
    """A cache of a user who writes asyncio code only."""

    async def get(self, namespace, texts):
        return CacheLookup()

    async def put(self, namespace, texts, dense, sparse):
        pass


class BrokenProperty(Cache):
    @property
    def connection(self):
        raise RuntimeError("not connected")


def broken_bytestore():
    store = InMemoryByteStore()
    store.mget = raising(OverflowError("too large"))
    return store


def broken_kvstore():
    store = SimpleKVStore()
    store.get = raising(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"))
    return store


FAILING = {
    **{f"get raises {type(error).__name__}": lambda error=error: cache_with(get=raising(error)) for error in ERRORS},
    "put raises": lambda: cache_with(put=raising(OverflowError("too large"))),
    "describe raises": lambda: cache_with(describe=raising(KeyError("space"))),
    "close raises": lambda: cache_with(close=raising(TypeError("closed twice"))),
    "coroutines": Awaited,
    "ByteStore": broken_bytestore,
    "KVStore": broken_kvstore,
}


@pytest.mark.parametrize(("failure", "name"), [*zip(FAILING, cycle(ENTRY_POINTS))])
def test_cache_that_raises_is_one_warning_and_uncached(simulator, failure, name):
    entry_point, cache = ENTRY_POINTS[name], FAILING[failure]()
    embedder = entry_point.make(DASHSCOPE, cache=cache, dimensions=SIZE, **options_for(simulator))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert are_right(call(entry_point.embed, embedder, TEXTS), TEXTS, SIZE)
        client_of(embedder).close()
    assert [warning.category for warning in caught] == [CacheWarning]
    assert client_of(embedder).usage.requests >= 2


def test_cache_without_close_and_with_broken_properties_works(simulator):
    class Small:
        get, put = Cache.get, Cache.put
        kept = {}  # noqa: RUF012
        connection = BrokenProperty.connection

    with EmbeddingClient(DASHSCOPE, cache=Small(), dimensions=SIZE, **options_for(simulator)) as client:
        for _ in range(2):
            assert are_right(client.embed(TEXTS).to_list(), TEXTS, SIZE)
        assert client.usage.cached_texts == len(TEXTS)


def test_warning_shows_one_line_without_control_characters(simulator):
    cache = cache_with(get=raising(ValueError("\x1b[31mred\x07 \ud800 words\nsecond line " + "x" * 500)))
    client = EmbeddingClient(DASHSCOPE, cache=cache, **options_for(simulator))
    with client, pytest.warns(CacheWarning) as caught:
        client.embed(TEXTS)
    text = str(caught[0].message)
    assert text.isprintable()
    assert "red" in text
    assert "second" not in text


def test_cache_that_changes_its_arguments_changes_no_result(simulator):
    def get(_, texts):
        texts.clear()
        return CacheLookup()

    def put(_, texts, dense, __):
        texts.clear()
        dense[:] = 0

    with EmbeddingClient(DASHSCOPE, cache=cache_with(get=get, put=put), **options_for(simulator)) as client:
        assert are_right(client.embed(TEXTS).to_list(), TEXTS)


def test_warning_as_an_error_is_raised(simulator):
    """Who turns CacheWarning into an error wants calls to fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = cache_with(get=raising(ValueError("broken")))
        client = EmbeddingClient(DASHSCOPE, cache=cache, **options_for(simulator))
        with client, pytest.raises(CacheWarning, match="The cache Cache cannot be read: ValueError: broken"):
            client.embed(TEXTS)


# ── nonsense ─────────────────────────────────────────────────────────────────────────────────────

ROWS = np.ones((2, SIZE), dtype=np.float32)
WEIGHTS = [SparseVector((1, 2), (0.5, 0.25))] * 2


def with_value(value, dtype=np.float32):
    rows = ROWS.astype(dtype)
    rows[1, 3] = value
    return rows


NONSENSE = {
    "nothing": None,
    "a number": 7,
    "a text": "text",
    "a list": [],
    "a dict": {"positions": [0]},
    "a tuple": ([0, 1], ROWS, None),
    "a position twice": CacheLookup([0, 0], ROWS),
    "a negative position": CacheLookup([-1, 0], ROWS),
    "a position out of range": CacheLookup([0, 20], ROWS),
    "a huge position": CacheLookup([0, 2**70], ROWS),
    "positions as text": CacheLookup(["0", "1"], ROWS),
    "positions as floats": CacheLookup([0.0, 1.0], ROWS),
    "positions as bools": CacheLookup([False, True], ROWS),
    "nested positions": CacheLookup([[0, 1]], ROWS),
    "no positions": CacheLookup(None, ROWS),
    "a set of positions": CacheLookup({0, 1}, ROWS),
    "fewer rows": CacheLookup([0, 1], ROWS[:1]),
    "more rows": CacheLookup([0], ROWS),
    "no rows": CacheLookup([0, 1], None),
    "rows as lists": CacheLookup([0, 1], ROWS.tolist()),
    "rows of integers": CacheLookup([0, 1], ROWS.astype(int)),
    "rows of text": CacheLookup([0, 1], ROWS.astype(str)),
    "rows of objects": CacheLookup([0, 1], ROWS.astype(object)),
    "rows of complex numbers": CacheLookup([0, 1], ROWS.astype(complex)),
    "flat rows": CacheLookup([0, 1], ROWS.ravel()),
    "deep rows": CacheLookup([0, 1], ROWS[None]),
    "empty rows": CacheLookup([0, 1], ROWS[:, :0]),
    "shorter rows": CacheLookup([0, 1], ROWS[:, :-1]),
    "NaN": CacheLookup([0, 1], with_value(math.nan)),
    "infinity": CacheLookup([0, 1], with_value(-math.inf)),
    "too large for float32": CacheLookup([0, 1], with_value(1e300, np.float64)),
    "a row of zeros": CacheLookup([0, 1], ROWS * [[1], [0]]),
}
SPARSE_NONSENSE = {
    "no weights": None,
    "fewer": WEIGHTS[:1],
    "more": WEIGHTS * 2,
    "a dict": dict(enumerate(WEIGHTS)),
    "of dicts": [vector.to_dict() for vector in WEIGHTS],
    "of None": [None, None],
    "other lengths": [WEIGHTS[0], SparseVector((1, 2), (0.5,))],
    "NaN": [WEIGHTS[0], SparseVector((1,), (math.nan,))],
    "a negative index": [WEIGHTS[0], SparseVector((-1,), (0.5,))],
    "an index twice": [WEIGHTS[0], SparseVector((1, 1), (0.5, 0.5))],
    "an index as text": [WEIGHTS[0], SparseVector(("1",), (0.5,))],
    "a value as text": [WEIGHTS[0], SparseVector((1,), ("0.5",))],
}


@pytest.mark.parametrize(("nonsense", "way"), [*zip(NONSENSE, cycle(WAYS))])
def test_invalid_lookup_is_one_warning_and_uncached(simulator, nonsense, way):
    entry_point, cache = WAYS[way], cache_with(get=lambda *_: NONSENSE[nonsense])
    options = {"cache": cache, "dimensions": SIZE, **options_for(simulator)}
    with warnings.catch_warnings(record=True) as caught, EmbeddingClient(DASHSCOPE, **options) as client:
        warnings.simplefilter("always")
        for _ in range(2):
            assert are_right(entry_point(client, TEXTS).to_list(), TEXTS, SIZE)
        assert client.estimate(TEXTS).tokens
    assert [warning.category for warning in caught] == [CacheWarning]
    assert client.usage.cached_texts == 0


@pytest.mark.parametrize(
    ("nonsense", "way", "output"),
    [*zip(SPARSE_NONSENSE, cycle(WAYS), cycle(["sparse", "sparse", "dense&sparse", "dense&sparse"]))],
)
def test_invalid_sparse_lookup_is_one_warning_and_uncached(simulator, nonsense, way, output):
    entry_point, sparse = WAYS[way], SPARSE_NONSENSE[nonsense]
    options = {"output": output, "dimensions": SIZE, **options_for(simulator)}
    with EmbeddingClient(DASHSCOPE, **options) as client:
        right = entry_point(client, TEXTS)
    cache = cache_with(get=lambda *_: CacheLookup([0, 1], ROWS, sparse))
    with warnings.catch_warnings(record=True) as caught, EmbeddingClient(DASHSCOPE, cache=cache, **options) as client:
        warnings.simplefilter("always")
        result = entry_point(client, TEXTS)
    assert [warning.category for warning in caught] == [CacheWarning]
    assert result.sparse == right.sparse
    assert (result.vectors is None) == (output == "sparse")


def test_valid_lookup_may_have_any_order_and_float_type():
    for kind in (np.float16, np.float32, np.float64):
        found = validate_lookup(CacheLookup([3, 1], ROWS.astype(kind)), 4, output="dense", dimensions=None)
        assert found.positions == [3, 1]
        assert found.dense.dtype == np.float32
        assert np.array_equal(found.dense, ROWS)
    found = SimpleNamespace(positions=np.array([1, 0]), dense=ROWS, sparse=WEIGHTS)
    assert validate_lookup(found, 4, output="sparse", dimensions=None) == CacheLookup([1, 0], None, WEIGHTS)
    tiny = ROWS * np.float32(1e-30)
    assert np.array_equal(validate_lookup(CacheLookup([0, 1], tiny), 2, output="dense", dimensions=SIZE).dense, tiny)


def test_threads_that_fail_together_warn_once():
    together = threading.Barrier(8)

    def get(*_):
        together.wait()
        raise ValueError("broken")

    cache = CheckedCache(cache_with(get=get), output="dense", dimensions=SIZE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=cache.get, args=("space", TEXTS)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [warning.category for warning in caught] == [CacheWarning]


# ── several entries at once ──────────────────────────────────────────────────────────────────────

ENTRIES = [CacheEntry(namespace, [f"{namespace} text"], ROWS[:1], None) for namespace in "abc"]


def checked(cache):
    return CheckedCache(cache, output="dense", dimensions=SIZE)


def test_put_many_of_the_users_cache_gets_all_entries():
    calls = []
    checked(cache_with(put_many=calls.append, put=raising(ValueError("not used")))).put_many(ENTRIES)
    assert calls == [ENTRIES]


def test_put_many_without_one_calls_put_for_each():
    cache = Cache()
    checked(cache).put_many(ENTRIES)
    assert sorted(cache.kept) == [(entry.namespace, entry.texts[0]) for entry in ENTRIES]


async def put_many_as_coroutine(entries):
    pass


class BrokenPutMany(Cache):
    @property
    def put_many(self):
        raise RuntimeError("not connected")


@pytest.mark.parametrize(
    "make",
    [
        lambda: cache_with(put_many=raising(OverflowError("too large"))),
        lambda: cache_with(put_many=put_many_as_coroutine),
        lambda: cache_with(put=raising(OverflowError("too large"))),
        BrokenPutMany,
    ],
    ids=["put_many raises", "coroutine", "put raises", "broken property"],
)
def test_put_many_that_fails_is_one_warning(make):
    cache = checked(make())
    with pytest.warns(CacheWarning, match="cannot be written"):
        cache.put_many(ENTRIES)
    cache.put_many(ENTRIES)  # with no second warning, which would be an error


# ── the file ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "way", "after"),
    [*zip(ERRORS, cycle(WAYS), cycle([0, 0, 1, 1]))],
    ids=[type(error).__name__ for error in ERRORS],
)
def test_file_cache_that_raises_anything_is_one_warning(simulator, tmp_path, monkeypatch, error, way, after):
    """At the first look-up, or at the first vectors that are to be kept."""
    entry_point = WAYS[way]
    options = {"cache": tmp_path / "vectors.sqlite", "dimensions": SIZE, **options_for(simulator)}
    with closing(open_cache(options["cache"])):
        pass
    opened, uses = Connection._opened, []

    def breaks(connection):
        uses.append(connection)
        if len(uses) > after + 1:  # the first use is the check at opening
            raise error
        return opened(connection)

    monkeypatch.setattr(Connection, "_opened", breaks)
    with warnings.catch_warnings(record=True) as caught, EmbeddingClient(DASHSCOPE, **options) as client:
        warnings.simplefilter("always")
        assert are_right(entry_point(client, TEXTS).to_list(), TEXTS, SIZE)
    assert [warning.category for warning in caught] == [CacheWarning]


def test_damaged_schema_in_use_keeps_what_was_paid(simulator, entry_point, tmp_path):
    """The byte is damaged after the file was looked at, so that writing meets it first."""
    path = tmp_path / "vectors.sqlite"
    damage = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); b = p.read_bytes(); "
    damage += "p.write_bytes(b.replace(b'tablespaces', b'table\\xffpaces'))"

    def damage_it(_, answer):
        assert run_python(damage, str(path)).returncode == 0
        return answer

    simulator.fail(damage_it, times=1)
    client = EmbeddingClient(DASHSCOPE, cache=path, dimensions=SIZE, **options_for(simulator))
    with client, pytest.warns(CacheWarning, match="cannot be written: ConfigurationError"):
        result = entry_point(client, TEXTS)
    assert are_right(result.to_list(), TEXTS, SIZE)


@pytest.mark.parametrize("description", ["no JSON", "[1]", "7", b"\xff\xfe"])
def test_damaged_description_is_shown_as_empty(tmp_path, description):
    path = tmp_path / "vectors.sqlite"
    with closing(open_cache(path)) as cache:
        cache.put("a" * 64, ["a"], ROWS[:1], None)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE spaces SET words = ?", (description,))
    [namespace] = CacheFile(path).namespaces()
    assert namespace.description == {}


# ── a cache that does not travel ─────────────────────────────────────────────────────────────────


class RedisByteStore(InMemoryByteStore):
    """A store that holds a connection, and so cannot be pickled."""

    def __init__(self):
        super().__init__()
        self.connection = threading.Lock()


class RedisKVStore(SimpleKVStore):
    """As above."""

    def __init__(self):
        super().__init__()
        self.connection = threading.Lock()


class OwnCache(Cache):
    """As above."""

    def __init__(self):
        super().__init__()
        self.connection = threading.Lock()


ELSEWHERE = """
import pickle, sys, warnings
from pathlib import Path
from support.adapters import ENTRY_POINTS, are_right, call, texts_of
from multiembed import CacheWarning

entry_point = ENTRY_POINTS[sys.argv[2]]
embedder = pickle.loads(Path(sys.argv[1]).read_bytes())
embedder = pickle.loads(pickle.dumps(embedder))  # and on to a third process
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        assert are_right(call(entry_point.embed, embedder, texts_of(5)), texts_of(5))
[warning] = caught
assert warning.category is CacheWarning
print(warning.message)
"""


@pytest.mark.parametrize("name", ["client-sync", "client-async", "langchain-sync", "llamaindex-async"])
def test_unpicklable_cache_is_one_warning_where_it_is_missing(framework_programs, simulator, tmp_path, name):
    make = {"client": OwnCache, "langchain": RedisByteStore, "llamaindex": RedisKVStore}[name.partition("-")[0]]
    embedder = ENTRY_POINTS[name].make(DASHSCOPE, cache=make(), **options_for(simulator))
    with pytest.warns(UserWarning, match="cache cannot be pickled"):
        (tmp_path / "embedder").write_bytes(pickle.dumps(embedder))
    done = framework_programs.run(ELSEWHERE, tmp_path / "embedder", name, environment=simulator.environment())
    assert done.returncode == 0, done.stderr
    assert f"cache={make.__name__} in another process" in done.stdout
    assert "path of a cache file" in done.stdout


def test_unpicklable_embeddings_cache_is_one_warning(framework_programs, simulator, tmp_path):
    name = "llamaindex-sync"
    embedder = ENTRY_POINTS[name].make(DASHSCOPE, embeddings_cache=RedisKVStore(), **options_for(simulator))
    (tmp_path / "embedder").write_bytes(pickle.dumps(embedder))
    done = framework_programs.run(ELSEWHERE, tmp_path / "embedder", name, environment=simulator.environment())
    assert done.returncode == 0, done.stderr
    assert "embeddings_cache=RedisKVStore in another process" in done.stdout


def call_twice(client):
    for _ in range(2):
        assert are_right(client.embed(TEXTS).to_list(), TEXTS)


def test_unavailable_cache_warns_once_at_the_first_use(simulator, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    with pytest.warns(UserWarning, match="cannot be pickled"):
        pickled = pickle.dumps(EmbeddingClient(DASHSCOPE, cache=OwnCache(), **options_for(simulator)))
    for _ in range(2):  # each embedder
        client = pickle.loads(pickled)
        assert client.usage.requests == 0
        with pytest.warns(CacheWarning, match="cache=OwnCache in another process") as caught:
            call_twice(client)
        assert len(caught) == 1
        client.close()


def test_picklable_cache_is_used_by_the_copy(simulator, monkeypatch, tmp_path):
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    client = EmbeddingClient(DASHSCOPE, cache=tmp_path / "vectors.sqlite", **options_for(simulator))
    client.embed(TEXTS)
    with pickle.loads(pickle.dumps(client)) as other:
        other.embed(TEXTS)
        assert other.usage.cached_texts == len(TEXTS)
    client.close()
