"""Requests on the wire are as the vendors document them: path, headers and body, sync and async, both roles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from support.in_turn import in_turn
from support.providers import MODELS, REMOTE

from multiembed import PartialFailureError
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.providers import PROVIDERS, local

TEXTS = ["The wind is strong, the sky is high.", "渚清沙白鸟飞回"]
BGE_ZH = "为这个句子生成表示以用于检索相关文章："
BGE_EN = "Represent this sentence for searching relevant passages: "
QWEN = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
ASK = "Find the poem"
NATIVE = "/api/v1/services/embeddings/text-embedding/text-embedding"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A client, and all of the body that it must send but the texts and, on DashScope, the role."""

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    """In addition to `model` and `input`; with DashScope's native API, to `text_type` in `parameters`."""
    query_fields: dict[str, Any] = field(default_factory=dict)
    """The fields that queries have and documents have not."""
    query: str = "{}"
    """A query as it is sent."""
    document: str = "{}"
    size: int
    """The length of the vectors that come back."""

    def __str__(self) -> str:
        told = ",".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.model}[{told}]"

    @property
    def provider(self) -> str:
        return self.model.partition(":")[0]

    def texts(self, role: str) -> list[str]:
        form = self.query if role == "query" else self.document
        return [form.format(text) for text in TEXTS]

    def body(self, role: str) -> dict[str, Any]:
        name = self.model.partition(":")[2]
        fields = {**self.fields, **(self.query_fields if role == "query" else {})}
        if self.provider == "dashscope":
            return {
                "model": name,
                "input": {"texts": self.texts(role)},
                "parameters": {"text_type": role, **fields},
            }
        return {"model": name, "input": self.texts(role), **fields}


def silicon(name: str, size: int, **more: Any) -> Case:
    """A SiliconFlow model with its default encoding."""
    fields = {"encoding_format": "base64", **more.pop("fields", {})}
    return Case(model=f"siliconflow:{name}", size=size, fields=fields, **more)


