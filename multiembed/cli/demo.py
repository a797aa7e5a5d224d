"""`multiembed demo`: a real corpus through every provider and both frameworks, and questions with known answers."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from importlib.util import find_spec
from operator import mul
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from multiembed import ConfigurationError, EmbeddingClient
from multiembed.cli.console import print_plain
from multiembed.cli.corpus import DEFAULT_QUESTION, Passage, answers, passages, questions
from multiembed.cli.models import choose_model
from multiembed.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console

_DIMENSIONS = 1024
_STEP = 100
"""Texts added at a time, so that the bar moves."""
_SHOWN = 3
"""Passages that a question finds."""
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
_SEMANTIC = "local:use-multilingual"


@dataclass(frozen=True, slots=True)
class _Store:
    """A vector store of one framework, used through that framework's own methods."""

    framework: str
    client: EmbeddingClient
    add: Callable[[Sequence[Passage]], object]
    """Embeds and stores passages."""
    ask: Callable[[str], list[str]]
    """The ids of the nearest passages, nearest first."""


def _langchain_store(model: str, options: Mapping[str, Any]) -> _Store:
    from langchain_core.vectorstores import InMemoryVectorStore

    from langchain_multiembed import MultiEmbeddings

    embeddings = MultiEmbeddings(model=model, **options)
    store = InMemoryVectorStore(embeddings)
    return _Store(
        "LangChain",
        embeddings.client,
        lambda passages: store.add_texts([each.text for each in passages], ids=[each.id for each in passages]),
        lambda question: [str(document.id) for document in store.similarity_search(question, k=_SHOWN)],
    )


def _llamaindex_store(model: str, options: Mapping[str, Any]) -> _Store:
    from llama_index.core import VectorStoreIndex
    from llama_index.core.schema import TextNode

    from llamaindex_multiembed import MultiEmbedding

    embedding = MultiEmbedding(model_name=model, **options)
    index = VectorStoreIndex([], embed_model=embedding)
    return _Store(
        "LlamaIndex",
        embedding.client,
        lambda passages: index.insert_nodes([TextNode(id_=each.id, text=each.text) for each in passages]),
        lambda question: [
            found.node.node_id for found in index.as_retriever(similarity_top_k=_SHOWN).retrieve(question)
        ],
    )


def _installed_stores() -> Sequence[Callable[[str, Mapping[str, Any]], _Store]]:
    """Constructors of the stores whose framework is installed; each takes a model and options."""
    frameworks = {"langchain_core": _langchain_store, "llama_index": _llamaindex_store}
    stores = [store for package, store in frameworks.items() if find_spec(package)]
    if not stores:
        raise ConfigurationError("The demo needs a framework: pip install 'multiembed[all]'")
    return stores


def run(console: Console, *, question: str | None, live: str | None, model: str | None) -> None:
    """Embed the corpus, ask the questions, and print the results."""
    if question is not None and not question.strip():
        raise ConfigurationError("The question is empty: leave it out, and two of the demo's own are asked.")
    if live is None and model is not None:
        raise ConfigurationError("--model goes with --live: the simulated demo shows every provider.")
    name = None if live is None else ":".join(choose_model(live, model))
    semantic = name is None and _has_semantic_model()
    stores = len(_installed_stores())
    corpus = passages()
    english = sum(passage.language == "en" for passage in corpus)
    console.print(
        f"Corpus: {len(corpus)} passages: {english} of Python's own language reference, "
        f"{len(corpus) - english} short essays in Chinese; {len(questions())} held-out questions.",
        highlight=False,
    )
    if name is None:
        with Simulator(record=False) as simulator:
            print_plain(console, f"No key is needed: a simulator on this machine responds ({simulator.url}).\n")
            options = {model: _simulator_options(simulator, model) for model in _SIMULATED}
            if semantic:
                options[_SEMANTIC] = {}  # last: its vectors answer the questions below the table
            table, results = _compare(console, corpus, options, question)
    else:
        estimate = EmbeddingClient(name).estimate(passage.text for passage in corpus)
        cost = "an unknown price" if estimate.cost is None else f"about {estimate.cost * stores:.3f} CNY"
        size = f"{estimate.requests} requests of about {estimate.tokens:,} tokens, {cost}"
        console.print(f"Live: {name}, {stores} times {size}, and {len(questions())} questions.\n", highlight=False)
        table, results = _compare(console, corpus, {name: {}}, question)
    console.print(table)
    note = "seconds: to embed and store the texts. top 3: questions whose passage is among the first three found.\n"
    if name is None:
        note += (
            "\nThe simulator's vectors are lexical n-grams, the same for every provider. The shares show that texts "
            "and vectors belong together, not how good a provider's model is: see --live PROVIDER for that.\n"
        )
        note += (
            f"{_SEMANTIC} is a real model, computed on this machine. It finds the passages below.\n"
            if semantic
            else 'A real model that runs on this machine, without a key: pip install "multiembed[semantic]"\n'
        )
    console.print(note, style="dim", highlight=False, markup=False)
    for text, found in results.items():
        console.print(_panel(text, found))


