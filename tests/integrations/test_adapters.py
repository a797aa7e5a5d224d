"""MultiEmbeddings and MultiEmbedding alike: methods, options, keys, copies, pickles and own clients."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from itertools import count

import httpx
import pytest
from langchain_core.load import dumpd, dumps
from llama_index.core.ingestion import IngestionPipeline
from pydantic import SecretStr
from support.adapters import (
    DASHSCOPE,
    DIMENSIONS,
    ENTRY_POINTS,
    MODELS,
    REMOTE_MODELS,
    SYNC_ENTRY_POINTS,
    are_right,
    call,
    options_for,
    provider_of,
    texts_of,
)
from support.in_turn import turns

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import AuthenticationError, ConfigurationError, MultiEmbedError, PartialFailureError
from multiembed.providers import PROVIDERS
from multiembed.providers.local import embed

SECRET = "sk-simulator"  # the one key that the simulator takes
CLASSES = {"langchain": (MultiEmbeddings, "model"), "llamaindex": (MultiEmbedding, "model_name")}
"""By framework, the class and the name of its model."""


@pytest.fixture(params=CLASSES)
def framework(request):
    return request.param


@pytest.fixture
def make(framework):
    """`make(model=DASHSCOPE, **options)`: an embedder of the framework."""
    return lambda model=DASHSCOPE, **options: SYNC_ENTRY_POINTS[framework].make(model, **options)


@pytest.fixture(params=[name for name in ENTRY_POINTS if not name.startswith("client")])
def entry_point(request):
    """A framework, sync or async."""
    return ENTRY_POINTS[request.param]


def with_frameworks(models):
    """Each model with each framework, sync and async in turn."""
    names = [(model, f"{framework}-{way}") for model, framework, way in turns(models, CLASSES)]
    return [pytest.param(model, ENTRY_POINTS[name], id=f"{name}-{model}") for model, name in names]


@pytest.fixture
def options(simulator):
    return options_for(simulator)


def embed_query(embedder, text="a"):
    return getattr(embedder, "embed_query" if isinstance(embedder, MultiEmbeddings) else "get_query_embedding")(text)


def embed_both(entry_point, embedder, text="some text"):
    """The vectors of a text as a document and as a query."""
    documents = call(entry_point.embed, embedder, [text])
    return [*documents, call(entry_point.embed_query, embedder, text)]


def are_plain(vectors):
    """Whether these are lists of Python's own floats, which JSON keeps."""
    types = {type(vectors), *map(type, vectors)}, {type(number) for vector in vectors for number in vector}
    return types == ({list}, {float}) and json.loads(json.dumps(vectors)) == vectors


def _texts_in(request):
    given = request.body["input"]
    return given["texts"] if isinstance(given, dict) else given


def _dashscope_answer(request):
    texts = json.loads(request.content)["input"]["texts"]
    vectors = [{"text_index": index, "embedding": vector} for index, vector in enumerate(embed(texts, 1024).tolist())]
    return httpx.Response(200, json={"output": {"embeddings": vectors}, "usage": {"total_tokens": len(texts)}})


# -- the methods


@pytest.mark.parametrize(("model", "entry_point"), with_frameworks(MODELS))
def test_documents_get_vectors_and_duplicates_are_sent_once(simulator, model, entry_point):
    embedder = entry_point.make(model, **options_for(simulator, model))
    texts = [*texts_of(150), *reversed(texts_of(50))]
    vectors = call(entry_point.embed, embedder, texts)
    assert are_right(vectors, texts, DIMENSIONS[model], model)
    assert are_plain(vectors)
    sent = [text for request in simulator.requests for text in _texts_in(request)]
    assert sorted(sent) == (sorted(texts_of(150)) if model in REMOTE_MODELS else [])


@pytest.mark.parametrize(("model", "entry_point"), with_frameworks(MODELS))
def test_query_gets_its_own_vector(simulator, model, entry_point):
    embedder = entry_point.make(model, **options_for(simulator, model))
    vector = call(entry_point.embed_query, embedder, "敏捷的棕色狐狸")
    assert are_right([vector], ["敏捷的棕色狐狸"], DIMENSIONS[model], model)
    assert are_plain([vector])
    assert len(simulator.requests) == (model in REMOTE_MODELS)


