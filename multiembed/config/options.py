"""Options of EmbeddingClient and both framework classes: names, types, defaults, descriptions and validation."""

from __future__ import annotations

import inspect
import operator
import pickle
import re
import textwrap
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypedDict, Unpack

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_serializer, field_validator
from pydantic.json_schema import SkipJsonSchema  # noqa: TC002 - pydantic reads it

from multiembed.cache.unavailable_cache import UnavailableCache
from multiembed.config.credentials import is_secret_name
from multiembed.config.option_names import run_validation
from multiembed.errors import ConfigurationError
from multiembed.transport.redis_connection import shown_url
from multiembed.transport.settings import TransportSettings, without_login
from multiembed.types import Usage  # noqa: TC001 - as above

if TYPE_CHECKING:
    from httpx import AsyncClient as HttpxAsyncClient
    from httpx import Client as HttpxClient
    from pydantic import ValidationInfo
    from pydantic.fields import FieldInfo
else:
    HttpxAsyncClient = HttpxClient = Any  # httpx is imported when the first request is sent

# Numbers as configuration files and the environment give them: 512, 512.0, "512" and "5.12e2".
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_MAX_DIGITS = 40  # longer text is refused: int() takes quadratic time, and stops with an error at 4,300 digits
_INT64 = 2**63  # above any quota, and the first number that orjson refuses to write


