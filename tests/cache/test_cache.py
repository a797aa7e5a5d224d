"""The vector cache over every store: what was put is found, records are checked, failures are one warning."""

from __future__ import annotations

import copy
import hashlib
import warnings
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cache_vectors import NAMESPACE, OTHER, dense_of, entry, fill, holds, texts_of

import multiembed
from multiembed import CacheEntry, CacheWarning, ConfigurationError, EmbeddingClient, SparseVector, open_cache
from multiembed.cache.framework_stores import COLLECTION, PREFIX
from multiembed.cache.record_format import decode, digests, digests_of, encode, form_of, intact_of

pytestmark = pytest.mark.unit


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
def store(request, tmp_path):
    """What a user may give as a cache, opened."""
    if request.param == "sqlite":
        given = tmp_path / "vectors.sqlite"
    elif request.param == "kv":
        given = pytest.importorskip("llama_index.core.storage.kvstore").SimpleKVStore()
    elif request.param == "memory":
        given = pytest.importorskip("langchain_core.stores").InMemoryByteStore()
    else:
        given = FolderByteStore(tmp_path)
    with closing(open_cache(given)) as opened:
        yield opened


# ── the same from every store ────────────────────────────────────────────────────────────────────


def test_lookup_finds_exactly_what_was_put(store):
    fill(store, range(70))
    found = store.get(NAMESPACE, [*texts_of([999, 3]), "new", *texts_of([0, 3])])
    assert found.positions == [1, 3, 4]
    assert (found.dense == dense_of([3, 0, 3])).all()
    assert found.dense.dtype == np.float32
    assert found.sparse is None
    assert holds(store, range(70))


def test_lookup_in_an_empty_cache_finds_nothing(store):
    assert store.get(NAMESPACE, texts_of(range(3))) == multiembed.CacheLookup()
    assert store.get(NAMESPACE, []).positions == []
    store.put(NAMESPACE, [], np.empty((0, 8), dtype=np.float32), None)


def test_lookup_finds_vectors_of_its_own_namespace_only(store):
    fill(store, range(3), NAMESPACE)
    assert store.get(OTHER, texts_of(range(3))).positions == []
    store.put(OTHER, texts_of(range(3)), dense_of(range(3)) * 2, None)
    assert holds(store, range(3), NAMESPACE)
    assert (store.get(OTHER, texts_of(range(3))).dense == dense_of(range(3)) * 2).all()


def test_lookup_by_fingerprint_separates_roles_and_models(store):
    clients = [EmbeddingClient("local:char-ngrams", dimensions=size) for size in (64, 128)]
    for client in clients:
        for role in ("document", "query"):
            fill(store, [len(role)], client.fingerprint(role), client.target.dimensions)
    for client in clients:
        document, query = (store.get(client.fingerprint(role), texts_of([8, 5])) for role in ("document", "query"))
        assert (document.positions, query.positions) == ([0], [1])
        assert document.dense.shape == query.dense.shape == (1, client.target.dimensions)


def test_second_put_replaces_the_first(store):
    fill(store, range(3))
    store.put(NAMESPACE, texts_of([1]), dense_of([7]), None)
    assert (store.get(NAMESPACE, texts_of(range(3))).dense == dense_of([0, 7, 2])).all()


def test_sparse_vectors_are_found_unchanged(store):
    sparse = [
        SparseVector((3, 70_000), (0.5, 1 / 3), ("风", "a")),
        SparseVector((2**40,), (2.5,)),
        SparseVector((), ()),
    ]
    store.put(NAMESPACE, texts_of(range(3)), dense_of(range(3)), sparse)
    found = store.get(NAMESPACE, texts_of(range(3)))
    assert found.sparse == sparse
    assert (found.dense == dense_of(range(3))).all()
    store.put(OTHER, texts_of(range(3)), None, sparse)
    found = store.get(OTHER, texts_of([2, 5, 0]))
    assert found.positions == [0, 2]
    assert found.sparse == [sparse[2], sparse[0]]
    assert found.dense is None


