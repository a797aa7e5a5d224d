"""Option names of other embedding classes, and what to write here instead.

The names are those of langchain-openai 1.7.4 (OpenAIEmbeddings, AzureOpenAIEmbeddings), langchain-community 0.4.2
(DashScope, ZhipuAI, Qianfan, Ollama, Xinference), langchain-siliconflow 1.0.0, llama-index-embeddings-openai 0.6.0,
-openai-like 0.4.0, -dashscope 0.6.0, -zhipuai 0.5.0 and -siliconflow 0.5.0, openai 2.54.0 (OpenAI, AzureOpenAI,
embeddings.create), httpx 0.28.1 (Client), litellm 1.110.2 (embedding), dashscope 2.0.2 (TextEmbedding.call) and zhipuai
2.1.5 (ZhipuAI, embeddings.create), read on 2026-11-28, and names that are common elsewhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping  # noqa: TC003 - the tables below are annotated
from typing import Final

RENAMED: Final[Mapping[str, str]] = {
    "api_key": "openai_api_key dashscope_api_key zhipuai_api_key zhipu_api_key siliconflow_api_key azure_api_key "
    "admin_api_key api_token auth_token access_token token key azure_ad_token azure_ad_token_provider "
    "azure_ad_async_token_provider secret_key",
    "base_url": "api_base openai_api_base openai_base_url azure_endpoint endpoint endpoint_url api_url server_url url "
    "host base_http_api_url zhipuai_api_base siliconflow_api_base dashscope_api_base siliconflow_base_url "
    "websocket_base_url",
    "cache": "embeddings_cache caching cache_folder cache_dir cache_path",
    "dimensions": "dim dims n_dimensions output_dimension output_dimensions output_dimensionality embedding_dim "
    "embedding_dimension embedding_size vector_size",
    "headers": "default_headers extra_headers custom_headers http_headers",
    "http_async_client": "async_http_client http_aclient",
    "max_concurrency": "max_workers num_workers n_jobs max_parallel parallelism max_concurrent_requests "
    "max_parallel_requests max_connections",
    "max_retries": "max_retry num_retries retries max_attempts",
    "output": "output_type",
    "region": "region_name location",
    "requests_per_minute": "rpm max_rpm rate_limit rate_limiter max_requests_per_minute",
    "show_progress": "show_progress_bar progress_bar progress",
    "timeout": "request_timeout read_timeout",
    "token_counter": "tokenizer tokenizer_fn count_tokens",
    "tokens_per_minute": "tpm max_tpm max_tokens_per_minute",
}
"""Names elsewhere, separated by blanks, by the option that means the same here."""

_OWN_CLIENT = "configure it on clients of your own: http_client=httpx.Client(…), http_async_client=httpx.AsyncClient(…)"
_BATCHES = 'batches follow the model\'s limits, so leave it out; limits={"max_items": n} makes them smaller'
_ROLE = (
    "leave it out: embed_query embeds queries and embed_documents documents; embed and aembed of EmbeddingClient take "
    "role="
)
_SENT_AS_TEXT = "leave it out: texts are sent as text; on_too_long says what to do with long ones"
_WAITS = "leave it out: waits follow the server's answers; max_retries and deadline bound them"
_AZURE = 'for Azure take the model "openai-compatible:…" with auth_header="api-key" and query={"api-version": "…"}'
_MODEL = 'name provider and model together in model: "provider:model"'

EXPLAINED: Final[Mapping[str, tuple[str, str | None, str]]] = {
    # What it is about: the names, the option here if there is one, and what to do.
    "extra fields": (
        "extra_body model_kwargs additional_kwargs init_kwargs user sensitive_word_check disable_strict_validation",
        "parameters",
        'give fields of the API in parameters={"name": value}',
    ),
    "encoding": ("encoding_format", "parameters", 'use parameters={"encoding_format": "float"}'),
    "query parameters": (
        "default_query extra_query params query_params",
        "query",
        'use query={"name": "value"}',
    ),
    "API version": (
        "api_version openai_api_version azure_api_version",
        "query",
        'use query={"api-version": "…"}',
    ),
    "Azure": ("api_type openai_api_type", "auth_header", _AZURE),
    "authentication": (
        "auth",
        "auth_header",
        "the key goes into api_key, and auth_header names the header that carries it",
    ),
    "organisation": (
        "organization openai_organization",
        "headers",
        'use headers={"OpenAI-Organization": "…"}',
    ),
    "project": ("project", "headers", 'use headers={"OpenAI-Project": "…"}'),
    "workspace": (
        "workspace workspace_id",
        "headers",
        'use headers={"X-DashScope-WorkSpace": "…"}',
    ),
    "model": (
        "deployment azure_deployment deployment_name deployment_id engine model_id model_uid model_name model",
        "model",
        _MODEL,
    ),
    "provider": ("provider custom_llm_provider model_provider mode", "model", _MODEL),
    "role": ("text_type input_type task task_type embed_type prompt_name role", None, _ROLE),
    "instruction": (
        "query_instruction instruction query_instruct prompt",
        "instruct",
        "use instruct for models that take an instruction, query_prefix for text put before each query",
    ),
    "document instruction": (
        "embed_instruction text_instruction document_instruction",
        "document_prefix",
        "use document_prefix",
    ),
    "batches": ("chunk_size embed_batch_size batch_size max_batch_size batch", "limits", _BATCHES),
    "long texts": (
        "truncate truncation truncate_input_tokens",
        "on_too_long",
        'use on_too_long="truncate"',
    ),
    "length": (
        "embedding_ctx_length max_seq_length max_length max_tokens num_ctx",
        "limits",
        'use limits={"max_tokens_per_item": n}',
    ),
    "token ids": (
        "check_embedding_ctx_length tiktoken_enabled tiktoken_model_name allowed_special disallowed_special",
        "on_too_long",
        _SENT_AS_TEXT,
    ),
    "waits": ("retry_min_seconds retry_max_seconds backoff backoff_factor", "max_retries", _WAITS),
    "empty texts": (
        "skip_empty on_empty",
        None,
        "leave empty texts out before the call: no vector would be right for them",
    ),
    "connections": (
        "reuse_client",
        None,
        "leave it out: connections are always kept, and reopened when a server closed them",
    ),
    "client objects": (
        "client async_client",
        "http_client",
        "give httpx clients: http_client=httpx.Client(…), http_async_client=httpx.AsyncClient(…)",
    ),
    "proxy": (
        "proxy proxies openai_proxy http_proxy https_proxy",
        "http_client",
        f"set HTTPS_PROXY in the environment, or {_OWN_CLIENT}",
    ),
    "certificates": (
        "verify ssl_verify verify_ssl ssl_context ca_bundle",
        "http_client",
        f"set SSL_CERT_FILE in the environment for your own CA, or {_OWN_CLIENT}",
    ),
    "HTTP client": (
        "cert client_cert mounts transport trust_env http1 http2 cookies event_hooks max_redirects follow_redirects",
        "http_client",
        _OWN_CLIENT,
    ),
    "callbacks": (
        "callback_manager callbacks callback logger_fn",
        "on_usage",
        "use on_usage for a function that gets the usage of each call",
    ),
    "normalisation": (
        "normalize normalize_embeddings encode_kwargs",
        None,
        "leave it out: vectors are returned as the provider sends them",
    ),
    "request id": (
        "request_id litellm_call_id",
        None,
        "leave it out: errors carry the provider's own request_id",
    ),
}

_SIMILARITY = 0.8
"""difflib's ratio: "api_kye" and "api_key" have 0.83, "query_params" and "query_prefix" 0.64."""


