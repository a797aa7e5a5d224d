"""`multiembed models`: the catalog as a table or as JSON. And how commands choose a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from multiembed import ConfigurationError, EmbeddingClient, list_models
from multiembed.cli.completion import WITHOUT_MODELS
from multiembed.cli.console import print_plain, print_wrapped

if TYPE_CHECKING:
    from rich.console import Console

    from multiembed import EmbeddingOptionsDict, ModelInfo

_WIDE = 110
"""Columns that the table takes with whole names; below, each model is a paragraph."""
_UNUSED: EmbeddingOptionsDict = {"api_key": "unused", "base_url": "https://unused.invalid"}
"""Options that make a client of any remote provider. It gives the provider's data and is never called."""


def find_provider(name: str) -> Any:
    """The data of a provider. Raises ConfigurationError if there is none of that name."""
    if name == "local":
        return EmbeddingClient(name).target.provider
    return EmbeddingClient(f"{name}:any", **_UNUSED).target.provider


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
    numbers = [sources.setdefault((model.source, model.checked), len(sources) + 1) for _, model in rows]
    if console.width >= _WIDE:
        _print_table(console, rows, numbers)
    else:
        for (owner, model), number in zip(rows, numbers, strict=True):
            print_plain(console, f"{owner}:{model.name}")
            print_wrapped(console, _sentence(model, number), "    ")
    print_plain(console, "")
    for (source, checked), number in sources.items():
        print_plain(console, f"#{number}  read {checked}:\n    {source}")
    notes = (
        ""
        if console.width < _WIDE
        else (
            "#: the source. R: the API has roles (queries and documents). I: takes an instruction for queries. "
            "P: a query prefix is recommended. S: returns sparse vectors. B: sends base64. "
        )
    )
    print_wrapped(
        console,
        f"{notes}* is the default. Prices are those of the day they were read. A model that is not listed works with "
        "its provider's conservative defaults.",
        style="dim",
    )


def _print_table(console: Console, rows: list[tuple[str, ModelInfo]], numbers: list[int]) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("provider:model", no_wrap=True)
    for name in ("#", "RIPSB", "texts", "tokens\na text", "tokens a\nrequest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("dimensions\n(* default)")
    table.add_column("CNY a\nM tokens", justify="right", no_wrap=True)
    for (owner, model), number in zip(rows, numbers, strict=True):
        limits = model.limits
        letters = zip("RIPSB", _features(model), strict=True)
        amounts = (limits.max_items, limits.max_tokens_per_item, limits.max_tokens_per_request)
        table.add_row(
            f"{owner}:{model.name}",
            str(number),
            "".join(letter if has else "·" for letter, (_, has) in letters),
            *("" if amount is None else f"{amount:,}" for amount in amounts),
            _dimensions(model),
            _price(model),
        )
    console.print(table)


def _sentence(model: ModelInfo, source: int) -> str:
    """The facts of a model for a narrow terminal, in one line."""
    limits, price = model.limits, _price(model)
    facts = [f"{limits.max_items} texts a request"]
    if limits.max_tokens_per_item:
        facts.append(f"{limits.max_tokens_per_item:,} tokens a text")
    if limits.max_tokens_per_request:
        facts.append(f"{limits.max_tokens_per_request:,} tokens a request")
    facts.append(f"dimensions {_dimensions(model)}")
    facts.append(price if price == "free" else f"price {price}" + " CNY a M tokens" * (price != "unknown"))
    facts += [name for name, has in _features(model) if has]
    return f"{', '.join(facts)} #{source}"


def _no_models(provider: str) -> str:
    """The reason why a provider has no row in the catalog."""
    if provider in WITHOUT_MODELS:
        texts = EmbeddingClient(f"{provider}:any", **_UNUSED).target.limits.max_items
        return (
            f"{provider} has no catalog: it takes any model and any dimensions, {texts} texts a request unless "
            "--limits max_items=… says otherwise."
        )
    known = ", ".join(dict.fromkeys(owner.id for owner, _ in list_models()))
    return f"There is no provider {provider!r} in the catalog: {known}."


def _features(model: ModelInfo) -> list[tuple[str, bool]]:
    return [
        ("roles", model.role_parameter),
        ("instruction", model.instruct is not None),
        ("query prefix", model.query_prefix is not None),
        ("sparse", model.sparse),
        ("base64", model.base64),
    ]


def _dimensions(model: ModelInfo) -> str:
    default = model.default_dimensions
    listed = " ".join(f"{size}*" if size == default else str(size) for size in model.dimensions or ())
    return listed or ("any" if default is None else f"any ({default}*)")


def _price(model: ModelInfo) -> str:
    price = model.price_cny_per_mtok
    return "unknown" if price is None else "free" if price == 0 else f"{price:g}"
