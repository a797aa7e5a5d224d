"""MultiEmbedding: hooks, options, dumps and hashes, copies and pickles, events, and the cache of the base class."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from datetime import datetime
from typing import Any

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding, SimilarityMode
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
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
    are_right,
    call,
    options_for,
    texts_of,
)

from llamaindex_multiembed import MultiEmbedding, windows
from multiembed import ConfigurationError

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
    """Result of one of the methods or hooks for one text, as one vector."""
    many = method.endswith(("_batch", "_embeddings"))
    answer = call(getattr(embedding, method), [text] if many else text)
    return answer[0] if many else answer


def roles_on_the_wire(simulator):
    return [request.body["parameters"]["text_type"] for request in simulator.requests]


def texts_on_the_wire(simulator):
    return [text for request in simulator.requests for text in request.body["input"]["texts"]]


# -- the hooks and the methods over them


@pytest.mark.parametrize("method", [*METHODS, *HOOKS])
def test_text_gets_its_own_vector_in_its_role(simulator, embedding, method):
    vector = call_with(embedding, method)
    assert type(vector) is list
    assert {type(number) for number in vector} == {float}
    assert are_right([vector], ["some text"])
    assert roles_on_the_wire(simulator) == [{**METHODS, **HOOKS}[method]]


@pytest.mark.parametrize(("method", "show_progress"), [*zip(BATCH_METHODS, (False, True), strict=True)])
def test_more_texts_than_the_largest_window_keep_their_order(simulator, method, show_progress):
    model = "zhipu:embedding-3"
    embedding = MultiEmbedding(model_name=model, dimensions=256, **options_for(simulator, model))
    texts = texts_of(2100)
    assert are_right(call(getattr(embedding, method), texts, show_progress=show_progress), texts, 256)
    assert len(simulator.requests) == -(-2100 // 64)  # one call, and not one for each window


@pytest.mark.parametrize("method", BATCH_METHODS)
@pytest.mark.parametrize("workers", [None, 1, 4])
@pytest.mark.parametrize("window", [1, 7, 2048])
def test_window_and_workers_change_no_vector_and_no_position(options, method, workers, window):
    embedding = MultiEmbedding(model_name=DASHSCOPE, embed_batch_size=window, num_workers=workers, **options)
    assert are_right(call(getattr(embedding, method), texts_of(25)), texts_of(25))


@pytest.mark.parametrize("method", ["_get_text_embeddings", "_aget_text_embeddings", *BATCH_METHODS])
def test_no_texts_give_no_vectors_and_no_request(simulator, embedding, method):
    assert call(getattr(embedding, method), []) == []
    assert simulator.requests == []


@pytest.mark.parametrize("method", BATCH_METHODS)
def test_window_is_sent_in_batches_of_the_provider(simulator, embedding, method):
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


# -- options


@pytest.mark.parametrize(("wrong", "right"), [("embed_batchsize", "embed_batch_size"), ("model", "model_name")])
def test_unknown_option_is_refused_with_the_nearest_name(options, wrong, right):
    with pytest.raises(ConfigurationError, match=f"{wrong!r}: did you mean {right!r}"):
        MultiEmbedding(model_name=DASHSCOPE, **options, **{wrong: 64})


@pytest.mark.parametrize("size", [0, 2049, "many"])
def test_window_that_llamaindex_does_not_allow_is_refused(options, size):
    with pytest.raises(ConfigurationError, match="embed_batch_size"):
        MultiEmbedding(model_name=DASHSCOPE, embed_batch_size=size, **options)


def test_window_can_be_assigned_within_its_bounds(embedding):
    embedding.embed_batch_size = 3
    assert are_right(embedding.get_text_embedding_batch(texts_of(8)), texts_of(8))
    with pytest.raises(ValueError, match="embed_batch_size"):
        embedding.embed_batch_size = 4096
    assert embedding.embed_batch_size == 3


# -- dumps, hashes, keys


def test_dump_names_the_class_and_the_model(embedding):
    assert MultiEmbedding.class_name() == "MultiEmbedding"
    assert embedding.to_dict()["class_name"] == "MultiEmbedding"
    if hasattr(embedding, "to_payload"):  # since 0.14.2x
        assert embedding.to_payload()["model_name"] == DASHSCOPE


@pytest.mark.parametrize(
    ("dump", "load"), [("to_dict", MultiEmbedding.from_dict), ("to_json", MultiEmbedding.from_json)]
)
@pytest.mark.usefixtures("key_in_environment")
def test_dump_restores_all_that_changes_vectors(options, dump, load):
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
def test_option_that_changes_no_vector_changes_no_hash(options, indifferent):
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
def test_option_that_changes_vectors_changes_the_hash(options, different):
    nodes = [TextNode(text="a")]
    plain = MultiEmbedding(**{"model_name": DASHSCOPE, **options})
    other = MultiEmbedding(**{"model_name": DASHSCOPE, **options, **different})
    assert get_transformation_hash(nodes, other) != get_transformation_hash(nodes, plain)


def test_hash_changes_with_the_address_in_the_environment(monkeypatch):
    monkeypatch.setenv("MULTIEMBED_GATEWAY_API_KEY", SECRET)
    hashes = set()
    for address in ("https://one.example", "https://two.example"):
        monkeypatch.setenv("MULTIEMBED_GATEWAY_BASE_URL", address)
        hashes.add(get_transformation_hash([TextNode(text="a")], MultiEmbedding(model_name="gateway:any-model")))
    assert len(hashes) == 2


# -- copies and pickles


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


def test_pickling_does_not_change_cache_limiter_and_callbacks(options):
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
    """Keeps the end events of embeddings."""

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
def test_callbacks_and_events_get_texts_and_plain_lists(options, end_events, method):
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
    """Smallest subclass of BaseEmbedding, which sends LlamaIndex's own events."""

    def _get_text_embedding(self, text):
        if text == "too long":
            raise ValueError(text)
        return [float(len(text)), 1.0]

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


