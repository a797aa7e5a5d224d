"""The commands and their options; what they do stands in a file of its own each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

import multiembed
from multiembed.cli.cache import commands as cache_commands
from multiembed.cli.console import OutputConsole, error_console, printable
from multiembed.cli.doctor.command import command as doctor_command
from multiembed.cli.embed import command as embed_command
from multiembed.cli.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Embeddings for LangChain and LlamaIndex: try them without a key, embed files, find out why it does not work.",
)
console = OutputConsole()


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"multiembed {multiembed.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def demo(
    question: Annotated[
        Optional[str],  # noqa: UP045 - typer on Python 3.11 reads this form everywhere
        typer.Argument(help="A question to ask, in English or Chinese."),
    ] = None,
    live: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Use the real API of this provider (or provider:model), with the key from the environment."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With --live: the model, instead of the provider's first."),
    ] = None,
) -> None:
    """Ingest a real corpus through every provider with LangChain and LlamaIndex, and ask it questions."""
    from multiembed.cli.demo import run

    _saying_why(lambda: run(console, question=question, live=live, model=model))


@app.command()
def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 8756,
    api_key: Annotated[str, typer.Option(help="The key that is accepted.")] = "sk-simulator",
    latency: Annotated[float, typer.Option(min=0.0, help="Seconds before each answer.")] = 0.0,
    fault: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="What goes wrong, by its name; may be given several times, and the first that is due wins."),
    ] = None,
    fault_probability: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.0, max=1.0, help="The share of requests for which it goes wrong; all of them without it."),
    ] = None,
    fault_times: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="How often each of the faults is made; always without it."),
    ] = None,
    requests_per_minute: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=1, help="The key's quota; what is more is refused with 429, in the provider's words."),
    ] = None,
    tokens_per_minute: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=1, help="The key's quota of tokens, as the server counts them."),
    ] = None,
    in_flight: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="The most requests that are answered at once; latency counts."),
    ] = None,
    retry_after: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0.0, help="Seconds that a refusal for a quota names in Retry-After; none without it."),
    ] = None,
    faults: Annotated[bool, typer.Option("--faults", help="List the faults and stop.")] = False,
) -> None:
    """Run a local server that answers, and fails, as the providers do, for tests without a key. Ctrl-C ends it."""
    from multiembed.cli.simulate import run, show_faults

    if faults:
        show_faults(console)
        return
    _saying_why(
        lambda: run(
            console,
            port=port,
            api_key=api_key,
            latency=latency,
            faults=fault or (),
            probability=fault_probability,
            times=fault_times,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            in_flight=in_flight,
            retry_after=retry_after,
        )
    )


@app.command()
def models(
    provider: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Only this provider's."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with every field.")] = False,
) -> None:
    """Show every known model with its limits, dimensions, price, source and date."""
    from multiembed.cli.models import run

    _saying_why(lambda: run(console, provider=provider, as_json=json))


def _saying_why(action: Callable[[], None]) -> None:
    """Run a command; what the user can mend ends it with a sentence, not with a traceback."""
    try:
        action()
    except (multiembed.MultiEmbedError, OSError) as error:
        errors = error_console()
        errors.print(f"[bold red]{type(error).__name__}:[/] ", end="")
        errors.print(printable(str(error)), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, multiembed.ConfigurationError) else 1) from None
    except KeyboardInterrupt:
        error_console().print("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None


app.add_typer(cache_commands(console, _saying_why), name="cache")
app.command()(doctor_command(console, _saying_why))
app.command()(embed_command(console, _saying_why))
