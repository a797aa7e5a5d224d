"""What `multiembed embed` says at its end: what was done and what it cost, what is left, and how to go on."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from multiembed import CacheFile, MultiEmbedError, list_models
from multiembed.cli.progress import counted, duration, told_money, told_tokens
from multiembed.cli.side_files import remove_cache

if TYPE_CHECKING:
    from rich.console import Console

    from multiembed import EmbeddingClient
    from multiembed.cli.estimate_run import Forecast
    from multiembed.cli.job_options import Order
    from multiembed.cli.side_files import SideFile


def tell_resume(
    errors: Console, client: EmbeddingClient | None, order: Order, what: str, *, dry: bool, locked: bool
) -> None:
    """Say that nothing was written, what is kept all the same, and which command goes on with it.

    Args:
        errors: where.
        client: what embedded; None when the run was not so far yet.
        order: what was asked for.
        what: how the run ended.
        dry: whether nothing was to be written.
        locked: whether no other run can use the cache beside the output, so that an empty one may be removed.
    """
    if client is not None:
        client.close()
    lines = [what if dry else f"{what} Nothing was written to {order.out}."]
    vectors = 0 if dry else _kept_vectors(order, remove=locked)
    if vectors:
        lines.append(f"{counted(vectors, 'vector')} kept in {order.vectors}: the same command goes on from there.")
        lines.append(f"  {_command()}")
        if "-" in order.inputs:
            lines.append("Give it the same standard input.")
    elif client is not None and client.report.requests:
        lines.append("No vectors were kept.")
    errors.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _kept_vectors(order: Order, *, remove: bool) -> int:
    """How many vectors a run finds when it is tried again; a cache of its own that has none is removed."""
    path = order.vectors
    if path is None or not path.exists():
        return 0
    try:
        vectors = sum(space.vectors for space in CacheFile(path).namespaces())
    except MultiEmbedError:  # what is wrong with it was said already
        return 0
    if not vectors and order.cache is None and remove:
        remove_cache(path)
    return vectors


def _command() -> str:
    """The command line, as it can be typed again."""
    name = Path(sys.argv[0])
    found = shutil.which(name.name)
    called = name.name if found and Path(found) == name.absolute() else str(name)
    return shlex.join([called, *sys.argv[1:]])


def tell_result(
    console: Console, client: EmbeddingClient, order: Order, rows: int, side: SideFile, seconds: float
) -> None:
    """Say what was done, what it cost, and what was left out."""
    report = client.report
    facts = [counted(report.requests, "request")] if report.requests else []
    if report.requests or report.cached_texts:
        facts += [told_tokens(report.total_tokens), _priced(report.cost, order.model)]
    if report.cached_texts:
        facts.append(f"{counted(report.cached_texts, 'text')} known already")
    if report.retries:
        facts.append(f"{report.retries:,} sent again")
    if report.rate_errors:
        facts.append(f"{report.rate_errors:,} times too fast")
    if report.p50 is not None and report.p99 is not None:
        facts.append(f"answers in {report.p50:.2f} s, 99 % within {report.p99:.2f} s")
    facts.append(duration(seconds))
    said = f"{counted(rows, 'text')}: {order.out}\n{', '.join(facts)}"
    if side.rows:
        said += f"\n{counted(side.rows, 'row')} left out; the reasons are in {order.failed}"
        if side.failures and order.vectors is not None:
            said += f"\n{order.vectors} is kept: with --overwrite the same command pays for the failed rows alone."
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def _priced(cost: float | None, model: str) -> str:
    for owner, facts in list_models():
        if f"{owner.id}:{facts.name}" == model and cost:
            return f"{told_money(cost)} (price of {facts.checked})"
    return told_money(cost)


def tell_forecast(console: Console, forecast: Forecast, model: str, *, left_out: int) -> None:
    """Print what a run would take."""
    again = f", {forecast.twice:,} of them not for the first time" if forecast.twice else ""
    money = "unknown: the catalog has no price of this model"
    if forecast.cost is not None:
        money = f"about {_priced(forecast.cost, model)}" if forecast.cost else "nothing"
    rows = {
        "texts": f"{forecast.texts:,}{again}",
        "left out": f"{left_out:,}" if left_out else "",
        "requests": f"{forecast.requests:,}",
        "tokens": f"about {forecast.tokens:,}",
        "money": money,
        "time": f"about {duration(forecast.seconds)}, by {forecast.basis}",
    }
    for name, value in rows.items():
        if value:
            console.print(f"{name:<10}{value}", markup=False, highlight=False, soft_wrap=True)
    console.print("Nothing was sent.", highlight=False)