class Windowed(Plain):
    """The same vectors, with the events of this package's windows."""

    def get_text_embedding_batch(self, texts, show_progress=False, **_):
        return windows.embed(self, texts, self._get_text_embeddings)

    async def aget_text_embedding_batch(self, texts, show_progress=False, **_):
        return await windows.aembed(self, texts, self._aget_text_embeddings)


class Everything(BaseCallbackHandler):
    """Keeps all callbacks, events and spans, in one order."""

    def __init__(self):
        super().__init__([], [])
        self.log, self.ids = [], {}

    def _keep(self, *parts):
        self.log.append(repr(parts))

    def _number(self, event_id):
        return self.ids.setdefault(event_id, len(self.ids))

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
        fields = event.model_dump()
        assert (type(fields.pop("timestamp")), len(fields.pop("id_"))) == (datetime, 36)
        self._keep(type(event), {**fields, "span_id": self._number(fields["span_id"])})

    def span(self, what, *, id_, bound_args, instance=None, parent_id=None, tags=None, result=None, err=None):
        name = id_.partition(".")[2].partition("-")[0]
        if not name.startswith("_"):  # only the number of calls of the hooks differs
            self._keep(what, name, self._number(id_), self._number(parent_id), bound_args.arguments, tags, result, err)


class EverythingOfEvents(BaseEventHandler):
    keeper: Any

    def handle(self, event, **_):
        self.keeper.handle(event)


class EverythingOfSpans(BaseSpanHandler):
    keeper: Any = None

    def span_enter(self, **fields):
        self.keeper.span("enter", **fields)

    def span_exit(self, **fields):
        self.keeper.span("exit", **fields)

    def span_drop(self, **fields):
        self.keeper.span("drop", **fields)

    def new_span(self, *_, **__):
        pass

    prepare_to_exit_span = prepare_to_drop_span = new_span


def all_events(kind, method, texts, window):
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
    return [entry.replace("Windowed", "Plain") for entry in keeper.log]


