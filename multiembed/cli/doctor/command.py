"""The command `multiembed doctor` and its options."""

from __future__ import annotations

import json as json_module
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from multiembed import ConfigurationError
from multiembed.cli.client_options import CONNECTION, EMBEDDING, takes_client_options
from multiembed.cli.completion import complete_provider
from multiembed.cli.console import LogLevel, console

Provider = Annotated[
    str | None,
    typer.Argument(help="Only this one, as provider or provider:model.", autocompletion=complete_provider),
]
Model = Annotated[str | None, typer.Option(help="The model to call, instead of the provider's first.")]
TryRegions = Annotated[
    bool, typer.Option("--try-regions", help="Send a key that is refused to the provider's other regions, too.")
]


@takes_client_options(EMBEDDING, CONNECTION)
def doctor(
    provider: Provider = None,
    model: Model = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each call.")] = 20.0,
    try_regions: TryRegions = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for bug reports; it holds no secrets.")] = False,
    log_level: LogLevel = None,  # noqa: ARG001 - typer calls its callback
    **client: Any,
) -> int:
    """Check key, address and proxy settings, and make a real call of one short text.

    Where the API keeps queries and documents apart, a query is sent, too.

    The calls cost a few tokens. Keys are never shown.
    """
    from multiembed.cli.doctor import checks, report, setup
    from multiembed.cli.models import choose_model

    if not 0 < timeout < float("inf"):
        raise ConfigurationError("--timeout is a number of seconds above 0.")
    if try_regions and "base_url" in client:
        raise ConfigurationError("--try-regions and --base-url do not go together: an own address has no regions.")
    if provider is not None:
        name, chosen_model = choose_model(provider, model)
        chosen, missing = [setup.setup_of(name, chosen_model, client)], {}
        if client:  # checks them
            chosen[0].client(api_key="unused")
    elif model is not None or client:
        given = ", ".join(f"--{name.replace('_', '-')}" for name in ("model", *client) if name != "model" or model)
        raise ConfigurationError(f"{given}: this is for one provider, so name it: multiembed doctor PROVIDER.")
    else:
        every = setup.all_setups()
        chosen = [each for each in every if each.is_configured]
        missing = {each.provider.id: setup.missing_key(each) for each in every if each not in chosen}
    if not json:
        console.print(", ".join(map(" ".join, report.versions().items())), style="dim", highlight=False)
        console.print("Each provider that has a key gets a call of one short text, which costs next to nothing.\n")
    results = {}
    for each in chosen:
        with console.status(f"{each.provider.id} …") if console.is_terminal and not json else nullcontext():
            results[each] = list(checks.check(each, timeout, try_regions=try_regions))
        if not json:
            report.show(console, each, results[each])
    if json:
        console.print_json(json_module.dumps(report.as_json(results, missing), ensure_ascii=False))
    else:
        report.show_summary(console, results, missing)
    return int(any(map(report.failed_check, results.values())))