def _to_number(value: Any) -> int | float | None:
    """The number that a value stands for; None for any other value, bool included."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _MAX_DIGITS or not _NUMBER.fullmatch(text):
            return None
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool":  # NumPy 1 takes its own for an index
        return None
    try:
        return operator.index(value)  # int, and NumPy's integers
    except TypeError:
        return float(value) if isinstance(value, (Real, Decimal)) else None


def _to_int(value: Any) -> int:
    number = _to_number(value)
    if isinstance(number, float):
        number = int(number) if number.is_integer() else None  # False for inf and nan
    if number is None:
        raise ValueError("must be an integer, for example 512")  # the value may be a key, so it is not repeated
    return number


def _to_seconds(value: Any) -> float:
    number = _to_number(value)
    if number is None:
        raise ValueError("must be a number of seconds, for example 60 or 2.5")
    return number


PositiveInt: TypeAlias = Annotated[int, BeforeValidator(_to_int), Field(gt=0, lt=_INT64)]
NaturalInt: TypeAlias = Annotated[int, BeforeValidator(_to_int), Field(ge=0, lt=_INT64)]
AnyInt: TypeAlias = Annotated[int, BeforeValidator(_to_int)]
Seconds: TypeAlias = Annotated[float, BeforeValidator(_to_seconds), Field(gt=0, allow_inf_nan=False)]


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
    quota: str | None
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


def _check_query_types(value: object) -> object:
    is_text = isinstance(value, Mapping) and all(isinstance(part, str) for pair in value.items() for part in pair)
    if value is not None and not is_text:
        raise ValueError(
            "must map names to text: names and values must be text, for instance {'api-version': '2024-10-21'}"
        )
    return value


def _changes_no_vector(default: Any = None, **more: Any) -> Any:
    """A field that is excluded from dumps: LlamaIndex hashes the dump to know whether vectors are still valid."""
    return Field(default, exclude=True, **more)


_CONNECTION_OPTIONS = ("proxy", "ca_bundle", "client_cert")
_OWN_CLIENTS = ("http_client", "http_async_client")


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
    shared_by_copies: ClassVar[tuple[str, ...]] = ("api_key", "token_counter", "on_usage", "cache", *_OWN_CLIENTS)
    """Fields that a deep copy shares, because they may hold locks and connections."""

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
    """Extra HTTP headers, for instance {"X-DashScope-WorkSpace": "ws-1"}. They are pickled as they are. Do not select
    the model with a header: the cache ignores headers and would return vectors of the other model."""
    auth_header: str | None = _changes_no_vector()
    """Name of the header that carries the key, for instance "api-key", instead of `Authorization: Bearer`. For
    `openai-compatible` and `gateway`."""
    query: Annotated[Mapping[str, str] | None, BeforeValidator(_check_query_types)] = Field(default=None, repr=False)
    """Query parameters added to the address, for instance {"api-version": "2024-10-21"}; they replace those of the same
    name in `base_url`. They may choose a deployment, so vectors that are cached with other parameters are not used;
    credentials (key, token, sig, …) make no difference. For `openai-compatible` and `gateway`."""
    send_dimensions: bool = _changes_no_vector(default=True)
    """False: `dimensions` is not sent, but the length of each vector is still checked against it. For servers that
    refuse the parameter, as vLLM does for models that are not trained for several sizes (Matryoshka)."""
    allow_insecure: bool = _changes_no_vector(default=False)
    """True: an `http://` address on another machine is allowed. Key and texts then travel unencrypted."""
    dimensions: PositiveInt | None = None
    """Numbers in each vector. None: the model's default size."""
    instruct: str | None = None
    """One sentence that says what queries are for; only for models that take an instruction. Documents never get it."""
    query_prefix: str | None = None
    """Text put before each query. "recommended": the prefix that the model's authors recommend."""
    document_prefix: str | None = None
    """Text put before each document."""
    output: Literal["dense", "sparse", "dense&sparse"] = "dense"
    """Kind of vectors. Sparse ones only with DashScope's native API: text-embedding-v3, text-embedding-v4 and
    qwen3.7-text-embedding (also -flash); "sparse" alone only with EmbeddingClient."""
    on_too_long: Literal["error", "truncate", "split"] = "error"
    """What to do with a text longer than the model takes. "error": that text fails alone. "truncate": its beginning is
    embedded. "split": its pieces are embedded, and their mean, weighted by length and of unit length, is its vector."""
    parameters: dict[str, Any] | None = None
    """Extra parameters of the provider's API, sent as they are, for instance {"encoding_format": "float"}."""
    max_concurrency: PositiveInt | None = _changes_no_vector()
    """Maximum number of requests in flight (sent, but not answered yet), over all embedders of the account and model in
    this process. None: adapted to the provider's rejections, starting with 8."""
    requests_per_minute: PositiveInt | None = _changes_no_vector()
    """The account's quota of requests per minute, over all embedders of the account and model in this process. None:
    adapted."""
    tokens_per_minute: PositiveInt | None = _changes_no_vector()
    """The account's quota of tokens per minute, over all embedders of the account and model in this process. None:
    adapted. DashScope also limits each second to a sixtieth of both quotas; that is kept, too."""
    quota: str | None = _changes_no_vector()
    """Which processes share the account's quota, configured or learned. None: MULTIEMBED_QUOTA of the environment, or
    only this process. "machine": all processes of this user on this machine, without a server. The URL of a Redis
    server ("redis://host:6379/0", "rediss://…", "unix:///path"): all processes that name it, on any machine
    (extra [redis])."""
    max_retries: NaturalInt | None = _changes_no_vector()
    """Retries of one request after a transient failure. None: 5 retries; where the account has worked before, a rate
    limit or an outage is retried until one minute after the first failure."""
    timeout: Seconds = _changes_no_vector(default=60.0)
    """Seconds for one attempt as a whole, from connecting to the last byte. None: the default, since an attempt is
    always bounded; give a larger number for a slow server."""
    deadline: Seconds | None = _changes_no_vector()
    """Seconds for one call as a whole, retries included. None: no limit."""
    cache: Any = _changes_no_vector(repr=False)
    """Store of the vectors, so that a text whose vector is in it is not paid for again: the path of a SQLite file
    (created if missing), the URL of a Redis server (`redis://`, `rediss://`, `unix://`; `?ttl=` seconds in its query),
    a key-value store of LangChain (ByteStore) or LlamaIndex (KVStore), or an object with `get` and `put`. None: no
    cache."""
    limits: Mapping[str, AnyInt | None] | None = _changes_no_vector()
    """Corrections of the model's limits: max_items (texts per request), max_tokens_per_item, max_tokens_per_request
    (tokens) and max_bytes_per_request (bytes)."""
    show_progress: bool = _changes_no_vector(default=False)
    """True: each call of more than one request shows a progress bar over its texts on stderr."""
    token_counter: SkipJsonSchema[Callable[[str], int]] | None = _changes_no_vector(repr=False)
    """Function that counts the tokens of a text exactly. None: the built-in estimate."""
    on_usage: SkipJsonSchema[Callable[[Usage], object]] | None = _changes_no_vector(repr=False)
    """Function that gets the Usage of each call when the call ends, failed calls included; for a stream, of each
    result. Their sum is `client.usage`. It runs in the caller's thread, for async calls in a worker thread. If it
    raises, one warning says so, and the vectors are returned."""
    proxy: str | None = _changes_no_vector(repr=False)
    """URL of an HTTP proxy for all hosts but this machine, for instance "http://user:password@proxy.example:3128".
    None: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY of the environment, read once per process. User and password
    are pickled only with `key_in_pickle=True`."""
    ca_bundle: str | None = _changes_no_vector()
    """PEM file or directory with the certificate authorities to trust, for instance your company's, or "system" for
    those of the operating system (extra [system-certs]). None: those of certifi, or of
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
        run_validation(type(self), lambda: build(**options))

    if not TYPE_CHECKING:  # type checkers refuse a positional argument by the signature of __init__

        def __new__(cls, *positional: object, **options: object) -> Self:  # noqa: ARG004, D102 - __init__ takes them
            if positional:  # Python's own TypeError names __init__ of a class that the caller does not know
                field = getattr(cls, "model_field", None)
                example = f'{field}="provider:model", dimensions=512' if field else "dimensions=512"
                raise ConfigurationError(
                    f"{cls.__name__} takes its options by name: write {cls.__name__}({example}), for instance."
                )
            return super().__new__(cls)

    @field_validator("*", mode="before")
    @classmethod
    def _default_for_none(cls, value: Any, info: ValidationInfo) -> Any:
        """Replace None and "" by the default. A framework's own fields keep their own rules."""
        name = str(info.field_name)
        if name == "auth_header" and value == "":
            return value  # refused with the provider: the key would be sent in another header than the user meant
        if (value is None or (isinstance(value, str) and not value)) and name in EmbeddingOptions.model_fields:
            return cls.model_fields[name].get_default(call_default_factory=True)
        return value

    @field_validator("api_key", "token_counter", "on_usage")
    @classmethod
    def _check_not_async(cls, value: Any) -> Any:
        if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None)):  # noqa: B004
            raise ValueError("must be a plain function: a coroutine function is never awaited")
        return value

    @field_validator(*_CONNECTION_OPTIONS, *_OWN_CLIENTS)
    @classmethod
    def _check_connection(cls, value: Any, info: ValidationInfo) -> Any:
        """Load what the option names, and refuse options of the built-in client together with an own client."""
        if value is None:
            return None
        name = str(info.field_name)
        for other in _OWN_CLIENTS if name in _CONNECTION_OPTIONS else _CONNECTION_OPTIONS:
            if info.data.get(other) is not None:
                own, option = (other, name) if other in _OWN_CLIENTS else (name, other)
                raise ValueError(
                    f"the options {own} and {option} exclude each other: drop {own}, or drop {option} and configure it "
                    "on your client"
                )
        if name == "proxy":
            from multiembed.transport.proxies import read_proxy

            read_proxy(value, "it")
        elif name in _CONNECTION_OPTIONS:
            from multiembed.transport.tls import ssl_context

            ssl_context(*(value if option == name else None for option in ("ca_bundle", "client_cert")))
        return value

    @field_serializer("query")
    def _dump_query(self, query: Mapping[str, str] | None) -> dict[str, str] | None:
        """The query without credentials: a dump holds none, as it holds no key."""
        return None if query is None else {name: query[name] for name in query if not is_secret_name(name)}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if name in self.model_fields_set:
                yield name, shown_url(value) if name == "quota" and isinstance(value, str) else value

    def __getstate__(self) -> dict[Any, Any]:
        """The state for pickle, without what must not or cannot be sent to another process."""
        state = dict(BaseModel.__getstate__(self))
        kept = state["__dict__"] = dict(state["__dict__"])  # it was the live one
        losses = []
        if not kept["key_in_pickle"]:
            kept["api_key"] = kept["api_key"] if _is_module_function(kept["api_key"]) else None
            if without_login(kept["proxy"]) != kept["proxy"]:
                kept["proxy"] = without_login(kept["proxy"])
                losses.append(
                    "The user and password of proxy are not pickled: the other process reaches the proxy without them. "
                    "Give key_in_pickle=True, or set HTTPS_PROXY in the environment instead of proxy."
                )
        for name, is_kept, consequence in _DROPPED_BY_PICKLE:
            value = kept.get(name)
            if value is not None and not is_kept(value):
                kept[name] = UnavailableCache(type(value).__name__) if name == "cache" else None
                losses.append(f"{name} cannot be pickled: the embedder in the other process {consequence}")
        for loss in losses:
            warnings.warn(loss, UserWarning, stacklevel=3)
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # LlamaIndex's base class would validate here, and an error while unpickling hangs a process pool. The first use
        # validates.
        BaseModel.__setstate__(self, state)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        for name in self.shared_by_copies:
            memo[id(self.__dict__[name])] = self.__dict__[name]
        return super().__deepcopy__(memo)


