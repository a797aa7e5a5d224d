"""Outcomes of broken responses: each fault of the simulator, through this package's classes and through its peers.

    pip install ".[all]" -r benchmarks/requirements-peers.txt
    python benchmarks/faults.py [--markdown] [--details]

No key, no network: a fresh simulator answers each client and fault in SiliconFlow's form, which is OpenAI's. 24 texts
go out in batches of 8, cut by the client or, where it has no batches (the openai SDK, litellm), by the caller. Every
client has 2 retries and 3 seconds for an attempt, and else its defaults. A fault is in every answer unless the table
says "once". Vectors are asked for as floats, except by the openai SDK, which is left at its default, base64.

right  each text has its own vector
error  an exception, as it should be where the answer cannot be used; also one that the caller meets on reading the
       reply in the order in which it came: `[item.embedding for item in reply.data]`
WRONG  no exception, and yet too few or too many vectors, None, a wrong length, a value that is no finite number,
       zeros, another text's vector or numbers that are not the text's
hangs  neither within 30 seconds

The exit status is 1 when one of this package's classes is WRONG or hangs.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from multiembed.providers.local import embed
from multiembed.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
importlib.import_module("support.faults")  # registers the faults that only tests inject

MODEL = "BAAI/bge-m3"
TEXTS = [f"text {number} 文本 {number * 7919}" for number in range(24)]
BATCH, RETRIES, TIMEOUT, LIMIT = 8, 2, 3.0, 30.0
ENCODING = {"encoding_format": "float"}
SETTINGS = {
    "rate-limit, once": {"times": 1},
    "server-error, once": {"times": 1},
    "batch-too-large-with-cap": {"cap": 5},
    "text-too-long": {"characters": 1000},
}
FAULTS = (
    *("items-reordered", "item-missing-last", "item-missing-middle", "items-missing-all", "item-null", "item-extra"),
    *("index-twice", "index-off-by-one", "index-missing", "vector-short", "vector-long", "vector-nan"),
    *("vector-infinity", "vector-overflow", "vector-null", "vector-element-null", "vector-element-string"),
    *("vector-element-bool", "vector-zeros", "vector-empty", "base64-broken", "base64-cut", "html-200", "empty-200"),
    *("truncated-json", "bom", "duplicate-keys", "duplicate-keys-in-item", "error-in-200", "gzip-good", "gzip-broken"),
    *("reset-in-body", "body-truncated", "trickle-body", *SETTINGS),
)
KINDS = {"silently wrong": "WRONG", "hangs": "hangs", "errors": "error", "right": "right"}


class Client(NamedTuple):
    """One way from texts to vectors, given the imported module."""

    name: str
    package: str
    module: str
    embed: Callable[[Any, list[str], Simulator], list[Any]]


class Outcome(NamedTuple):
    """The outcome of one fault in one client."""

    kind: str
    detail: str = ""


CLIENTS: list[Client] = []


def client(name: str, package: str, module: str):
    """Put a function into the list of clients."""
    return lambda function: CLIENTS.append(Client(name, package, module, function))


def batches(texts: list[str]) -> list[list[str]]:
    return [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]


def options(server: Simulator, address: str = "base_url", **more: Any) -> dict[str, Any]:
    """The settings of all clients, and more."""
    where = {address: server.base_url("siliconflow"), "api_key": server.api_key}
    return {**where, "timeout": TIMEOUT, "max_retries": RETRIES, **more}


def our_options(server: Simulator) -> dict[str, Any]:
    return options(server, limits={"max_items": BATCH}, parameters=ENCODING)


@client("EmbeddingClient", "multiembed", "multiembed")
def _(module: Any, texts: list[str], server: Simulator) -> list[Any]:
    with module.EmbeddingClient(f"siliconflow:{MODEL}", **our_options(server)) as embedder:
        return embedder.embed(texts).to_list()


@client("MultiEmbeddings", "multiembed", "langchain_multiembed")
def _(module: Any, texts: list[str], server: Simulator) -> list[Any]:
    return module.MultiEmbeddings(model=f"siliconflow:{MODEL}", **our_options(server)).embed_documents(texts)


@client("MultiEmbedding", "multiembed", "llamaindex_multiembed")
def _(module: Any, texts: list[str], server: Simulator) -> list[Any]:
    embedder = module.MultiEmbedding(model_name=f"siliconflow:{MODEL}", **our_options(server))
    return embedder.get_text_embedding_batch(texts)


@client("openai SDK", "openai", "openai")
def _(module: Any, texts: list[str], server: Simulator) -> list[Any]:
    with module.OpenAI(**options(server)) as sdk:
        replies = [sdk.embeddings.create(model=MODEL, input=batch) for batch in batches(texts)]
    return [item.embedding for reply in replies for item in reply.data]


@client("OpenAIEmbeddings", "langchain-openai", "langchain_openai")
def _(module: Any, texts: list[str], server: Simulator) -> list[Any]:
    # Without check_embedding_ctx_length=False it sends numbers of tokens, which only OpenAI understands.
    given = options(server, chunk_size=BATCH, check_embedding_ctx_length=False, model_kwargs=ENCODING)
    return module.OpenAIEmbeddings(model=MODEL, **given).embed_documents(texts)


@client("OpenAILikeEmbedding", "llama-index-embeddings-openai-like", "llama_index.embeddings.openai_like")
def _(module: Any, texts: list[str], server: Simulator) -> list[Any]:
    given = options(server, "api_base", embed_batch_size=BATCH, additional_kwargs=ENCODING)
    return module.OpenAILikeEmbedding(model_name=MODEL, **given).get_text_embedding_batch(texts)


@client("litellm", "litellm", "litellm")
def _(module: Any, texts: list[str], server: Simulator) -> list[Any]:
    module.suppress_debug_info = True
    given = options(server, "api_base", **ENCODING)
    replies = [module.embedding(f"openai/{MODEL}", input=batch, **given) for batch in batches(texts)]
    return [item["embedding"] for reply in replies for item in reply.data]


def run(one: Client, fault: str) -> Outcome:
    """Let a client embed the texts while one thing goes wrong."""
    texts = [*TEXTS[:-1], "long " * 400] if fault == "text-too-long" else TEXTS
    result: Future[list[Any]] = Future()
    with Simulator() as simulator:
        simulator.fail(fault.partition(",")[0], **SETTINGS.get(fault, {}))

        def work() -> None:
            try:
                result.set_result(one.embed(importlib.import_module(one.module), texts, simulator))
            except Exception as error:  # noqa: BLE001 - whatever a client raises is what is asked for here
                result.set_exception(error)

        threading.Thread(target=work, daemon=True).start()
        if not wait([result], LIMIT).done:
            return Outcome("hangs")
    if error := result.exception():
        return Outcome("error", f"{type(error).__name__}: {error}")
    wrong = flaw(result.result(), embed(texts))
    return Outcome("WRONG", wrong) if wrong else Outcome("right")


def flaw(rows: list[Any], expected: Any) -> str:
    """What is wrong with vectors, in a word or two; nothing when each text has its own."""
    if len(rows) != len(expected):
        return f"{len(rows)} for {len(expected)}"
    return next((word for place, row in enumerate(rows) if (word := flaw_of_one(row, place, expected))), "")


def flaw_of_one(row: Any, place: int, expected: Any) -> str:
    """What is wrong with one vector."""
    if not isinstance(row, list):
        return type(row).__name__.removesuffix("Type")
    if strange := {type(value).__name__ for value in row} - {"int", "float"}:
        return f"has {strange.pop().removesuffix('Type')}"
    if len(row) != expected.shape[1]:
        return f"length {len(row)}"
    values = np.array(row, dtype=np.float64)
    if not np.isfinite(values).all() or not values.any():
        return "NaN" if np.isnan(values).any() else "Infinity" if values.any() else "zeros"
    matches = np.isclose(expected, values, rtol=0.0, atol=1e-6).all(axis=1)
    return "" if matches[place] else "another text's" if matches.any() else "wrong numbers"


def show(rows: list[list[str]], *, markdown: bool) -> None:
    """A table; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if markdown:
        lines = [f"| {' | '.join(row)} |" for row in rows]
        lines.insert(1, "|---" * len(widths) + "|")
    print("\n".join(lines), end="\n\n")


