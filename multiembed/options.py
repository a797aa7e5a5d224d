"""The options of an embedder, declared once for all three doors."""

from __future__ import annotations

import difflib
import pickle
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    Strict,
    ValidationError,
    field_serializer,
)
from pydantic_core import PydanticCustomError

from multiembed.address import is_secret_name
from multiembed.errors import ConfigurationError

_Positive = Annotated[int, Strict(), Field(gt=0)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


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


class EmbeddingOptions(BaseModel):
    """What every embedder can be told, whichever framework it stands in.

    Wrong names and wrong types are a ConfigurationError that names the option.
    """

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        validate_assignment=True,
        protected_namespaces=(),
    )

    api_key: SecretStr | Callable[[], str] | None = _changes_no_vector(repr=False)
    """The key, or a function that returns it; else the environment.

    A function is asked for every request, and the call's other requests wait meanwhile: it had better remember.
    """
    key_in_pickle: bool = _changes_no_vector(default=False)
    """False: a key given as text stays out of pickles, and the other process reads its environment."""
    base_url: str | None = None
    """Where to send, instead of the provider's own address."""
    region: str | None = None
    """The provider's own word for one of its addresses: "cn", "intl", "hk"."""
    headers: Mapping[str, str] | None = _changes_no_vector(repr=False)
    """Extra HTTP headers, for instance a workspace. They must not choose another model: vectors are not told apart by
    them."""
    auth_header: str | None = _changes_no_vector()
    """The header that carries the key as it is, for instance "api-key" or "X-API-Key"; None sends it as `Authorization:
    Bearer`. For the providers openai-compatible and gateway."""
    query: Annotated[Mapping[str, str] | None, BeforeValidator(_text_to_text)] = Field(default=None, repr=False)
    """Parameters of the URL's query, for instance {"api-version": "2024-10-21"}; one that `base_url` holds, too, is
    replaced. They may choose a deployment, so they count for the fingerprint, except for those that are credentials by
    their names (key, token, sig, …). For the providers openai-compatible and gateway."""
    send_dimensions: bool = _changes_no_vector(default=True)
    """False: `dimensions` is not sent, and the length of each vector is checked against it all the same. For servers
    that refuse the parameter, as vLLM does for models that are not trained for it (Matryoshka)."""
    allow_insecure: bool = _changes_no_vector(default=False)
    """True: `http://` may be used beyond this machine. The key then travels in the open."""
    dimensions: _Positive | None = None
    """Numbers in a vector; None leaves the model's default."""
    instruct: str | None = None
    """What queries are for, in a sentence; for models that take an instruction. Never added to documents."""
    query_prefix: str | None = None
    """Text put before each query; "recommended" takes the one its authors recommend."""
    document_prefix: str | None = None
    """Text put before each document."""
    output: Literal["dense", "sparse", "dense&sparse"] = "dense"
    on_too_long: Literal["error", "truncate", "split"] = "error"
    """What becomes of a text that is longer than the model takes: an error for that text alone; its beginning is
    embedded; or its pieces are, and their mean, weighted by length and of unit length, is its vector."""
    parameters: dict[str, Any] | None = None
    """Extra model-specific parameters, handed through to the API. `encoding_format` goes here."""
    max_concurrency: _Positive | None = _changes_no_vector()
    """The most requests in flight at once, over all embedders of the account in this process. None: learned from the
    provider's refusals, from 8 on."""
    requests_per_minute: _Positive | None = _changes_no_vector()
    """The account's quota of requests, over all its embedders in this process. None: learned."""
    tokens_per_minute: _Positive | None = _changes_no_vector()
    """The account's quota of tokens, likewise. DashScope allows a sixtieth of both in each second, which is kept."""
    max_retries: Annotated[int, Strict(), Field(ge=0)] | None = _changes_no_vector()
    """How often one request is sent again after a failure that may pass. None: five times, and an outage or a rate
    limit of an account that worked before is waited out for a minute."""
    timeout: _Seconds = _changes_no_vector(default=60.0)
    """Seconds for one attempt as a whole."""
    deadline: _Seconds | None = _changes_no_vector()
    """Seconds for one call as a whole; None lets it run."""
    cache: Any = _changes_no_vector(repr=False)
    """Where vectors are kept, so that no text is paid for twice: the path of a file (SQLite, made if it is not there),
    or a LangChain ByteStore or LlamaIndex KVStore."""
    limits: Mapping[str, int | None] | None = _changes_no_vector()
    """Single limits of the model put right: max_items, max_tokens_per_item, max_tokens_per_request or
    max_bytes_per_request."""
    show_progress: bool = _changes_no_vector(default=False)
    token_counter: Callable[[str], int] | None = _changes_no_vector(repr=False)
    """An exact counter of tokens; else the built-in estimate."""
    http_client: Any = _changes_no_vector(repr=False)
    """Your own httpx.Client, for sync calls."""
    http_async_client: Any = _changes_no_vector(repr=False)
    """Your own httpx.AsyncClient, for async calls; it belongs to one event loop."""

    def __init__(self, **data: Any) -> None:
        build = super().__init__
        configured(type(self), lambda: build(**data))

    @field_serializer("query")
    def _dump_query(self, query: Mapping[str, str] | None) -> dict[str, str] | None:
        """The query without credentials: a dump holds none, as it holds no key."""
        return None if query is None else {name: query[name] for name in query if not is_secret_name(name)}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return ((name, value) for name, value in super().__repr_args__() if name in self.model_fields_set)

    def __getstate__(self) -> dict[Any, Any]:
        # The base class's state holds the live __dict__, so it is copied before anything is taken out.
        state = dict(BaseModel.__getstate__(self))
        state["__dict__"] = leave_behind(state["__dict__"])
        state["__pydantic_private__"] = dict.fromkeys(self.__private_attributes__)
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # No check here: an error while unpickling hangs a process pool. The first use checks.
        BaseModel.__setstate__(self, state)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        for shared in (self.api_key, self.token_counter, self.cache, self.http_client, self.http_async_client):
            memo[id(shared)] = shared  # functions and clients may hold locks and connections
        return super().__deepcopy__(memo)


def leave_behind(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that may travel to another process: without the key, unless allowed, and without live clients."""
    kept = dict(fields)
    key = kept["api_key"]
    named = isinstance(key, types.FunctionType) and "<" not in key.__qualname__  # pickles as a name, not as a value
    if not kept["key_in_pickle"] and not named:
        kept["api_key"] = None
    for name in ("http_client", "http_async_client"):
        if kept[name] is not None:
            warnings.warn(
                f"{name} cannot be pickled: the embedder in the other process makes its own connections, without "
                "your client's proxies and certificates.",
                UserWarning,
                stacklevel=4,
            )
            kept[name] = None
    if kept["cache"] is not None and not _travels(kept["cache"]):
        warnings.warn(
            "cache cannot be pickled: the embedder in the other process keeps no vectors. Give a path instead.",
            UserWarning,
            stacklevel=4,
        )
        kept["cache"] = None
    return kept


def _travels(value: object) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever the reason, it stays behind
        return False
    return True


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
    raise ConfigurationError(problems if problems.endswith("?") else f"{problems}.")


def _say(problem: Any, of: type[BaseModel]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else of.__name__
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, of.model_fields, n=1)
        return f"There is no option {name!r}{f': did you mean {near[0]!r}?' if near else ''}"
    if problem["type"] == "missing":
        return f"{name!r} is missing"
    return f"{name!r}: {problem['msg']}"
