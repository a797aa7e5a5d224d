"""What a simulated wire form is: where it listens, how it replies and how it refuses."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeGuard

from multiembed.simulator.vectors import as_base64

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore

Reason: TypeAlias = Literal["no_key", "wrong_key", "no_such_path", "method", "too_large", "no_json"]
Limit: TypeAlias = Literal["requests", "tokens", "in_flight"]

MOST_DIMENSIONS = 8192
"""Where no list of dimensions is known: more than any model has, few enough for memory."""
LONGEST_TEXT = 131_072
"""Tokens in one text where no limit is known: the longest that any documented model takes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A provider's no."""

    status: int
    code: str | int | None
    message: str


class RefusedError(Exception):
    """Ends the making of a reply; the refusal is sent instead."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


@dataclass(frozen=True, kw_only=True)
class Form:
    """One wire form. The functions return what is then written as JSON; numpy arrays may stand in it."""

    provider: str
    path: str
    prefix: str
    """A wrong path that begins so is refused in this form's words."""
    reply: Callable[[dict[str, Any], VectorStore, str], object]
    """The request's body, the vectors and the request id to a reply. Raises RefusedError."""
    envelope: Callable[[Refusal, Request, str], object]
    """A refusal, the request and the request id to the body that says it."""
    refusals: Mapping[Reason, Refusal]
    """The refusals that need no look into the body."""
    over_quota: Mapping[Limit, Refusal]
    """The refusals of what is more than the account may, by what it has too much of."""
    request_id: Callable[[str], str]
    """32 hexadecimal digits to this provider's kind of request id."""
    id_header: str
    key_headers: tuple[str, ...] = ()
    """Headers in lower case that may hold the key as it is, instead of `Authorization: Bearer`."""
    is_key: Callable[[str, str], bool] = operator.eq
    """Whether a credential stands for a key."""
    per_second: bool = False
    """Whether a quota by the minute is also kept by the second."""


def texts_of(body: object) -> list[str]:
    """The texts to embed in a request of whatever form; none when it has no place for them."""
    given = body.get("input") if isinstance(body, dict) else None
    return texts_in(given.get("texts") if isinstance(given, dict) else given) or []


def texts_in(value: object) -> list[str] | None:
    """One text or a list of texts as a list; None when it is neither."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    return None


def is_whole(value: object, lowest: int, highest: int) -> TypeGuard[int]:
    """Whether it is an integer (true and false are none) in that range."""
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
