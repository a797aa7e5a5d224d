"""The options of an embedder, declared once for EmbeddingClient and both framework classes."""

from __future__ import annotations

import inspect
import pickle
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypedDict, Unpack

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
    field_validator,
)
from pydantic.json_schema import SkipJsonSchema  # noqa: TC002 - pydantic reads it
from pydantic_core import PydanticCustomError

from multiembed.cache.unavailable_cache import UnavailableCache
from multiembed.config.credentials import is_secret_name
from multiembed.config.option_docs import with_option_docs
from multiembed.config.option_names import advice_for
from multiembed.config.option_values import AnyInt, NaturalInt, PositiveInt, Seconds  # noqa: TC001 - as above
from multiembed.errors import ConfigurationError
from multiembed.transport.settings import TransportSettings, without_login
from multiembed.types import Usage  # noqa: TC001 - as above

if TYPE_CHECKING:
    from httpx import AsyncClient as HttpxAsyncClient
    from httpx import Client as HttpxClient
    from pydantic import ValidationInfo
else:
    HttpxAsyncClient = HttpxClient = Any  # httpx is imported when the first request is sent


class EmbeddingOptionsDict(TypedDict, total=False):
    """The options as keyword arguments: types for `EmbeddingClient(model, **options)` and the framework classes.

    For a type checker only; EmbeddingOptions describes each option. None is the option's default.
    """

    api_key: str | SecretStr | Callable[[], str] | None
    key_in_pickle: bool | None
    base_url: str | None
    region: str | None
    headers: Mapping[str, str] | None
    auth_header: str | None
    query: Mapping[str, str] | None
    send_dimensions: bool | None
    allow_insecure: bool | None
    dimensions: int | None
    instruct: str | None
    query_prefix: str | None
    document_prefix: str | None
    output: Literal["dense", "sparse", "dense&sparse"] | None
    on_too_long: Literal["error", "truncate", "split"] | None
    parameters: dict[str, Any] | None
    max_concurrency: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_retries: int | None
    timeout: float | None
    deadline: float | None
    cache: Any
    limits: Mapping[str, int | None] | None
    show_progress: bool | None
    token_counter: Callable[[str], int] | None
    on_usage: Callable[[Usage], object] | None
    proxy: str | None
    ca_bundle: str | None
    client_cert: str | tuple[str, str] | None
    http_client: HttpxClient | None
    http_async_client: HttpxAsyncClient | None


def _text_to_text(value: object) -> object:
    """Check the kind of `query`; its content is checked with the provider."""
    if isinstance(value, Mapping) and not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise PydanticCustomError("query", "names and values must be text, for instance {'api-version': '2024-10-21'}")
    if value is not None and not isinstance(value, Mapping):
        raise PydanticCustomError("query", "must map names to text, for instance {'api-version': '2024-10-21'}")
    return value


def _changes_no_vector(default: Any = None, **more: Any) -> Any:
    """A field that is left out of dumps: LlamaIndex hashes the dump to know whether vectors are still good."""
    return Field(default, exclude=True, **more)


