"""Commands and their options. Each command is implemented in a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

import multiembed
from multiembed.cli.cache import app as cache
from multiembed.cli.completion import complete_provider
from multiembed.cli.console import LogLevel, console
from multiembed.cli.doctor.command import doctor
from multiembed.cli.embed import embed
from multiembed.cli.embed_text import embed_text
from multiembed.cli.help import Command, Group

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    help="Embeddings for LangChain and LlamaIndex: try them without a key, embed files, find out why it does not work.",
)


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
    """Take the options before a command."""


@app.command(cls=Command)
def demo(
    question: Annotated[str | None, typer.Argument(help="A question to ask, in English or Chinese.")] = None,
    live: Annotated[
        str | None,
        typer.Option(
            help="Call this provider (or provider:model), with the key of the environment.",
            autocompletion=complete_provider,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --live: the model, instead of the provider's first.")] = None,
    log_level: LogLevel = None,  # noqa: ARG001 - typer calls its callback
) -> None:
    """Embed a real corpus through a local simulator of every provider, with both frameworks, and ask it questions."""
    from multiembed.cli.demo import run

    run(console, question=question, live=live, model=model)


Port = Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")]
Fault = Annotated[list[str] | None, typer.Option(help="A fault to inject, by its name; may be given several times.")]
FaultShare = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="The share of requests that meet a fault.")]
Requests = Annotated[
    float | None, typer.Option(min=1, help="The key's quota of requests; those over it are refused with 429.")
]
Tokens = Annotated[
    float | None,
    typer.Option(min=1, help="The key's quota of tokens, as the server counts them; requests over it get 429."),
]
InFlight = Annotated[
    int | None, typer.Option(min=1, help="The key's maximum of requests in flight; those over it get 429.")
]
RetryAfter = Annotated[
    float | None, typer.Option(min=0.0, help="Seconds in the Retry-After header of a refusal for a quota.")
]


@app.command(cls=Command)
def simulate(
    port: Port = 8756,
    api_key: Annotated[str, typer.Option(help="The key that is accepted.")] = "sk-simulator",
    latency: Annotated[float, typer.Option(min=0.0, help="Seconds before each response.")] = 0.0,
    fault: Fault = None,
    fault_probability: FaultShare = None,
    fault_times: Annotated[int | None, typer.Option(min=1, help="How often each fault is injected.")] = None,
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    in_flight: InFlight = None,
    retry_after: RetryAfter = None,
    faults: Annotated[bool, typer.Option("--faults", help="List the faults and stop.")] = False,
) -> None:
    """Run a local server that responds, and fails, as the providers do, for tests without a key. Ctrl-C ends it."""
    from multiembed.cli.simulate import run, show_faults

    if faults:
        show_faults(console)
        return
    quota = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "in_flight": in_flight,
        "retry_after": retry_after,
    }
    server = {"port": port, "api_key": api_key, "latency": latency}
    run(console, server, faults=fault or (), probability=fault_probability, times=fault_times, quota=quota)


@app.command(cls=Command)
def models(
    provider: Annotated[
        str | None, typer.Argument(help="Only this provider's.", autocompletion=complete_provider)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with every field.")] = False,
) -> None:
    """Show every known model with its limits, dimensions, price, source and date."""
    from multiembed.cli.models import run

    run(console, provider=provider, as_json=json)


app.command(cls=Command)(doctor)
app.command(cls=Command)(embed)
app.command(cls=Command)(embed_text)
app.add_typer(cache, name="cache")
