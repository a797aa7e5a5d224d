"""`multiembed demo`: a real corpus through every provider and both frameworks, and questions with known answers."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from operator import mul
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from multiembed import ConfigurationError, EmbeddingClient, list_models
from multiembed.cli.corpus import DEFAULT_QUESTION, Passage, answers, passages, questions
from multiembed.cli.models import WITHOUT_MODELS
from multiembed.cli.stores import installed_stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console

    from multiembed import Usage
    from multiembed.cli.stores import Store

_DIMENSIONS = 1024
_STEP = 100
"""Texts handed over at a time, so that the bar moves."""
_EXCERPT = 320
_SENTENCE = re.compile(r".+?(?:[.?!:] |[。？！；]|$)")

# One model of each provider that has 1024 dimensions, so that the shares can be compared.
_SIMULATED = (
    "zhipu:embedding-3",
    "siliconflow:Qwen/Qwen3-Embedding-0.6B",
    "dashscope:text-embedding-v4",
    "dashscope-compatible:text-embedding-v4",
    "openai-compatible:text-embedding-3-small",
    "gateway:text-embedding-3-small",
    "local:char-ngrams",
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    model: str
    framework: str
    texts: int
    usage: Usage
    seconds: float
    hits: int
    asked: int


def run(console: Console, *, question: str | None, live: str | None, model: str | None) -> None:
    """Ingest, ask, and print what came of it.

    Raises:
        ConfigurationError: what was asked for makes no sense; nothing was ingested.
        MultiEmbedError: the provider failed.
    """
    if question is not None and not question.strip():
        raise ConfigurationError("The question is empty: leave it out, and two of the demo's own are asked.")
    if live is None and model is not None:
        raise ConfigurationError("--model goes with --live: the simulated demo shows every provider.")
    name = None if live is None else _live_model(live, model)
    stores = installed_stores()
    corpus = passages()
    english = sum(passage.language == "en" for passage in corpus)
    console.print(
        f"Corpus: {len(corpus)} passages: {english} of Python's own language reference, "
        f"{len(corpus) - english} short essays in Chinese; {len(questions())} held-out questions.",
        highlight=False,
    )
    if name is None:
        with _simulated(console) as options:
            rows, asked = _through(console, stores, corpus, _SIMULATED, options, question)
    else:
        _tell_price(console, name, corpus, times=len(stores))
        rows, asked = _through(console, stores, corpus, (name,), lambda _: {}, question)
    console.print(_table(rows))
    console.print(
        "seconds: to embed and keep the texts. top 3: questions whose passage is among the first three found.\n",
        style="dim",
        highlight=False,
    )
    if name is None:
        console.print(
            "The vectors come from the simulator: lexical n-grams, the same for every provider. The shares show that "
            "texts and vectors belong together, not how good a provider's model is: see --live PROVIDER for that.\n",
            style="dim",
            highlight=False,
        )
    for text, found in asked.items():
        console.print(_found(text, found))


# ── the work ─────────────────────────────────────────────────────────────────────────────────────


def _through(
    console: Console,
    stores: Sequence[Callable[[str, Mapping[str, Any]], Store]],
    corpus: Sequence[Passage],
    models: Sequence[str],
    options: Callable[[str], Mapping[str, Any]],
    question: str | None,
) -> tuple[list[Row], dict[str, list[Passage]]]:
    """Fill and ask a store of each framework for each model."""
    rows: list[Row] = []
    asked: dict[str, list[Passage]] = {}
    by_id = {passage.id: passage for passage in corpus}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("", total=len(models) * len(stores) * (len(corpus) + len(questions())))
        for model in models:
            for make in stores:
                store = make(model, options(model))
                progress.update(task, description=f"{store.framework}: {model}")
                begun = time.perf_counter()
                for start in range(0, len(corpus), _STEP):
                    step = corpus[start : start + _STEP]
                    store.add(step)
                    progress.advance(task, len(step))
                seconds = time.perf_counter() - begun
                spent = store.usage
                hits = 0
                for known in questions():
                    hits += any(answers(known, by_id[name]) for name in store.ask(known.text))
                    progress.advance(task)
                rows.append(Row(model, store.framework, len(corpus), spent, seconds, hits, len(questions())))
        for text in [question] if question else DEFAULT_QUESTION.values():
            asked[text] = [by_id[name] for name in store.ask(text)]
    return rows, asked


@contextmanager
def _simulated(console: Console) -> Iterator[Callable[[str], Mapping[str, Any]]]:
    from multiembed.simulator import Simulator

    with Simulator(record=False) as simulator:
        console.print(f"No key is needed: a simulator on this machine answers ({simulator.url}).\n", highlight=False)

        def options(model: str) -> Mapping[str, Any]:
            provider = model.partition(":")[0]
            address = (
                {}
                if provider == "local"
                else {
                    "base_url": simulator.base_url(provider),
                    "api_key": simulator.api_key,
                }
            )
            return {"dimensions": _DIMENSIONS, **address}

        yield options


def _live_model(live: str, model: str | None) -> str:
    """The model that was named, in either place, or the provider's first."""
    provider, _, inline = live.partition(":")
    if inline and model not in (None, inline):
        raise ConfigurationError(f"Give the model once: {live!r} and --model name two.")
    if model or inline:
        return f"{provider}:{model or inline}"
    for owner, facts in list_models():
        if owner.id == provider:
            return f"{provider}:{facts.name}"
    if provider in WITHOUT_MODELS:
        raise ConfigurationError(f"{provider} has no first model: name one with --model.")
    EmbeddingClient(f"{provider}:any")  # says which providers there are
    raise AssertionError


def _tell_price(console: Console, model: str, corpus: Sequence[Passage], *, times: int) -> None:
    estimate = EmbeddingClient(model).estimate(passage.text for passage in corpus)
    cost = "an unknown price" if estimate.cost is None else f"about {estimate.cost * times:.3f} CNY"
    console.print(
        f"Live: {model}, {times} times {estimate.requests} requests of about {estimate.tokens:,} tokens, "
        f"{cost}, and {len(questions())} questions.\n",
        highlight=False,
    )


# ── what is printed ──────────────────────────────────────────────────────────────────────────────


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("provider:model", overflow="fold")
    table.add_column("framework")
    for name in ("texts", "requests", "seconds", "top 3"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.model,
            row.framework,
            f"{row.texts:,}",
            f"{row.usage.requests:,}" if row.usage.requests else "none",
            f"{row.seconds:.2f}",
            f"{row.hits / row.asked:.0%}",
        )
    return table


def _found(question: str, found: Sequence[Passage]) -> Panel:
    body = Text()
    for rank, passage in enumerate(found, start=1):
        title, _, rest = passage.text.partition("\n")
        body.append(f"{rank}. {title}\n", style="bold")
        body.append(f"{_excerpt(question, ' '.join(rest.split()))}\n")
    return Panel(body, title=Text(question), title_align="left")


def _excerpt(question: str, text: str) -> str:
    """The part of a passage around the sentence that comes closest to the question."""
    sentences = _SENTENCE.findall(text)
    with EmbeddingClient("local:char-ngrams") as client:
        vectors, (asked,) = client.embed(sentences).to_list(), client.embed([question], "query").to_list()
    near = [sum(map(mul, asked, vector)) for vector in vectors]
    first = sum(map(len, sentences[: max(0, near.index(max(near)) - 1)]))
    if len(text) - first < _EXCERPT:
        first = max(0, len(text) - _EXCERPT)
    cut = text[first : first + _EXCERPT].strip()
    return f"{'… ' if first else ''}{cut}{' …' if first + _EXCERPT < len(text) else ''}"
