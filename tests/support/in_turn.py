"""Calls of a client, sync and async, and chosen combinations with both in turn instead of whole products."""

from __future__ import annotations

import asyncio

import pytest


def embed(client, texts, role="document"):
    return client.embed(texts, role)


def aembed(client, texts, role="document"):
    return asyncio.run(client.aembed(texts, role))


WAYS = {"sync": embed, "async": aembed}


def turns(names, others):
    """Yield each name with each other, and "sync" or "async" in turn: each name meets both, and so does each other."""
    for n, name in enumerate(names):
        for m, other in enumerate(others):
            yield name, other, ("sync", "async")[(n + m) % 2]


def in_turn(names, others):
    """Parameters of a test: each name with each other, and a call of a client."""
    return [
        pytest.param(name, other, WAYS[way], id=f"{str(name)[:40]}-{other}-{way}")
        for name, other, way in turns(names, others)
    ]
