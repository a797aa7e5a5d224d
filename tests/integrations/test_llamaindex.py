"""MultiEmbedding as LlamaIndex and its users treat it: six hooks, dumps and hashes, caches, pipelines, nested loops."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import sys
import threading
import warnings
from datetime import datetime
from typing import Any

import pytest
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.async_utils import asyncio_run
from llama_index.core.base.embeddings.base import BaseEmbedding, SimilarityMode
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.rate_limiter import BaseRateLimiter
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore
from support.adapters import (
    DASHSCOPE,
    DIMENSIONS,
    MODELS,
    REMOTE_MODELS,
    are_right,
    call,
    options_for,
    run_python,
    texts_of,
)

from llamaindex_multiembed import MultiEmbedding, windows
from multiembed import AuthenticationError, ConfigurationError, PartialFailureError

SECRET = "sk-simulator"  # the one key that the simulator takes
QUERY_METHODS = ("get_query_embedding", "aget_query_embedding")
TEXT_METHODS = ("get_text_embedding", "aget_text_embedding")
BATCH_METHODS = ("get_text_embedding_batch", "aget_text_embedding_batch")
METHODS = {
    **dict.fromkeys(QUERY_METHODS, "query"),
    **dict.fromkeys([*TEXT_METHODS, *BATCH_METHODS], "document"),
}
HOOKS = {
    "_get_query_embedding": "query",
    "_aget_query_embedding": "query",
    "_get_text_embedding": "document",
    "_aget_text_embedding": "document",
    "_get_text_embeddings": "document",
    "_aget_text_embeddings": "document",
}
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


@pytest.fixture
def key_in_environment(monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", SECRET)


def call_with(embedding, method, text="some text"):
    """The answer of one of the methods or hooks for one text, as one vector."""
    many = method.endswith(("_batch", "_embeddings"))
    answer = call(getattr(embedding, method), [text] if many else text)
    return answer[0] if many else answer


def roles_on_the_wire(simulator):
    return [request.body["parameters"]["text_type"] for request in simulator.requests]


def texts_on_the_wire(simulator):
    return [text for request in simulator.requests for text in request.body["input"]["texts"]]


# -- the hooks and the methods over them


@pytest.mark.parametrize("method", [*METHODS, *HOOKS])
@pytest.mark.parametrize("model", MODELS)
def test_a_text_gets_its_own_vector_as_a_plain_list(simulator, model, method):
    embedding = MultiEmbedding(model_name=model, **options_for(simulator, model))
    vector = call_with(embedding, method)
    assert type(vector) is list
    assert {type(number) for number in vector} == {float}
    assert are_right([vector], ["some text"], DIMENSIONS[model])
    assert len(simulator.requests) == (model in REMOTE_MODELS)


@pytest.mark.parametrize(("method", "role"), [*METHODS.items(), *HOOKS.items()])
def test_the_native_api_is_told_whether_a_text_is_a_query(simulator, embedding, method, role):
    call_with(embedding, method)
    assert roles_on_the_wire(simulator) == [role]


@pytest.mark.parametrize("method", BATCH_METHODS)
@pytest.mark.parametrize("show_progress", [False, True])
def test_3000_texts_pass_the_window_of_2048_in_order(simulator, method, show_progress):
    model = "zhipu:embedding-3"
    embedding = MultiEmbedding(model_name=model, dimensions=256, **options_for(simulator, model))
    texts = texts_of(3000)
    assert are_right(call(getattr(embedding, method), texts, show_progress=show_progress), texts, 256)
    assert len(simulator.requests) == -(-3000 // 64)  # one call, and not one for each window


@pytest.mark.parametrize("method", BATCH_METHODS)
@pytest.mark.parametrize("workers", [None, 1, 4])
@pytest.mark.parametrize("window", [1, 7, 2048])
def test_neither_window_nor_workers_change_a_vector_or_its_place(options, method, workers, window):
    embedding = MultiEmbedding(model_name=DASHSCOPE, embed_batch_size=window, num_workers=workers, **options)
    assert are_right(call(getattr(embedding, method), texts_of(25)), texts_of(25))


@pytest.mark.parametrize("method", ["_get_text_embeddings", "_aget_text_embeddings", *BATCH_METHODS])
def test_no_texts_give_no_vectors_and_no_request(simulator, embedding, method):
    assert call(getattr(embedding, method), []) == []
    assert simulator.requests == []


@pytest.mark.parametrize("method", BATCH_METHODS)
def test_a_window_is_sent_as_the_wires_own_batches_and_not_text_by_text(simulator, embedding, method):
    call(getattr(embedding, method), texts_of(45))
    assert sorted(len(request.body["input"]["texts"]) for request in simulator.requests) == [5, 10, 10, 10, 10]


@pytest.mark.parametrize("aggregate", ["get_agg_embedding_from_queries", "aget_agg_embedding_from_queries"])
def test_aggregated_queries_are_queries(simulator, embedding, aggregate):
    assert are_right([call(getattr(embedding, aggregate), ["a", "a"])], ["a"])
    assert roles_on_the_wire(simulator) == ["query", "query"]


def test_similarity_is_the_cosine(embedding):
    near, same, far = embedding.get_text_embedding_batch(["oil a chain", "oil a chain", "春眠不觉晓"])
    assert embedding.similarity(near, same) == pytest.approx(1.0)
    assert embedding.similarity(near, far) < 0.5
    assert embedding.similarity(near, same, mode=SimilarityMode.EUCLIDEAN) == pytest.approx(0.0)


@pytest.mark.parametrize("method", BATCH_METHODS)
def test_a_text_that_is_too_long_raises_and_is_named_instead_of_shortening_the_list(simulator, method):
    model = "zhipu:embedding-2"
    embedding = MultiEmbedding(model_name=model, **options_for(simulator, model))
    with pytest.raises(PartialFailureError) as raised:
        call(getattr(embedding, method), ["before", "0123456789 " * 200, "after"])
    assert raised.value.indices == (1,)


# -- options


@pytest.mark.parametrize(
    ("wrong", "right"), [("dimension", "dimensions"), ("embed_batchsize", "embed_batch_size"), ("model", "model_name")]
)
def test_an_unknown_option_is_refused_and_the_nearest_name_is_shown(options, wrong, right):
    with pytest.raises(ConfigurationError, match=f"{wrong!r}: did you mean {right!r}"):
        MultiEmbedding(model_name=DASHSCOPE, **options, **{wrong: 64})


@pytest.mark.parametrize("size", [0, 2049, "many"])
def test_a_window_that_llamaindex_does_not_allow_is_refused(options, size):
    with pytest.raises(ConfigurationError, match="embed_batch_size"):
        MultiEmbedding(model_name=DASHSCOPE, embed_batch_size=size, **options)


def test_a_missing_model_is_named(options):
    with pytest.raises(ConfigurationError, match="'model_name' is missing"):
        MultiEmbedding(**options)


def test_output_without_dense_vectors_is_refused(options):
    with pytest.raises(ConfigurationError, match="sparse"):
        MultiEmbedding(model_name=DASHSCOPE, output="sparse", **options)


def test_an_assigned_option_is_heeded_by_the_next_call(embedding):
    assert are_right([embedding.get_query_embedding("a")], ["a"])
    embedding.dimensions = 64
    assert are_right([embedding.get_query_embedding("a")], ["a"], 64)
    with pytest.raises(ConfigurationError):
        embedding.dimensions = 65
    assert are_right([embedding.get_query_embedding("a")], ["a"], 64)


def test_the_window_can_be_assigned_within_its_bounds(embedding):
    embedding.embed_batch_size = 3
    assert are_right(embedding.get_text_embedding_batch(texts_of(8)), texts_of(8))
    with pytest.raises(ValueError, match="embed_batch_size"):
        embedding.embed_batch_size = 4096
    assert embedding.embed_batch_size == 3


def test_it_can_be_made_the_embed_model_of_the_settings(monkeypatch, simulator, embedding):
    monkeypatch.setattr(Settings, "_embed_model", None)
    Settings.embed_model = embedding
    assert Settings.embed_model is embedding
    index = VectorStoreIndex([TextNode(text=passage) for passage in PASSAGES])
    found = index.as_retriever(similarity_top_k=1).retrieve("oil for a bicycle chain")
    assert [node.text for node in found] == [PASSAGES[1]]


# -- dumps, hashes, keys


def test_it_names_its_class_and_its_model(embedding):
    assert MultiEmbedding.class_name() == "MultiEmbedding"
    assert embedding.to_dict()["class_name"] == "MultiEmbedding"
    if hasattr(embedding, "to_payload"):  # since 0.14.2x
        assert embedding.to_payload()["model_name"] == DASHSCOPE


SHOWN = {
    "repr": repr,
    "str": str,
    "to_dict": lambda embedding: str(embedding.to_dict()),
    "to_json": lambda embedding: embedding.to_json(),
    "to_payload": lambda embedding: str(getattr(embedding, "to_payload", embedding.to_dict)()),
    "model_dump_json": lambda embedding: embedding.model_dump_json(),
    "vars": lambda embedding: str(vars(embedding)),
    "pickle": lambda embedding: pickle.dumps(embedding).decode("latin-1"),
    "repr of the pipeline": lambda embedding: repr(IngestionPipeline(transformations=[embedding])),
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN.keys())
@pytest.mark.parametrize("source", ["argument", "environment"])
def test_no_key_is_shown(monkeypatch, options, source, show):
    if source == "environment":
        monkeypatch.setenv("DASHSCOPE_API_KEY", options.pop("api_key"))
    embedding = MultiEmbedding(model_name=DASHSCOPE, headers={"X-Route": "secret-route"}, **options)
    embedding.get_query_embedding("a")
    shown = show(embedding)
    assert shown
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("dump", "load"), [("to_dict", MultiEmbedding.from_dict), ("to_json", MultiEmbedding.from_json)]
)
@pytest.mark.usefixtures("key_in_environment")
def test_a_dump_comes_back_with_all_that_changes_vectors(options, dump, load):
    embedding = MultiEmbedding(
        model_name=DASHSCOPE, dimensions=256, instruct="Find recipes", document_prefix="passage: ", **options
    )
    loaded = load(getattr(embedding, dump)())
    assert loaded.to_dict() == embedding.to_dict()
    assert loaded.get_query_embedding("a") == embedding.get_query_embedding("a")
    assert loaded.get_text_embedding("a") == embedding.get_text_embedding("a")


@pytest.mark.parametrize(
    "indifferent",
    [
        {"api_key": "sk-another"},
        {"timeout": 5.0},
        {"deadline": 50.0},
        {"max_retries": 1},
        {"max_concurrency": 3},
        {"num_workers": 4},
        {"embed_batch_size": 100},
        {"key_in_pickle": True},
        {"show_progress": True},
        {"allow_insecure": True},
        {"limits": {"max_items": 5}},
        {"token_counter": len},
        {"callback_manager": CallbackManager([])},
        {"embeddings_cache": SimpleKVStore()},
    ],
    ids=lambda option: next(iter(option)),
)
def test_what_changes_no_vector_changes_neither_dump_nor_hash(options, indifferent):
    nodes = [TextNode(text="a")]
    plain = MultiEmbedding(model_name=DASHSCOPE, **options)
    other = MultiEmbedding(model_name=DASHSCOPE, **{**options, **indifferent})
    assert str(other.to_dict()) == str(plain.to_dict())
    assert get_transformation_hash(nodes, other) == get_transformation_hash(nodes, plain)


@pytest.mark.parametrize(
    "different",
    [
        {"model_name": "dashscope:text-embedding-v3"},
        {"model_name": "dashscope-compatible:text-embedding-v4"},
        {"dimensions": 256},
        {"instruct": "Find recipes"},
        {"query_prefix": "query: "},
        {"document_prefix": "passage: "},
        {"output": "dense&sparse"},
        {"parameters": {"seed": 1}},
        {"base_url": "https://embeddings.example/v1"},
        {"base_url": None, "region": "intl"},
    ],
    ids=str,
)
def test_what_changes_vectors_changes_the_hash(options, different):
    nodes = [TextNode(text="a")]
    plain = MultiEmbedding(**{"model_name": DASHSCOPE, **options})
    other = MultiEmbedding(**{"model_name": DASHSCOPE, **options, **different})
    assert get_transformation_hash(nodes, other) != get_transformation_hash(nodes, plain)


def test_the_hash_changes_with_the_gateways_address_in_the_environment(monkeypatch):
    monkeypatch.setenv("MULTIEMBED_GATEWAY_API_KEY", SECRET)
    hashes = set()
    for address in ("https://one.example", "https://two.example"):
        monkeypatch.setenv("MULTIEMBED_GATEWAY_BASE_URL", address)
        hashes.add(get_transformation_hash([TextNode(text="a")], MultiEmbedding(model_name="gateway:any-model")))
    assert len(hashes) == 2


# -- copies and pickles


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, MultiEmbedding.model_copy])
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_keeps_the_key(embedding, copying, used):
    if used:
        embedding.get_query_embedding("a")
    assert are_right(copying(embedding).get_text_embedding_batch(texts_of(30)), texts_of(30))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("used", [False, True])
def test_an_unpickled_embedder_reads_the_environment_at_its_first_use(monkeypatch, embedding, used, method):
    if used:
        embedding.get_query_embedding("a")
    unpickled = pickle.loads(pickle.dumps(embedding))
    with pytest.raises(ConfigurationError, match="DASHSCOPE_API_KEY") as raised:
        call_with(unpickled, method)
    assert "key_in_pickle" in str(raised.value)
    monkeypatch.setenv("DASHSCOPE_API_KEY", SECRET)
    assert are_right([call_with(unpickled, method)], ["some text"])


def test_a_key_travels_in_a_pickle_where_it_was_allowed(options):
    embedding = MultiEmbedding(model_name=DASHSCOPE, key_in_pickle=True, **options)
    assert are_right([pickle.loads(pickle.dumps(embedding)).get_query_embedding("a")], ["a"])


class Unpicklable(BaseCallbackHandler):
    """A callback handler as tracing tools have them: it has a lock, which no pickle takes."""

    def __init__(self):
        super().__init__([], [])
        self.lock = threading.Lock()
        self.seen = []

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **_):
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **_):
        if event_type == CBEventType.EMBEDDING:
            self.seen.append(payload)


def test_pickling_leaves_the_live_embedder_whole(options):
    handler, cache = Unpicklable(), SimpleKVStore()
    embedding = MultiEmbedding(
        model_name=DASHSCOPE,
        callback_manager=CallbackManager([handler]),
        rate_limiter=Counter(),
        embeddings_cache=cache,
        **options,
    )
    before = dict(vars(embedding))
    pickle.dumps(embedding)
    assert vars(embedding) == before
    assert are_right([embedding.get_query_embedding("a")], ["a"])
    assert len(handler.seen) == 1


# -- callbacks, events, limiters


class EndEvents(BaseEventHandler):
    """Keeps what the dispatcher says when an embedding ends."""

    seen: list[EmbeddingEndEvent] = []  # noqa: RUF012 - a pydantic field, copied for each instance

    @classmethod
    def class_name(cls):
        return "EndEvents"

    def handle(self, event, **_):
        if isinstance(event, EmbeddingEndEvent):
            self.seen.append(event)


@pytest.fixture
def end_events():
    dispatcher, handler = get_dispatcher(), EndEvents()
    dispatcher.add_event_handler(handler)
    yield handler.seen
    dispatcher.event_handlers.remove(handler)


@pytest.mark.parametrize("method", METHODS)
def test_callbacks_and_events_are_told_texts_and_plain_lists(options, end_events, method):
    handler = Unpicklable()
    embedding = MultiEmbedding(model_name=DASHSCOPE, callback_manager=CallbackManager([handler]), **options)
    vector = call_with(embedding, method)
    [payload], [event] = handler.seen, end_events
    for chunks, embeddings in (
        (payload[EventPayload.CHUNKS], payload[EventPayload.EMBEDDINGS]),
        (event.chunks, event.embeddings),
    ):
        assert chunks == ["some text"]
        assert embeddings == [vector]
        assert type(embeddings) is type(embeddings[0]) is list
        assert {type(number) for number in embeddings[0]} == {float}


class Plain(BaseEmbedding):
    """What LlamaIndex itself tells of windows: a subclass that does no more than it must."""

    def _get_text_embedding(self, text):
        if text == "too long":
            raise ValueError(text)
        return [float(len(text)), 1.0]

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


class Windowed(Plain):
    """The same numbers, told of by this package's windows."""

    def get_text_embedding_batch(self, texts, show_progress=False, **_):
        return windows.embed(self, texts, self._get_text_embeddings)

    async def aget_text_embedding_batch(self, texts, show_progress=False, **_):
        return await windows.aembed(self, texts, self._aget_text_embeddings)


