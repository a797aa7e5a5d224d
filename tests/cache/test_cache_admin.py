"""Administration of a cache file: info, prune and export."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import closing

import numpy as np
import pytest
from typer.testing import CliRunner

from multiembed import CacheFile, ConfigurationError, SparseVector, open_cache
from multiembed.cache import sqlite
from multiembed.cache.schema import connect
from multiembed.cli.app import app

ZHIPU, SPARSE = "c" * 64, "d" * 64
DAY = 86400
BEGIN = 1_790_000_000


def run(*arguments):
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    done = CliRunner(env=environment).invoke(app, ["cache", *map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


def rows(count):
    return np.arange(count * 256, dtype=np.float32).reshape(count, 256)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A file with 300 vectors of one model, written on three days, and two sparse ones without a description."""
    path = tmp_path / "vectors.sqlite"
    now = BEGIN
    monkeypatch.setattr(sqlite.time, "time", lambda: now)
    with closing(open_cache(path)) as cache:
        cache.describe(ZHIPU, {"model": "zhipu:embedding-3", "role": "document", "dimensions": 256})
        for day in range(3):
            now = BEGIN + day * DAY
            cache.put(ZHIPU, [f"text {day} {number}" for number in range(100)], rows(100), None)
        cache.put(SPARSE, ["a", "b"], None, [SparseVector((1, 5), (0.5, 0.25)), SparseVector((2,), (1.0,))])
    return path


def left(path):
    return {info.fingerprint: info.vectors for info in CacheFile(path).namespaces()}


def test_info_shows_each_namespace(path):
    status, shown = run("info", path)
    assert status == 0
    assert "zhipu:embedding-3 document, 256 dimensions, 300 vectors, " in shown
    assert "written 2026-09-21 to 2026-09-23, used 2026-09-23, namespace cccccccccccc" in shown
    assert "? ?, ? dimensions, 2 vectors, " in shown
    assert "302 vectors" in shown


def test_info_as_json_names_each_namespace(path):
    shown = json.loads(run("info", path, "--json")[1])
    assert shown["bytes"] == path.stat().st_size
    first, second = shown["namespaces"]
    assert (first["model"], first["role"], first["vectors"]) == ("zhipu:embedding-3", "document", 300)
    assert second["namespace"] == SPARSE


def test_prune_of_a_model_makes_the_file_smaller(path):
    before = path.stat().st_size
    status, shown = run("prune", path, "--model", "zhipu:embedding-3")
    assert status == 0
    assert "300 vectors are gone" in shown
    assert left(path) == {SPARSE: 2}
    assert path.stat().st_size < before / 10


def test_prune_dry_run_deletes_nothing(path):
    before = path.read_bytes()
    status, shown = run("prune", path, "--namespace", "CCCC", "--dry-run")
    assert status == 0
    assert "300 vectors would go" in shown
    assert path.read_bytes() == before


def test_prune_deletes_old_vectors(path):
    assert "100 vectors are gone" in run("prune", path, "--older-than", "1.5")[1]
    assert left(path) == {ZHIPU: 200, SPARSE: 2}


def test_prune_deletes_unused_namespaces(path, monkeypatch):
    monkeypatch.setattr(sqlite.time, "time", lambda: BEGIN + 40 * DAY)
    with closing(open_cache(path)) as cache:
        assert cache.get(SPARSE, ["a"]).positions == [0]
    assert "300 vectors are gone" in run("prune", path, "--unused-for", "30")[1]
    assert left(path) == {SPARSE: 2}


def test_prune_to_a_size_deletes_the_oldest(path):
    size = path.stat().st_size
    run("prune", path, "--max-size", f"{size / 1000 / 3:.0f}KB")
    assert path.stat().st_size < size / 2.5
    assert 50 < left(path)[ZHIPU] < 105
    with closing(open_cache(path)) as cache:
        assert cache.get(ZHIPU, ["text 0 0", "text 2 99"]).positions == [1]


def test_vectors_left_after_prune_are_found(path):
    run("prune", path, "--older-than", "0.5")
    with closing(open_cache(path)) as cache:
        assert (cache.get(ZHIPU, [f"text 2 {number}" for number in range(100)]).dense == rows(100)).all()


