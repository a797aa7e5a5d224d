"""`multiembed simulate`: the simulator in the foreground, with what to set for using it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from multiembed import ConfigurationError
from multiembed.simulator import FAULTS, Simulator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from multiembed.simulator import InjectedFault

_WHY_NOT = {errno.EADDRINUSE: "is taken, perhaps by another simulator", errno.EACCES: "may not be used by you"}


def run(
    console: Console,
    *,
    port: int,
    api_key: str,
    latency: float,
    faults: Sequence[str] = (),
    probability: float | None = None,
    times: int | None = None,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    in_flight: int | None = None,
    retry_after: float | None = None,
) -> None:
    """Serve until Ctrl-C or SIGTERM, and let the faults happen and the quota hold meanwhile.

    Raises:
        ConfigurationError: there is no such fault, or none was named; the key or a quota makes no sense; the port
            cannot be had.
    """
    if not faults and (probability is not None or times is not None):
        raise ConfigurationError("Say with --fault what is to go wrong; --faults lists what can.")
    simulator = Simulator(port=port, api_key=api_key, latency=latency, record=False)
    for name in faults:
        simulator.fail(name, probability=probability, times=times)
    quota = {
        "requests per minute": requests_per_minute,
        "tokens per minute": tokens_per_minute,
        "requests in flight": in_flight,
    }
    if any(value is not None for value in (*quota.values(), retry_after)):
        simulator.limit(
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            in_flight=in_flight,
            retry_after=retry_after,
        )

    def tell(simulator: Simulator) -> None:
        console.print(f"The simulator listens at {simulator.url}. Ctrl-C ends it.\n", highlight=False)
        for name, value in simulator.environment().items():
            console.print(f"export {name}={value}", markup=False, highlight=False, soft_wrap=True)
        console.print("\nbase_url by provider:", highlight=False)
        for provider in simulator.providers:
            console.print(f"  {provider:<21} {simulator.base_url(provider)}", highlight=False, soft_wrap=True)
        if told := [f"{value:,.10g} {name}" for name, value in quota.items() if value is not None]:
            console.print(f"\nThe key's quota: {', '.join(told)}.", highlight=False, soft_wrap=True)
        if faults:
            console.print("\nWhat goes wrong:", highlight=False)
        for name in faults:
            console.print(f"  {name:<28} {FAULTS[name].does}", markup=False, highlight=False, soft_wrap=True)

    try:
        simulator.serve_forever(on_ready=tell)
    except OSError as error:
        if error.errno not in _WHY_NOT:
            raise
        raise ConfigurationError(
            f"Port {port} {_WHY_NOT[error.errno]}: take another one with --port; 0 takes a free one."
        ) from None
    console.print("\nThe simulator has stopped.", highlight=False)


def show_faults(console: Console) -> None:
    """Print every fault with what it does."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("wrong in:\nfault", no_wrap=True)
    table.add_column("what it does")
    above = ""
    for fault in FAULTS.values():
        if fault.where != above:
            table.add_row(f"{fault.where}:", style="bold")
            above = fault.where
        table.add_row(f" {fault.name}", _told(fault))
    console.print(table)
    console.print(
        "\nH: harmless, a client has to find the right vectors all the same. A fault is made for every provider "
        "unless some are named. From Python, simulator.fail(name, cap=8) sets what stands behind it.",
        style="dim",
        highlight=False,
    )


def _told(fault: InjectedFault) -> str:
    facts = [
        "H" if fault.harmless else "",
        " ".join(f"{name}={value}" for name, value in fault.settings.items()),
        "" if len(fault.applies_to) == len(Simulator().providers) else ", ".join(fault.applies_to),
    ]
    more = "; ".join(fact for fact in facts if fact)
    return escape(fault.does) + (f" [dim]({escape(more)})[/]" if more else "")