@pytest.mark.parametrize(("model", "entry_point"), with_frameworks(MODELS))
def test_no_documents_give_no_vectors_and_no_request(simulator, model, entry_point):
    assert call(entry_point.embed, entry_point.make(model, **options_for(simulator, model)), []) == []
    assert simulator.requests == []


def test_native_api_gets_the_role(simulator, options, entry_point):
    embed_both(entry_point, entry_point.make(DASHSCOPE, **options))
    roles = [request.body["parameters"]["text_type"] for request in simulator.requests]
    assert roles == ["document", "query"]


@pytest.mark.parametrize("model", [DASHSCOPE, "siliconflow:Qwen/Qwen3-Embedding-0.6B"])
def test_instruction_goes_with_queries_only(simulator, model, entry_point):
    embed_both(entry_point, entry_point.make(model, instruct="Find recipes", **options_for(simulator, model)))
    assert ["Find recipes" in json.dumps(request.body) for request in simulator.requests] == [False, True]


def test_too_long_text_raises_an_error_with_its_index(simulator, entry_point):
    model = "zhipu:embedding-2"
    embedder = entry_point.make(model, **options_for(simulator, model))
    with pytest.raises(PartialFailureError) as raised:
        call(entry_point.embed, embedder, ["before", "0123456789 " * 200, "after"])
    assert raised.value.indices == (1,)
    assert are_right(raised.value.result.vectors[[0, 2]], ["before", "after"])


@pytest.mark.parametrize(("method", "asked"), [("embed", ["a"]), ("embed_query", "a")], ids=["documents", "query"])
def test_refused_key_is_one_request_and_is_not_shown(simulator, options, entry_point, method, asked):
    embedder = entry_point.make(DASHSCOPE, **{**options, "api_key": "sk-wrong-2718281828"})
    with pytest.raises(AuthenticationError) as raised:
        call(getattr(entry_point, method), embedder, asked)
    assert not isinstance(raised.value, RuntimeError)
    assert "sk-wrong-2718281828" not in f"{raised.value} {raised.value!r} {vars(raised.value)}"
    assert [request.status for request in simulator.requests] == [401]


# -- options


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("dimension", "dimensions"), ("time_out", "timeout"), ("apikey", "api_key"), ("max_retry", "max_retries")],
)
def test_unknown_option_is_refused_with_the_nearest_name(make, options, wrong, right):
    with pytest.raises(ConfigurationError, match=f"{wrong!r}: did you mean {right!r}"):
        make(**options, **{wrong: 1})


def test_missing_model_is_named(framework, options):
    made, name = CLASSES[framework]
    with pytest.raises(ConfigurationError, match=f"'{name}' is missing"):
        made(**options)


def test_unsupported_dimensions_are_refused_before_sending(make, simulator, options):
    with pytest.raises(ConfigurationError, match="1000 dimensions"):
        make(dimensions=1000, **options)
    assert simulator.requests == []


@pytest.mark.parametrize("option", ["http_client", "http_async_client"])
def test_own_client_of_a_wrong_type_is_refused_at_construction(make, options, option):
    swapped = httpx.AsyncClient() if option == "http_client" else httpx.Client()
    for wrong in ("not a client", 5, object(), swapped):
        with pytest.raises(ConfigurationError, match=option):
            make(**options, **{option: wrong})


def test_output_without_dense_vectors_is_refused(make, options):
    with pytest.raises(ConfigurationError, match="sparse"):
        make(output="sparse", **options)


def test_dense_and_sparse_output_gives_the_dense_vectors(simulator, options, entry_point):
    embedder = entry_point.make(DASHSCOPE, output="dense&sparse", **options)
    assert are_right(embed_both(entry_point, embedder), ["some text"] * 2)
    assert {request.body["parameters"]["output_type"] for request in simulator.requests} == {"dense&sparse"}


