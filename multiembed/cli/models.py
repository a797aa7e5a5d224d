"""`multiembed models`: the catalog as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from multiembed import ConfigurationError, EmbeddingClient, list_models

if TYPE_CHECKING:
    from rich.console import Console

    from multiembed import EmbeddingOptionsDict, ModelInfo

WITHOUT_MODELS = ("openai-compatible", "gateway")
"""Providers that take any model, so that the catalog has no row of them."""
UNUSED: EmbeddingOptionsDict = {"api_key": "unused", "base_url": "https://unused.invalid"}
"""Options with which a client of any remote provider can be made. It knows its facts and is never called."""


def run(console: Console, *, provider: str | None, as_json: bool) -> None:
    """Print every known model, or one provider's."""
    rows = [(owner.id, facts) for owner, facts in list_models() if provider in (None, owner.id)]
    if not rows:
        raise ConfigurationError(_without_rows(provider or ""))
    if as_json:
        console.print_json(json.dumps([{"provider": owner, **_fields(facts)} for owner, facts in rows]))
        return
    sources: dict[tuple[str, str], int] = {}
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    table.add_column("provider:\nmodel", overflow="fold")
    for name in ("from", "RIPSB", "texts", "tokens\na text", "tokens a\nrequest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("dimensions\n(* default)", overflow="fold")
    table.add_column("CNY a\nM tokens", justify="right", no_wrap=True)
    for place, (owner, facts) in enumerate(rows):
        if place == 0 or rows[place - 1][0] != owner:
            table.add_row(f"{owner}:", style="bold")
        number = sources.setdefault((facts.source, facts.checked), len(sources) + 1)
        table.add_row(f" {facts.name}", str(number), *_cells(facts))
    console.print(table)
    for (source, checked), number in sources.items():
        console.print(f"  {number}  {source} (read {checked})", markup=False, highlight=False, soft_wrap=True)
    console.print(
        "\nR: the API keeps queries and documents apart (roles). I: takes an instruction for queries. P: a query "
        "prefix is recommended. S: gives sparse vectors. B: sends base64. Prices are those of the day they were "
        "read. A model that is not listed works with its provider's careful defaults.",
        style="dim",
        highlight=False,
    )


def _without_rows(provider: str) -> str:
    """Why a provider has no row in the catalog."""
    if provider in WITHOUT_MODELS:
        texts = EmbeddingClient(f"{provider}:any", **UNUSED).target.limits.max_items
        return (
            f"{provider} has no catalog: it takes any model and any dimensions, {texts} texts a request unless "
            "limits={'max_items': …} says otherwise."
        )
    known = ", ".join(dict.fromkeys(owner.id for owner, _ in list_models()))
    return f"There is no provider {provider!r} in the catalog: {known}."


def _cells(facts: ModelInfo) -> list[str]:
    limits = facts.limits
    extras = {
        "R": facts.role_parameter,
        "I": facts.instruct is not None,
        "P": facts.query_prefix is not None,
        "S": facts.sparse,
        "B": facts.base64,
    }
    price = facts.price_cny_per_mtok
    return [
        "".join(letter if has else "·" for letter, has in extras.items()),
        _number(limits.max_items),
        _number(limits.max_tokens_per_item),
        _number(limits.max_tokens_per_request),
        _dimensions(facts),
        "?" if price is None else "free" if price == 0 else f"{price:g}",
    ]


def _dimensions(facts: ModelInfo) -> str:
    if facts.dimensions is None:
        return "any" if facts.default_dimensions is None else f"any ({facts.default_dimensions}*)"
    return " ".join(f"{size}*" if size == facts.default_dimensions else str(size) for size in facts.dimensions)


def _fields(facts: ModelInfo) -> dict[str, Any]:
    fields = asdict(facts)
    del fields["known"]  # all of these are
    return fields


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
