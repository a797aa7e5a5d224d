"""The vendors' own address variables, regions and workspace hosts, and the key that goes to each."""

from __future__ import annotations

import copy

import pytest
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import TextNode
from support.adapters import ENTRY_POINTS, call, client_of
from support.refusals import assert_tells, refused
from support.scripted_server import dashscope_reply, openai_reply, scripted

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import ConfigurationError, EmbeddingClient
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.providers import PROVIDERS

KEY = "sk-0123456789abcdef"
NATIVE = "/services/embeddings/text-embedding/text-embedding"
INTL = "https://dashscope-intl.aliyuncs.com"
ZHIPU, SILICONFLOW = "zhipu:embedding-3", "siliconflow:BAAI/bge-m3"
DASHSCOPE, COMPATIBLE = "dashscope:text-embedding-v4", "dashscope-compatible:text-embedding-v4"


def url_of(model, environ=None, **options):
    return resolve_config(model, EmbeddingOptions(api_key=KEY, **options), environ or {}).url


VARIABLES = [
    (ZHIPU, "ZHIPUAI_BASE_URL", "https://proxy.example/paas/v4", "https://proxy.example/paas/v4/embeddings"),
    (ZHIPU, "ZAI_BASE_URL", "https://api.z.ai/api/paas/v4/", "https://api.z.ai/api/paas/v4/embeddings"),
    (SILICONFLOW, "SILICONFLOW_BASE_URL", "https://api.siliconflow.com/v1", "https://api.siliconflow.com/v1/embeddings"),
    (
        SILICONFLOW, "SILICONFLOW_BASE_URL", "https://api.ap.siliconflow.com/v1/embeddings",
        "https://api.ap.siliconflow.com/v1/embeddings",
    ),
    (DASHSCOPE, "DASHSCOPE_HTTP_BASE_URL", f"{INTL}/api/v1", f"{INTL}/api/v1{NATIVE}"),
    (DASHSCOPE, "DASHSCOPE_BASE_URL", f"{INTL}/api/v1/", f"{INTL}/api/v1{NATIVE}"),
    (DASHSCOPE, "DASHSCOPE_BASE_URL", f"{INTL}/compatible-mode/v1", f"{INTL}/api/v1{NATIVE}"),
    (DASHSCOPE, "DASHSCOPE_HTTP_BASE_URL", "https://proxy.example/ds", f"https://proxy.example/ds{NATIVE}"),
    (COMPATIBLE, "DASHSCOPE_HTTP_BASE_URL", f"{INTL}/api/v1", f"{INTL}/compatible-mode/v1/embeddings"),
    (COMPATIBLE, "DASHSCOPE_BASE_URL", f"{INTL}/api/v1{NATIVE}", f"{INTL}/compatible-mode/v1/embeddings"),
    (
        COMPATIBLE, "DASHSCOPE_COMPATIBLE_BASE_URL", f"{INTL}/compatible-mode/v1",
        f"{INTL}/compatible-mode/v1/embeddings",
    ),
    ("gateway:m", "MULTIEMBED_GATEWAY_BASE_URL", "https://gw.example", "https://gw.example/api/v1/embeddings"),
    ("openai-compatible:m", "OPENAI_COMPATIBLE_BASE_URL", "http://localhost:1234/v1", "http://localhost:1234/v1/embeddings"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "variable", "value", "url"), VARIABLES)
def test_address_variable_is_honored(model, variable, value, url):
    assert url_of(model, {variable: f" {value} "}) == url


@pytest.mark.parametrize(("model", "variable", "value", "url"), VARIABLES)
def test_base_url_and_region_win_over_the_variable(model, variable, value, url):
    assert url_of(model, {variable: value}, base_url="https://own.example/v1").startswith("https://own.example/v1/")
    provider = PROVIDERS[model.partition(":")[0]]
    for region, address in provider.regions.items():
        assert url_of(model, {variable: "https://other.example/v1"}, region=region) == address + provider.path


@pytest.mark.parametrize(("model", "variable", "value", "url"), VARIABLES[:11])
@pytest.mark.parametrize("empty", ["", "  \n"])
def test_empty_address_variable_counts_as_missing(empty, model, variable, value, url):
    assert url_of(model, {variable: empty}) == url_of(model)


BAD = [
    "dashscope-intl.aliyuncs.com/api/v1",
    "ws://h.example",
    "https://h.example:0",
    "https://u:p@h.example",
    "http://h.example/v1",
    "https://{workspace_id}.cn-beijing.maas.aliyuncs.com/api/v1",
    "https://h.example?key=1",
]


@pytest.mark.parametrize(("model", "variable"), sorted({row[:2] for row in VARIABLES}))
def test_bad_address_in_a_variable_is_refused_by_its_name(model, variable):
    for value in BAD:
        with pytest.raises(ConfigurationError) as caught:
            url_of(model, {variable: value})
        assert_tells(caught.value, variable, secret=KEY)


