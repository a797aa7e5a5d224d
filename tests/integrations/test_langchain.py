"""MultiEmbeddings: four methods, options, keys, copies, pickles and own clients."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from itertools import count

import httpx
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.load import dumpd, dumps
from langchain_core.vectorstores import InMemoryVectorStore
from pydantic import SecretStr
from support.adapters import (
    DASHSCOPE,
    DIMENSIONS,
    MODELS,
    REMOTE_MODELS,
    are_right,
    call,
    options_for,
    provider_of,
    texts_of,
)

from langchain_multiembed import MultiEmbeddings
from multiembed import AuthenticationError, ConfigurationError, MultiEmbedError, PartialFailureError
from multiembed.providers import PROVIDERS
from multiembed.providers.local import embed

SECRET = "sk-simulator"  # the one key that the simulator takes
METHODS = {
    "embed_documents": "document",
    "aembed_documents": "document",
    "embed_query": "query",
    "aembed_query": "query",
}
FOR_DOCUMENTS = ("embed_documents", "aembed_documents")


@pytest.fixture
def options(simulator):
    return options_for(simulator)


@pytest.fixture
def embeddings(options):
    return MultiEmbeddings(model=DASHSCOPE, **options)


def call_with(embeddings, method, text="some text"):
    """Result of one of the four methods for one text, as one vector."""
    answer = call(getattr(embeddings, method), [text] if METHODS[method] == "document" else text)
    return answer[0] if METHODS[method] == "document" else answer


# -- the four methods


@pytest.mark.parametrize("method", FOR_DOCUMENTS)
@pytest.mark.parametrize("model", MODELS)
def test_documents_get_vectors_and_duplicates_are_sent_once(simulator, model, method):
    embeddings = MultiEmbeddings(model=model, **options_for(simulator, model))
    texts = [*texts_of(150), *reversed(texts_of(50))]
    vectors = call(getattr(embeddings, method), texts)
    assert are_right(vectors, texts, DIMENSIONS[model], model)
    sent = [text for request in simulator.requests for text in _texts_in(request)]
    assert sorted(sent) == (sorted(texts_of(150)) if model in REMOTE_MODELS else [])


@pytest.mark.parametrize("method", ["embed_query", "aembed_query"])
@pytest.mark.parametrize("model", MODELS)
def test_query_gets_its_own_vector(simulator, model, method):
    embeddings = MultiEmbeddings(model=model, **options_for(simulator, model))
    vector = call(getattr(embeddings, method), "敏捷的棕色狐狸")
    assert are_right([vector], ["敏捷的棕色狐狸"], DIMENSIONS[model], model)
    assert len(simulator.requests) == (model in REMOTE_MODELS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", MODELS)
def test_vectors_are_plain_lists_of_python_floats(simulator, model, method):
    embeddings = MultiEmbeddings(model=model, **options_for(simulator, model))
    vector = call_with(embeddings, method)
    assert type(vector) is list
    assert {type(number) for number in vector} == {float}
    assert json.loads(json.dumps(vector)) == vector


@pytest.mark.parametrize("method", FOR_DOCUMENTS)
def test_documents_come_as_a_plain_list(embeddings, method):
    assert type(call(getattr(embeddings, method), ["a", "b"])) is list


@pytest.mark.parametrize("method", FOR_DOCUMENTS)
@pytest.mark.parametrize("model", MODELS)
def test_no_documents_give_no_vectors_and_no_request(simulator, model, method):
    embeddings = MultiEmbeddings(model=model, **options_for(simulator, model))
    assert call(getattr(embeddings, method), []) == []
    assert simulator.requests == []


@pytest.mark.parametrize(("method", "role"), METHODS.items())
def test_native_api_gets_the_role(simulator, embeddings, method, role):
    call_with(embeddings, method)
    assert [request.body["parameters"]["text_type"] for request in simulator.requests] == [role]


@pytest.mark.parametrize(("method", "role"), METHODS.items())
@pytest.mark.parametrize("model", [DASHSCOPE, "siliconflow:Qwen/Qwen3-Embedding-0.6B"])
def test_instruction_goes_with_queries_only(simulator, model, method, role):
    embeddings = MultiEmbeddings(model=model, instruct="Find recipes", **options_for(simulator, model))
    call_with(embeddings, method)
    assert ("Find recipes" in json.dumps(simulator.requests[0].body)) == (role == "query")


def test_class_is_a_langchain_embeddings_class(embeddings):
    assert isinstance(embeddings, Embeddings)


@pytest.mark.parametrize("method", FOR_DOCUMENTS)
def test_too_long_text_raises_an_error_with_its_index(simulator, method):
    model = "zhipu:embedding-2"
    embeddings = MultiEmbeddings(model=model, **options_for(simulator, model))
    texts = ["before", "0123456789 " * 200, "after"]
    with pytest.raises(PartialFailureError) as raised:
        call(getattr(embeddings, method), texts)
    assert raised.value.indices == (1,)
    assert are_right(raised.value.result.vectors[[0, 2]], ["before", "after"])


@pytest.mark.parametrize("method", METHODS)
def test_refused_key_is_one_request_and_is_not_shown(simulator, options, method):
    embeddings = MultiEmbeddings(model=DASHSCOPE, **{**options, "api_key": "sk-wrong-2718281828"})
    with pytest.raises(AuthenticationError) as raised:
        call_with(embeddings, method)
    assert not isinstance(raised.value, RuntimeError)
    assert "sk-wrong-2718281828" not in f"{raised.value} {raised.value!r} {vars(raised.value)}"
    assert [request.status for request in simulator.requests] == [401]


# -- options


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("dimension", "dimensions"), ("time_out", "timeout"), ("apikey", "api_key"), ("max_retry", "max_retries")],
)
def test_unknown_option_is_refused_with_the_nearest_name(options, wrong, right):
    with pytest.raises(ConfigurationError, match=f"{wrong!r}: did you mean {right!r}"):
        MultiEmbeddings(model=DASHSCOPE, **options, **{wrong: 1})


def test_missing_model_is_named(options):
    with pytest.raises(ConfigurationError, match="'model' is missing"):
        MultiEmbeddings(**options)


def test_unsupported_dimensions_are_refused_before_sending(simulator, options):
    with pytest.raises(ConfigurationError, match="1000 dimensions"):
        MultiEmbeddings(model=DASHSCOPE, dimensions=1000, **options)
    assert simulator.requests == []


@pytest.mark.parametrize("wrong", ["not a client", 5, object()])
@pytest.mark.parametrize("option", ["http_client", "http_async_client"])
def test_own_client_of_a_wrong_type_is_refused_at_construction(options, option, wrong):
    with pytest.raises(ConfigurationError, match=option):
        MultiEmbeddings(model=DASHSCOPE, **options, **{option: wrong})


def test_async_client_as_the_sync_one_is_refused(options):
    with pytest.raises(ConfigurationError, match="http_client"):
        MultiEmbeddings(model=DASHSCOPE, http_client=httpx.AsyncClient(), **options)


def test_output_without_dense_vectors_is_refused(options):
    with pytest.raises(ConfigurationError, match="sparse"):
        MultiEmbeddings(model=DASHSCOPE, output="sparse", **options)


@pytest.mark.parametrize("method", METHODS)
def test_dense_and_sparse_output_gives_the_dense_vectors(simulator, options, method):
    embeddings = MultiEmbeddings(model=DASHSCOPE, output="dense&sparse", **options)
    assert are_right([call_with(embeddings, method)], ["some text"])
    assert simulator.requests[0].body["parameters"]["output_type"] == "dense&sparse"


def test_assigned_option_is_used_by_the_next_call(simulator, embeddings):
    assert are_right([embeddings.embed_query("a")], ["a"])
    embeddings.dimensions = 64
    assert are_right([embeddings.embed_query("a")], ["a"], 64)
    embeddings.model = "dashscope:text-embedding-v3"
    embeddings.embed_query("a")
    assert [request.body["model"] for request in simulator.requests] == [
        "text-embedding-v4",
        "text-embedding-v4",
        "text-embedding-v3",
    ]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dimensions", 1000),
        ("dimensions", "many"),
        ("model", "dashscop:text-embedding-v4"),
        ("output", "sparse"),
        ("timeout", -1.0),
        ("api_key", "key with blanks"),
        ("region", "mars"),
        ("max_concurrency", 0),
    ],
)
def test_refused_assignment_does_not_change_the_embedder(embeddings, option, value):
    before = repr(embeddings), embeddings.model_dump(), embeddings.model_dump(exclude_unset=True)
    with pytest.raises(ConfigurationError):
        setattr(embeddings, option, value)
    assert (repr(embeddings), embeddings.model_dump(), embeddings.model_dump(exclude_unset=True)) == before
    assert are_right([embeddings.embed_query("a")], ["a"])


def test_unknown_attribute_cannot_be_assigned(embeddings):
    with pytest.raises(ValueError, match="dimension"):
        embeddings.dimension = 64


def test_copy_with_an_update_does_not_change_the_original(embeddings):
    embeddings.embed_query("a")
    smaller = embeddings.model_copy(update={"dimensions": 256})
    assert are_right([smaller.embed_query("a")], ["a"], 256)
    assert are_right([embeddings.embed_query("a")], ["a"], 1024)


def test_copy_with_an_invalid_update_fails_at_its_first_use(simulator, embeddings):
    with pytest.raises(ConfigurationError, match="7 dimensions"):
        embeddings.model_copy(update={"dimensions": 7}).embed_query("a")
    assert simulator.requests == []


# -- keys


@pytest.mark.parametrize("form", [str, SecretStr, lambda key: lambda: key, lambda key: f"  {key}\n"])
@pytest.mark.parametrize("method", METHODS)
def test_key_may_be_text_a_secret_or_a_function(simulator, options, form, method):
    embeddings = MultiEmbeddings(model=DASHSCOPE, **{**options, "api_key": form(SECRET)})
    assert are_right([call_with(embeddings, method)], ["some text"])
    assert simulator.requests[0].headers["authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("method", FOR_DOCUMENTS)
def test_key_function_is_called_for_every_request(options, method):
    seen = []

    def handler(request):
        seen.append(request.headers["authorization"])
        return _dashscope_answer(request)

    numbers = count()
    embeddings = MultiEmbeddings(
        model=DASHSCOPE,
        **{**options, "api_key": lambda: f"sk-{next(numbers)}"},
        http_client=httpx.Client(transport=httpx.MockTransport(handler)),
        http_async_client=httpx.AsyncClient(transport=httpx.MockTransport(handler)),
    )
    call(getattr(embeddings, method), texts_of(45))
    assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize("model", REMOTE_MODELS)
def test_key_is_found_in_the_environment(simulator, monkeypatch, model):
    provider = PROVIDERS[provider_of(model)]
    monkeypatch.setenv(provider.key_env[0], SECRET)
    embeddings = MultiEmbeddings(model=model, base_url=simulator.base_url(provider.id))
    assert are_right([embeddings.embed_query("a")], ["a"], DIMENSIONS[model], model)


def test_empty_key_variable_counts_as_missing(simulator, monkeypatch):
    monkeypatch.setenv("ZHIPUAI_API_KEY", "")
    with pytest.raises(ConfigurationError, match="ZHIPUAI_API_KEY or ZAI_API_KEY"):
        MultiEmbeddings(model="zhipu:embedding-3", base_url=simulator.base_url("zhipu"))
    monkeypatch.setenv("ZAI_API_KEY", SECRET)
    embeddings = MultiEmbeddings(model="zhipu:embedding-3", base_url=simulator.base_url("zhipu"))
    assert are_right([embeddings.embed_query("a")], ["a"], 2048)


SHOWN = {
    "repr": repr,
    "str": str,
    "vars": lambda embeddings: str(vars(embeddings)),
    "model_dump": lambda embeddings: str(embeddings.model_dump()),
    "model_dump in JSON mode": lambda embeddings: str(embeddings.model_dump(mode="json")),
    "model_dump_json": lambda embeddings: embeddings.model_dump_json(),
    "fields asked for by name": lambda embeddings: str(embeddings.model_dump(include={"api_key", "headers", "model"})),
    "langchain's dumps": dumps,
    "langchain's dumpd": lambda embeddings: str(dumpd(embeddings)),
    "pickle": lambda embeddings: pickle.dumps(embeddings).decode("latin-1"),
    "repr of the client": lambda embeddings: repr(embeddings.client),
    "repr of the target": lambda embeddings: repr(embeddings.client.target),
    "pickle of the client": lambda embeddings: pickle.dumps(embeddings.client).decode("latin-1"),
    "str of the private attributes": lambda embeddings: str(embeddings.__pydantic_private__),
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN.keys())
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_no_key_is_shown(simulator, monkeypatch, options, source, show):
    if source == "environment":
        del options["api_key"]
        monkeypatch.setenv("DASHSCOPE_API_KEY", SECRET)
    embeddings = MultiEmbeddings(model=DASHSCOPE, headers={"X-Route": "secret-route"}, **options)
    embeddings.embed_query("a")
    shown = show(embeddings)
    assert shown
    assert SECRET not in shown


def test_headers_are_in_no_repr_and_no_dump(options):
    embeddings = MultiEmbeddings(model=DASHSCOPE, headers={"X-Route": "secret-route"}, **options)
    assert "secret-route" not in f"{embeddings!r} {embeddings} {embeddings.model_dump()} {dumps(embeddings)}"


# -- copies and pickles


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, MultiEmbeddings.model_copy])
@pytest.mark.parametrize("used", [False, True])
def test_copy_keeps_the_key(embeddings, copying, used):
    if used:
        embeddings.embed_query("a")
    assert are_right(copying(embeddings).embed_documents(texts_of(30)), texts_of(30))


class Vault:
    """Holds what cannot be copied or pickled, as a real one does."""

    def __init__(self, key):
        self._key = key
        self._lock = threading.Lock()

    def key(self):
        with self._lock:
            return self._key


def test_deep_copy_asks_the_same_key_function(options):
    embeddings = MultiEmbeddings(model=DASHSCOPE, **{**options, "api_key": Vault(SECRET).key})
    assert are_right([copy.deepcopy(embeddings).embed_query("a")], ["a"])


def test_deep_copy_shares_the_callers_client(options):
    with httpx.Client() as mine:
        embeddings = MultiEmbeddings(model=DASHSCOPE, http_client=mine, **options)
        assert copy.deepcopy(embeddings).http_client is mine


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_unpickled_embedder_reads_the_environment_at_first_use(monkeypatch, embeddings, used, method):
    if used:
        embeddings.embed_query("a")
    unpickled = pickle.loads(pickle.dumps(embeddings))
    with pytest.raises(ConfigurationError, match="DASHSCOPE_API_KEY") as raised:
        call_with(unpickled, method)
    assert "key_in_pickle" in str(raised.value)
    monkeypatch.setenv("DASHSCOPE_API_KEY", SECRET)
    assert are_right([call_with(unpickled, method)], ["some text"])


def test_key_is_pickled_with_key_in_pickle(options):
    embeddings = MultiEmbeddings(model=DASHSCOPE, key_in_pickle=True, **options)
    assert are_right([pickle.loads(pickle.dumps(embeddings)).embed_query("a")], ["a"])


def test_pickling_does_not_change_the_embedder(embeddings):
    embeddings.embed_query("a")
    before = embeddings.client
    pickle.dumps(embeddings)
    assert embeddings.client is before
    assert are_right([embeddings.embed_query("a")], ["a"])


def test_options_are_pickled(monkeypatch, options):
    embeddings = MultiEmbeddings(model=DASHSCOPE, dimensions=256, timeout=7.0, instruct="Find recipes", **options)
    monkeypatch.setenv("DASHSCOPE_API_KEY", SECRET)
    unpickled = pickle.loads(pickle.dumps(embeddings))
    assert unpickled.timeout == 7.0
    assert unpickled.model_dump() == embeddings.model_dump()
    assert are_right([unpickled.embed_query("a")], ["a"], 256)


def test_pickle_warns_that_the_own_client_is_dropped(options):
    with httpx.Client() as mine:
        embeddings = MultiEmbeddings(model=DASHSCOPE, http_client=mine, key_in_pickle=True, **options)
        with pytest.warns(UserWarning, match="http_client cannot be pickled"):
            pickled = pickle.dumps(embeddings)
    assert are_right([pickle.loads(pickled).embed_query("a")], ["a"])


# -- own clients


class CountingTransport(httpx.BaseTransport):
    """Transport over real sockets that counts its requests."""

    def __init__(self):
        self._inner = httpx.HTTPTransport()
        self.requests = 0

    def handle_request(self, request):
        self.requests += 1
        return self._inner.handle_request(request)

    def close(self):
        self._inner.close()


class CountingAsyncTransport(httpx.AsyncBaseTransport):
    def __init__(self):
        self._inner = httpx.AsyncHTTPTransport()
        self.requests = 0

    async def handle_async_request(self, request):
        self.requests += 1
        return await self._inner.handle_async_request(request)

    async def aclose(self):
        await self._inner.aclose()


def test_own_sync_client_is_used_and_not_closed(simulator, options):
    transport = CountingTransport()
    with httpx.Client(transport=transport) as mine:
        embeddings = MultiEmbeddings(model=DASHSCOPE, http_client=mine, **options)
        assert are_right(embeddings.embed_documents(texts_of(45)), texts_of(45))
        embeddings.client.close()
        assert are_right([embeddings.embed_query("a")], ["a"])
        del embeddings
        assert not mine.is_closed
    assert transport.requests == len(simulator.requests) == 6


async def test_own_async_client_is_used_and_not_closed(simulator, options):
    transport = CountingAsyncTransport()
    async with httpx.AsyncClient(transport=transport) as mine:
        embeddings = MultiEmbeddings(model=DASHSCOPE, http_async_client=mine, **options)
        assert are_right(await embeddings.aembed_documents(texts_of(45)), texts_of(45))
        await embeddings.client.aclose()
        assert are_right([await embeddings.aembed_query("a")], ["a"])
        del embeddings
        assert not mine.is_closed
    assert transport.requests == len(simulator.requests) == 6


@pytest.mark.parametrize("method", METHODS)
def test_mock_transport_serves_without_a_socket(simulator, options, method):
    seen = []

    def handler(request):
        seen.append(request)
        return _dashscope_answer(request)

    transport = httpx.MockTransport(handler)
    embeddings = MultiEmbeddings(
        model=DASHSCOPE,
        http_client=httpx.Client(transport=transport),
        http_async_client=httpx.AsyncClient(transport=transport),
        **options,
    )
    assert are_right([call_with(embeddings, method)], ["some text"])
    assert len(seen) == 1
    assert simulator.requests == []


@pytest.mark.parametrize("method", METHODS)
def test_closed_own_client_is_a_multiembed_error(options, method):
    mine, mine_async = httpx.Client(), httpx.AsyncClient()
    mine.close()
    asyncio.run(mine_async.aclose())
    embeddings = MultiEmbeddings(model=DASHSCOPE, http_client=mine, http_async_client=mine_async, **options)
    with pytest.raises(MultiEmbedError):
        call_with(embeddings, method)


def test_own_async_client_in_a_second_loop_is_right_or_refused(options):
    mine = httpx.AsyncClient()
    embeddings = MultiEmbeddings(model=DASHSCOPE, http_async_client=mine, max_retries=0, max_concurrency=20, **options)
    texts = texts_of(200)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert are_right(first.run(embeddings.aembed_documents(texts)), texts)
        try:
            right = are_right(second.run(embeddings.aembed_documents(texts)), texts)
        except MultiEmbedError as error:
            right = "http_async_client" in str(error)
        finally:
            first.run(mine.aclose())
    assert right


# -- in vector stores and retrievers


PASSAGES = [
    "The kettle must boil before the tea is made",
    "A bicycle chain wants oil twice a year",
    "Cranes fold well from square paper",
    "春眠不觉晓，处处闻啼鸟",
]


def test_vector_store_finds_the_nearest_document(simulator, embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(page_content=passage, id=str(i)) for i, passage in enumerate(PASSAGES)])
    found = store.similarity_search_with_score("oil for a bicycle chain", k=4)
    assert found[0][0].page_content == PASSAGES[1]
    expected = embed(["oil for a bicycle chain", PASSAGES[1]], 1024)
    assert found[0][1] == pytest.approx(float(expected[0] @ expected[1]), abs=1e-6)
    assert [request.body["parameters"]["text_type"] for request in simulator.requests] == ["document", "query"]


async def test_vector_store_finds_the_nearest_document_async(simulator, embeddings):
    store = await InMemoryVectorStore.afrom_texts(PASSAGES, embeddings)
    found = await store.asimilarity_search("春天的鸟", k=1)
    assert [document.page_content for document in found] == [PASSAGES[3]]
    assert [request.body["parameters"]["text_type"] for request in simulator.requests] == ["document", "query"]


def test_retriever_serves_many_threads_at_once(simulator, embeddings):
    retriever = InMemoryVectorStore.from_texts(PASSAGES, embeddings).as_retriever(search_kwargs={"k": 1})
    simulator.clear()
    answers = retriever.batch(PASSAGES * 5, config={"max_concurrency": 8})
    assert [[document.page_content for document in found] for found in answers] == [[p] for p in PASSAGES * 5]
    assert len(simulator.requests) == 20


async def test_retriever_serves_many_tasks_at_once(embeddings):
    store = await InMemoryVectorStore.afrom_texts(PASSAGES, embeddings)
    answers = await store.as_retriever(search_kwargs={"k": 1}).abatch(PASSAGES * 5)
    assert [[document.page_content for document in found] for found in answers] == [[p] for p in PASSAGES * 5]


def _texts_in(request):
    given = request.body["input"]
    return given["texts"] if isinstance(given, dict) else given


def _dashscope_answer(request):
    texts = json.loads(request.content)["input"]["texts"]
    vectors = [{"text_index": index, "embedding": vector} for index, vector in enumerate(embed(texts, 1024).tolist())]
    return httpx.Response(200, json={"output": {"embeddings": vectors}, "usage": {"total_tokens": len(texts)}})
