"""MultiEmbedding in LlamaIndex's indexes, pipelines with worker processes, and nested event loops."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.async_utils import asyncio_run
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.schema import TextNode
from support.adapters import DASHSCOPE, are_right, options_for, run_python, texts_of

from llamaindex_multiembed import MultiEmbedding
from multiembed import AuthenticationError

SECRET = "sk-simulator"  # the one key that the simulator takes
SYNC_METHODS = ("get_query_embedding", "get_text_embedding", "get_text_embedding_batch")
ASYNC_METHODS = tuple(f"a{method}" for method in SYNC_METHODS)
PASSAGES = [
    "The kettle must boil before the tea is made",
    "A bicycle chain wants oil twice a year",
    "Cranes fold well from square paper",
    "春眠不觉晓，处处闻啼鸟",
]


# LlamaIndex's asyncio_run asks for the current event loop, which newer Pythons warn about.
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning"),
]


@pytest.fixture
def options(simulator):
    return options_for(simulator)


@pytest.fixture
def embedding(options):
    return MultiEmbedding(model_name=DASHSCOPE, **options)


def roles_on_the_wire(simulator):
    return [request.body["parameters"]["text_type"] for request in simulator.requests]


# -- indexes and pipelines


def test_embedder_can_be_the_embed_model_of_the_settings(monkeypatch, simulator, embedding):
    monkeypatch.setattr(Settings, "_embed_model", None)
    Settings.embed_model = embedding
    assert Settings.embed_model is embedding
    index = VectorStoreIndex([TextNode(text=passage) for passage in PASSAGES])
    found = index.as_retriever(similarity_top_k=1).retrieve("oil for a bicycle chain")
    assert [node.text for node in found] == [PASSAGES[1]]


def test_index_finds_the_nearest_node(simulator, embedding):
    index = VectorStoreIndex([TextNode(text=passage) for passage in PASSAGES], embed_model=embedding)
    found = index.as_retriever(similarity_top_k=2).retrieve("oil for a bicycle chain")
    assert found[0].text == PASSAGES[1]
    assert found[0].score > found[1].score
    assert roles_on_the_wire(simulator) == ["document", "query"]


async def test_async_index_finds_the_nearest_node(simulator, embedding):
    nodes = [TextNode(text=passage) for passage in PASSAGES]
    index = VectorStoreIndex(nodes, embed_model=embedding, use_async=False)
    found = await index.as_retriever(similarity_top_k=1).aretrieve("春天的鸟")
    assert [node.text for node in found] == [PASSAGES[3]]
    assert roles_on_the_wire(simulator) == ["document", "query"]


@pytest.mark.parametrize("loop_runs", [False, True])
@pytest.mark.usefixtures("nested_loops")
def test_index_with_use_async_works_with_and_without_a_loop(embedding, loop_runs):
    def build():
        nodes = [TextNode(text=text) for text in texts_of(60)]
        index = VectorStoreIndex(nodes, embed_model=embedding, use_async=True)
        return index.as_retriever(similarity_top_k=1).retrieve(texts_of(60)[41])[0].text

    async def build_where_a_loop_runs():
        return build()

    assert (asyncio.run(build_where_a_loop_runs()) if loop_runs else build()) == texts_of(60)[41]


def documents():
    return [Document(text=text) for text in texts_of(40)]


def texts_and_vectors_fit(nodes, texts):
    return sorted(node.text for node in nodes) == sorted(texts) and are_right(
        [node.embedding for node in nodes], [node.text for node in nodes]
    )


PIPELINES = {
    "run": lambda pipeline, **options: pipeline.run(documents=documents(), **options),
    "arun": lambda pipeline, **options: asyncio.run(pipeline.arun(documents=documents(), **options)),
}


@pytest.mark.parametrize("run", PIPELINES.values(), ids=PIPELINES.keys())
def test_pipeline_embeds_its_nodes(embedding, run):
    assert texts_and_vectors_fit(run(IngestionPipeline(transformations=[embedding])), texts_of(40))


@pytest.mark.parametrize("run", PIPELINES.values(), ids=PIPELINES.keys())
def test_second_run_over_the_pipeline_cache_sends_nothing(simulator, options, run):
    cache = IngestionCache()
    run(IngestionPipeline(transformations=[MultiEmbedding(model_name=DASHSCOPE, **options)], cache=cache))
    paid = len(simulator.requests)
    again = MultiEmbedding(model_name=DASHSCOPE, **options, timeout=5.0, max_concurrency=2, embed_batch_size=64)
    nodes = run(IngestionPipeline(transformations=[again], cache=cache))
    assert texts_and_vectors_fit(nodes, texts_of(40))
    assert len(simulator.requests) == paid > 0


@pytest.mark.parametrize("run", PIPELINES.values(), ids=PIPELINES.keys())
def test_other_model_does_not_use_the_cached_nodes(options, run):
    cache = IngestionCache()
    run(IngestionPipeline(transformations=[MultiEmbedding(model_name=DASHSCOPE, **options)], cache=cache))
    other = MultiEmbedding(model_name=DASHSCOPE, dimensions=64, **options)
    nodes = run(IngestionPipeline(transformations=[other], cache=cache))
    assert are_right([node.embedding for node in nodes], [node.text for node in nodes], 64)


# The workers are processes: the program has a time limit, so that one that hangs fails. Spawned workers import it.
WORKERS = """
def embed_in_workers(title, run, *, given, found, used=False):
    os.environ.pop("DASHSCOPE_API_KEY", None)
    if found:
        os.environ["DASHSCOPE_API_KEY"] = found
    cache = SimpleKVStore()
    embedding = MultiEmbedding(
        model_name="dashscope:text-embedding-v4", base_url=base_url, api_key=given, embeddings_cache=cache
    )
    if used:
        embedding.get_text_embedding_batch(texts_of(5))
    pipeline = IngestionPipeline(transformations=[embedding], disable_cache=True)
    documents = [Document(text=text) for text in texts_of(40)]
    try:
        if run == "run":
            nodes = pipeline.run(documents=documents, num_workers=2)
        else:
            nodes = asyncio.run(pipeline.arun(documents=documents, num_workers=2))
        texts = [node.text for node in nodes]
        right = texts == texts_of(40) and are_right([node.embedding for node in nodes], texts)
        result = "right" if right else "wrong"
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    if given == key:
        assert embedding.embeddings_cache.store is cache
        alive = [embedding.get_query_embedding("a"), *embedding.get_text_embedding_batch(["b"])]
        assert are_right(alive, ["a", "b"])
        result += " alive"
    print(title, result.replace(chr(10), " "), sep="|", flush=True)

