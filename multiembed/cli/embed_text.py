"""`multiembed embed-text`: embeds one text, and prints facts of its vector or the whole vector."""

from __future__ import annotations

import json as json_module
import sys
import time
from typing import Annotated, Any, Literal

import typer

from multiembed import ConfigurationError, EmbeddingClient, MultiEmbedError
from multiembed.cli.client_options import CONNECTION, EMBEDDING, RUN, takes_client_options
from multiembed.cli.completion import complete_model
from multiembed.cli.console import LogLevel, console, print_plain
from multiembed.cli.progress import format_cost, format_tokens

Text = Annotated[str, typer.Argument(metavar="TEXT", help="The text; - reads standard input.", show_default=False)]
Model = Annotated[
    str, typer.Option(help="As provider:model, for instance zhipu:embedding-3.", autocompletion=complete_model)
]
Role = Annotated[Literal["document", "query"], typer.Option(help="document: what is searched; query: a question.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, with the whole vector.")]

_SHOWN = 3
"""Numbers that are shown: the line fits into 40 columns."""


@takes_client_options(EMBEDDING, CONNECTION, RUN)
def embed_text(
    text: Text,
    model: Model,
    role: Role = "document",
    json: Json = False,
    log_level: LogLevel = None,  # noqa: ARG001 - typer calls its callback
    **client: Any,
) -> None:
    """Embed one text, and print the vector's size, norm and first numbers, the tokens and the time.

    Keys come from the environment.
    """
    if text == "-":
        text = sys.stdin.read().removesuffix("\n")
    if not text.strip():
        raise ConfigurationError("The text is empty: nothing was sent.")
    with EmbeddingClient(model, **client) as embedder:
        started = time.perf_counter()
        try:
            result = embedder.embed([text], role)
        except MultiEmbedError as error:
            error.indices = ()  # there is one text
            raise
        milliseconds = (time.perf_counter() - started) * 1000
    vector = result.vectors[0]
    norm = float((vector.astype(float) ** 2).sum() ** 0.5)
    facts = {
        "model": result.model,
        "role": role,
        "dimensions": len(vector),
        "norm": norm,
        "tokens": result.usage.total_tokens,
        "cost_cny": result.usage.cost,
        "ms": round(milliseconds, 1),
    }
    if json:
        print_plain(console, json_module.dumps({**facts, "vector": vector.tolist()}, ensure_ascii=False))
        return
    usage, shown = result.usage, [f"{number:.4f}" for number in vector[:_SHOWN]]
    shown += ["…"] if len(vector) > _SHOWN else []
    cost = f", {format_cost(usage.cost)}" if usage.requests else ""
    print_plain(console, f"model   {result.model}, {role}\nsize    {len(vector):,} dimensions\nnorm    {norm:.6f}")
    print_plain(console, f"first   {' '.join(shown)}")
    print_plain(console, f"tokens  {format_tokens(usage.total_tokens).removesuffix(' tokens')}{cost}")
    print_plain(console, f"time    {milliseconds:,.1f} ms")