def test_newer_variable_of_dashscope_wins():
    environ = {
        "DASHSCOPE_HTTP_BASE_URL": "https://old.example/api/v1",
        "DASHSCOPE_BASE_URL": "https://new.example/api/v1",
    }
    assert url_of(DASHSCOPE, environ).startswith("https://new.example/api/v1/")
    assert url_of(COMPATIBLE, environ) == "https://new.example/compatible-mode/v1/embeddings"
    own = {**environ, "DASHSCOPE_COMPATIBLE_BASE_URL": "https://own.example/v1"}
    assert url_of(COMPATIBLE, own) == "https://own.example/v1/embeddings"


# ── Zhipu's two accounts ─────────────────────────────────────────────────────────────────────────

CN, ZAI = "https://open.bigmodel.cn/api/paas/v4", "https://api.z.ai/api/paas/v4"
PROXY, OTHER_PROXY = "https://proxy.example/v4", "https://other.example/v4"
CN_KEY, ZAI_KEY = "sk-of-bigmodel", "sk-of-z-ai"
BOTH = {"ZHIPUAI_API_KEY": CN_KEY, "ZAI_API_KEY": ZAI_KEY}
ACCOUNTS = [
    # environment, options, address, key
    ({"ZHIPUAI_API_KEY": CN_KEY}, {}, CN, CN_KEY),
    ({"ZAI_API_KEY": ZAI_KEY}, {}, CN, ZAI_KEY),  # the vendor's SDK reads this variable for both hosts
    ({"ZAI_API_KEY": ZAI_KEY}, {"region": "intl"}, ZAI, ZAI_KEY),
    ({"ZAI_API_KEY": ZAI_KEY, "ZAI_BASE_URL": ZAI}, {}, ZAI, ZAI_KEY),
    ({"ZHIPUAI_API_KEY": CN_KEY, "ZAI_BASE_URL": ZAI}, {}, ZAI, CN_KEY),
    (BOTH, {}, CN, CN_KEY),
    (BOTH, {"region": "cn"}, CN, CN_KEY),
    (BOTH, {"region": "intl"}, ZAI, ZAI_KEY),
    (BOTH, {"base_url": ZAI}, ZAI, ZAI_KEY),
    (BOTH, {"base_url": PROXY}, PROXY, CN_KEY),
    ({**BOTH, "ZAI_BASE_URL": ZAI}, {}, ZAI, ZAI_KEY),
    ({**BOTH, "ZAI_BASE_URL": PROXY}, {}, PROXY, ZAI_KEY),
    ({**BOTH, "ZHIPUAI_BASE_URL": PROXY}, {}, PROXY, CN_KEY),
    ({**BOTH, "ZHIPUAI_BASE_URL": PROXY, "ZAI_BASE_URL": OTHER_PROXY}, {}, PROXY, CN_KEY),
    ({"ZAI_API_KEY": ZAI_KEY, "ZHIPUAI_BASE_URL": PROXY, "ZAI_BASE_URL": OTHER_PROXY}, {}, OTHER_PROXY, ZAI_KEY),
    ({**BOTH, "ZHIPUAI_BASE_URL": PROXY, "ZAI_BASE_URL": ZAI}, {"api_key": KEY}, PROXY, KEY),
    ({**BOTH, "ZAI_BASE_URL": ZAI}, {"api_key": KEY}, ZAI, KEY),
]


@pytest.mark.parametrize(("environ", "options", "address", "key"), ACCOUNTS)
def test_zhipus_address_and_key_are_of_one_account(environ, options, address, key):
    target = resolve_config(ZHIPU, EmbeddingOptions(**options), environ)
    assert (target.url, target.key.get()) == (f"{address}/embeddings", key)


def test_copies_keep_the_account_of_the_variable(monkeypatch):
    for name, value in {**BOTH, "ZAI_BASE_URL": PROXY}.items():
        monkeypatch.setenv(name, value)
    embedding = copy.deepcopy(MultiEmbedding(model_name=ZHIPU))
    embedding.timeout = 5.0
    assert (embedding.client.target.url, embedding.client.target.key.get()) == (f"{PROXY}/embeddings", ZAI_KEY)


# ── over the wire, and what the frameworks show ──────────────────────────────────────────────────

WIRES = [
    (ZHIPU, "ZAI_BASE_URL", "/api/paas/v4", "/api/paas/v4/embeddings", openai_reply),
    (SILICONFLOW, "SILICONFLOW_BASE_URL", "/v1", "/v1/embeddings", openai_reply),
    (DASHSCOPE, "DASHSCOPE_HTTP_BASE_URL", "/api/v1", f"/api/v1{NATIVE}", dashscope_reply),
    (COMPATIBLE, "DASHSCOPE_HTTP_BASE_URL", "/api/v1", "/compatible-mode/v1/embeddings", openai_reply),
]


