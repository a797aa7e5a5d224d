"""`multiembed simulate`: the simulator in the foreground, with what to set for using it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from multiembed.simulator import Simulator

if TYPE_CHECKING:
    from rich.console import Console


def run(console: Console, *, port: int, api_key: str, latency: float) -> None:
    """Serve until Ctrl-C or SIGTERM."""

    def tell(simulator: Simulator) -> None:
        console.print(f"The simulator listens at {simulator.url}. Ctrl-C ends it.\n", highlight=False)
        for name, value in simulator.environment().items():
            console.print(f"export {name}={value}", markup=False, highlight=False, soft_wrap=True)
        console.print("\nbase_url by provider:", highlight=False)
        for provider in simulator.providers:
            console.print(f"  {provider:<21} {simulator.base_url(provider)}", highlight=False, soft_wrap=True)

    Simulator(port=port, api_key=api_key, latency=latency, record=False).serve_forever(on_ready=tell)
    console.print("\nThe simulator has stopped.", highlight=False)