FLOAT = {"encoding_format": "float"}
CASES = [
    # https://www.bigmodel.cn/dev/api/vector/embedding: model, input, dimensions (embedding-3 only)
    Case(model="zhipu:embedding-2", size=1024),
    Case(model="zhipu:embedding-2", options={"dimensions": 1024}, size=1024),
    Case(model="zhipu:embedding-3", size=2048),
    Case(model="zhipu:embedding-3", options={"dimensions": 512}, fields={"dimensions": 512}, size=512),
    Case(
        model="zhipu:embedding-3",
        options={"parameters": {"user": "u-1", "request_id": "r-1"}},
        fields={"user": "u-1", "request_id": "r-1"},
        size=2048,
    ),
    Case(
        model="zhipu:embedding-3",
        options={"query_prefix": "查询：", "document_prefix": "段落："},
        query="查询：{}",
        document="段落：{}",
        size=2048,
    ),
    # https://docs.siliconflow.cn/cn/api-reference/embeddings/create-embeddings: encoding_format; dimensions for Qwen3
    silicon("BAAI/bge-large-zh-v1.5", 1024),
    silicon("BAAI/bge-large-zh-v1.5", 1024, options={"dimensions": 1024}),
    silicon("BAAI/bge-large-zh-v1.5", 1024, options={"query_prefix": "recommended"}, query=BGE_ZH + "{}"),
    silicon("BAAI/bge-large-en-v1.5", 1024),
    silicon("BAAI/bge-large-en-v1.5", 1024, options={"query_prefix": "recommended"}, query=BGE_EN + "{}"),
    silicon("netease-youdao/bce-embedding-base_v1", 768),
    silicon("BAAI/bge-m3", 1024),
    silicon("Pro/BAAI/bge-m3", 1024),
    silicon("Qwen/Qwen3-Embedding-8B", 4096),
    silicon("Qwen/Qwen3-Embedding-8B", 2560, options={"dimensions": 2560}, fields={"dimensions": 2560}),
    silicon("Qwen/Qwen3-Embedding-4B", 2560),
    silicon("Qwen/Qwen3-Embedding-4B", 1536, options={"dimensions": 1536}, fields={"dimensions": 1536}),
    silicon("Qwen/Qwen3-Embedding-0.6B", 1024),
    silicon("Qwen/Qwen3-Embedding-0.6B", 64, options={"dimensions": 64}, fields={"dimensions": 64}),
    silicon(
        "Qwen/Qwen3-Embedding-0.6B",
        1024,
        options={"instruct": "Find {the} poem"},
        query="Instruct: Find {{the}} poem\nQuery:{}",
    ),
    silicon("Qwen/Qwen3-Embedding-0.6B", 1024, options={"query_prefix": "recommended"}, query=QWEN + "{}"),
    silicon("Qwen/Qwen3-Embedding-0.6B", 1024, options={"parameters": {"encoding_format": "float"}}, fields={**FLOAT}),
    silicon(
        "BAAI/bge-m3",
        1024,
        options={"parameters": {"encoding_format": "base64", "user": "u-1"}},
        fields={"user": "u-1"},
    ),
    # https://help.aliyun.com/en/model-studio/text-embedding-synchronous-api, the native form: everything but the texts
    # stands in `parameters`; output_type and dimension "only for text-embedding-v3 and text-embedding-v4"
    Case(model="dashscope:text-embedding-v1", size=1536),
    Case(model="dashscope:text-embedding-v2", size=1536),
    Case(model="dashscope:text-embedding-v2", options={"dimensions": 1536}, size=1536),
    Case(model="dashscope:text-embedding-v3", fields={"output_type": "dense"}, size=1024),
    Case(
        model="dashscope:text-embedding-v3",
        options={"dimensions": 512, "output": "dense&sparse"},
        fields={"output_type": "dense&sparse", "dimension": 512},
        size=512,
    ),
    Case(model="dashscope:text-embedding-v4", fields={"output_type": "dense"}, size=1024),
    Case(
        model="dashscope:text-embedding-v4",
        options={"dimensions": 2048},
        fields={"output_type": "dense", "dimension": 2048},
        size=2048,
    ),
    Case(
        model="dashscope:text-embedding-v4",
        options={"output": "sparse"},
        fields={"output_type": "sparse"},
        size=0,
    ),
    Case(
        model="dashscope:text-embedding-v4",
        options={"instruct": ASK},
        fields={"output_type": "dense"},
        query_fields={"instruct": ASK},
        size=1024,
    ),
    Case(
        model="dashscope:text-embedding-v4",
        options={"parameters": {"trace": True}},
        fields={"output_type": "dense", "trace": True},
        size=1024,
    ),
    # the same page, the OpenAI-compatible form: "Currently, only float is supported"; no text_type, no instruct
    Case(model="dashscope-compatible:text-embedding-v1", fields=FLOAT, size=1536),
    Case(model="dashscope-compatible:text-embedding-v2", options={"dimensions": 1536}, fields=FLOAT, size=1536),
    Case(model="dashscope-compatible:text-embedding-v3", fields=FLOAT, size=1024),
    Case(
        model="dashscope-compatible:text-embedding-v4",
        options={"dimensions": 64},
        fields={**FLOAT, "dimensions": 64},
        size=64,
    ),
    Case(
        model="dashscope-compatible:text-embedding-v4",
        options={"parameters": {"user": "u-1"}},
        fields={**FLOAT, "user": "u-1"},
        size=1024,
    ),
    # https://platform.openai.com/docs/api-reference/embeddings/create: `dimensions` and `encoding_format` are optional,
    # and sent only when they are asked for
    Case(model="openai-compatible:text-embedding-3-small", size=1536),
    Case(
        model="openai-compatible:nomic-embed-text:latest",
        options={"dimensions": 512},
        fields={"dimensions": 512},
        size=512,
    ),
    Case(model="openai-compatible:BAAI/bge-m3", options={"dimensions": 1536, "send_dimensions": False}, size=1536),
    Case(model="openai-compatible:m", options={"parameters": {"encoding_format": "float"}}, fields=FLOAT, size=1536),
    Case(
        model="openai-compatible:m",
        options={
            "parameters": {"encoding_format": "base64", "truncate_prompt_tokens": 512, "nested": {"a": [1, None]}}
        },
        fields={"encoding_format": "base64", "truncate_prompt_tokens": 512, "nested": {"a": [1, None]}},
        size=1536,
    ),
    Case(model="openai-compatible:m", options={"query_prefix": "q: "}, query="q: {}", size=1536),
    # the gateway's page: model, input, encoding_format, dimensions, and an object `parameters`
    Case(model="gateway:text-embedding-3-small", fields=FLOAT, size=1536),
    Case(
        model="gateway:text-embedding-3-small",
        options={"dimensions": 512},
        fields={**FLOAT, "dimensions": 512},
        size=512,
    ),
    Case(
        model="gateway:vendor:model/with:colons",
        options={"parameters": {"input_type": "passage", "nested": {"a": [1, None]}}},
        fields={**FLOAT, "parameters": {"input_type": "passage", "nested": {"a": [1, None]}}},
        size=1536,
    ),
    Case(
        model="gateway:text-embedding-3-small",
        options={"parameters": {"encoding_format": "base64"}},
        fields={"encoding_format": "base64"},
        size=1536,
    ),
    Case(model="gateway:bare-list", fields=FLOAT, size=1536),
]


