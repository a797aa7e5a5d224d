"""Messages of `multiembed embed`: the result and its cost, the estimate, and how to resume."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from multiembed import CacheFile, MultiEmbedError, list_models
from multiembed.cli.console import console, errors, print_plain, print_wrapped
from multiembed.cli.progress import counted, duration, format_cost, format_tokens
from multiembed.cli.side_files import remove_cache
from multiembed.redaction import redact

_LOGIN = re.compile(r"//[^/@\s]+@")
"""User and password in a URL."""

if TYPE_CHECKING:
    from multiembed import ClientStats, EmbeddingClient
    from multiembed.cli.estimate_run import RunEstimate
    from multiembed.cli.job_options import JobOptions
    from multiembed.cli.side_files import SideFile


def print_resume(options: JobOptions, client: EmbeddingClient | None, ending: str, *, locked: bool) -> None:
    """Print that nothing was written, which vectors are cached, and which command resumes the run.

    Args:
        options: of the run.
        client: the run's client; None before it was made.
        ending: how the run ended.
        locked: whether no other run can use the output's own cache, so that an empty one may be removed.
    """
    if client is not None:
        client.close()
    lines = [ending if options.dry_run else f"{ending} Nothing was written to {options.out}."]
    vectors = 0 if options.dry_run else _kept_vectors(options, remove=locked)
    if vectors:
        lines.append(f"{counted(vectors, 'vector')} kept in {options.vectors}: the same command goes on from there.")
        lines.append(f"  {redact(_command(), client.target.secrets if client else ())}")
        if "-" in options.inputs:
            lines.append("Give it the same standard input.")
    elif options.has_cache_url:  # the command may hold its password
        lines.append("The same command goes on with the vectors in the cache.")
    elif client is not None and client.stats.requests:
        lines.append("No vectors were kept.")
    print_plain(errors, "\n".join(lines))


def _kept_vectors(options: JobOptions, *, remove: bool) -> int:
    """The number of cached vectors; an empty cache of the run's own is removed."""
    path = options.vectors
    if path is None or not path.exists():
        return 0
    try:
        vectors = sum(space.vectors for space in CacheFile(path).namespaces())
    except MultiEmbedError:  # reported already
        return 0
    if not vectors and options.cache is None and remove:
        remove_cache(path)
    return vectors


def _command() -> str:
    """The command line, to be typed again."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    name = [program.name] if found and Path(found) == program.absolute() else [str(program)]
    if program.name == "__main__.py":
        name = ["python", "-m", "multiembed"]
    return shlex.join([*name, *(_LOGIN.sub("//…@", argument) for argument in sys.argv[1:])])


def print_result(options: JobOptions, stats: ClientStats, rows: int, side: SideFile, seconds: float) -> None:
    """Print the number of texts, the cost and the rows left out."""
    facts = [counted(stats.requests, "request")] if stats.requests else []
    if stats.requests or stats.cached_texts:
        facts += [format_tokens(stats.total_tokens), _priced(stats.cost, options.model)]
    if stats.cached_texts:
        facts.append(f"{counted(stats.cached_texts, 'text')} from the cache")
    if stats.retries:
        facts.append(f"{stats.retries:,} sent again")
    if stats.rate_errors:
        facts.append(f"{stats.rate_errors:,} rate limit errors")
    if stats.p50 is not None and stats.p99 is not None:
        facts.append(f"responses in {stats.p50:.2f} s, 99 % within {stats.p99:.2f} s")
    facts.append(duration(seconds))
    print_plain(console, f"{counted(rows, 'text')}: {options.out}")
    print_wrapped(console, ", ".join(facts))
    if side.rows:
        print_plain(console, f"{counted(side.rows, 'row')} left out; the reasons are in {options.failed}")
    if side.failures and options.vectors is not None:
        kept = "is kept: with --overwrite the same command pays for the failed rows alone."
        print_wrapped(console, f"{options.vectors} {kept}")
    _print_trial(options)


def _priced(cost: float | None, model: str) -> str:
    for owner, known in list_models():
        if f"{owner.id}:{known.name}" == model and cost:
            return f"{format_cost(cost)} (price of {known.checked})"
    return format_cost(cost)


def _print_trial(options: JobOptions) -> None:
    if options.limit is not None:
        print_wrapped(
            console, f"A trial of the first {counted(options.limit, 'row')}: without --limit, all are embedded."
        )


def print_estimate(estimate: RunEstimate, options: JobOptions, *, left_out: int) -> None:
    """Print the estimate of a run."""
    cost = "unknown: the catalog has no price of this model"
    if estimate.cost is not None:
        cost = f"about {_priced(estimate.cost, options.model)}" if estimate.cost else "nothing"
    duplicates = f", {estimate.duplicates:,} of them duplicates" if estimate.duplicates else ""
    print_plain(console, f"texts     {estimate.texts:,}{duplicates}")
    if left_out:
        print_plain(console, f"left out  {left_out:,}")
    print_plain(console, f"requests  {estimate.requests:,}\ntokens    about {estimate.tokens:,}\nmoney     {cost}")
    time = estimate.basis if estimate.seconds is None else f"about {duration(estimate.seconds)}, by {estimate.basis}"
    print_wrapped(console, f"time      {time}")
    print_plain(console, "Nothing was sent.")
    _print_trial(options)