@with_option_docs(EmbeddingOptionsDict)
class EmbeddingOptions(BaseModel):
    """Options of EmbeddingClient, MultiEmbeddings and MultiEmbedding.

    Every option may be given as a configuration file or the environment has it: a number as text ("512"), a flag as
    "true" or "false". None and "" are the option's default. An unknown name or an impossible value is a
    ConfigurationError that names the option.
    """

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        validate_assignment=True,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    api_key: SecretStr | SkipJsonSchema[Callable[[], str]] | None = _changes_no_vector(repr=False)
    """The key, or a function that returns it. None: the provider's variable in the environment.

    The function is called for every request while the call's other requests wait, so it should cache the key."""
    key_in_pickle: bool = _changes_no_vector(default=False)
    """True: a key given as text is pickled, and the login of `proxy`. False: the other process reads its
    environment."""
    base_url: str | None = None
    """Address to send to. None: the provider's own address."""
    region: str | None = None
    """One of the provider's own addresses, by its name: "cn", "intl", "hk". Excludes base_url."""
    headers: Mapping[str, str] | None = _changes_no_vector(repr=False)
    """Extra HTTP headers, for instance {"X-DashScope-WorkSpace": "ws-1"}. They must not choose another model: the
    cache ignores them."""
    auth_header: str | None = _changes_no_vector()
    """Name of the header that carries the key, for instance "api-key", instead of `Authorization: Bearer`. For
    `openai-compatible` and `gateway`."""
    query: Annotated[Mapping[str, str] | None, BeforeValidator(_text_to_text)] = Field(default=None, repr=False)
    """Query parameters added to the address, for instance {"api-version": "2024-10-21"}; they replace those of the same
    name in `base_url`. They may choose a deployment, so they count for the fingerprint, except for credentials (key,
    token, sig, …). For `openai-compatible` and `gateway`."""
    send_dimensions: bool = _changes_no_vector(default=True)
    """False: `dimensions` is not sent, and the length of each vector is checked against it all the same. For servers
    that refuse the parameter, as vLLM does for models that are not trained for it (Matryoshka)."""
    allow_insecure: bool = _changes_no_vector(default=False)
    """True: `http://` is allowed beyond this machine. Key and texts then travel unencrypted."""
    dimensions: PositiveInt | None = None
    """Numbers in each vector. None: the model's default size."""
    instruct: str | None = None
    """One sentence that says what queries are for; only for models that take an instruction. Documents never get it."""
    query_prefix: str | None = None
    """Text put before each query. "recommended": the prefix that the model's authors recommend."""
    document_prefix: str | None = None
    """Text put before each document."""
    output: Literal["dense", "sparse", "dense&sparse"] = "dense"
    """Kind of vectors. Sparse ones only with DashScope's text-embedding-v3 and -v4; "sparse" alone only with
    EmbeddingClient."""
    on_too_long: Literal["error", "truncate", "split"] = "error"
    """What to do with a text longer than the model takes. "error": that text fails alone. "truncate": its beginning is
    embedded. "split": its pieces are embedded, and their mean, weighted by length and of unit length, is its vector."""
    parameters: dict[str, Any] | None = None
    """Extra parameters of the provider's API, sent as they are, for instance {"encoding_format": "float"}."""
    max_concurrency: PositiveInt | None = _changes_no_vector()
    """Most requests in flight at once, over all embedders of the account and model in this process. None: learned from
    the provider's refusals, beginning with 8."""
    requests_per_minute: PositiveInt | None = _changes_no_vector()
    """The account's quota of requests per minute, over all embedders of the account and model in this process. None:
    learned."""
    tokens_per_minute: PositiveInt | None = _changes_no_vector()
    """The account's quota of tokens per minute, likewise. DashScope also allows a sixtieth of both quotas per second;
    this is kept too."""
    max_retries: NaturalInt | None = _changes_no_vector()
    """Retries of one request after a failure that may pass. None: 5 retries, and up to a minute of waiting for an
    account that worked before."""
    timeout: Seconds = _changes_no_vector(default=60.0)
    """Seconds for one attempt as a whole, from connecting to the last byte. None: the default, since an attempt is
    always bounded; give a larger number for a slow server."""
    deadline: Seconds | None = _changes_no_vector()
    """Seconds for one call as a whole, retries included. None: no limit."""
    cache: Any = _changes_no_vector(repr=False)
    """Where vectors are kept, so that no text is paid for twice: the path of a SQLite file (created if missing), a
    LangChain ByteStore, a LlamaIndex KVStore, or an object with `get` and `put`. None: no cache."""
    limits: Mapping[str, AnyInt | None] | None = _changes_no_vector()
    """Corrections of the model's limits: max_items (texts per request), max_tokens_per_item, max_tokens_per_request
    (tokens) and max_bytes_per_request (bytes)."""
    show_progress: bool = _changes_no_vector(default=False)
    """True: each call shows a progress bar over its texts on stderr."""
    token_counter: SkipJsonSchema[Callable[[str], int]] | None = _changes_no_vector(repr=False)
    """Function that counts the tokens of a text exactly. None: the built-in estimate."""
    on_usage: SkipJsonSchema[Callable[[Usage], object]] | None = _changes_no_vector(repr=False)
    """Function that gets the Usage of each call when the call ends, failed calls included; for a stream, of each
    result. Added up, they are `client.usage`. It runs in the caller's thread, for async calls in a worker thread. If it
    raises, a warning says so once, and the vectors are returned all the same."""
    proxy: str | None = _changes_no_vector(repr=False)
    """URL of an HTTP proxy for all hosts but this machine, for instance "http://user:password@proxy.example:3128".
    None: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY of the environment, read once per process. User and password
    are pickled only with `key_in_pickle=True`."""
    ca_bundle: str | None = _changes_no_vector()
    """PEM file or directory with the certificate authorities to trust, for instance your company's, or "system" for
    those of the operating system (`pip install "multiembed[system-certs]"`). None: those of certifi, or of
    SSL_CERT_FILE and SSL_CERT_DIR."""
    client_cert: str | tuple[str, str] | None = _changes_no_vector()
    """Certificate shown to servers that ask for one: a PEM file that also holds its key, or (certificate file, key
    file). The key must not be encrypted."""
    http_client: HttpxClient | None = _changes_no_vector(repr=False)
    """Your own httpx.Client for sync calls. With 50 requests in flight it takes four to five times the CPU of the
    built-in client, so prefer `proxy`, `ca_bundle` and `client_cert`, which exclude it."""
    http_async_client: HttpxAsyncClient | None = _changes_no_vector(repr=False)
    """Your own httpx.AsyncClient for async calls. It belongs to one event loop; see `http_client`."""

    def __init__(self, **options: Unpack[EmbeddingOptionsDict]) -> None:
        build = super().__init__
        configured(type(self), lambda: build(**options))

    if not TYPE_CHECKING:  # checkers refuse a positional argument by the signature of __init__

        def __new__(cls, *positional: object, **options: object) -> Self:  # noqa: ARG004, D102 - __init__ takes them
            if positional:  # Python's own TypeError names a class of ours that the caller never wrote
                name = getattr(cls, "model_field", "")
                example = f'{name}="provider:model", dimensions=512' if name else "dimensions=512"
                raise ConfigurationError(
                    f"{cls.__name__} takes its options by name: write {cls.__name__}({example}), for instance."
                )
            return super().__new__(cls)

    @field_validator("*", mode="before")
    @classmethod
    def _default_if_not_given(cls, value: Any, info: ValidationInfo) -> Any:
        """None and "" stand for an option that was not given. A framework's own fields keep their own rules."""
        name = str(info.field_name)
        if name == "auth_header" and value == "":
            return value  # refused with the provider: the key would go out in another header than was meant
        if (value is None or (isinstance(value, str) and not value)) and name in EmbeddingOptions.model_fields:
            return cls.model_fields[name].get_default(call_default_factory=True)
        return value

    @field_validator("api_key", "token_counter", "on_usage")
    @classmethod
    def _not_async(cls, value: Any) -> Any:
        if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004
            raise PydanticCustomError("not_async", "must be a plain function: a coroutine function is never awaited")
        return value

    @field_validator("proxy", "ca_bundle", "client_cert", "http_client", "http_async_client")
    @classmethod
    def _connections(cls, value: Any, info: ValidationInfo) -> Any:
        """Check how connections are made, as far as it can be known without making one."""
        if value is not None:
            _check_connections({**info.data, str(info.field_name): value}, str(info.field_name))
        return value

    @field_serializer("query")
    def _dump_query(self, query: Mapping[str, str] | None) -> dict[str, str] | None:
        """The query without credentials: a dump holds none, as it holds no key."""
        return None if query is None else {name: query[name] for name in query if not is_secret_name(name)}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return ((name, value) for name, value in super().__repr_args__() if name in self.model_fields_set)

    def __getstate__(self) -> dict[Any, Any]:
        # The base class's state holds the live __dict__, so it is copied before anything is taken out.
        state = dict(BaseModel.__getstate__(self))
        state["__dict__"] = _leave_behind(state["__dict__"])
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # No check here: an error while unpickling hangs a process pool. The first use checks.
        BaseModel.__setstate__(self, state)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        for name in _SHARED_BY_COPIES:
            memo[id(getattr(self, name))] = getattr(self, name)
        return super().__deepcopy__(memo)