@pytest.mark.parametrize(("case", "role", "entry_point"), in_turn(CASES, ["document", "query"]))
def test_request_is_as_documented_and_vectors_return(case, role, entry_point, connect, simulator):
    result = entry_point(connect(case.model, **case.options), TEXTS, role)
    [request] = simulator.requests
    assert request.status == 200
    assert request.method == "POST"
    assert simulator.url + request.path == simulator.base_url(case.provider) + PROVIDERS[case.provider].path
    assert request.headers["authorization"] == f"Bearer {simulator.api_key}"
    assert request.headers["content-type"] == "application/json"
    assert request.body == case.body(role)
    if case.size:
        assert result.vectors.dtype == np.float32
        np.testing.assert_array_equal(result.vectors, local.embed(case.texts(role), case.size))
    else:
        assert result.vectors is None


def test_every_documented_model_has_a_case():
    told = {case.model for case in CASES}
    assert told >= {f"dashscope{form}:text-embedding-v{n}" for form in ("", "-compatible") for n in range(1, 5)}
    assert len({model for model in told if model.startswith("siliconflow:")}) == 8


@pytest.mark.parametrize("role", ["document", "query"])
@pytest.mark.parametrize("output", ["sparse", "dense&sparse"])
def test_sparse_vectors_are_those_of_the_response(output, role, entry_point, connect, simulator):
    result = entry_point(connect("dashscope:text-embedding-v4", output=output), TEXTS, role)
    [request] = simulator.requests
    url = simulator.base_url("dashscope") + "/services/embeddings/text-embedding/text-embedding"
    headers = {name: request.headers[name] for name in ("authorization", "content-type")}
    raw = httpx.post(url, content=request.raw, headers=headers, trust_env=False).json()["output"]["embeddings"]
    assert [element["text_index"] for element in raw] == [0, 1]
    assert [vector.indices for vector in result.sparse] == [
        tuple(entry["index"] for entry in element["sparse_embedding"]) for element in raw
    ]
    assert [vector.values for vector in result.sparse] == [
        tuple(entry["value"] for entry in element["sparse_embedding"]) for element in raw
    ]
    assert [vector.tokens for vector in result.sparse] == [
        tuple(entry["token"] for entry in element["sparse_embedding"]) for element in raw
    ]
    assert result.to_sparse() == result.sparse
    if output == "sparse":
        assert result.vectors is None
    else:
        np.testing.assert_array_equal(result.vectors, np.float32([element["embedding"] for element in raw]))


def test_missing_sparse_vectors_are_an_error(entry_point, connect, simulator):
    with pytest.raises(ValueError, match=r"output was 'dense'. Read .vectors"):
        entry_point(connect("dashscope:text-embedding-v4"), TEXTS).to_sparse()
    with pytest.raises(PartialFailureError) as caught:
        entry_point(connect("dashscope:text-embedding-v4", output="sparse"), [*TEXTS, "长" * 20_000])
    with pytest.raises(ValueError, match=r"1 texts have no vector: read .failures"):
        caught.value.result.to_sparse()


def test_extra_headers_go_along(entry_point, connect, simulator):
    entry_point(connect("dashscope:text-embedding-v4", headers={"X-DashScope-WorkSpace": "ws-1"}), TEXTS)
    [request] = simulator.requests
    assert request.headers["x-dashscope-workspace"] == "ws-1"
    assert request.headers["authorization"] == f"Bearer {simulator.api_key}"


def test_key_function_is_called_for_every_request(entry_point, connect, simulator):
    asked = []

    def key():
        asked.append(None)
        return f" {simulator.api_key}\n"

    client = connect("zhipu:embedding-3", api_key=key, limits={"max_items": 1}, max_concurrency=1)
    before = len(asked)
    entry_point(client, TEXTS)
    assert {request.headers["authorization"] for request in simulator.requests} == {f"Bearer {simulator.api_key}"}
    assert len(asked) - before >= len(simulator.requests) == 2


@pytest.mark.parametrize(
    ("provider", "names"),
    [
        (name, names)
        for name in REMOTE
        for names in [PROVIDERS[name].key_env[:1], PROVIDERS[name].key_env[-1:], PROVIDERS[name].key_env]
    ],
)
def test_key_comes_from_the_first_variable_that_is_set(provider, names, connect, simulator, monkeypatch):
    for name in names:
        monkeypatch.setenv(name, simulator.api_key if name == names[0] else "sk-second")
    connect(MODELS[provider], api_key=None).embed(TEXTS)
    assert [request.status for request in simulator.requests] == [200]