def add_option_docs(cls: type, options: type, fields: Mapping[str, FieldInfo]) -> None:
    """Add type, default and description of each option to the docstring of a class, so that help() shows them."""
    if cls.__doc__ is None:  # python -OO
        return
    lines = [inspect.cleandoc(cls.__doc__), "", "Options:"]  # without indentation, as Python 3.13 keeps docstrings
    for name, hint in options.__annotations__.items():
        annotation = getattr(hint, "__forward_arg__", hint)  # as in the source: "int | None"
        description = " ".join((fields[name].description or "").split())
        lines.append(f"    {name}: {annotation} = {fields[name].get_default(call_default_factory=False)!r}")
        lines.append(textwrap.indent(textwrap.fill(description, 100, break_on_hyphens=False), " " * 8))
    cls.__doc__ = "\n".join([*lines, ""])


add_option_docs(EmbeddingOptions, EmbeddingOptionsDict, EmbeddingOptions.model_fields)


def settings_of(options: EmbeddingOptions) -> TransportSettings:
    """Transport settings of the options."""
    return TransportSettings(proxy=options.proxy, ca_bundle=options.ca_bundle, client_cert=options.client_cert)


def can_be_pickled(value: object) -> bool:
    """Whether pickle takes the value and everything that it holds."""
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - an object may raise anything
        return False
    return True


def _is_module_function(value: object) -> bool:
    """Whether pickle stores the value as the name of a function in a module."""
    return isinstance(value, types.FunctionType) and "<" not in value.__qualname__


_OWN_CONNECTIONS = "makes its own connections, without your client's proxies and certificates."
_DROPPED_BY_PICKLE: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("http_client", lambda _: False, _OWN_CONNECTIONS),
    ("http_async_client", lambda _: False, _OWN_CONNECTIONS),
    ("cache", can_be_pickled, "keeps no vectors and pays for every text. Give a path instead."),
    ("on_usage", _is_module_function, "reports no usage. Give a function that a module defines at its top level."),
)
"""Option, whether pickle keeps a value of it, and what it means for the other process if not."""
