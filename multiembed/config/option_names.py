"""Messages of invalid options, and the option names of other embedding classes with what replaces them.

The names are those of langchain-openai 1.7.4 (OpenAIEmbeddings, AzureOpenAIEmbeddings), langchain-community 0.4.2
(DashScope, ZhipuAI, Qianfan, Ollama, Xinference), langchain-siliconflow 1.0.0, llama-index-embeddings-openai 0.6.0,
-openai-like 0.4.0, -dashscope 0.6.0, -zhipuai 0.5.0 and -siliconflow 0.5.0, openai 2.54.0 (OpenAI, AzureOpenAI,
embeddings.create), httpx 0.28.1 (Client), litellm 1.110.2 (embedding), dashscope 2.0.2 (TextEmbedding.call) and zhipuai
2.1.5 (ZhipuAI, embeddings.create), read on 2026-11-28, and names that are common elsewhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping  # noqa: TC003 - the tables below are annotated
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic import BaseModel

RENAMED: Final[Mapping[str, str]] = {
    "api_key": "openai_api_key dashscope_api_key zhipuai_api_key zhipu_api_key siliconflow_api_key azure_api_key "
    "admin_api_key api_token auth_token access_token token key azure_ad_token azure_ad_token_provider "
    "azure_ad_async_token_provider secret_key",
    "base_url": "api_base openai_api_base openai_base_url azure_endpoint endpoint endpoint_url api_url server_url url "
    "host base_http_api_url zhipuai_api_base siliconflow_api_base dashscope_api_base siliconflow_base_url "
    "websocket_base_url",
    "ca_bundle": "ssl_ca_cert ca_cert ca_certs ca_file cafile ca_path capath ca_bundle_path ssl_cert_file",
    "cache": "embeddings_cache caching cache_folder cache_dir cache_path",
    "client_cert": "cert client_certificate client_certs ssl_cert cert_file certfile ssl_client_cert tls_cert",
    "dimensions": "dim dims n_dimensions output_dimension output_dimensions output_dimensionality embedding_dim "
    "embedding_dimension embedding_size vector_size",
    "headers": "default_headers extra_headers custom_headers http_headers",
    "http_async_client": "async_http_client http_aclient",
    "max_concurrency": "max_workers num_workers n_jobs max_parallel parallelism max_concurrent_requests "
    "max_parallel_requests max_connections",
    "max_retries": "max_retry num_retries retries max_attempts",
    "output": "output_type",
    "proxy": "proxies openai_proxy http_proxy https_proxy proxy_url proxy_server all_proxy",
    "region": "region_name location",
    "requests_per_minute": "rpm max_rpm rate_limit rate_limiter max_requests_per_minute",
    "show_progress": "show_progress_bar progress_bar progress",
    "timeout": "request_timeout read_timeout",
    "token_counter": "tokenizer tokenizer_fn count_tokens",
    "tokens_per_minute": "tpm max_tpm max_tokens_per_minute",
}
"""Names in other classes, separated by blanks, by the option that means the same."""

EXPLAINED: Final[Mapping[str, str]] = {
    'give fields of the API in parameters={"name": value}': "extra_body model_kwargs additional_kwargs init_kwargs "
    "user sensitive_word_check disable_strict_validation",
    'use parameters={"encoding_format": "float"}': "encoding_format",
    'use query={"name": "value"}': "default_query extra_query params query_params",
    'use query={"api-version": "…"}': "api_version openai_api_version azure_api_version",
    'for Azure take the model "openai-compatible:…" with auth_header="api-key" and '
    'query={"api-version": "…"}': "api_type openai_api_type",
    "the key goes into api_key, and auth_header names the header that carries it": "auth",
    'use headers={"OpenAI-Organization": "…"}': "organization openai_organization",
    'use headers={"OpenAI-Project": "…"}': "project",
    'use headers={"X-DashScope-WorkSpace": "…"}': "workspace workspace_id",
    'name provider and model together in model: "provider:model"': "deployment azure_deployment deployment_name "
    "deployment_id engine model_id model_uid model_name model provider custom_llm_provider model_provider mode",
    "leave it out: embed_query embeds queries and embed_documents documents; embed and aembed of EmbeddingClient take "
    "role=": "text_type input_type task task_type embed_type prompt_name role",
    "use instruct for models that take an instruction, query_prefix for text put before each "
    "query": "query_instruction instruction query_instruct prompt",
    "use document_prefix": "embed_instruction text_instruction document_instruction",
    'batches follow the model\'s limits, so leave it out; limits={"max_items": n} makes them smaller': "chunk_size "
    "embed_batch_size batch_size max_batch_size batch",
    'use on_too_long="truncate"': "truncate truncation truncate_input_tokens",
    'use limits={"max_tokens_per_item": n}': "embedding_ctx_length max_seq_length max_length max_tokens num_ctx",
    "leave it out: texts are sent as text; on_too_long says what to do with long ones": "check_embedding_ctx_length "
    "tiktoken_enabled tiktoken_model_name allowed_special disallowed_special",
    "leave it out: waits follow the server's answers; max_retries and deadline bound them": "retry_min_seconds "
    "retry_max_seconds backoff backoff_factor",
    "leave empty texts out before the call: no vector would be right for them": "skip_empty on_empty",
    "leave it out: connections are always kept, and reopened when a server closed them": "reuse_client",
    "give httpx clients: http_client=httpx.Client(…), http_async_client=httpx.AsyncClient(…)": "client async_client",
    'use ca_bundle="ca.pem" for your own CA, or ca_bundle="system"; certificates are always verified': "verify "
    "ssl_verify verify_ssl ssl_context ssl verify_certs insecure",
    "configure it on clients of your own: http_client=httpx.Client(…), "
    "http_async_client=httpx.AsyncClient(…)": "mounts transport trust_env http1 http2 cookies "
    "event_hooks max_redirects follow_redirects",
    "use on_usage for a function that gets the usage of each call": "callback_manager callbacks callback logger_fn",
    "leave it out: vectors are returned as the provider sends them": "normalize normalize_embeddings encode_kwargs",
    "leave it out: errors carry the provider's own request_id": "request_id litellm_call_id",
}
"""Names in other classes, separated by blanks, by the advice."""

_SIMILARITY = 0.8
"""difflib's ratio: "api_kye" and "api_key" have 0.83, "query_params" and "query_prefix" 0.64."""