# ── where it would go, seen without sending ──────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "region", "url"),
    [
        ("zhipu:embedding-3", None, "https://open.bigmodel.cn/api/paas/v4/embeddings"),
        ("zhipu:embedding-3", "cn", "https://open.bigmodel.cn/api/paas/v4/embeddings"),
        ("zhipu:embedding-3", "intl", "https://api.z.ai/api/paas/v4/embeddings"),
        ("siliconflow:BAAI/bge-m3", None, "https://api.siliconflow.cn/v1/embeddings"),
        ("siliconflow:BAAI/bge-m3", "cn", "https://api.siliconflow.cn/v1/embeddings"),
        ("siliconflow:BAAI/bge-m3", "intl", "https://api.siliconflow.com/v1/embeddings"),
        *(
            (f"dashscope{form}:text-embedding-v4", region, f"https://{host}{path}")
            for region, host in (
                (None, "dashscope.aliyuncs.com"),
                ("cn", "dashscope.aliyuncs.com"),
                ("intl", "dashscope-intl.aliyuncs.com"),
                ("hk", "cn-hongkong.dashscope.aliyuncs.com"),
            )
            for form, path in (("", NATIVE), ("-compatible", "/compatible-mode/v1/embeddings"))
        ),
    ],
)
def test_region_selects_the_vendors_address(model, region, url):
    assert resolve_config(model, EmbeddingOptions(api_key="sk-1", region=region), {}).url == url


@pytest.mark.parametrize("base", ["https://gw.example", "https://gw.example/", "https://gw.example/api/v1/embeddings"])
def test_gateway_address_option_overrides_environment(base):
    key = {"MULTIEMBED_GATEWAY_API_KEY": "sk-1"}
    by_environment = resolve_config("gateway:m", EmbeddingOptions(), {**key, "MULTIEMBED_GATEWAY_BASE_URL": base})
    by_option = resolve_config(
        "gateway:m", EmbeddingOptions(base_url=base), {**key, "MULTIEMBED_GATEWAY_BASE_URL": "https://no"}
    )
    assert by_environment.url == by_option.url == "https://gw.example/api/v1/embeddings"


@pytest.mark.parametrize(
    ("model", "base", "url"),
    [
        ("zhipu:embedding-3", "https://api.z.ai/api/paas/v4/", "https://api.z.ai/api/paas/v4/embeddings"),
        ("siliconflow:m", "https://api.ap.siliconflow.com/v1/embeddings", "https://api.ap.siliconflow.com/v1/embeddings"),
        ("dashscope:m", f"https://h.example{NATIVE}/", f"https://h.example{NATIVE}"),
        ("gateway:m", "https://h.example/api/v1", "https://h.example/api/v1/embeddings"),
        ("gateway:m", "https://h.example/openai", "https://h.example/openai/api/v1/embeddings"),
        ("gateway:m", "https://h.example/v1/embeddings", "https://h.example/v1/embeddings"),
        ("gateway:m", "https://h.example/embeddings/", "https://h.example/embeddings"),
        ("openai-compatible:m", "https://h.example", "https://h.example/embeddings"),
        ("openai-compatible:m", "https://h.example/", "https://h.example/embeddings"),
        ("openai-compatible:m", "https://h.example/v1//", "https://h.example/v1/embeddings"),
        ("openai-compatible:m", "https://h.example/v1/embeddings/", "https://h.example/v1/embeddings"),
        ("openai-compatible:m", "http://[::1]:8000/v1", "http://[::1]:8000/v1/embeddings"),
        ("openai-compatible:m", "http://localhost:11434/v1", "http://localhost:11434/v1/embeddings"),
        ("openai-compatible:m", "https://my_service.local./v1", "https://my_service.local./v1/embeddings"),
    ],
)  # fmt: skip
def test_base_url_with_or_without_endpoint_path_works(model, base, url):
    assert resolve_config(model, EmbeddingOptions(api_key="sk-1", base_url=base), {}).url == url


def test_model_without_dimensions_gets_its_default():
    sizes = {
        case.model: case.size
        for case in CASES
        if not case.options and case.provider not in ("gateway", "openai-compatible")
    }
    found = {model: resolve_config(model, EmbeddingOptions(api_key="sk-1"), {}).expected_dimensions for model in sizes}
    assert found == sizes