def _squashed(name: str) -> str:
    """The name without what differs between snake_case, kebab-case and camelCase."""
    return name.lower().replace("_", "").replace("-", "")


_RENAMED_BY_NAME = {_squashed(name): option for option, names in RENAMED.items() for name in names.split()}
_EXPLAINED_BY_NAME = {_squashed(name): advice for names, _, advice in EXPLAINED.values() for name in names.split()}


def advice_for(name: str, options: Iterable[str]) -> str:
    """The end of the message "There is no option 'name'": what to write instead, or nothing.

    Args:
        name: the name that was given.
        options: the names that the class has.
    """
    squashed = _squashed(name)
    of_options = {_squashed(option): option for option in options}
    if squashed in ("model", "modelname"):  # LangChain's field is model, LlamaIndex's model_name
        squashed = next((own for own in ("model", "modelname") if own in of_options), squashed)
    if squashed in of_options:
        return f": did you mean {of_options[squashed]!r}?"
    if squashed in _RENAMED_BY_NAME:
        return f": did you mean {_RENAMED_BY_NAME[squashed]!r}?"
    if squashed in _EXPLAINED_BY_NAME:
        return f": {_EXPLAINED_BY_NAME[squashed]}"
    near = difflib.get_close_matches(squashed, of_options, n=1, cutoff=_SIMILARITY)
    return f": did you mean {of_options[near[0]]!r}?" if near else ""
