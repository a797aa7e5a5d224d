"""Model names that are not in the catalog: they work, and a name that is nearly a known one is warned of, once."""

from __future__ import annotations

import copy
import warnings

import pytest
from support.adapters import ENTRY_POINTS

from multiembed import ModelNameWarning, client

KEY = {"api_key": "sk-0123456789abcdef"}


@pytest.fixture(autouse=True)
def no_earlier_warning(monkeypatch):
    monkeypatch.setattr(client, "_warned", set())


@pytest.fixture(params=ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def make(request):
    return request.param.make


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("zhipu:embeding-3", "zhipu:embedding-3"),
        ("zhipu:Embedding-3", "zhipu:embedding-3"),
        ("zhipu:embedding3", "zhipu:embedding-3"),
        ("dashscope:text-embeding-v4", "dashscope:text-embedding-v4"),
        ("dashscope-compatible:text_embedding_v4", "dashscope-compatible:text-embedding-v4"),
        ("siliconflow:bge-m3", "siliconflow:BAAI/bge-m3"),
        ("siliconflow:BAAI/bge-m33", "siliconflow:BAAI/bge-m3"),
        ("siliconflow:qwen3-embedding-8b", "siliconflow:Qwen/Qwen3-Embedding-8B"),
    ],
)
def test_mistyped_model_is_one_warning_with_the_nearest_name(make, model, known):
    with pytest.warns(ModelNameWarning) as caught:
        embedder = make(model, **KEY)
    [warning] = caught
    copy.copy(embedder)  # and no further one, which would be an error
    make(model, **KEY, max_retries=2)
    assert f"did you mean '{known}'?" in str(warning.message)
    assert "warnings.filterwarnings('ignore', category=multiembed.ModelNameWarning)" in str(warning.message)
    assert issubclass(ModelNameWarning, UserWarning)


@pytest.mark.parametrize(
    "model",
    [
        "zhipu:embedding-3",
        "zhipu:my-own-deployment",
        "siliconflow:intfloat/multilingual-e5-large",
        "local:char-ngrams",
        "openai-compatible:embeding-3",
    ],
)
def test_known_and_quite_other_names_are_no_warning(make, model):
    address = {"base_url": "http://127.0.0.1:9"} if model.startswith("openai") else {}
    make(model, **({} if model.startswith("local") else KEY), **address)


def test_warning_can_be_silenced_by_its_category(make):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ModelNameWarning)
        make("zhipu:embeding-3", **KEY)