class Everything(BaseCallbackHandler):
    """Keeps all that callbacks, events and spans say, in one order."""

    def __init__(self):
        super().__init__([], [])
        self.said, self.ids = [], {}

    def _keep(self, *words):
        self.said.append(repr(words))

    def _number(self, its_id):
        return self.ids.setdefault(its_id, len(self.ids))

    def start_trace(self, trace_id=None):
        self._keep("trace", trace_id)

    def end_trace(self, trace_id=None, trace_map=None):
        self._keep("end of trace", trace_id)

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **_):
        self._keep("start", event_type, payload, self._number(event_id), self._number(parent_id))
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **_):
        self._keep("end", event_type, payload, self._number(event_id))

    def handle(self, event):
        told = event.model_dump()
        assert (type(told.pop("timestamp")), len(told.pop("id_"))) == (datetime, 36)
        self._keep(type(event), {**told, "span_id": self._number(told["span_id"])})

    def span(self, what, *, id_, bound_args, instance=None, parent_id=None, tags=None, result=None, err=None):
        name = id_.partition(".")[2].partition("-")[0]
        if not name.startswith("_"):  # how often the hooks are called is what differs
            self._keep(what, name, self._number(id_), self._number(parent_id), bound_args.arguments, tags, result, err)


class EverythingOfEvents(BaseEventHandler):
    keeper: Any

    def handle(self, event, **_):
        self.keeper.handle(event)