def _squash(name: str) -> str:
    """The name without the differences between snake_case, kebab-case and camelCase."""
    return name.lower().replace("_", "").replace("-", "")


_ADVICE = {_squash(name): f": did you mean {option!r}?" for option, names in RENAMED.items() for name in names.split()}
_ADVICE |= {_squash(name): f": {advice}" for advice, names in EXPLAINED.items() for name in names.split()}


def advice_for(name: str, options: Iterable[str]) -> str:
    """End of the message "There is no option 'name'": what to write instead, or nothing.

    Args:
        name: the unknown option.
        options: the options of the class.
    """
    key, by_key = _squash(name), {_squash(option): option for option in options}
    if key in ("model", "modelname"):  # LangChain's field is model, LlamaIndex's model_name
        key = next((own for own in ("model", "modelname") if own in by_key), key)
    if key in _ADVICE and key not in by_key:
        return _ADVICE[key]
    near = difflib.get_close_matches(key, by_key, n=1, cutoff=_SIMILARITY)
    return f": did you mean {by_key[near[0]]!r}?" if near else ""


def run_validation(model: type[BaseModel], validate: Callable[[], object]) -> None:
    """Run pydantic's validation, and raise its error as a ConfigurationError.

    Neither our error nor its context keeps a value: pydantic's own error holds the whole input, and so the key.
    """
    try:
        validate()
    except ValidationError as error:
        by_option: dict[str, str] = {}
        for problem in error.errors(include_input=False):  # a union has a problem for each of its types
            by_option.setdefault(str(problem["loc"][:1]), _message(problem, model))
        problems = "; ".join(by_option.values())
    else:
        return
    raise ConfigurationError(problems if problems.endswith("?") else f"{problems}.")


def _message(problem: Any, model: type[BaseModel]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else model.__name__
    if problem["type"] == "extra_forbidden":
        shown = name if len(name) <= 60 else f"{name[:60]}…"
        return f"There is no option {shown!r}{advice_for(name, model.model_fields)}"
    if problem["type"] == "missing":
        return f"{name!r} is missing"
    wrong = problem["msg"].removeprefix("Value error, ").removeprefix(f"{name} ").rstrip(".")
    return f"{name!r}: {wrong.replace('Input should be', 'must be').replace('a valid string', 'text')}"