@pytest.mark.parametrize("method", BATCH_METHODS)
@pytest.mark.parametrize("texts", [[], ["a"], ["a", "bb", "ccc"], [*texts_of(7), "a"], ["too long"], ["a", "too long"]])
def test_windows_send_the_events_of_the_base_class(method, texts):
    events = all_events(Windowed, method, texts, 3)
    assert events == all_events(Plain, method, texts, 3)
    assert len(events) >= 3 + 4 * -(-len(texts) // 3) * (
        "too long" not in texts
    )  # the dispatcher drops the error of a handler


@pytest.mark.parametrize("method", BATCH_METHODS)
def test_event_handlers_get_the_vectors_without_a_copy(options, end_events, method):
    embedding = MultiEmbedding(model_name=DASHSCOPE, embed_batch_size=10, **options)
    vectors = call(getattr(embedding, method), texts_of(25))
    assert [event.chunks for event in end_events] == [texts_of(25)[:10], texts_of(25)[10:20], texts_of(25)[20:]]
    sent = [vector for event in end_events for vector in event.embeddings]
    assert all(one is other for one, other in zip(sent, vectors, strict=True))


class Counter(BaseRateLimiter):
    """Rate limiter without a limit that counts its calls."""

    def __init__(self):
        self.passed = 0

    def acquire(self, num_tokens=0):
        self.passed += 1

    async def async_acquire(self, num_tokens=0):
        self.passed += 1


@pytest.mark.parametrize("method", METHODS)
def test_rate_limiter_of_llamaindex_is_called_once_per_call(options, method):
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
def test_cached_text_is_paid_for_once(simulator, cached, method):
    vectors = [call_with(cached, method) for _ in range(3)]
    assert all(are_right([vector], ["some text"]) for vector in vectors)
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("second", METHODS)
@pytest.mark.parametrize("first", METHODS)
def test_cached_vector_is_found_for_its_own_role_only(simulator, cached, first, second):
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


def test_instruction_changes_the_namespace_of_queries_only(simulator, options, cache, cached):
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
def test_partly_cached_texts_keep_their_order(simulator, cached, method):
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
def test_copy_keeps_roles_and_namespaces_of_the_cache_apart(simulator, cached, cache, make_copy):
    copied = make_copy(cached, cache)
    copied.dimensions = 256
    for _ in range(2):
        assert are_right([copied.get_text_embedding("a")], ["a"], 256)
        assert are_right([copied.get_query_embedding("a")], ["a"], 256)
    assert roles_on_the_wire(simulator) == ["document", "query"]
    cached.dimensions = 1024
    assert are_right([cached.get_text_embedding("a")], ["a"], 1024)


def test_embeddings_cache_can_be_assigned_and_removed(simulator, embedding, cache):
    embedding.embeddings_cache = cache
    for _ in range(2):
        embedding.get_text_embedding("a")
        embedding.get_query_embedding("a")
    assert roles_on_the_wire(simulator) == ["document", "query"]
    embedding.embeddings_cache = None
    embedding.get_text_embedding("a")
    assert len(simulator.requests) == 3


@pytest.mark.parametrize("wrong", [{}, "a path", object()])
def test_embeddings_cache_of_a_wrong_type_is_refused(options, wrong):
    with pytest.raises((TypeError, ConfigurationError), match="embeddings_cache"):
        MultiEmbedding(model_name=DASHSCOPE, embeddings_cache=wrong, **options)


async def test_concurrent_queries_and_documents_keep_their_roles(simulator, cached):
    texts = texts_of(20)
    vectors = await asyncio.gather(
        *(cached.aget_query_embedding(text) for text in texts), *(cached.aget_text_embedding(text) for text in texts)
    )
    assert are_right(vectors, texts * 2)
    sent = zip(roles_on_the_wire(simulator), texts_on_the_wire(simulator), strict=True)
    assert sorted(sent) == sorted((role, text) for role in ("document", "query") for text in texts)


def test_every_hook_is_overridden():
    assert {hook for hook in HOOKS if getattr(MultiEmbedding, hook) is getattr(BaseEmbedding, hook)} == set()


@pytest.mark.parametrize(
    "wrong", ["one text", b"bytes", 7, None, {"id": "text"}], ids=lambda wrong: type(wrong).__name__
)
def test_single_text_is_not_split_into_letters(wrong, simulator):
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