def test_lookup_of_mixed_lengths_finds_one_and_warns(store):
    fill(store, range(5), dimensions=8)
    fill(store, range(5, 9), dimensions=4)
    with pytest.warns(CacheWarning, match="two lengths"):
        found = store.get(NAMESPACE, texts_of(range(9)))
    assert found.positions == [5, 6, 7, 8]
    assert found.dense.shape == (4, 4)
    fill(store, range(5), dimensions=4)
    assert store.get(NAMESPACE, texts_of(range(9))).dense.shape == (9, 4)


def test_put_with_unequal_counts_raises_value_error(store):
    with pytest.raises(ValueError, match="as many"):
        store.put(NAMESPACE, texts_of(range(3)), dense_of(range(2)), None)
    with pytest.raises(ValueError, match="nothing to keep"):
        store.put(NAMESPACE, texts_of(range(3)), None, None)


def test_long_lookup_of_mixed_lengths_finds_the_last_put(store):
    fill(store, range(600), dimensions=8)
    fill(store, range(600, 1200), dimensions=4)
    with pytest.warns(CacheWarning, match="two lengths"):
        found = store.get(NAMESPACE, texts_of(range(1200)))
    assert found.positions == list(range(600, 1200))
    assert (found.dense == dense_of(range(600, 1200), 4)).all()


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
    assert store.get(NAMESPACE, texts_of(range(3))) == multiembed.CacheLookup()


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
    """Paid vectors are kept even if warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CacheWarning, match="cannot hold some vectors"):
            store.put_many([entry([1]), entry([5], dense=None), entry([2])])
    assert holds(store, [1, 2])


def test_put_many_writes_to_a_store_once():
    calls = []
    stores = [
        SimpleNamespace(mget=list, mset=lambda pairs: calls.append(len(pairs))),
        SimpleNamespace(get=list, put=list, put_all=lambda pairs, collection: calls.append((len(pairs), collection))),
    ]
    for each in stores:
        open_cache(each).put_many([entry(range(3)), entry(range(3, 7))])
    assert calls == [7, (7, COLLECTION)]


def test_deep_copy_is_the_same_cache(store):
    assert copy.deepcopy(store) is store


def test_lone_surrogate_is_found(store):
    store.put(NAMESPACE, ["\ud800"], dense_of([1]), None)
    assert store.get(NAMESPACE, ["\ud801", "\ud800"]).positions == [1]


# ── what may be given ────────────────────────────────────────────────────────────────────────────


def test_open_cache_returns_a_users_cache_unchanged():
    class Own:
        def get(self, namespace, texts): ...
        def put(self, namespace, texts, dense, sparse): ...

    own = Own()
    assert open_cache(own) is own
    with pytest.raises(ConfigurationError, match="the class Own"):
        open_cache(Own)


@pytest.mark.parametrize("given", [7, None, {}, b"vectors.sqlite", object()])
def test_open_cache_refuses_other_objects(given):
    with pytest.raises(ConfigurationError, match="ByteStore"):
        open_cache(given)


@pytest.mark.parametrize("given", ["", " ", ":memory:"])
def test_open_cache_refuses_names_that_are_not_paths(given):
    with pytest.raises(ConfigurationError, match="InMemoryByteStore"):
        open_cache(given)


def test_langchain_file_store_accepts_the_keys(tmp_path):
    classic = pytest.importorskip("langchain_classic.storage")
    store = open_cache(classic.LocalFileStore(tmp_path))
    fill(store, range(3))
    assert holds(store, range(3))


def test_kv_store_can_be_written_as_json(tmp_path):
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


def test_store_that_cannot_be_read_is_one_warning_and_unused():
    broken = BrokenStore(reads=False)
    store = open_cache(broken)
    with pytest.warns(CacheWarning, match="BrokenStore cannot be read: ConnectionError: Connection refused"):
        assert store.get(NAMESPACE, texts_of(range(3))).positions == []
    fill(store, range(3))
    assert store.get(NAMESPACE, texts_of(range(3))).positions == []
    assert broken.calls == 1


def test_store_that_cannot_be_written_is_still_read():
    broken = BrokenStore()
    store = open_cache(broken)
    with pytest.warns(CacheWarning, match="cannot be written"):
        fill(store, range(3))
    fill(store, range(3))
    assert broken.calls == 1
    store.get(NAMESPACE, texts_of(range(3)))
    assert broken.calls == 2


@pytest.mark.parametrize("value", [b"", b"\0" * 80, "text", 7])
def test_foreign_value_in_a_byte_store_is_damaged(value):
    memory = pytest.importorskip("langchain_core.stores").InMemoryStore()
    store = open_cache(memory)
    memory.mset([(PREFIX + digests(NAMESPACE, texts_of([0]))[0].hex(), value)])
    with pytest.warns(CacheWarning, match="damaged"):
        assert store.get(NAMESPACE, texts_of([0])).positions == []


@pytest.mark.parametrize("value", [{}, {"record": 7}, {"record": "no base64!"}])
def test_foreign_value_in_a_kv_store_is_damaged(value):
    kept = pytest.importorskip("llama_index.core.storage.kvstore").SimpleKVStore()
    store = open_cache(kept)
    kept.put(PREFIX + digests(NAMESPACE, texts_of([0]))[0].hex(), value, collection=COLLECTION)
    with pytest.warns(CacheWarning, match="damaged"):
        assert store.get(NAMESPACE, texts_of([0])).positions == []


def test_record_under_another_key_is_not_found():
    memory = pytest.importorskip("langchain_core.stores").InMemoryByteStore()
    store = open_cache(memory)
    fill(store, [0])
    names = [PREFIX + name.hex() for name in digests(NAMESPACE, texts_of([0, 1]))]
    memory.mset([(names[1], memory.mget(names[:1])[0])])
    assert store.get(NAMESPACE, texts_of([0, 1])).positions == [0]


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
def test_record_decodes_to_what_was_encoded(rows, with_dense, with_sparse):
    with_dense = with_dense or not with_sparse
    dense = np.array([row for row, _ in rows], dtype=np.float32) if with_dense else None
    sparse = [vector for _, vector in rows] if with_sparse else None
    texts = texts_of(range(len(rows)))
    kept = encode(CacheEntry(NAMESPACE, texts, dense, sparse))
    assert digests_of(record for _, record in kept) == [name for name, _ in kept] == digests(NAMESPACE, texts)
    assert intact_of(record for _, record in kept) == [record for _, record in kept]
    assert len({form_of(record) for _, record in kept}) == 1
    again, sparse_again = decode([record for _, record in kept])
    assert (again is None) == (dense is None)
    assert dense is None or again.tobytes() == dense.tobytes()
    assert sparse_again == sparse


@given(st.data())
def test_record_with_a_flipped_bit_is_not_intact(data):
    [(_, record)] = encode(CacheEntry(NAMESPACE, ["text"], dense_of([1]), [SparseVector((1,), (0.5,), ("a",))]))
    bit = data.draw(st.integers(0, len(record) * 8 - 1))
    flipped = bytearray(record)
    flipped[bit // 8] ^= 1 << bit % 8
    assert intact_of([bytes(flipped), record, record[: bit // 8]]) == [record]


@given(st.lists(st.tuples(st.sampled_from([NAMESPACE, OTHER, ""]), st.text(max_size=5)), unique=True, min_size=2))
def test_digests_of_namespaces_and_texts_differ(pairs):
    assert len({digests(namespace, [text])[0] for namespace, text in pairs}) == len(pairs)


def test_digest_is_sha256_of_namespace_and_text():
    assert digests(NAMESPACE, ["文"]) == [hashlib.sha256(NAMESPACE.encode() + b"\0" + "文".encode()).digest()]
