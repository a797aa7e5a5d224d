"""Configured limits: the most that the server counts in any second, in any minute, and in flight.

    python benchmarks/ceilings.py                # two and a half minutes' worth of each quota
    python benchmarks/ceilings.py --seconds 400

No key, no network. For each account a simulator keeps the quota in every span of a minute, DashScope's in every span of
a second too. Two embedders with the same key and the quota as their limit send what it lets pass in that time, one text
in a request: one by `embed` in a thread, one by `aembed` in an event loop. The accounts run in parallel, each in
a process of its own. Requests are counted as they arrive, and tokens as they are billed; what is refused counts, too.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from quotas import MODELS, RESULTS, WORDS, commit, process

from multiembed import EmbeddingClient
from multiembed.simulator import Simulator
from multiembed.simulator.tokenizer import count_tokens

ACCOUNTS: list[tuple[str, dict[str, int]]] = [
    ("dashscope", {"requests_per_minute": 600}),
    ("dashscope", {"tokens_per_minute": 12_000}),
    ("siliconflow", {"requests_per_minute": 600}),
    ("siliconflow", {"tokens_per_minute": 12_000}),
    ("gateway", {"requests_per_minute": 120, "tokens_per_minute": 6_000}),
    ("zhipu", {"in_flight": 8}),
]
LATENCY = 0.1
HEADS = (
    "account, limit",
    "texts",
    "with a vector",
    "seconds",
    "rejected",
    "requests, 1 s",
    "requests, 60 s",
    "tokens, 1 s",
    "tokens, 60 s",
    "in flight",
)


def count(quota: dict[str, int], seconds: float) -> int:
    """Texts that the quota lets pass."""
    each = {"requests_per_minute": 60.0, "tokens_per_minute": 60.0 * count_tokens(text(0)), "in_flight": LATENCY}
    return int(min(value * seconds / each[name] for name, value in quota.items()))


def text(number: int) -> str:
    return f"note {number:06}{WORDS}"


def run(pipe: Any, provider: str, quota: dict[str, int], seconds: float) -> None:
    """Tell what one account has seen."""
    model, dimensions = MODELS[provider]
    texts = [text(number) for number in range(count(quota, seconds))]
    found = [0, 0]
    with Simulator(latency=LATENCY, record=False) as simulator:
        simulator.limit(**quota, kind="sliding")
        configured = {"max_concurrency" if name == "in_flight" else name: value for name, value in quota.items()}
        options = {"api_key": simulator.api_key, "base_url": simulator.base_url(provider), "dimensions": dimensions}
        one, other = (
            EmbeddingClient(f"{provider}:{model}", limits={"max_items": 1}, **options, **configured) for _ in range(2)
        )

        def in_a_thread() -> None:
            found[0] = len(one.embed(texts[::2]).vectors)

        begun = time.monotonic()
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        found[1] = len(asyncio.run(other.aembed(texts[1::2])).vectors)
        thread.join()
        numbers = (
            len(texts),
            sum(found),
            math.ceil(time.monotonic() - begun),
            simulator.rejected,
            simulator.most_requests(1.0),
            simulator.most_requests(60.0),
            simulator.most_tokens(1.0),
            simulator.most_tokens(60.0),
            simulator.peak_in_flight,
        )
    limits = ", ".join(f"{value:,} {name.replace('_per_', ' a ').replace('_', ' ')}" for name, value in quota.items())
    pipe.send([f"{provider}, {limits}", *(f"{number:,}" for number in numbers)])


def main() -> None:
    parser = argparse.ArgumentParser(description="The most that the server counts under configured limits.")
    parser.add_argument(
        "--seconds", type=float, default=150.0, help="worth of each quota; %(default)s unless arguments"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for ceilings.md")
    arguments = parser.parse_args()
    os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    with ExitStack() as running:
        pipes = [running.enter_context(process(run, *account, arguments.seconds)) for account in ACCOUNTS]
        rows = [list(HEADS), ["---", *["---:"] * (len(HEADS) - 1)], *(pipe.recv() for pipe in pipes)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    head = (
        f"# Configured limits, {datetime.now(UTC):%Y-%m-%d}\n\n{platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, commit {commit()}. "
        "Made by `python benchmarks/ceilings.py`, which says how. The last five columns are the most that the server "
        "counted."
    )
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / "ceilings.md").write_text(f"{head}\n\n{table}\n", "utf-8")
    print(table)


if __name__ == "__main__":
    main()