def test_assigned_option_is_used_by_the_next_call(framework, make, simulator, options):
    embedder = make(**options)
    assert are_right([embed_query(embedder)], ["a"])
    embedder.dimensions = 64
    assert are_right([embed_query(embedder)], ["a"], 64)
    setattr(embedder, CLASSES[framework][1], "dashscope:text-embedding-v3")
    embed_query(embedder)
    models = [request.body["model"] for request in simulator.requests]
    assert models == ["text-embedding-v4", "text-embedding-v4", "text-embedding-v3"]


REFUSED = [
    ("dimensions", 1000),
    ("dimensions", "many"),
    ("model", "dashscop:text-embedding-v4"),
    ("output", "sparse"),
    ("timeout", -1.0),
    ("api_key", "key with blanks"),
    ("region", "mars"),
    ("max_concurrency", 0),
]


def test_refused_assignment_does_not_change_the_embedder(framework, make, options):
    embedder = make(**options)

    def state():
        return repr(embedder), embedder.model_dump(), embedder.model_dump(exclude_unset=True)

    before = state()
    for option, value in REFUSED:
        with pytest.raises(ConfigurationError):
            setattr(embedder, CLASSES[framework][1] if option == "model" else option, value)
        assert state() == before, (option, value)
        assert are_right([embed_query(embedder)], ["a"]), (option, value)


def test_unknown_attribute_cannot_be_assigned(make, options):
    with pytest.raises(ValueError, match="dimension"):
        make(**options).dimension = 64


def test_copy_with_an_update_does_not_change_the_original(make, options):
    embedder = make(**options)
    embed_query(embedder)
    smaller = embedder.model_copy(update={"dimensions": 256})
    assert are_right([embed_query(smaller)], ["a"], 256)
    assert are_right([embed_query(embedder)], ["a"])


def test_copy_with_an_invalid_update_fails_at_its_first_use(make, simulator, options):
    with pytest.raises(ConfigurationError, match="7 dimensions"):
        embed_query(make(**options).model_copy(update={"dimensions": 7}))
    assert simulator.requests == []


# -- keys


@pytest.mark.parametrize("form", [str, SecretStr, lambda key: lambda: key, lambda key: f"  {key}\n"])
def test_key_may_be_text_a_secret_or_a_function(simulator, options, form, entry_point):
    embedder = entry_point.make(DASHSCOPE, **{**options, "api_key": form(SECRET)})
    assert are_right(embed_both(entry_point, embedder), ["some text"] * 2)
    assert {request.headers["authorization"] for request in simulator.requests} == {f"Bearer {SECRET}"}


def test_key_function_is_called_for_every_request(options, entry_point):
    seen = []

    def handler(request):
        seen.append(request.headers["authorization"])
        return _dashscope_answer(request)

    numbers = count()
    embedder = entry_point.make(
        DASHSCOPE,
        **{**options, "api_key": lambda: f"sk-{next(numbers)}"},
        http_client=httpx.Client(transport=httpx.MockTransport(handler)),
        http_async_client=httpx.AsyncClient(transport=httpx.MockTransport(handler)),
    )
    call(entry_point.embed, embedder, texts_of(45))
    assert len(seen) == len(set(seen)) == 5


@pytest.mark.parametrize(("model", "entry_point"), with_frameworks(REMOTE_MODELS))
def test_key_is_found_in_the_environment(simulator, monkeypatch, model, entry_point):
    provider = PROVIDERS[provider_of(model)]
    monkeypatch.setenv(provider.key_env[0], SECRET)
    embedder = entry_point.make(model, base_url=simulator.base_url(provider.id))
    assert are_right([call(entry_point.embed_query, embedder, "a")], ["a"], DIMENSIONS[model], model)


def test_empty_key_variable_counts_as_missing(make, simulator, monkeypatch):
    monkeypatch.setenv("ZHIPUAI_API_KEY", "")
    with pytest.raises(ConfigurationError, match="ZHIPUAI_API_KEY or ZAI_API_KEY"):
        make("zhipu:embedding-3", base_url=simulator.base_url("zhipu"))
    monkeypatch.setenv("ZAI_API_KEY", SECRET)
    embedder = make("zhipu:embedding-3", base_url=simulator.base_url("zhipu"))
    assert are_right([embed_query(embedder)], ["a"], 2048)