class EverythingOfSpans(BaseSpanHandler):
    keeper: Any = None

    def span_enter(self, **told):
        self.keeper.span("enter", **told)

    def span_exit(self, **told):
        self.keeper.span("exit", **told)

    def span_drop(self, **told):
        self.keeper.span("drop", **told)

    def new_span(self, *_, **__):
        pass

    prepare_to_exit_span = prepare_to_drop_span = new_span


def all_that_is_said(kind, method, texts, window):
    keeper, dispatcher = Everything(), get_dispatcher()
    handlers = EverythingOfEvents(keeper=keeper), EverythingOfSpans()
    handlers[1].keeper = keeper
    embedding = kind(embed_batch_size=window, callback_manager=CallbackManager([keeper]))
    dispatcher.event_handlers.append(handlers[0])
    dispatcher.span_handlers.append(handlers[1])
    try:
        with instrument_tags({"run": "a"}):
            keeper._keep(call(getattr(embedding, method), texts))
    except ValueError as error:
        keeper._keep(error)
    finally:
        dispatcher.event_handlers.remove(handlers[0])
        dispatcher.span_handlers.remove(handlers[1])
    return [words.replace("Windowed", "Plain") for words in keeper.said]


@pytest.mark.parametrize("method", BATCH_METHODS)
@pytest.mark.parametrize("texts", [[], ["a"], ["a", "bb", "ccc"], [*texts_of(7), "a"], ["too long"], ["a", "too long"]])
def test_windows_over_one_call_are_told_of_as_the_base_class_tells_of_its_own(method, texts):
    said = all_that_is_said(Windowed, method, texts, 3)
    assert said == all_that_is_said(Plain, method, texts, 3)
    assert len(said) >= 3 + 4 * -(-len(texts) // 3) * ("too long" not in texts)  # a handler that fails is not heard


@pytest.mark.parametrize("method", BATCH_METHODS)
def test_handlers_get_the_vectors_themselves_window_by_window(options, end_events, method):
    embedding = MultiEmbedding(model_name=DASHSCOPE, embed_batch_size=10, **options)
    vectors = call(getattr(embedding, method), texts_of(25))
    assert [event.chunks for event in end_events] == [texts_of(25)[:10], texts_of(25)[10:20], texts_of(25)[20:]]
    told = [vector for event in end_events for vector in event.embeddings]
    assert all(its is vector for its, vector in zip(told, vectors, strict=True))


class Counter(BaseRateLimiter):
    """Lets everybody pass, and counts."""

    def __init__(self):
        self.passed = 0

    def acquire(self, num_tokens=0):
        self.passed += 1

    async def async_acquire(self, num_tokens=0):
        self.passed += 1


@pytest.mark.parametrize("method", METHODS)
def test_the_limiter_of_the_base_class_is_asked_once_for_each_call(options, method):
    limiter = Counter()
    embedding = MultiEmbedding(model_name=DASHSCOPE, rate_limiter=limiter, **options)
    assert are_right([call_with(embedding, method)], ["some text"])
    assert limiter.passed == 1


# -- the cache of the base class


@pytest.fixture
def cache():
    return SimpleKVStore()


@pytest.fixture
def cached(options, cache):
    return MultiEmbedding(model_name=DASHSCOPE, embeddings_cache=cache, **options)


@pytest.mark.parametrize("method", METHODS)
def test_a_cached_text_is_paid_for_once(simulator, cached, method):
    vectors = [call_with(cached, method) for _ in range(3)]
    assert all(are_right([vector], ["some text"]) for vector in vectors)
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("second", METHODS)
@pytest.mark.parametrize("first", METHODS)
def test_a_cached_vector_serves_its_own_role_only(simulator, cached, first, second):
    call_with(cached, first)
    call_with(cached, second)
    roles = [METHODS[first], METHODS[second]]
    assert roles_on_the_wire(simulator) == list(dict.fromkeys(roles))


@pytest.mark.parametrize(
    "different",
    [
        {"model_name": "dashscope:text-embedding-v3"},
        {"dimensions": 256},
        {"document_prefix": "passage: "},
        {"output": "dense&sparse"},
        {"parameters": {"seed": 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", [*TEXT_METHODS, *BATCH_METHODS])
def test_embedders_of_two_vector_spaces_do_not_share_a_cache(simulator, options, cache, cached, method, different):
    other = MultiEmbedding(**{"model_name": DASHSCOPE, "embeddings_cache": cache, **options, **different})
    call_with(cached, method)
    call_with(other, method)
    assert len(simulator.requests) == 2


def test_an_instruction_makes_another_space_for_queries_and_none_for_documents(simulator, options, cache, cached):
    other = MultiEmbedding(model_name=DASHSCOPE, embeddings_cache=cache, instruct="Find recipes", **options)
    for embedding in (cached, other):
        embedding.get_query_embedding("a")
        embedding.get_text_embedding("a")
    assert sorted(roles_on_the_wire(simulator)) == ["document", "query", "query"]


@pytest.mark.parametrize("method", BATCH_METHODS)
def test_embedders_of_one_vector_space_share_a_cache(simulator, options, cache, cached, method):
    other = MultiEmbedding(model_name=DASHSCOPE, embeddings_cache=cache, timeout=5.0, **options)
    call(getattr(cached, method), texts_of(20))
    assert are_right(call(getattr(other, method), texts_of(30)), texts_of(30))
    assert sorted(texts_on_the_wire(simulator)) == sorted(texts_of(30))


@pytest.mark.parametrize("method", BATCH_METHODS)
def test_texts_that_are_cached_in_part_come_back_in_order(simulator, cached, method):
    call(getattr(cached, method), texts_of(30)[::3])
    texts = [*texts_of(30), *texts_of(5)]
    assert are_right(call(getattr(cached, method), texts), texts)
    assert sorted(texts_on_the_wire(simulator)) == sorted(texts_of(30))


WAYS_TO_A_COPY = {
    "itself": lambda embedding, _cache: embedding,
    "copy": lambda embedding, _cache: copy.copy(embedding),
    "deepcopy": lambda embedding, _cache: copy.deepcopy(embedding),
    "model_copy": lambda embedding, _cache: embedding.model_copy(),
    "deep model_copy": lambda embedding, _cache: embedding.model_copy(deep=True),
    "pickle": lambda embedding, _cache: pickle.loads(pickle.dumps(embedding)),
    "cache given by an update": lambda embedding, cache: embedding.model_copy(update={"embeddings_cache": cache}),
}


@pytest.mark.parametrize("make_copy", WAYS_TO_A_COPY.values(), ids=WAYS_TO_A_COPY.keys())
@pytest.mark.usefixtures("key_in_environment")
def test_a_copy_has_a_cache_that_keeps_roles_and_spaces_apart(simulator, cached, cache, make_copy):
    copied = make_copy(cached, cache)
    copied.dimensions = 256
    for _ in range(2):
        assert are_right([copied.get_text_embedding("a")], ["a"], 256)
        assert are_right([copied.get_query_embedding("a")], ["a"], 256)
    assert roles_on_the_wire(simulator) == ["document", "query"]
    cached.dimensions = 1024
    assert are_right([cached.get_text_embedding("a")], ["a"], 1024)


def test_a_cache_may_be_assigned_and_taken_away(simulator, embedding, cache):
    embedding.embeddings_cache = cache
    for _ in range(2):
        embedding.get_text_embedding("a")
        embedding.get_query_embedding("a")
    assert roles_on_the_wire(simulator) == ["document", "query"]
    embedding.embeddings_cache = None
    embedding.get_text_embedding("a")
    assert len(simulator.requests) == 3


@pytest.mark.parametrize("wrong", [{}, "a path", object()])
def test_a_cache_that_is_none_is_refused(options, wrong):
    with pytest.raises((TypeError, ConfigurationError), match="embeddings_cache"):
        MultiEmbedding(model_name=DASHSCOPE, embeddings_cache=wrong, **options)


async def test_queries_and_documents_at_the_same_time_do_not_mix_up_their_roles(simulator, cached):
    texts = texts_of(20)
    vectors = await asyncio.gather(
        *(cached.aget_query_embedding(text) for text in texts), *(cached.aget_text_embedding(text) for text in texts)
    )
    assert are_right(vectors, texts * 2)
    sent = zip(roles_on_the_wire(simulator), texts_on_the_wire(simulator), strict=True)
    assert sorted(sent) == sorted((role, text) for role in ("document", "query") for text in texts)


# -- indexes and pipelines


def test_an_index_finds_the_nearest_node(simulator, embedding):
    index = VectorStoreIndex([TextNode(text=passage) for passage in PASSAGES], embed_model=embedding)
    found = index.as_retriever(similarity_top_k=2).retrieve("oil for a bicycle chain")
    assert found[0].text == PASSAGES[1]
    assert found[0].score > found[1].score
    assert roles_on_the_wire(simulator) == ["document", "query"]


async def test_an_index_built_and_asked_async_finds_the_nearest_node(simulator, embedding):
    nodes = [TextNode(text=passage) for passage in PASSAGES]
    index = VectorStoreIndex(nodes, embed_model=embedding, use_async=False)
    found = await index.as_retriever(similarity_top_k=1).aretrieve("春天的鸟")
    assert [node.text for node in found] == [PASSAGES[3]]
    assert roles_on_the_wire(simulator) == ["document", "query"]


@pytest.mark.parametrize("loop_runs", [False, True])
@pytest.mark.usefixtures("nested_loops")
def test_an_index_may_be_built_with_use_async_whether_a_loop_runs_or_not(embedding, loop_runs):
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
def test_a_pipeline_embeds_its_nodes(embedding, run):
    assert texts_and_vectors_fit(run(IngestionPipeline(transformations=[embedding])), texts_of(40))


@pytest.mark.parametrize("run", PIPELINES.values(), ids=PIPELINES.keys())
def test_a_second_run_over_the_pipelines_cache_pays_nothing(simulator, options, run):
    cache = IngestionCache()
    run(IngestionPipeline(transformations=[MultiEmbedding(model_name=DASHSCOPE, **options)], cache=cache))
    paid = len(simulator.requests)
    again = MultiEmbedding(model_name=DASHSCOPE, **options, timeout=5.0, max_concurrency=2, embed_batch_size=64)
    nodes = run(IngestionPipeline(transformations=[again], cache=cache))
    assert texts_and_vectors_fit(nodes, texts_of(40))
    assert len(simulator.requests) == paid > 0


@pytest.mark.parametrize("run", PIPELINES.values(), ids=PIPELINES.keys())
def test_another_model_does_not_take_the_pipelines_cached_nodes(options, run):
    cache = IngestionCache()
    run(IngestionPipeline(transformations=[MultiEmbedding(model_name=DASHSCOPE, **options)], cache=cache))
    other = MultiEmbedding(model_name=DASHSCOPE, dimensions=64, **options)
    nodes = run(IngestionPipeline(transformations=[other], cache=cache))
    assert are_right([node.embedding for node in nodes], [node.text for node in nodes], 64)


# The pipeline's workers are processes: they run in a program of its own, so that one that hangs fails.
WORKERS = """
import asyncio, os, sys
from support.adapters import are_right, texts_of
from llama_index.core import Document
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.storage.kvstore import SimpleKVStore
from llamaindex_multiembed import MultiEmbedding, windows

run, base_url, key = sys.argv[1:]

def embed_in_workers(title, *, given, found, used=False):
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
        came = "right" if right else "wrong"
    except Exception as error:
        came = f"{type(error).__name__}: {error}"
    if given == key:
        assert embedding.embeddings_cache.store is cache
        alive = [embedding.get_query_embedding("a"), *embedding.get_text_embedding_batch(["b"])]
        assert are_right(alive, ["a", "b"])
        came += " alive"
    print(title, came.replace(chr(10), " "), sep="|", flush=True)

if __name__ == "__main__":
    embed_in_workers("unused", given=key, found=key)
    embed_in_workers("used", given=key, found=key, used=True)
    embed_in_workers("no key", given=key, found=None, used=True)
    embed_in_workers("wrong key", given=None, found="sk-wrong")
"""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("run", id="run, which spawns"),
        pytest.param(
            "arun",
            id="arun, which forks",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks here"),
        ),
    ],
)
def said_of_workers(request, running_simulator, tmp_path_factory):
    """What became of each pipeline of the program, by its title."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("LlamaIndex starts no more workers than there are processors")
    program = tmp_path_factory.mktemp("workers") / "pipelines.py"
    program.write_text(WORKERS, encoding="utf-8")
    arguments = (request.param, running_simulator.base_url("dashscope"), SECRET)
    done = run_python(program, *arguments, warnings="ignore", within=60.0)
    assert done.returncode == 0, done.stderr
    return dict(line.split("|", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("title", ["unused", "used"])
def test_workers_read_the_key_from_the_environment_and_the_live_embedder_stays_alive(said_of_workers, title):
    assert said_of_workers[title] == "right alive"


def test_workers_without_a_key_fail_with_an_error_that_says_so_and_do_not_hang(said_of_workers):
    said = said_of_workers["no key"]
    assert said.startswith("ConfigurationError: No key for dashscope: set DASHSCOPE_API_KEY")
    assert "key_in_pickle=True" in said
    assert said.endswith("alive")


def test_an_error_of_the_api_comes_out_of_the_workers(said_of_workers):
    assert said_of_workers["wrong key"].startswith("AuthenticationError: ")
    assert "status=401" in said_of_workers["wrong key"]


# -- loops in loops


async def _asked(embedding, method):
    many = method.endswith("_batch")
    answer = await getattr(embedding, method)(["a"] if many else "a")
    return answer[0] if many else answer


async def _nested(embedding, method):
    """Runs another loop by LlamaIndex's helper, while its own loop runs."""
    return asyncio_run(_asked(embedding, method))


@pytest.fixture
def nested_loops():
    """LlamaIndex closes a nested loop without winding up what it holds; that leak has a test of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


ASYNC_METHODS = [method for method in METHODS if method.startswith("aget")]


@pytest.mark.parametrize("method", ASYNC_METHODS)
@pytest.mark.usefixtures("nested_loops")
def test_an_async_method_runs_in_a_loop_within_a_running_loop(embedding, method):
    assert are_right([asyncio.run(_nested(embedding, method)) for _ in range(3)], ["a"] * 3)


@pytest.mark.parametrize("method", ASYNC_METHODS)
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.usefixtures("nested_loops")
def test_an_error_comes_through_llamaindexs_own_loop_as_itself(options, method, nested):
    embedding = MultiEmbedding(model_name=DASHSCOPE, **{**options, "api_key": "sk-wrong"})
    run = asyncio.run if nested else asyncio_run
    asked = _nested(embedding, method) if nested else _asked(embedding, method)
    with pytest.raises(AuthenticationError) as raised:
        run(asked)
    assert not isinstance(raised.value, RuntimeError)


@pytest.mark.parametrize("method", [method for method in METHODS if not method.startswith("aget")])
async def test_a_sync_method_works_where_a_loop_runs(embedding, method):
    many = method.endswith("_batch")
    answer = getattr(embedding, method)(["a"] if many else "a")
    assert are_right(answer if many else [answer], ["a"])


@pytest.mark.usefixtures("nested_loops")
async def test_sync_async_and_nested_calls_of_one_instance_mix_in_one_loop(embedding):
    texts = texts_of(25)
    for _ in range(2):
        assert are_right(embedding.get_text_embedding_batch(texts), texts)
        assert are_right(await embedding.aget_text_embedding_batch(texts), texts)
        assert are_right(asyncio_run(embedding.aget_text_embedding_batch(texts)), texts)


def test_every_hook_is_its_own_and_not_the_base_classs():
    assert {hook for hook in HOOKS if getattr(MultiEmbedding, hook) is getattr(BaseEmbedding, hook)} == set()


@pytest.mark.parametrize(
    "wrong", ["one text", b"bytes", 7, None, {"id": "text"}], ids=lambda wrong: type(wrong).__name__
)
def test_what_is_no_list_of_texts_is_refused_and_not_embedded_letter_by_letter(wrong, simulator):
    embedding = MultiEmbedding(
        model_name="zhipu:embedding-3", api_key=simulator.api_key, base_url=simulator.base_url("zhipu")
    )
    with pytest.raises(ConfigurationError, match="list of texts"):
        embedding.get_text_embedding_batch(wrong)
    with pytest.raises(ConfigurationError, match="list of texts"):
        asyncio.run(embedding.aget_text_embedding_batch(wrong))
    assert simulator.requests == []


def test_texts_from_a_generator_all_have_a_vector(simulator):
    embedding = MultiEmbedding(
        model_name="zhipu:embedding-3", api_key=simulator.api_key, base_url=simulator.base_url("zhipu")
    )
    assert len(embedding.get_text_embedding_batch(text for text in "abc")) == 3
