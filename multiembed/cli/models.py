"""`multiembed models`: the catalog as a table or as JSON. And how commands choose a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from multiembed import ConfigurationError, EmbeddingClient, list_models
from multiembed.cli.console import print_plain

if TYPE_CHECKING:
    from rich.console import Console

    from multiembed import EmbeddingOptionsDict, ModelInfo

WITHOUT_MODELS = ("openai-compatible", "gateway")
"""Providers that take any model, so that the catalog has no row of them."""
_UNUSED: EmbeddingOptionsDict = {"api_key": "unused", "base_url": "https://unused.invalid"}
"""Options that make a client of any remote provider. It gives the provider's data and is never called."""


def find_provider(name: str) -> Any:
    """The data of a provider. Raises ConfigurationError if there is none of that name."""
    return EmbeddingClient(f"{name}:any", **({} if name == "local" else _UNUSED)).target.provider


def choose_model(provider: str, model: str | None) -> tuple[str, str]:
    """The provider's id and a model of it.

    Args:
        provider: "provider" or "provider:model".
        model: the model's name; without any, the provider's first is chosen.

    Raises:
        ConfigurationError: there is no such provider, it has no first model, or two models are named.
    """
    name, _, inline = provider.partition(":")
    if inline and model not in (None, inline):
        raise ConfigurationError(f"Give the model once: {provider!r} and --model name two.")
    facts = find_provider(name)
    chosen = model or inline or next((known.name for known in facts.models), None)
    if chosen is None:
        raise ConfigurationError(f"{facts.title} has no first model: name one with --model.")
    return name, chosen


def run(console: Console, *, provider: str | None, as_json: bool) -> None:
    """Print every known model, or one provider's."""
    rows = [(owner.id, model) for owner, model in list_models() if provider in (None, owner.id)]
    if not rows:
        raise ConfigurationError(_no_models(provider or ""))
    if as_json:
        fields = [{"provider": owner, **asdict(model)} for owner, model in rows]
        for each in fields:
            del each["known"]  # all of these are
        console.print_json(json.dumps(fields))
        return
    sources: dict[tuple[str, str], int] = {}
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("provider:\nmodel", overflow="fold", min_width=21)
    for name in ("#", "RIPSB", "texts", "tokens\na text", "tokens a\nrequest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("dimensions\n(* default)", overflow="fold", max_width=18 if console.width < 100 else None)
    table.add_column("CNY a\nM tokens", justify="right", no_wrap=True)
    for position, (owner, model) in enumerate(rows):
        if position == 0 or rows[position - 1][0] != owner:
            table.add_row(f"{owner}:", style="bold")
        number = sources.setdefault((model.source, model.checked), len(sources) + 1)
        table.add_row(f" {model.name}", str(number), *_cells(model))
    console.print(table)
    for (source, checked), number in sources.items():
        print_plain(console, f"  {number}  {source} (read {checked})")
    console.print(
        "\n#: the source. R: the API has roles (queries and documents). I: takes an instruction for queries. "
        "P: a query prefix is recommended. S: returns sparse vectors. B: sends base64. Prices are those of the day "
        "they were read. A model that is not listed works with its provider's conservative defaults.",
        style="dim",
        highlight=False,
    )


def _no_models(provider: str) -> str:
    """The reason why a provider has no row in the catalog."""
    if provider in WITHOUT_MODELS:
        texts = EmbeddingClient(f"{provider}:any", **_UNUSED).target.limits.max_items
        return (
            f"{provider} has no catalog: it takes any model and any dimensions, {texts} texts a request unless "
            "limits={'max_items': …} says otherwise."
        )
    known = ", ".join(dict.fromkeys(owner.id for owner, _ in list_models()))
    return f"There is no provider {provider!r} in the catalog: {known}."


def _cells(model: ModelInfo) -> list[str]:
    limits, default = model.limits, model.default_dimensions
    features = {
        "R": model.role_parameter,
        "I": model.instruct is not None,
        "P": model.query_prefix is not None,
        "S": model.sparse,
        "B": model.base64,
    }
    numbers = (limits.max_items, limits.max_tokens_per_item, limits.max_tokens_per_request)
    dimensions = " ".join(f"{size}*" if size == default else str(size) for size in model.dimensions or ())
    price = model.price_cny_per_mtok
    return [
        "".join(letter if has else "·" for letter, has in features.items()),
        *("" if number is None else f"{number:,}" for number in numbers),
        dimensions or ("any" if default is None else f"any ({default}*)"),
        "?" if price is None else "free" if price == 0 else f"{price:g}",
    ]