SHOWN = {
    "repr": repr,
    "str": str,
    "vars": lambda embedder: str(vars(embedder)),
    "model_dump": lambda embedder: str(embedder.model_dump()),
    "model_dump_json": lambda embedder: embedder.model_dump_json(),
    "fields asked for by name": lambda embedder: str(embedder.model_dump(include={"api_key", "headers", "dimensions"})),
    "pickle": lambda embedder: pickle.dumps(embedder).decode("latin-1"),
    "repr of the client": lambda embedder: repr(embedder.client),
    "repr of the target": lambda embedder: repr(embedder.client.target),
    "pickle of the client": lambda embedder: pickle.dumps(embedder.client).decode("latin-1"),
    "str of the private attributes": lambda embedder: str(embedder.__pydantic_private__),
}
SHOWN_BY = {
    "langchain": {
        "model_dump in JSON mode": lambda embedder: str(embedder.model_dump(mode="json")),
        "langchain's dumps": dumps,
        "langchain's dumpd": lambda embedder: str(dumpd(embedder)),
    },
    "llamaindex": {
        "to_dict": lambda embedder: str(embedder.to_dict()),
        "to_json": lambda embedder: embedder.to_json(),
        "to_payload": lambda embedder: str(getattr(embedder, "to_payload", embedder.to_dict)()),
        "repr of the pipeline": lambda embedder: repr(IngestionPipeline(transformations=[embedder])),
    },
}


@pytest.mark.parametrize("source", ["argument", "environment"])
def test_no_key_is_shown(framework, make, monkeypatch, options, source):
    if source == "environment":
        monkeypatch.setenv("DASHSCOPE_API_KEY", options.pop("api_key"))
    embedder = make(headers={"X-Route": "secret-route"}, **options)
    embed_query(embedder)
    for name, show in {**SHOWN, **SHOWN_BY[framework]}.items():
        shown = show(embedder)
        assert shown, name
        assert SECRET not in shown, name
        # What leads to a copy that works holds the headers, and nothing else does.
        assert "secret-route" not in shown or name.startswith(("vars", "pickle", "str of the private")), name


# -- copies and pickles


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, lambda embedder: embedder.model_copy()])
@pytest.mark.parametrize("used", [False, True])
def test_copy_keeps_the_key(framework, make, options, copying, used):
    embedder = make(**options)
    if used:
        embed_query(embedder)
    assert are_right(SYNC_ENTRY_POINTS[framework].embed(copying(embedder), texts_of(30)), texts_of(30))


class Vault:
    """Holds what cannot be copied or pickled, as a real one does."""

    def __init__(self, key):
        self._key = key
        self._lock = threading.Lock()

    def key(self):
        with self._lock:
            return self._key


def test_deep_copy_asks_the_same_key_function(make, options):
    embedder = make(**{**options, "api_key": Vault(SECRET).key})
    assert are_right([embed_query(copy.deepcopy(embedder))], ["a"])


def test_deep_copy_shares_the_callers_client(make, options):
    with httpx.Client() as mine:
        assert copy.deepcopy(make(http_client=mine, **options)).http_client is mine


@pytest.mark.parametrize("used", [False, True])
def test_unpickled_embedder_reads_the_environment_at_first_use(monkeypatch, options, used, entry_point):
    embedder = entry_point.make(DASHSCOPE, **options)
    if used:
        embed_query(embedder)
    for_documents, for_queries = (pickle.loads(pickle.dumps(embedder)) for _ in range(2))
    for method, unpickled, asked in (
        (entry_point.embed, for_documents, ["some text"]),
        (entry_point.embed_query, for_queries, "some text"),
    ):
        with pytest.raises(ConfigurationError, match="DASHSCOPE_API_KEY") as raised:
            call(method, unpickled, asked)
        assert "key_in_pickle" in str(raised.value)
    monkeypatch.setenv("DASHSCOPE_API_KEY", SECRET)
    assert are_right(call(entry_point.embed, for_documents, ["some text"]), ["some text"])
    assert are_right([call(entry_point.embed_query, for_queries, "some text")], ["some text"])


def test_key_is_pickled_with_key_in_pickle(make, options):
    embedder = make(key_in_pickle=True, **options)
    assert are_right([embed_query(pickle.loads(pickle.dumps(embedder)))], ["a"])