def report(outcomes: dict[tuple[str, str], Outcome], clients: list[Client], *, markdown: bool) -> None:
    summary = [["client", "package", *KINDS, "of"]]
    for name, package, *_ in clients:
        found = [outcomes[name, fault].kind for fault in FAULTS]
        counts = [str(found.count(kind)) for kind in KINDS.values()]
        summary.append([name, f"{package} {version(package)}", *counts, str(len(found))])
    table = [["fault", *(one.name for one in clients)]]
    for fault in FAULTS:
        met = [outcomes[one.name, fault] for one in clients]
        cells = [": ".join(found) if found.kind == "WRONG" else found.kind for found in met]
        table.append([fault, *cells])
    for rows in (summary, table) if markdown else (table, summary):
        show(rows, markdown=markdown)


def main() -> int:
    parser = argparse.ArgumentParser(description="Each fault of the simulator through each client that is installed.")
    parser.add_argument("--markdown", action="store_true", help="tables for a README, the summary first")
    parser.add_argument("--details", action="store_true", help="also what each error said")
    arguments = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    # Nothing is asked of a proxy or of the network.
    os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", LITELLM_LOCAL_MODEL_COST_MAP="True")
    clients = []
    for one in CLIENTS:
        try:
            importlib.import_module(one.module)
            clients.append(one)
        except ImportError as error:
            print(f"{one.name} is skipped (pip install {one.package}): {error}", end="\n\n")
    cases = [(one, fault) for fault in FAULTS for one in clients]
    with ThreadPoolExecutor(len(clients)) as pool:
        found = tqdm(pool.map(lambda case: run(*case), cases), total=len(cases), disable=None)
        outcomes = {(one.name, fault): outcome for (one, fault), outcome in zip(cases, found, strict=True)}
    report(outcomes, clients, markdown=arguments.markdown)
    if arguments.details:
        for (name, fault), outcome in outcomes.items():
            print(f"{fault:<25} {name:<20} {outcome.kind:<6} {' '.join(outcome.detail.split())[:200]}")
    ours = {one.name for one in clients if one.package == "multiembed"}
    return int(any(name in ours and outcome.kind in ("WRONG", "hangs") for (name, _), outcome in outcomes.items()))


if __name__ == "__main__":
    sys.exit(main())
