"""Options of the client and both framework classes: types, descriptions, names of other classes, and values."""

from __future__ import annotations

import json
import pydoc
import re
from decimal import Decimal
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import SecretStr

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding, MultiEmbeddingOptionsDict
from multiembed import ConfigurationError, EmbeddingClient, EmbeddingOptions, EmbeddingOptionsDict
from multiembed.config.option_names import EXPLAINED, RENAMED, advice_for

MODEL = "zhipu:embedding-3"
OPTIONS = tuple(EmbeddingOptions.model_fields)


def as_options(**options):
    return EmbeddingOptions(**options)


def as_client(**options):
    return EmbeddingClient(MODEL, api_key="sk-1", **options)._options


def as_langchain(**options):
    return MultiEmbeddings(model=MODEL, api_key="sk-1", **options)


def as_llamaindex(**options):
    return MultiEmbedding(model_name=MODEL, api_key="sk-1", **options)


MAKERS = {"options": as_options, "client": as_client, "langchain": as_langchain, "llamaindex": as_llamaindex}
FRAMEWORKS = {"langchain": as_langchain, "llamaindex": as_llamaindex}

# ── types and descriptions ───────────────────────────────────────────────────────────────────────


def test_typed_dict_has_every_option_in_order():
    assert tuple(get_type_hints(EmbeddingOptionsDict)) == OPTIONS
    assert EmbeddingOptionsDict.__required_keys__ == frozenset()


@pytest.mark.parametrize("option", OPTIONS)
def test_typed_dict_has_the_type_that_the_option_takes(option):
    """A key may also be plain text, and None stands for the default of any option."""
    taken = set(alternatives(get_type_hints(EmbeddingOptions)[option]))
    taken |= {str} if SecretStr in taken else set()
    given = set(alternatives(get_type_hints(EmbeddingOptionsDict)[option]))
    assert given | {type(None)} == taken | {type(None)}
    assert type(None) in given or Any in given


def alternatives(hint):
    return get_args(hint) if get_origin(hint) in (Union, type(int | str)) else (hint,)


def test_llamaindex_typed_dict_has_the_base_class_fields_too():
    own = BaseEmbedding.model_fields.keys() - {"model_name"}
    assert get_type_hints(MultiEmbeddingOptionsDict).keys() == {*OPTIONS, *own}


@pytest.mark.parametrize("documented", [EmbeddingOptions, EmbeddingClient, MultiEmbeddings, MultiEmbedding])
def test_help_shows_every_option_with_type_default_and_sentence(documented):
    shown = pydoc.plain(pydoc.render_doc(documented))
    listed = shown[shown.index("Options:") :]
    for option, field in EmbeddingOptions.model_fields.items():
        entry = re.search(rf"^ \|      {option}: (.+) = (.+)\n \|          ([A-Z].+)$", listed, re.MULTILINE)
        assert entry, option
        assert entry[1] == EmbeddingOptionsDict.__annotations__[option].__forward_arg__
        assert entry[2] == repr(field.default)
        assert field.description.endswith(".")


UNITS = {
    "dimensions": "Numbers in each vector",
    "max_concurrency": "requests in flight",
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "max_retries": "Retries of one request",
    "timeout": "Seconds",
    "deadline": "Seconds",
    "limits": "texts per request",
}


def test_description_of_every_number_names_its_unit():
    numbers = {
        name for name, hint in get_type_hints(EmbeddingOptions).items() if re.search(r"\b(int|float)\b", str(hint))
    }
    assert numbers - {"token_counter"} == UNITS.keys()
    for option, unit in UNITS.items():
        assert unit in EmbeddingOptions.model_fields[option].description


def test_help_of_llamaindex_shows_the_base_class_options():
    shown = pydoc.plain(pydoc.render_doc(MultiEmbedding))
    assert "embed_batch_size: int = 2048" in shown
    assert "rate_limiter: Any = None" in shown


@pytest.mark.parametrize("model", [EmbeddingOptions, MultiEmbeddings, MultiEmbedding])
def test_json_schema_describes_every_option_but_functions(model):
    properties = json.loads(json.dumps(model.model_json_schema()))["properties"]
    assert properties.keys() >= set(OPTIONS) - {"token_counter", "on_usage"}
    assert properties["timeout"]["description"] == EmbeddingOptions.model_fields["timeout"].description


@pytest.mark.parametrize(("made", "example"), [(MultiEmbeddings, "model="), (MultiEmbedding, "model_name=")])
def test_positional_model_is_refused_with_the_right_call(made, example):
    with pytest.raises(ConfigurationError, match=rf"{made.__name__}\({example}") as caught:
        made(MODEL)
    assert "EmbeddingOptions" not in str(caught.value)


# ── names of other classes ───────────────────────────────────────────────────────────────────────

