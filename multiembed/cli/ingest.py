"""What `multiembed embed` does: reads, embeds, writes, and leaves what is paid where the next run finds it."""

from __future__ import annotations

import shlex
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from multiembed import CacheFile, ConfigurationError, EmbeddingClient, MultiEmbedError, catalog
from multiembed.cli.forecast import foretell
from multiembed.cli.join import Joined, joined
from multiembed.cli.leftovers import SideFile, remove_cache
from multiembed.cli.meter import Meter, Spinner, duration, told_money, told_tokens
from multiembed.files import InputError, Inputs, check_place, open_output, output_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from multiembed import Role
    from multiembed.files import Survey

WITHOUT_SOME = 3
"""The status when rows were left out."""
INTERRUPTED = 130
_FAREWELL = 10.0
"""Seconds that an interrupted run waits for answers that are paid for and on their way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What was asked for."""

    inputs: Sequence[str]
    out: Path
    model: str
    role: Role
    options: Mapping[str, Any]
    """The embedder's, as far as they were given."""
    reading: Mapping[str, Any]
    """How the inputs are read."""
    form: str | None
    name: str
    """The column of the vectors."""
    overwrite: bool
    skip: bool
    cache: Path | None
    keeps: bool

    @property
    def failed(self) -> Path:
        """The file of rows that were left out."""
        return self.out.with_name(f"{self.out.name}.failed.jsonl")

    @property
    def vectors(self) -> Path | None:
        """The cache; None for none. What is computed here costs nothing, and is kept only where that was asked for."""
        free = self.model.partition(":")[0] == "local"
        own = None if free else self.out.with_name(f"{self.out.name}.vectors.sqlite")
        return (self.cache or own) if self.keeps else None


def run(console: Console, order: Order, *, dry: bool) -> int:
    """Embed, or tell what it would take; the status to end with.

    Raises:
        MultiEmbedError: it could not be done; nothing stands at the output's place.
    """
    form = output_format(order.out, order.form)
    errors = Console(stderr=True)
    if order.cache is not None and not order.keeps:
        raise ConfigurationError("--cache and --no-cache do not go together.")
    if not dry:
        check_place(order.out, overwrite=order.overwrite)
        check_place(order.failed, overwrite=order.overwrite)
    with _client(order, dry=dry) as client, _inputs(order) as inputs:
        for path in inputs.paths:
            if order.out.exists() and path.samefile(order.out):
                raise ConfigurationError(f"{order.out} is an input, too: name another output.")
        with Spinner(errors, "Reading") as spinner:
            survey = inputs.survey(columns=form == "parquet" and not dry, seen=spinner.update)
        _check(survey, order)
        for column in survey.columns:
            if column.type is None:
                errors.print(
                    f"The values of the column {column.name!r} have no type in common: they are written as text, lists and objects as JSON.",
                    highlight=False,
                )
        if dry:
            _tell_forecast(console, errors, client, inputs, survey, order)
            return 0
        return _embed(console, errors, client, inputs, survey, order, form)


def _client(order: Order, *, dry: bool) -> EmbeddingClient:
    options = dict(order.options)
    vectors = order.vectors
    if vectors is not None and not (dry and not vectors.exists()):
        options["cache"] = str(vectors)
    if dry:
        options["api_key"] = "not-needed"  # an estimate is to be had before there is a key
    return EmbeddingClient(order.model, **options)


def _inputs(order: Order) -> Inputs:
    spool = order.out.parent if order.out.parent.is_dir() else None
    return Inputs(order.inputs, stdin=sys.stdin.buffer, spool=spool, **order.reading)


def _check(survey: Survey, order: Order) -> None:
    if not survey.rows:
        raise InputError("There is nothing to embed: the inputs hold no row.")
    if survey.faults == survey.rows or (survey.faults and not order.skip):
        more = survey.faults - len(survey.named)
        raise InputError(
            f"{survey.faults:,} of {survey.rows:,} rows cannot be embedded; nothing was sent.\n  "
            + "\n  ".join(survey.named)
            + (f"\n  … and {more:,} more" if more else "")
            + ("" if order.skip else "\nMend them, or leave them out with --on-error skip.")
        )


# ── embedding ────────────────────────────────────────────────────────────────────────────────────


def _embed(
    console: Console,
    errors: Console,
    client: EmbeddingClient,
    inputs: Inputs,
    survey: Survey,
    order: Order,
    form: str,
) -> int:
    begun = time.monotonic()
    resumed = order.vectors is not None and order.vectors.exists()
    if resumed:
        errors.print(f"Going on with what {order.vectors} knows already.", highlight=False, soft_wrap=True)
    output = open_output(
        order.out,
        form,
        columns=survey.columns,
        names=survey.names,
        name=order.name,
        facts={"model": client.target.name, "role": order.role, "fingerprint": client.fingerprint(order.role)},
        overwrite=order.overwrite,
    )
    try:
        with _interruptible(), output, SideFile(order.failed, overwrite=order.overwrite) as side:
            with Meter(errors, survey.rows) as meter:
                done = 0
                for part in joined(client, inputs.chunks(whole=form != "npy"), order.role):
                    _judge(part, order)
                    output.write(part.chunk, part.vectors, part.kept)
                    side.write(part, done)
                    done += len(part.chunk)
                    meter.update(done, client.usage)
            if done != survey.rows:
                raise InputError(f"The inputs had {survey.rows:,} rows at first, and then {done:,}: run again.")
            if not output.rows:
                raise side.first or InputError("No row could be embedded.")
            side.finish()
            output.finish()
    except KeyboardInterrupt:
        _wait_for_answers(errors)
        _tell_resume(errors, client, order, "Interrupted.")
        return INTERRUPTED
    except BaseException:
        _tell_resume(errors, client, order, "Stopped.")
        raise
    client.close()
    if not side.failures and order.cache is None and order.vectors is not None:
        remove_cache(order.vectors)
    _tell_result(console, client, order, output.rows, side, time.monotonic() - begun)
    return WITHOUT_SOME if side.rows else 0


