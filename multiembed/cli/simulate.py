"""`multiembed simulate`: the simulator in the foreground, and the environment variables for its clients."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from multiembed import ConfigurationError
from multiembed.cli.console import print_plain
from multiembed.simulator import FAULTS, Simulator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from multiembed.simulator import InjectedFault

_PORT_ERRORS = {errno.EADDRINUSE: "is taken, perhaps by another simulator", errno.EACCES: "may not be used by you"}
_QUOTAS = {
    "requests_per_minute": "requests per minute",
    "tokens_per_minute": "tokens per minute",
    "in_flight": "requests in flight",
}


def run(
    console: Console,
    server: Mapping[str, Any],
    *,
    faults: Sequence[str] = (),
    probability: float | None = None,
    times: int | None = None,
    quota: Mapping[str, Any],
) -> None:
    """Serve until Ctrl-C or SIGTERM, with the faults and the quota.

    Args:
        console: where the address and the settings are printed.
        server: arguments of the simulator.
        faults: names of the faults to inject.
        probability: share of requests that meet a fault.
        times: how often each fault is injected.
        quota: arguments of the simulator's `limit`.

    Raises:
        ConfigurationError: there is no such fault, or none was named; the key or a quota is invalid; the port is not
            available.
    """
    if not faults and (probability is not None or times is not None):
        raise ConfigurationError("Say with --fault which fault to inject; --faults lists them.")
    if all(quota.get(name) is None for name in _QUOTAS) and quota.get("retry_after") is not None:
        raise ConfigurationError(
            "--retry-after needs a quota: --requests-per-minute, --tokens-per-minute, --in-flight."
        )
    simulator = Simulator(**server, record=False)
    for name in faults:
        simulator.fail(name, probability=probability, times=times)
    if any(value is not None for value in quota.values()):
        simulator.limit(**quota)

    def on_ready(simulator: Simulator) -> None:
        _show(console, simulator, quota, faults)

    try:
        simulator.serve_forever(on_ready=on_ready)
    except OSError as error:
        if error.errno not in _PORT_ERRORS:
            raise
        raise ConfigurationError(
            f"Port {server['port']} {_PORT_ERRORS[error.errno]}: take another one with --port; 0 takes a free one."
        ) from None
    print_plain(console, "\nThe simulator has stopped.")


def _show(console: Console, simulator: Simulator, quota: Mapping[str, float | None], faults: Sequence[str]) -> None:
    print_plain(console, f"The simulator listens at {simulator.url}. Ctrl-C ends it.\n")
    for name, value in simulator.environment().items():
        print_plain(console, f"export {name}={value}")
    print_plain(console, "\nbase_url by provider:")
    for provider in simulator.providers:
        print_plain(console, f"  {provider:<21} {simulator.base_url(provider)}")
    if limits := [f"{quota[name]:,.10g} {label}" for name, label in _QUOTAS.items() if quota.get(name) is not None]:
        print_plain(console, f"\nThe key's quota: {', '.join(limits)}.")
    if faults:
        print_plain(console, "\nInjected faults:")
    for name in faults:
        print_plain(console, f"  {name:<28} {FAULTS[name].description}")


def show_faults(console: Console) -> None:
    """Print every fault and its description."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("wrong in:\nfault", no_wrap=True)
    table.add_column("what it does")
    previous = ""
    for fault in FAULTS.values():
        if fault.where != previous:
            table.add_row(f"{fault.where}:", style="bold")
            previous = fault.where
        table.add_row(f" {fault.name}", _describe(fault))
    console.print(table)
    console.print(
        "\nH: harmless, a client must find the right vectors all the same. A fault applies to every provider unless "
        "some are named. From Python, simulator.fail(name, cap=8) changes the settings in parentheses.",
        style="dim",
        highlight=False,
    )


def _describe(fault: InjectedFault) -> str:
    facts = [
        "H" if fault.harmless else "",
        " ".join(f"{name}={value}" for name, value in fault.settings.items()),
        "" if len(fault.applies_to) == len(Simulator().providers) else ", ".join(fault.applies_to),
    ]
    more = "; ".join(fact for fact in facts if fact)
    return escape(fault.description) + (f" [dim]({escape(more)})[/]" if more else "")