# Parameters of other classes by the versions that config/option_names.py names, without those that we have too.
PEERS = {
    "langchain-openai": "allowed_special api_version async_client azure_ad_async_token_provider azure_ad_token "
    "azure_ad_token_provider azure_deployment azure_endpoint check_embedding_ctx_length chunk_size client "
    "default_headers default_query deployment disallowed_special embedding_ctx_length model_kwargs openai_api_base "
    "openai_api_key openai_api_type openai_api_version openai_organization openai_proxy organization request_timeout "
    "retry_max_seconds retry_min_seconds show_progress_bar skip_empty tiktoken_enabled tiktoken_model_name",
    "langchain-community": "client dashscope_api_key embed_instruction query_instruction num_ctx model_uid server_url "
    "endpoint init_kwargs",
    "langchain-siliconflow": "async_client client siliconflow_api_key",
    "llamaindex": "additional_kwargs api_base api_version async_http_client callback_manager default_headers "
    "embed_batch_size embeddings_cache encoding_format mode num_workers rate_limiter reuse_client text_type",
    "openai": "default_headers default_query organization project api_version azure_ad_token azure_deployment "
    "azure_endpoint extra_body extra_headers extra_query encoding_format user admin_api_key",
    "httpx": "auth cert cookies event_hooks follow_redirects http1 http2 max_redirects mounts params proxy transport "
    "trust_env verify",
    "litellm": "api_base api_type api_version caching custom_llm_provider deployment_id encoding_format logger_fn "
    "litellm_call_id num_retries rpm tpm user",
    "dashscope": "workspace text_type output_type",
    "zhipuai": "custom_headers request_id sensitive_word_check user disable_strict_validation extra_body",
}


def test_every_option_that_is_recommended_exists():
    assert set(RENAMED) <= set(OPTIONS)
    assert not any(advice.endswith(".") for advice in EXPLAINED)
    assert {name for advice in EXPLAINED for name in re.findall(r"\b(\w+)=", advice)} <= {"role", *OPTIONS}
    mentioned = {word for advice in EXPLAINED for word in re.findall(r"\b[a-z]+_[a-z_]+\b", advice)}
    assert mentioned <= {
        "request_id",
        *OPTIONS,
        "embed_query",
        "embed_documents",
        "max_items",
        "max_tokens_per_item",
        "encoding_format",
    }


def test_no_name_is_explained_twice_or_is_an_option():
    names = [name for names in RENAMED.values() for name in names.split()]
    names += [name for names in EXPLAINED.values() for name in names.split()]
    assert len(names) == len(set(names))
    assert not set(names) & set(OPTIONS)


@pytest.mark.parametrize("maker", [as_client, as_langchain], ids=["client", "langchain"])
@pytest.mark.parametrize("option", RENAMED)
def test_option_name_of_another_class_suggests_ours(maker, option):
    for name in RENAMED[option].split():
        with pytest.raises(ConfigurationError, match=f"no option '{name}': did you mean '{option}'"):
            maker(**{name: "x"})


@pytest.mark.parametrize("advice", EXPLAINED)
def test_option_of_another_class_gets_advice(advice):
    for name in set(EXPLAINED[advice].split()) - {"model", "model_name"}:
        with pytest.raises(ConfigurationError, match=re.escape(f"no option '{name}': {advice}.")):
            EmbeddingOptions(**{name: "x"})


@pytest.mark.parametrize("peer", PEERS)
def test_every_option_of_another_class_has_advice(peer):
    assert [name for name in PEERS[peer].split() if not advice_for(name, OPTIONS)] == []


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("apiBase", "base_url"),
        ("api-base", "base_url"),
        ("maxRetries", "max_retries"),
        ("API_KEY", "api_key"),
        ("requestTimeout", "timeout"),
        ("dimension", "dimensions"),
        ("deadlin", "deadline"),
        ("on_to_long", "on_too_long"),
    ],
)
def test_spelling_of_a_name_does_not_matter(name, option):
    assert advice_for(name, OPTIONS) == f": did you mean {option!r}?"


@pytest.mark.parametrize(
    "name", ["xyzzy", "api", "request", "reuse", "query_vector", "temperature", "key_of_the_region"]
)
def test_name_that_resembles_nothing_gets_no_guess(name):
    assert advice_for(name, OPTIONS) == ""


@pytest.mark.parametrize(
    ("maker", "given", "own"), [(as_langchain, "model_name", "model"), (as_llamaindex, "model", "model_name")]
)
def test_model_under_the_other_frameworks_name_is_answered(maker, given, own):
    with pytest.raises(ConfigurationError, match=f"no option '{given}': did you mean '{own}'"):
        maker(**{given: MODEL})


def test_llamaindex_keeps_the_options_of_its_base_class():
    made = as_llamaindex(embed_batch_size=7, num_workers=2, rate_limiter=None, embeddings_cache=None)
    assert (made.embed_batch_size, made.num_workers) == (7, 2)


def test_long_name_is_cut_in_the_message():
    with pytest.raises(ConfigurationError) as caught:
        EmbeddingOptions(**{"n" * 5000: 1})
    assert len(str(caught.value)) < 200


# ── values from files and the environment ────────────────────────────────────────────────────────