def test_put_after_prune_makes_the_namespace_again(path):
    with closing(open_cache(path)) as cache:
        cache.describe(ZHIPU, {"model": "zhipu:embedding-3"})
        cache.put(ZHIPU, ["x"], rows(1), None)
        CacheFile(path).prune()
        assert left(path) == {}
        cache.put(SPARSE, ["x"], rows(1), None)
        cache.put(ZHIPU, ["y"], rows(1), None)
    assert left(path) == {ZHIPU: 1, SPARSE: 1}
    assert {info.description.get("model") for info in CacheFile(path).namespaces()} == {"zhipu:embedding-3", None}


def test_prune_works_while_another_reads(path):
    with closing(open_cache(path)) as cache:
        assert cache.get(ZHIPU, ["text 0 0"]).positions == [0]
        CacheFile(path).prune({ZHIPU})
        assert cache.get(ZHIPU, ["text 0 0"]).positions == []
    assert left(path) == {SPARSE: 2}


def test_prune_of_a_locked_file_says_so(path, monkeypatch):
    monkeypatch.setattr("multiembed.cache.schema.PATIENCE", 0.0)
    with closing(connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, shown = run("prune", path, "--older-than", "0")
    assert status == 2
    assert "another process holds it" in shown


def test_export_to_jsonl_has_vectors_and_digests(path, tmp_path):
    out = tmp_path / "out.jsonl"
    assert run("export", path, "-o", out)[0] == 0
    read = {row["digest"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert len(read) == 302
    row = read[hashlib.sha256(f"{ZHIPU}\0text 1 7".encode()).hexdigest()]
    assert (row["model"], row["role"], row["namespace"]) == ("zhipu:embedding-3", "document", ZHIPU)
    assert row["vector"] == rows(100)[7].tolist()
    row = read[hashlib.sha256(f"{SPARSE}\0a".encode()).hexdigest()]
    assert (row["vector"], row["sparse_indices"], row["sparse_values"]) == (None, [1, 5], [0.5, 0.25])


def test_export_to_parquet_has_all_vectors(path, tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("multiembed.cli.export._ROWS", 64)
    out = tmp_path / "out.parquet"
    assert "300 vectors" in run("export", path, "-o", out, "--model", "zhipu:embedding-3")[1]
    table = parquet.read_table(out)
    assert table.num_rows == 300
    assert np.array_equal(np.array(table["vector"].to_pylist(), dtype=np.float32), np.concatenate([rows(100)] * 3))
    assert set(table["model"].to_pylist()) == {"zhipu:embedding-3"}


def test_export_without_pyarrow_says_what_to_install(path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, shown = run("export", path, "-o", tmp_path / "out.parquet")
    assert status == 2
    assert "multiembed[files]" in shown


def test_failed_export_leaves_the_old_file(path, tmp_path, monkeypatch):
    out = tmp_path / "out.jsonl"
    out.write_text("what was there")

    def breaks(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(CacheFile, "vectors", breaks)
    assert run("export", path, "-o", out)[0] == 1
    assert out.read_text() == "what was there"
    assert {each.name for each in tmp_path.iterdir()} == {"out.jsonl", "vectors.sqlite"}


def test_export_leaves_damaged_vectors_out(path, tmp_path):
    with closing(connect(path)) as file:
        file.execute("UPDATE vectors SET record = zeroblob(length(record)) WHERE id = 5")
    assert sum(1 for _ in CacheFile(path).vectors()) == 301


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "missing.sqlite"), "There is no cache at"),
        (("prune", "{path}"), "--older-than"),
        (("prune", "{path}", "--model", "zhipu:embedding-2"), "zhipu:embedding-3"),
        (("prune", "{path}", "--namespace", "e"), "0 namespaces begin with 'e'"),
        (("prune", "{path}", "--max-size", "much"), "500MB"),
        (("export", "{path}", "-o", "out.csv"), ".parquet"),
        (("export", "{path}", "-o", "missing/out.jsonl"), "make it first"),
    ],
)
def test_wrong_arguments_end_with_status_two(path, monkeypatch, arguments, message):
    monkeypatch.chdir(path.parent)
    status, shown = run(*(each.format(path=path) for each in arguments))
    assert status == 2
    assert message in shown
    assert [each.name for each in path.parent.iterdir()] == ["vectors.sqlite"]


def test_cache_file_that_is_missing_is_not_made(tmp_path):
    with pytest.raises(ConfigurationError, match="no cache"):
        CacheFile(tmp_path / "vectors.sqlite")
    assert not list(tmp_path.iterdir())
