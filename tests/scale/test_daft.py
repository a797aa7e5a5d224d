"""multiembed.daft in Daft's native runner: a Parquet file in and out, failed rows, and the key in no plan."""

from __future__ import annotations

import logging
import os
import pickle

import numpy as np
import pytest
from support.adapters import DASHSCOPE, options_for
from support.engines import block, check_rows, write_rows

from multiembed import ConfigurationError
from multiembed.providers.local import embed as local_embed

pytestmark = [pytest.mark.daft, pytest.mark.filterwarnings("default")]


@pytest.fixture
def daft(simulator, monkeypatch):
    """Daft without telemetry, and an environment whose key and address lead to the simulator."""
    for name in ("DO_NOT_TRACK", "SCARF_NO_ANALYTICS"):
        os.environ[name] = "true"  # read when the package is imported
    found = pytest.importorskip("daft")
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    monkeypatch.setenv("DASHSCOPE_BASE_URL", simulator.base_url("dashscope"))
    return found


@pytest.fixture
def embed_column(daft):
    """`embed_column(texts, **options)`: the vectors of a column, in the order of its rows."""
    from daft.functions import embed_text

    from multiembed.daft import MultiembedProvider

    def run(texts, provider=None, model=DASHSCOPE, **options):
        frame = daft.from_pydict({"row": list(range(len(texts))), "text": texts})
        column = embed_text(frame["text"], provider=provider or MultiembedProvider(), model=model, **options)
        found = frame.with_column("vector", column).sort("row").to_pydict()["vector"]
        return [None if vector is None else np.array(vector, dtype=np.float32) for vector in found]

    return run


def are_vectors(found, texts, size=64):
    return len(found) == len(texts) and all(
        vector is None if not text else np.array_equal(vector, local_embed([text], size)[0])
        for vector, text in zip(found, texts, strict=True)
    )


def test_parquet_file_comes_back_with_its_vectors(daft, simulator, tmp_path, monkeypatch):
    """The block of the page, over 20,000 rows."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "texts.parquet")
    exec(compile(block("Daft"), "documentation", "exec"), {})
    frame = daft.read_parquet(str(tmp_path / "vectors" / "*.parquet"))
    found = frame.to_pydict()
    check_rows(dict(zip(found["id"], found["embedding"], strict=True)))
    assert len(simulator.requests) <= 2200


def test_column_has_a_type_before_anything_is_sent(daft, simulator):
    from daft.functions import embed_text

    from multiembed.daft import MultiembedProvider

    frame = daft.from_pydict({"text": ["a"]})
    column = embed_text(frame["text"], provider=MultiembedProvider(dimensions=128), model=DASHSCOPE)
    schema = frame.with_column("vector", column).schema()
    assert schema["vector"].dtype == daft.DataType.embedding(daft.DataType.float32(), 128)
    assert not simulator.requests


def test_missing_text_has_no_vector(embed_column):
    texts = ["a", None, "b", None]
    assert are_vectors(embed_column(texts, dimensions=64), texts)
    assert embed_column([None, None], dimensions=64) == [None, None]


@pytest.mark.parametrize("on_error", ["log", "ignore"])
def test_failed_text_has_no_vector(embed_column, caplog, on_error):
    texts = ["a", "", "b"]
    with caplog.at_level(logging.WARNING, "multiembed"):
        assert are_vectors(embed_column(texts, dimensions=64, on_error=on_error), texts)
    logged = [record.getMessage() for record in caplog.records if record.name == "multiembed"]
    assert any("1 of 3 texts have no vector" in message for message in logged) == (on_error == "log")


def test_failed_text_ends_the_query_by_default(embed_column):
    with pytest.raises(Exception, match="The text is empty"):
        embed_column(["a", ""], dimensions=64)


def test_wrong_key_is_one_request_and_its_error(embed_column, simulator):
    from multiembed.daft import MultiembedProvider

    options = {**options_for(simulator), "api_key": "sk-wrong-key", "key_in_pickle": True}
    with pytest.raises(Exception, match="401") as caught:
        embed_column(["a", "b"], MultiembedProvider(**options))
    assert len(simulator.requests) == 1
    assert "sk-wrong-key" not in str(caught.value)


def test_options_of_provider_and_call_reach_the_client(embed_column, simulator):
    from multiembed.daft import MultiembedProvider

    provider = MultiembedProvider(role="query", query_prefix="question: ")
    embed_column(["a", "b", "c"], provider, dimensions=64, batch_size=2, query_prefix="search: ")
    bodies = [request.body for request in simulator.requests]
    assert {body["parameters"]["text_type"] for body in bodies} == {"query"}
    assert sorted(text for body in bodies for text in body["input"]["texts"]) == [f"search: {name}" for name in "abc"]
    assert max(len(body["input"]["texts"]) for body in bodies) <= 2


def test_provider_is_found_by_its_name(daft, embed_column):
    from multiembed.daft import MultiembedProvider

    daft.attach_provider(MultiembedProvider(dimensions=64))
    assert are_vectors(embed_column(["a"], "multiembed"), ["a"])


def test_key_is_in_no_plan(daft):
    import cloudpickle

    from multiembed.daft import MultiembedProvider

    descriptor = MultiembedProvider(api_key="sk-given-as-text").get_text_embedder(DASHSCOPE)
    for pickled in (pickle.dumps(descriptor), cloudpickle.dumps(descriptor)):
        assert b"sk-given-as-text" not in pickled
        assert pickle.loads(pickled).get_dimensions().size == 1024


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Name the model"),
        ({"model": "openai-compatible:unknown", "base_url": "http://127.0.0.1:1/v1"}, "give dimensions"),
        ({"model": DASHSCOPE, "on_error": "skip"}, "on_error is"),
        ({"model": DASHSCOPE, "dimension": 3}, "dimension"),
    ],
)
def test_option_that_cannot_work_is_refused(daft, arguments, message):
    from multiembed.daft import MultiembedProvider

    with pytest.raises(ConfigurationError, match=message):
        MultiembedProvider().get_text_embedder(**arguments)