def test_pickling_does_not_change_the_embedder(make, options):
    embedder = make(**options)
    embed_query(embedder)
    before = embedder.client
    pickle.dumps(embedder)
    assert embedder.client is before
    assert are_right([embed_query(embedder)], ["a"])


def test_options_are_pickled(make, monkeypatch, options):
    embedder = make(dimensions=256, timeout=7.0, instruct="Find recipes", **options)
    monkeypatch.setenv("DASHSCOPE_API_KEY", SECRET)
    unpickled = pickle.loads(pickle.dumps(embedder))
    assert unpickled.timeout == 7.0
    assert str(unpickled.model_dump()) == str(embedder.model_dump())
    assert are_right([embed_query(unpickled)], ["a"], 256)


def test_pickle_warns_that_the_own_client_is_dropped(make, options):
    with httpx.Client() as mine:
        embedder = make(http_client=mine, key_in_pickle=True, **options)
        with pytest.warns(UserWarning, match="http_client cannot be pickled"):
            pickled = pickle.dumps(embedder)
    assert are_right([embed_query(pickle.loads(pickled))], ["a"])


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


def test_own_sync_client_is_used_and_not_closed(framework, make, simulator, options):
    transport = CountingTransport()
    with httpx.Client(transport=transport) as mine:
        embedder = make(http_client=mine, **options)
        assert are_right(SYNC_ENTRY_POINTS[framework].embed(embedder, texts_of(45)), texts_of(45))
        embedder.client.close()
        assert are_right([embed_query(embedder)], ["a"])
        del embedder
        assert not mine.is_closed
    assert transport.requests == len(simulator.requests) == 6


async def test_own_async_client_is_used_and_not_closed(framework, make, simulator, options):
    transport, way = CountingAsyncTransport(), ENTRY_POINTS[f"{framework}-async"]
    async with httpx.AsyncClient(transport=transport) as mine:
        embedder = make(http_async_client=mine, **options)
        assert are_right(await way.embed(embedder, texts_of(45)), texts_of(45))
        await embedder.client.aclose()
        assert are_right([await way.embed_query(embedder, "a")], ["a"])
        del embedder
        assert not mine.is_closed
    assert transport.requests == len(simulator.requests) == 6


def test_mock_transport_serves_without_a_socket(simulator, options, entry_point):
    seen = []

    def handler(request):
        seen.append(request)
        return _dashscope_answer(request)

    transport = httpx.MockTransport(handler)
    embedder = entry_point.make(
        DASHSCOPE,
        http_client=httpx.Client(transport=transport),
        http_async_client=httpx.AsyncClient(transport=transport),
        **options,
    )
    # The vectors of a text are the same for both roles, so the second would count as a late duplicate of the first.
    assert are_right(call(entry_point.embed, embedder, ["a document"]), ["a document"])
    assert are_right([call(entry_point.embed_query, embedder, "a query")], ["a query"])
    assert len(seen) == 2
    assert simulator.requests == []


def test_closed_own_client_is_a_multiembed_error(options, entry_point):
    mine, mine_async = httpx.Client(), httpx.AsyncClient()
    mine.close()
    asyncio.run(mine_async.aclose())
    embedder = entry_point.make(DASHSCOPE, http_client=mine, http_async_client=mine_async, **options)
    for method, asked in ((entry_point.embed, ["a"]), (entry_point.embed_query, "a")):
        with pytest.raises(MultiEmbedError):
            call(method, embedder, asked)


def test_own_async_client_in_a_second_loop_is_right_or_refused(framework, make, options):
    mine, way = httpx.AsyncClient(), ENTRY_POINTS[f"{framework}-async"]
    embedder = make(http_async_client=mine, max_retries=0, max_concurrency=20, **options)
    texts = texts_of(200)

    with asyncio.Runner() as first, asyncio.Runner() as second:
        assert are_right(first.run(way.embed(embedder, texts)), texts)
        try:
            right = are_right(second.run(way.embed(embedder, texts)), texts)
        except MultiEmbedError as error:
            right = "http_async_client" in str(error)
        finally:
            first.run(mine.aclose())
    assert right
