"""Checks of errors that are raised before anything is sent."""

from __future__ import annotations

import traceback

import pytest

from multiembed import ConfigurationError, EmbeddingClient

SECRET = "".join(["sk-", "verysecret", "0123456789", "abcdef"])


def shown(error) -> str:
    """All that an error shows of itself and of what led to it."""
    parts, seen = ["".join(traceback.format_exception(error))], set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        parts += [str(error), repr(error), repr(error.args), repr(getattr(error, "__dict__", {}))]
        error = error.__context__ or error.__cause__
    return "\n".join(parts)


def assert_tells(error, *words, secret=SECRET):
    """The message holds the words, and neither it nor anything behind it holds a piece of the key."""
    for word in words:
        assert word in str(error)
    whole = shown(error)
    pieces = [secret[start : start + 8] for start in range(max(1, len(secret) - 7))]
    assert not [piece for piece in pieces if piece in whole]


def refused(model, **options) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        EmbeddingClient(model, **options)
    return caught.value
