"""Chosen combinations instead of whole products: sync and async calls of a client in turn."""

from __future__ import annotations

import asyncio

import pytest


def embed(client, texts, role="document"):
    return client.embed(texts, role)


def aembed(client, texts, role="document"):
    return asyncio.run(client.aembed(texts, role))


def in_turn(names, others):
    """Each name with each other, sync and async in turn: each name meets both ways, and so does each other."""
    ways = {"sync": embed, "async": aembed}
    return [
        pytest.param(name, other, ways[way], id=f"{str(name)[:40]}-{other}-{way}")
        for n, name in enumerate(names)
        for m, other in enumerate(others)
        for way in [("sync", "async")[(n + m) % 2]]
    ]