def _compare(
    console: Console,
    corpus: Sequence[Passage],
    models: Mapping[str, Mapping[str, Any]],
    question: str | None,
) -> tuple[Table, dict[str, list[Passage]]]:
    """Fill and query a store of each framework for each model, given with its options.

    Returns:
        The table, and the passages found by question.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("provider:model", overflow="fold")
    table.add_column("framework")
    for name in ("texts", "requests", "seconds", "top 3"):
        table.add_column(name, justify="right")
    by_id, asked, stores = {passage.id: passage for passage in corpus}, questions(), _installed_stores()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(models) * len(stores) * (len(corpus) + len(asked)))
        for model, options in models.items():
            for make in stores:
                store = make(model, options)
                progress.update(task, description=f"{store.framework}: {model}")
                started = time.perf_counter()
                for start in range(0, len(corpus), _STEP):
                    step = corpus[start : start + _STEP]
                    store.add(step)
                    progress.advance(task, len(step))
                seconds = time.perf_counter() - started
                requests = store.client.usage.requests
                hits = 0
                for known in asked:
                    hits += any(answers(known, by_id[name]) for name in store.ask(known.text))
                    progress.advance(task)
                share = f"{hits / len(asked):.0%}"
                cells = (f"{len(corpus):,}", f"{requests:,}" if requests else "none", f"{seconds:.2f}", share)
                table.add_row(model, store.framework, *cells)
        texts = [question] if question else DEFAULT_QUESTION.values()
        return table, {text: [by_id[name] for name in store.ask(text)] for text in texts}


def _has_semantic_model() -> bool:
    """Whether the extra `semantic` is installed, in the version that is needed."""
    try:
        EmbeddingClient(_SEMANTIC).target  # noqa: B018 - it checks the package
    except ConfigurationError:
        return False
    return True


def _simulator_options(simulator: Simulator, model: str) -> Mapping[str, Any]:
    provider = model.partition(":")[0]
    options: dict[str, Any] = {"dimensions": _DIMENSIONS}
    if provider != "local":
        options |= {"base_url": simulator.base_url(provider), "api_key": simulator.api_key}
    return options


def _panel(question: str, found: Sequence[Passage]) -> Panel:
    body = Text()
    for rank, passage in enumerate(found, start=1):
        title, _, rest = passage.text.partition("\n")
        body.append(f"{rank}. {title}\n", style="bold")
        body.append(f"{_excerpt(question, ' '.join(rest.split()))}\n")
    return Panel(body, title=Text(question), title_align="left")


def _excerpt(question: str, text: str) -> str:
    """The part of a passage around the sentence that is nearest to the question."""
    sentences = _SENTENCE.findall(text)
    with EmbeddingClient("local:char-ngrams") as client:
        vectors, (query,) = client.embed(sentences).to_list(), client.embed([question], "query").to_list()
    scores = [sum(map(mul, query, vector)) for vector in vectors]
    first = sum(map(len, sentences[: max(0, scores.index(max(scores)) - 1)]))
    if len(text) - first < _EXCERPT:
        first = max(0, len(text) - _EXCERPT)
    cut = text[first : first + _EXCERPT].strip()
    return f"{'… ' if first else ''}{cut}{' …' if first + _EXCERPT < len(text) else ''}"
