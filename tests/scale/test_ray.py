"""multiembed.ray in a Ray of this machine: a Parquet file in and out, failed rows, the key in no plan and no log."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.adapters import DASHSCOPE, options_for
from support.engines import EMPTY, MISSING, block, check_rows, write_rows

from multiembed import AuthenticationError, ConfigurationError, EmbeddingClient, InvalidRequestError
from multiembed.providers.local import embed as local_embed

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def cluster(running_simulator, tmp_path_factory):
    """Ray, whose workers have the key and the address in their environment. Returns: the directory of its logs."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("DASHSCOPE_API_KEY", running_simulator.api_key)
        patch.setenv("DASHSCOPE_BASE_URL", running_simulator.base_url("dashscope"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]))
        patch.chdir(tmp_path_factory.mktemp("work"))  # the workers keep it
        session = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
        yield Path(session["session_dir"])
        ray.shutdown()


def test_parquet_file_comes_back_with_its_vectors(cluster, simulator):
    """The block of the page, over 20,000 rows."""
    write_rows(Path("texts.parquet"))
    exec(compile(block("Ray Data"), "documentation", "exec"), {})
    table = pq.read_table("vectors")
    check_rows(dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True)))
    assert table.schema.field("embedding").type.value_type == pa.float32()
    errors = {
        row: error
        for row, error in zip(*map(pa.ChunkedArray.to_pylist, table.select(["id", "error"])), strict=True)
        if error
    }
    assert set(errors) == set(EMPTY) - set(MISSING)
    assert all(error.startswith("InvalidRequestError: The text is empty") for error in errors.values())
    assert len(simulator.requests) <= 2200
    logged = [path for path in cluster.rglob("*") if path.is_file() and simulator.api_key.encode() in path.read_bytes()]
    assert not logged


def test_key_is_in_no_plan(cluster, simulator, monkeypatch):
    import cloudpickle
    import ray.data

    from multiembed.ray import embed

    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-of-the-driver")
    dataset = embed(ray.data.from_items([{"text": "a"}]), DASHSCOPE, api_key="sk-given-as-text")
    plan = cloudpickle.dumps(dataset._logical_plan)
    assert b"text-embedding-v4" in plan
    assert b"sk-of-the-driver" not in plan
    assert b"sk-given-as-text" not in plan


def test_class_works_in_map_batches(cluster, simulator):
    import ray.data

    from multiembed.ray import Embedder

    dataset = ray.data.from_items([{"body": f"text {number}"} for number in range(20)])
    rows = dataset.map_batches(
        Embedder,
        fn_constructor_kwargs={"model": DASHSCOPE, "column": "body", "output_column": "vector", "dimensions": 64},
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0.2,
    ).take_all()
    assert len(rows) == 20
    assert all(np.array_equal(row["vector"], local_embed([row["body"]], 64)[0]) for row in rows)


def test_wrong_key_ends_the_job_with_its_error(cluster, simulator, monkeypatch):
    import ray.data

    from multiembed.ray import embed

    monkeypatch.setenv("DASHSCOPE_API_KEY", "not-pickled")
    dataset = ray.data.from_items([{"text": "a"}])
    with pytest.raises(Exception, match="AuthenticationError") as caught:
        embed(dataset, DASHSCOPE, api_key="sk-wrong-key", key_in_pickle=True).materialize()
    assert "sk-wrong-key" not in str(caught.value)


# ── without a cluster ────────────────────────────────────────────────────────────────────────────


def run(embedder, batch):
    return asyncio.run(embedder(batch))


@pytest.fixture
def client(simulator):
    with EmbeddingClient(DASHSCOPE, dimensions=64, **options_for(simulator)) as made:
        yield made


@pytest.mark.parametrize("is_fixed", [False, True])
@pytest.mark.parametrize("given", [["a", None, "", "b"], [None, None], ["", None], []])
def test_failed_and_missing_texts_have_no_vector(client, given, is_fixed, monkeypatch):
    ray = pytest.importorskip("multiembed.ray")
    monkeypatch.setattr(ray, "FIXED_SIZE", is_fixed)
    batch = pa.table({"text": pa.array(given, pa.string()), "error": ["old"] * len(given)})
    made = run(ray.Embedder(client), batch)
    assert made.schema.field("embedding").type == pa.list_(pa.float32(), 64 if is_fixed else -1)
    assert made.column_names == ["text", "embedding", "error"]
    vectors = [None if not text else local_embed([text], 64)[0].tolist() for text in given]
    assert made["embedding"].to_pylist() == vectors
    assert [error is not None for error in made["error"].to_pylist()] == [text == "" for text in given]


def test_failed_text_is_raised_where_asked(client):
    ray = pytest.importorskip("multiembed.ray")
    with pytest.raises(InvalidRequestError, match="empty"):
        run(ray.Embedder(client, on_error="raise"), pa.table({"text": ["a", ""]}))


def test_error_of_all_texts_is_raised(simulator):
    ray = pytest.importorskip("multiembed.ray")
    client = EmbeddingClient(DASHSCOPE, **{**options_for(simulator), "api_key": "wrong"})
    with client, pytest.raises(AuthenticationError):
        run(ray.Embedder(client), pa.table({"text": ["a", "b"]}))


@pytest.mark.parametrize("options", [{"api_key": "sk"}, {"on_error": "skip"}, {"dimension": 64}])
def test_option_that_cannot_work_is_refused(options):
    ray = pytest.importorskip("multiembed.ray")
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        ray.Embedder(DASHSCOPE, **options)


def test_several_workers_without_quota_are_a_warning(cluster):
    import ray.data

    from multiembed.ray import embed

    with pytest.warns(UserWarning, match="workers=4 without quota"):
        embed(ray.data.from_items([{"text": "a"}]), DASHSCOPE, workers=4)