def settings_of(options: EmbeddingOptions) -> TransportSettings:
    """How the options have connections made."""
    return TransportSettings(proxy=options.proxy, ca_bundle=options.ca_bundle, client_cert=options.client_cert)


_CONNECTION_OPTIONS = ("proxy", "ca_bundle", "client_cert")
_OWN_CLIENTS = ("http_client", "http_async_client")


def _check_connections(fields: Mapping[str, Any], name: str) -> None:
    """Check one of the options above against the others, and what it names.

    Raises:
        PydanticCustomError: it cannot be used, or not with the others.
    """
    others = _OWN_CLIENTS if name in _CONNECTION_OPTIONS else _CONNECTION_OPTIONS
    given = [other for other in others if fields.get(other) is not None]
    if given:
        own, other = (given[0], name) if name in _CONNECTION_OPTIONS else (name, given[0])
        raise PydanticCustomError(
            "connections",
            "{own} and {other} exclude each other: drop {own}, or drop {other} and configure it on your client",
            {"own": own, "other": other},
        )
    try:
        if name == "proxy":
            from multiembed.transport.proxies import read_proxy

            read_proxy(fields[name], "it")
        elif name in _CONNECTION_OPTIONS:
            from multiembed.transport.tls import ssl_context

            ssl_context(*(fields[name] if option == name else None for option in ("ca_bundle", "client_cert")))
    except ConfigurationError as error:
        problem = error.message.removeprefix(f"{name} ").rstrip(".")
        raise PydanticCustomError("connections", "{problem}", {"problem": problem}) from None