def _judge(part: Joined, order: Order) -> None:
    """Raise the first failure, unless rows that fail are to be left out."""
    if part.failures and not order.skip:
        row, error = min(part.failures.items())
        error.message = f"{part.chunk.place(row)}: {error.message}"
        error.indices = ()  # of a block, which nobody knows of
        raise error


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for_answers(errors: Console) -> None:
    """Let requests that are under way come to their end, so that what they cost is not paid again."""
    until = time.monotonic() + _FAREWELL
    waiting = [thread for thread in threading.enumerate() if thread.name == "multiembed"]
    if not waiting:
        return
    errors.print(f"Hearing {len(waiting)} last answers; Ctrl-C again leaves at once.", highlight=False)
    with suppress(KeyboardInterrupt):
        for thread in waiting:
            thread.join(max(0.0, until - time.monotonic()))


# ── what is told ─────────────────────────────────────────────────────────────────────────────────


def _tell_resume(errors: Console, client: EmbeddingClient, order: Order, what: str) -> None:
    client.close()
    lines = [f"{what} Nothing was written to {order.out}."]
    vectors = _kept_vectors(order)
    if vectors:
        lines.append(f"{vectors:,} vectors are kept in {order.vectors}: the same command goes on with them.")
        lines.append(f"  {_command()}")
        if "-" in order.inputs:
            lines.append("Give it the same standard input.")
    elif client.report.requests:
        lines.append("No vectors were kept.")
    errors.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _kept_vectors(order: Order) -> int:
    """How many vectors a run finds when it is tried again; a cache of its own that has none is removed."""
    path = order.vectors
    if path is None or not path.exists():
        return 0
    try:
        vectors = sum(space.vectors for space in CacheFile(path).spaces())
    except MultiEmbedError:  # what is wrong with it was said already
        return 0
    if not vectors and order.cache is None:
        remove_cache(path)
    return vectors


def _command() -> str:
    """The command line, as it can be typed again."""
    name = Path(sys.argv[0])
    found = shutil.which(name.name)
    called = name.name if found and Path(found) == name.absolute() else str(name)
    return shlex.join([called, *sys.argv[1:]])


def _tell_result(
    console: Console, client: EmbeddingClient, order: Order, rows: int, side: SideFile, seconds: float
) -> None:
    report = client.report
    facts = [f"{report.requests:,} requests"] if report.requests else []
    if report.requests or report.cached_texts:
        facts += [told_tokens(report.total_tokens), _priced(report.cost, order.model)]
    if report.cached_texts:
        facts.append(f"{report.cached_texts:,} texts known already")
    if report.retries:
        facts.append(f"{report.retries:,} retries")
    if report.rate_errors:
        facts.append(f"{report.rate_errors:,} times too fast")
    if report.p50 is not None and report.p99 is not None:
        facts.append(f"answers in {report.p50:.2f} s, 99 % within {report.p99:.2f} s")
    facts.append(duration(seconds))
    said = f"{rows:,} texts: {order.out}\n{', '.join(facts)}"
    if side.rows:
        said += f"\n{side.rows:,} rows were left out; the reasons are in {order.failed}"
        if side.failures and order.vectors is not None:
            said += f"\n{order.vectors} is kept: with --overwrite the same command pays for the failed rows alone."
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def _priced(cost: float | None, model: str) -> str:
    for owner, facts in catalog():
        if f"{owner.id}:{facts.name}" == model and cost:
            return f"{told_money(cost)} (price of {facts.checked})"
    return told_money(cost)


def _tell_forecast(
    console: Console, errors: Console, client: EmbeddingClient, inputs: Inputs, survey: Survey, order: Order
) -> None:
    with Spinner(errors, "Counting") as spinner:
        forecast = foretell(
            client,
            _watched(inputs, spinner),
            order.role,
            shares=order.vectors is not None,
            in_flight=order.options.get("max_concurrency"),
            requests_per_minute=order.options.get("requests_per_minute"),
            tokens_per_minute=order.options.get("tokens_per_minute"),
        )
    rows = {
        "texts": f"{forecast.texts:,}" + (f", {forecast.twice:,} of them not for the first time" if forecast.twice else ""),
        "left out": f"{survey.faults:,}" if survey.faults else "",
        "requests": f"{forecast.requests:,}",
        "tokens": f"about {forecast.tokens:,}",
        "money": "free" if forecast.cost == 0 else f"about {_priced(forecast.cost, order.model)}",
        "time": f"about {duration(forecast.seconds)}, by {forecast.basis}",
    }
    if forecast.cost is None:
        rows["money"] = "unknown: the catalog has no price of this model"
    for name, value in rows.items():
        if value:
            console.print(f"{name:<10}{value}", markup=False, highlight=False, soft_wrap=True)
    console.print("Nothing was sent.", highlight=False)


def _watched(inputs: Inputs, spinner: Spinner) -> Iterable[str]:
    done = 0
    for chunk in inputs.chunks(whole=False):
        yield from (text for row, text in enumerate(chunk.texts) if row not in chunk.faults)
        done += len(chunk)
        spinner.update(done)