WHOLE = [512, 512.0, "512", " 512\n", "+512", "512.0", "5.12e2", np.int64(512), np.float32(512), Decimal(512)]
LENIENT = [
    *[("dimensions", value, 512) for value in WHOLE],
    ("max_retries", "3", 3),
    ("max_retries", "0", 0),
    ("max_concurrency", "8", 8),
    ("requests_per_minute", "6e2", 600),
    ("tokens_per_minute", "1E6", 1_000_000),
    ("timeout", "30", 30.0),
    ("timeout", "2.5", 2.5),
    ("timeout", 30, 30.0),
    ("timeout", Decimal("2.5"), 2.5),
    ("timeout", None, 60.0),
    ("timeout", "", 60.0),
    ("deadline", "1e3", 1000.0),
    ("deadline", None, None),
    ("show_progress", "true", True),
    ("show_progress", "False", False),
    ("show_progress", "0", False),
    ("show_progress", None, False),
    ("allow_insecure", "yes", True),
    ("key_in_pickle", "", False),
    ("output", None, "dense"),
    ("on_too_long", "", "error"),
    ("dimensions", "", None),
    ("max_retries", "", None),
    ("base_url", "", None),
    ("cache", "", None),
    ("limits", {"max_items": "64", "max_tokens_per_item": 512.0}, {"max_items": 64, "max_tokens_per_item": 512}),
]


@pytest.mark.parametrize(("option", "given", "taken"), LENIENT, ids=str)
def test_value_is_converted_at_construction(option, given, taken):
    for name, maker in MAKERS.items():
        value = getattr(maker(**{option: given}), option)
        assert (value, type(value)) == (taken, type(taken)), name


@pytest.mark.parametrize("maker", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_value_is_converted_when_it_is_assigned(maker):
    for option, given, taken in LENIENT:
        embedder = maker()
        setattr(embedder, option, given)
        value = getattr(embedder, option)
        assert (value, type(value)) == (taken, type(taken)), (option, given)
        assert getattr(embedder.client._options, option) == taken, (option, given)


@pytest.mark.parametrize("maker", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_value_is_converted_in_an_updated_copy(maker):
    for option, given, taken in LENIENT:
        copied = maker().model_copy(update={option: given})
        assert getattr(copied.client._options, option) == taken, (option, given)


REFUSED = [
    *[
        ("dimensions", value)
        for value in (
            0,
            -5,
            "0",
            "-512",
            512.5,
            "512.5",
            True,
            False,
            np.True_,
            "many",
            " ",
            "５１２",
            "0x200",
            "1_000",
        )
    ],
    *[("dimensions", value) for value in (float("inf"), "inf", "nan", "9" * 5000, 2**63, "1e300", b"512", [512])],
    ("max_retries", -1),
    ("max_retries", "-1"),
    ("max_retries", True),
    ("max_concurrency", "0"),
    ("requests_per_minute", "-600"),
    ("tokens_per_minute", False),
    *[
        ("timeout", value)
        for value in (0, -1, "0", "-2.5", True, "30s", "inf", float("nan"), 10**400, Decimal("NaN"), "٣٠")
    ],
    ("deadline", "soon"),
    ("deadline", 0.0),
    ("show_progress", "perhaps"),
    ("show_progress", 2),
    ("limits", {"max_items": True}),
    ("limits", {"max_items": "many"}),
    ("output", "Dense"),
]


@pytest.mark.parametrize(("option", "given"), REFUSED, ids=lambda value: str(value)[:20])
def test_impossible_value_is_refused_by_the_options_name(option, given):
    for maker in MAKERS.values():
        with pytest.raises(ConfigurationError, match=f"'?{option}") as caught:
            maker(**{option: given})
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("option", "given"), REFUSED, ids=lambda value: str(value)[:20])
def test_impossible_value_is_refused_when_it_is_assigned(option, given):
    for maker in FRAMEWORKS.values():
        embedder = maker()
        before = embedder.model_dump(), getattr(embedder, option)
        with pytest.raises(ConfigurationError, match=option):
            setattr(embedder, option, given)
        assert (embedder.model_dump(), getattr(embedder, option)) == before


def test_message_for_a_wrong_value_does_not_repeat_it():
    with pytest.raises(ConfigurationError, match="'dimensions': must be an integer, for example 512") as caught:
        EmbeddingOptions(dimensions="sk-0123456789abcdef")
    assert "sk-" not in str(caught.value)


class Asynchronous:
    async def __call__(self, _):
        return "sk-1"


async def asynchronous(_=None):
    return "sk-1"


@pytest.mark.parametrize("function", [asynchronous, Asynchronous()], ids=["function", "object"])
@pytest.mark.parametrize("option", ["api_key", "token_counter", "on_usage"])
def test_coroutine_function_is_refused(option, function):
    with pytest.raises(ConfigurationError, match=f"'{option}': must be a plain function"):
        EmbeddingOptions(**{option: function})


# ── empty texts ──────────────────────────────────────────────────────────────────────────────────
