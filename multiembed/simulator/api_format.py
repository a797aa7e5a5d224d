"""API format of a simulated provider: its path, its responses and its refusals. One file in `formats` holds one."""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

from multiembed.providers import PROVIDERS
from multiembed.simulator.tokenizer import count_tokens
from multiembed.simulator.vectors import as_base64

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore
    from multiembed.types import ModelInfo

Limit: TypeAlias = Literal["requests", "tokens", "in_flight"]
Reason: TypeAlias = Literal[
    # without a look at the body's fields
    "no_key",
    "wrong_key",
    "no_such_path",
    "method",
    "too_large",
    "no_json",
    # a field of the body
    "no_model",
    "bad_model",
    "unknown_model",
    "no_texts",
    "bad_texts",
    "empty_text",
    "too_many_texts",
    "text_too_long",
    "invalid_parameter",
    # a quota
    "over_requests",
    "over_tokens",
    "over_in_flight",
    # injected faults only
    "server_error",
    "overloaded",
    "money",
    "forbidden",
    "moderated",
]

MAX_DIMENSIONS = 8192
"""Limit where a model's dimensions are unknown: more than any model has, few enough for memory."""
MAX_TOKENS = 131_072
"""Limit of one text where a model's limit is unknown: the longest that any documented model takes."""
NO_CODE = ""
"""Code of a refusal whose envelope has none. The code None means no envelope at all."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Error response of a provider. The message may have fields: `limit`, `sent`, `model`."""

    status: int
    code: str | int | None
    message: str

    def filled(self, **values: object) -> Refusal:
        """The refusal with the fields of its message filled in."""
        return replace(self, message=self.message.format(**values))


class RefusedError(Exception):
    """Ends the making of a response; the refusal is sent instead."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@dataclass(frozen=True, kw_only=True)
class ApiFormat:
    """API format of one provider. Its functions return what is then written as JSON, numpy arrays included."""

    provider: str
    path: str
    prefix: str
    """A wrong path that begins with it is refused in this format."""
    reply: Callable[[dict[str, Any], VectorStore, str], object]
    """The request's body, the vectors and the request id to a response. Raises RefusedError."""
    envelope: Callable[[Refusal, Request, str], object]
    """A refusal, the request and the request id to the body of the error response."""
    refusals: Mapping[Reason, Refusal]
    """Every refusal, with the provider's own status, code and message; `moderated` may be missing."""
    request_id: Callable[[str], str]
    """32 hexadecimal digits to this provider's kind of request id."""
    id_header: str
    key_headers: tuple[str, ...] = ()
    """Headers in lower case that may hold the key as it is, instead of `Authorization: Bearer`."""
    is_key: Callable[[str, str], bool] = operator.eq
    """Whether a credential stands for a key."""

    @property
    def per_second(self) -> bool:
        """Whether a sixtieth of a minute's quota is enforced in each second, too."""
        return PROVIDERS[self.provider].per_second

    def find_model(self, name: object) -> ModelInfo:
        """The model of that name; any name where the provider has no catalog.

        Raises:
            RefusedError: no model has that name.
        """
        if name is None or name == "":
            raise RefusedError(self.refusals["no_model"])
        if not isinstance(name, str):
            raise RefusedError(self.refusals["bad_model"])
        model = PROVIDERS[self.provider].model(name)
        if not model.known and PROVIDERS[self.provider].models:
            raise RefusedError(self.refusals["unknown_model"].filled(model=name))
        return model

    def check_texts(
        self, value: object, *, max_texts: int, max_tokens: int | None, max_total_tokens: int | None = None
    ) -> tuple[list[str], int]:
        """The texts of a request, and the sum of their tokens.

        Raises:
            RefusedError: they are missing, of a wrong type, empty, too many or too long.
        """
        if value is None or value == []:
            raise RefusedError(self.refusals["no_texts"])
        texts = texts_in(value)
        if texts is None:
            raise RefusedError(self.refusals["bad_texts"])
        if "" in texts:
            raise RefusedError(self.refusals["empty_text"].filled(limit=max_tokens))
        if len(texts) > max_texts:
            raise RefusedError(self.refusals["too_many_texts"].filled(limit=max_texts, sent=len(texts)))
        tokens = [count_tokens(text) for text in texts]
        if (max_tokens and max(tokens) > max_tokens) or (max_total_tokens and sum(tokens) > max_total_tokens):
            raise RefusedError(self.refusals["text_too_long"].filled(limit=max_tokens))
        return texts, sum(tokens)

    def invalid_parameter(self, message: str) -> RefusedError:
        """The refusal of a wrong parameter, with another message."""
        return RefusedError(replace(self.refusals["invalid_parameter"], message=message))


def texts_of(body: object) -> list[str]:
    """The texts to embed in a request of any format; empty when it has no place for them."""
    given = body.get("input") if isinstance(body, dict) else None
    return texts_in(given.get("texts") if isinstance(given, dict) else given) or []


def texts_in(value: object) -> list[str] | None:
    """One text or a list of texts as a list; None when it is neither."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    return None


def is_integer(value: object, lowest: int, highest: int) -> TypeGuard[int]:
    """Whether it is an integer (not true or false) in that range."""
    return type(value) is int and lowest <= value <= highest


def dashed(hexadecimal: str) -> str:
    """The 32 digits in the grouping of a UUID."""
    return "-".join(hexadecimal[start:end] for start, end in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))


def openai_list(model: str, vectors: Sequence[Any], tokens: int, *, encoding: object = "float") -> dict[str, Any]:
    """OpenAI's list of embeddings, with `usage` in prompt and total tokens."""
    return {
        "object": "list",
        "model": model,
        "data": [
            {
                "object": "embedding",
                "embedding": as_base64(vector) if encoding == "base64" else vector,
                "index": index,
            }
            for index, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
