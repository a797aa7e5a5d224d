"""The classes of the package as tests call them: entry points, models and the right vectors."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import EmbeddingClient
from multiembed.providers import use_multilingual
from multiembed.providers.local import embed
from support.providers import DIMENSIONS, ENVIRONMENT_NAMES, provider_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed.simulator import Simulator

REPOSITORY = Path(__file__).parents[2]

MODELS = tuple(DIMENSIONS)
"""Each model that is tried."""
REMOTE_MODELS = tuple(model for model in MODELS if not model.startswith("local"))
DASHSCOPE = "dashscope:text-embedding-v4"
USE_MULTILINGUAL = "local:use-multilingual"


def options_for(simulator: Simulator, model: str = DASHSCOPE) -> dict[str, Any]:
    """The options that lead to the simulator."""
    if provider_of(model) == "local":
        return {}
    return {"base_url": simulator.base_url(provider_of(model)), "api_key": simulator.api_key}


def texts_of(count: int, label: str = "text") -> list[str]:
    return [f"{label} {number}: 向量 {number * 7919}" for number in range(count)]


def call(method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What a method answers; a coroutine is run in an event loop of its own."""
    answer = method(*arguments, **named)
    return asyncio.run(answer) if inspect.iscoroutine(answer) else answer


def are_right(
    vectors: Sequence[Sequence[float]], texts: Sequence[str], dimensions: int = 1024, model: str = DASHSCOPE
) -> bool:
    """Whether these are the texts' vectors, each at its own place, to the last bit. All but one model have the same."""
    rows = np.array(vectors, dtype=np.float32).reshape(len(vectors), dimensions)
    if model == USE_MULTILINGUAL:  # whose last bits depend on the batch
        return len(rows) == len(texts) and np.allclose(rows, use_multilingual.embed(texts), atol=1e-5)
    return len(rows) == len(texts) and np.array_equal(rows, embed(texts, dimensions))


# -- entry points


@dataclass(frozen=True)
class EntryPoint:
    """One of the three ways in, sync or async: the same texts must come out the same."""

    make: Callable[..., Any]
    documents: str
    query: str

    def embed(self, embedder: Any, texts: Sequence[str]) -> Any:
        """The vectors of documents; a coroutine where the entry point is async."""
        return _plain(getattr(embedder, self.documents)(texts))

    def embed_query(self, embedder: Any, text: str) -> Any:
        """The vector of a query; a coroutine where the entry point is async."""
        method = getattr(embedder, self.query)
        return _plain(method([text], "query"), first=True) if self.make is EmbeddingClient else method(text)


def _plain(answer: Any, *, first: bool = False) -> Any:
    if inspect.iscoroutine(answer):
        return _plain_later(answer, first=first)
    rows = answer.to_list() if hasattr(answer, "to_list") else answer
    return rows[0] if first else rows


async def _plain_later(answer: Any, *, first: bool) -> Any:
    return _plain(await answer, first=first)


def _langchain(model: str, **options: Any) -> MultiEmbeddings:
    return MultiEmbeddings(model=model, **options)


def _llamaindex(model: str, **options: Any) -> MultiEmbedding:
    return MultiEmbedding(model_name=model, **options)


SYNC_ENTRY_POINTS = {
    "client": EntryPoint(EmbeddingClient, "embed", "embed"),
    "langchain": EntryPoint(_langchain, "embed_documents", "embed_query"),
    "llamaindex": EntryPoint(_llamaindex, "get_text_embedding_batch", "get_query_embedding"),
}
ASYNC_ENTRY_POINTS = {
    "client": EntryPoint(EmbeddingClient, "aembed", "aembed"),
    "langchain": EntryPoint(_langchain, "aembed_documents", "aembed_query"),
    "llamaindex": EntryPoint(_llamaindex, "aget_text_embedding_batch", "aget_query_embedding"),
}
ENTRY_POINTS = {
    **{f"{name}-sync": entry_point for name, entry_point in SYNC_ENTRY_POINTS.items()},
    **{f"{name}-async": entry_point for name, entry_point in ASYNC_ENTRY_POINTS.items()},
}


class _Stream:
    """A client whose streams are read to the end."""

    def __init__(self, model: str, **options: Any) -> None:
        self.client = EmbeddingClient(model, **options)

    def read(self, texts: Sequence[str]) -> Any:
        with closing(self.client.stream(texts)) as stream:
            return np.concatenate([block.vectors for block in stream])

    async def aread(self, texts: Sequence[str]) -> Any:
        async with aclosing(self.client.astream(texts)) as stream:
            return np.concatenate([block.vectors async for block in stream])


ALL_ENTRY_POINTS = {
    **ENTRY_POINTS,
    "stream": EntryPoint(_Stream, "read", ""),
    "astream": EntryPoint(_Stream, "aread", ""),
}


def client_of(embedder: Any) -> EmbeddingClient:
    return embedder if isinstance(embedder, EmbeddingClient) else embedder.client


# -- other processes


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without keys and addresses, able to import what is tested."""
    kept = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT_NAMES}
    paths = [str(REPOSITORY), str(Path(__file__).parents[1]), kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **(extra or {})}


def run_python(
    program: str | Path,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    warnings: str = "error",
    within: float = 60.0,
) -> subprocess.CompletedProcess[str]:
    """Run a program, text or file, in a fresh interpreter; one that hangs fails after `within` seconds."""
    source = [str(program)] if isinstance(program, Path) else ["-c", program]
    return subprocess.run(
        [sys.executable, "-W", warnings, *source, *arguments],
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def embed_here(entry_point: EntryPoint, embedder: Any, texts: Sequence[str]) -> tuple[int, list[list[float]]]:
    """For worker processes: this process's id, and the vectors."""
    return os.getpid(), call(entry_point.embed, embedder, texts)