if __name__ == "__main__":
    import asyncio, os, sys
    from llama_index.core import Document
    from llama_index.core.ingestion import IngestionPipeline
    from llama_index.core.storage.kvstore import SimpleKVStore
    from llamaindex_multiembed import MultiEmbedding
    from support.adapters import are_right, texts_of

    base_url, key = sys.argv[1:]
    faster = "arun" if sys.platform == "linux" else "run"
    embed_in_workers("run", "run", given=key, found=key, used=True)
    embed_in_workers("arun", faster, given=key, found=key, used=True)
    embed_in_workers("no key", faster, given=key, found=None, used=True)
    embed_in_workers("wrong key", faster, given=None, found="sk-wrong")
"""


@pytest.fixture(scope="module")
def worker_results(running_simulator, tmp_path_factory):
    """Result of each pipeline of the program, by its title: `run` spawns its workers, `arun` forks them on Linux."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("LlamaIndex starts no more workers than there are processors")
    program = tmp_path_factory.mktemp("workers") / "pipelines.py"
    program.write_text(WORKERS, encoding="utf-8")
    arguments = (running_simulator.base_url("dashscope"), SECRET)
    done = run_python(program, *arguments, warnings="ignore", within=100.0)
    assert done.returncode == 0, done.stderr
    return dict(line.split("|", 1) for line in done.stdout.splitlines())


def test_workers_read_the_key_from_the_environment(worker_results):
    """The live embedder works after it was pickled for the workers."""
    assert (worker_results["run"], worker_results["arun"]) == ("right alive", "right alive")


def test_workers_without_a_key_fail_with_a_clear_error(worker_results):
    result = worker_results["no key"]
    assert result.startswith("ConfigurationError: No key for dashscope: set DASHSCOPE_API_KEY")
    assert "key_in_pickle=True" in result
    assert result.endswith("alive")


def test_api_error_is_raised_from_the_workers(worker_results):
    assert worker_results["wrong key"].startswith("AuthenticationError: ")
    assert "status=401" in worker_results["wrong key"]


# -- loops in loops


async def _embed_one(embedding, method):
    many = method.endswith("_batch")
    answer = await getattr(embedding, method)(["a"] if many else "a")
    return answer[0] if many else answer


async def _nested(embedding, method):
    """Run another loop by LlamaIndex's helper, while its own loop runs."""
    return asyncio_run(_embed_one(embedding, method))


@pytest.fixture
def nested_loops():
    """Ignore that LlamaIndex closes a nested loop without ending its tasks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.mark.parametrize("method", ASYNC_METHODS)
@pytest.mark.usefixtures("nested_loops")
def test_async_method_runs_in_a_loop_within_a_running_loop(embedding, method):
    assert are_right([asyncio.run(_nested(embedding, method)) for _ in range(3)], ["a"] * 3)


@pytest.mark.parametrize("method", ASYNC_METHODS)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.usefixtures("nested_loops")
def test_error_passes_through_the_loop_of_llamaindex_unchanged(options, method, nested):
    embedding = MultiEmbedding(model_name=DASHSCOPE, **{**options, "api_key": "sk-wrong"})
    run = asyncio.run if nested else asyncio_run
    asked = _nested(embedding, method) if nested else _embed_one(embedding, method)
    with pytest.raises(AuthenticationError) as raised:
        run(asked)
    assert not isinstance(raised.value, RuntimeError)


@pytest.mark.parametrize("method", SYNC_METHODS)
async def test_sync_method_works_where_a_loop_runs(embedding, method):
    many = method.endswith("_batch")
    answer = getattr(embedding, method)(["a"] if many else "a")
    assert are_right(answer if many else [answer], ["a"])


@pytest.mark.usefixtures("nested_loops")
async def test_sync_async_and_nested_calls_work_in_one_loop(embedding):
    texts = texts_of(25)
    for _ in range(2):
        assert are_right(embedding.get_text_embedding_batch(texts), texts)
        assert are_right(await embedding.aget_text_embedding_batch(texts), texts)
        assert are_right(asyncio_run(embedding.aget_text_embedding_batch(texts)), texts)
