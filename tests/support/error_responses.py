"""Errors of scripted responses, with and without a socket."""

from __future__ import annotations

import pytest

from multiembed import EmbeddingClient, errors
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.responses.error_policy import build_error
from multiembed.responses.interpret import interpret_response
from multiembed.transport.types import HttpResponse
from support.providers import HOST
from support.scripted_server import scripted

KEY = "sk-4f9QzT7wLmXc2VbN8rYkPd6HsJgA1eUo"


def connected(provider, server, **options):
    return EmbeddingClient(f"{provider}:scripted-model", base_url=server.url, api_key=KEY, **options)


def error_from(provider, entry_point, reply, **options):
    """The error of a call to a server that always gives this answer."""
    with scripted(lambda _: reply) as server, connected(provider, server, max_retries=0, **options) as client:
        with pytest.raises(errors.MultiEmbedError) as raised:
            entry_point(client, ["a text"])
        return raised.value, server


def config_of(provider, key=KEY, **options):
    return resolve_config(f"{provider}:m", EmbeddingOptions(api_key=key, base_url=HOST, **options), {})


def error_of_response(provider, status, body, key=KEY, options=None, **headers):
    """The error of one answer, without a socket."""
    config, reply = config_of(provider, key, **(options or {})), HttpResponse(status, headers, body)
    failure = interpret_response(reply, config, texts=1, dimensions=2)
    return build_error(failure, config, reply, indices=(0,), retry_after=None)