@pytest.mark.parametrize("entry_point", ENTRY_POINTS.values(), ids=ENTRY_POINTS)
@pytest.mark.parametrize(("model", "variable", "base", "path", "answer"), WIRES)
def test_key_goes_to_the_host_of_the_variable(model, variable, base, path, answer, entry_point, monkeypatch):
    with scripted(lambda request: answer(request, 2048 if model == ZHIPU else 1024)) as server:
        monkeypatch.setenv(variable, server.url + base)
        embedder = entry_point.make(model, api_key=KEY)
        call(entry_point.embed, embedder, ["a"])
        client_of(embedder).close()
    [request] = server.requests
    assert request.path == path
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(("model", "variable"), [row[:2] for row in WIRES])
def test_address_of_the_environment_changes_fingerprint_and_hash(model, variable, monkeypatch):
    def marks():
        embedding = MultiEmbedding(model_name=model, api_key=KEY)
        return (
            EmbeddingClient(model, api_key=KEY).fingerprint("document"),
            get_transformation_hash([TextNode(text="a")], embedding),
            embedding.base_url,
        )

    seen = [marks()]
    for address in ("https://one.example/v1", "https://two.example/v1"):
        monkeypatch.setenv(variable, address)
        seen.append(marks())
    assert [base_url for _, _, base_url in seen] == [None, "https://one.example/v1", "https://two.example/v1"]
    assert all(len(set(column)) == 3 for column in zip(*seen, strict=True))


@pytest.mark.parametrize("make", [MultiEmbeddings, MultiEmbedding])
def test_region_is_used_despite_an_address_variable(make, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_BASE_URL", "https://other.example/api/v1")
    embedder = make(**{make.model_field: DASHSCOPE}, region="intl", api_key=KEY)
    embedder.timeout = 5.0
    assert (embedder.base_url, embedder.client.target.base_url) == (None, f"{INTL}/api/v1")


# ── workspaces and models ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "base", "end"),
    [
        (DASHSCOPE, "https://llm-1.cn-beijing.maas.aliyuncs.com/api/v1", NATIVE),
        (COMPATIBLE, "https://ws_9.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1", "/embeddings"),
    ],
)
def test_workspace_hosts_are_addresses(model, base, end):
    assert url_of(model, base_url=base) == base + end


@pytest.mark.parametrize("model", [DASHSCOPE, COMPATIBLE])
@pytest.mark.parametrize("region", ["cn-beijing", "ap-southeast-1", "us"])
def test_unknown_region_of_dashscope_explains_workspace_hosts(model, region):
    error = refused(model, region=region, api_key=KEY)
    assert_tells(error, f"no region {region!r}", "base_url", ".cn-beijing.maas.aliyuncs.com/", secret=KEY)


@pytest.mark.parametrize(
    "model",
    [
        *(
            f"{provider}:{name}"
            for provider in ("dashscope", "dashscope-compatible")
            for name in (
                "qwen3-vl-embedding",
                "qwen2.5-vl-embedding",
                "tongyi-embedding-vision-plus",
                "tongyi-embedding-vision-plus-2026-03-06",
                "tongyi-embedding-vision-flash-2026-03-06",
                "multimodal-embedding-v1",
            )
        ),
        "siliconflow:Qwen/Qwen3-VL-Embedding-8B",
        "siliconflow:Qwen/Qwen3-VL-Embedding-2B",
    ],
)
def test_multimodal_model_is_named_as_such_before_sending(model):
    assert_tells(refused(model, api_key=KEY), model, "multimodal", "not supported yet", "Text models", secret=KEY)


@pytest.mark.parametrize("model", ["text-embedding-async-v1", "text-embedding-async-v2"])
def test_model_of_asynchronous_jobs_is_named_as_such(model):
    assert_tells(refused(f"dashscope:{model}", api_key=KEY), model, "asynchronous", secret=KEY)


@pytest.mark.parametrize("provider", ["openai-compatible", "gateway"])
def test_own_server_may_serve_a_multimodal_model(provider):
    assert url_of(f"{provider}:Qwen/Qwen3-VL-Embedding-8B", base_url="https://h.example")


# https://help.aliyun.com/zh/model-studio/text-embedding-api and the page of the flash model (read 2026-11-28)
FACTS = {
    "qwen3.7-text-embedding": ((256, 512, 768, 1024, 1536, 2048, 2560), None, 0.5),
    "qwen3.7-text-embedding-flash": ((256, 512, 768, 1024), 4096, 0.125),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_of_the_qwen37_models_are_those_of_their_pages(name):
    dimensions, tokens_per_request, price = FACTS[name]
    facts = PROVIDERS["dashscope"].model(name)
    assert (facts.dimensions, facts.default_dimensions, facts.price_cny_per_mtok) == (dimensions, 1024, price)
    assert (facts.limits.max_items, facts.limits.max_tokens_per_item) == (20, 128_000)
    assert facts.limits.max_tokens_per_request == tokens_per_request
    assert (facts.role_parameter, facts.instruct, facts.sparse) == (True, "parameter", True)
    assert facts.checked == "2026-11-28"