_SHARED_BY_COPIES = ("api_key", "token_counter", "on_usage", "cache", "http_client", "http_async_client")
"""Options that hold functions, clients and stores, which may hold locks and connections."""


def _leave_behind(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that may travel to another process: without the key, unless allowed, and without live clients."""
    kept = dict(fields)
    if not kept["key_in_pickle"] and not _is_named(kept["api_key"]):
        kept["api_key"] = None
    if not kept["key_in_pickle"] and without_login(kept["proxy"]) != kept["proxy"]:
        warnings.warn(
            "The user and password of proxy are not pickled: the other process reaches the proxy without them. Give "
            "key_in_pickle=True, or set HTTPS_PROXY in the environment instead of proxy.",
            UserWarning,
            stacklevel=4,
        )
        kept["proxy"] = without_login(kept["proxy"])
    for name, travels, consequence in _LEFT_BEHIND:
        if kept.get(name) is not None and not travels(kept[name]):
            warnings.warn(
                f"{name} cannot be pickled: the embedder in the other process {consequence}", UserWarning, stacklevel=4
            )
            kept[name] = UnavailableCache(type(kept[name]).__name__) if name == "cache" else None
    return kept


def _is_named(value: object) -> bool:
    """Whether it is a function of a module, which pickles as its name and not as a value."""
    return isinstance(value, types.FunctionType) and "<" not in value.__qualname__


def can_be_pickled(value: object) -> bool:
    """Whether pickle takes the value, and what it holds."""
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever the reason, it stays behind
        return False
    return True


_OWN_CONNECTIONS = "makes its own connections, without your client's proxies and certificates."
_LEFT_BEHIND: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("http_client", lambda _: False, _OWN_CONNECTIONS),
    ("http_async_client", lambda _: False, _OWN_CONNECTIONS),
    ("cache", can_be_pickled, "keeps no vectors and pays for every text. Give a path instead."),
    ("on_usage", _is_named, "reports no usage. Give a function that a module defines at its top level."),
)


def configured(of: type[BaseModel], build: Callable[[], object]) -> None:
    """Run `build` and turn pydantic's words into ours.

    Neither our error nor its context keeps a value: pydantic's own error holds the whole input, and so the key.
    """
    try:
        build()
    except ValidationError as error:
        problems = "; ".join(_say(problem, of) for problem in error.errors(include_input=False, include_url=False))
    else:
        return
    raise ConfigurationError(problems if problems.endswith(("?", ".")) else f"{problems}.")


def _say(problem: Any, of: type[BaseModel]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else of.__name__
    if problem["type"] == "extra_forbidden":
        shown = name if len(name) <= 60 else f"{name[:60]}…"
        return f"There is no option {shown!r}{advice_for(name, of.model_fields)}"
    if problem["type"] == "missing":
        return f"{name!r} is missing"
    return f"{name!r}: {problem['msg']}"
