"""Throughput over time under quotas: how soon it finds those that are not configured, and how close it stays.

    pip install ".[all]" matplotlib
    python benchmarks/quotas.py                         # all scenarios, both modes: about 25 minutes
    python benchmarks/quotas.py zhipu-8 dashscope-600 --mode sync --seconds 30
    python benchmarks/quotas.py --list

No key, no network. The simulator, in a process of its own, keeps the quota; an EmbeddingClient in another process has
no limits configured, except in the scenarios that say so. It embeds a stream of distinct short texts, one in each
request, by `stream` (sync) or by `astream` (async). The token scenarios send two longer texts in a request. There are
so many texts that a client which uses all of the quota is busy for five seconds more than is measured. Refusals name
no Retry-After.

used      accepted / possible, from 10 s after the first request, or after a change of the quota, to the end.
          Possible is the rate; for requests in flight, as many as the latency alone allows; no client reaches it.
rejected  refused for the quota / all requests; "settled": in the time of `used`
failed    texts that got no vector

Results go to benchmarks/results/quotas.json, where the scenarios that are not run again keep their last results, and
are shown in quotas.md and quotas.png.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiembed import EmbeddingClient, MultiEmbedError, __version__
from multiembed.simulator import Simulator
from multiembed.simulator.tokenizer import count_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiembed import EmbeddingResult

RESULTS = Path(__file__).parent / "results"
MODES = ("sync", "async")
SETTLES = 10.0
"""Seconds that a client has to find a quota."""
SPARE = 5.0
"""Seconds' worth of texts beyond the time that is measured."""
PATIENCE = 60.0
"""Seconds after which a client that has not come to an end is given up."""
MODELS = {
    "zhipu": ("embedding-3", 256),
    "siliconflow": ("Qwen/Qwen3-Embedding-0.6B", 64),
    "dashscope": ("text-embedding-v4", 64),
    "gateway": ("any-model", 64),
}
WORDS = " and what the river said to the mill on a long evening of the ninth month before the rain came down"


@dataclass(frozen=True)
class Scenario:
    """A quota, and who meets it."""

    name: str
    title: str
    provider: str
    quota: dict[str, int]
    latency: float = 0.1
    clients: int = 1
    """Embedders in the one process, on the same key."""
    halves: bool = False
    """The quota halves midway."""
    batch: int = 1
    configured: bool = False
    """The clients know the quota by their options."""

    @property
    def limit(self) -> str:
        """What is limited."""
        return next(iter(self.quota))

    def per_second(self) -> float:
        """What the quota lets pass: requests a second, or tokens."""
        value = self.quota[self.limit]
        return value / self.latency if self.limit == "in_flight" else value / 60.0

    def texts(self, seconds: float) -> Iterator[str]:
        """As many as the quota lets pass in that time."""
        passes = self.per_second() * seconds * (0.75 if self.halves else 1.0)
        words = WORDS if self.limit == "tokens_per_minute" else ""
        each = count_tokens(f"note 000000{words}") if words else 1
        return (f"note {number:06}{words}" for number in range(int(passes / each)))


def rates(provider: str, title: str, *rpms: int) -> list[Scenario]:
    return [
        Scenario(f"{provider}-{rpm}", f"{title}, {rpm:,} requests a minute", provider, {"requests_per_minute": rpm})
        for rpm in rpms
    ]


SCENARIOS = [
    Scenario("zhipu-8", "Zhipu, 8 in flight", "zhipu", {"in_flight": 8}),
    Scenario("zhipu-50", "Zhipu, 50 in flight", "zhipu", {"in_flight": 50}, latency=0.2),
    *rates("dashscope", "DashScope", 600, 1800),
    *rates("siliconflow", "SiliconFlow", 600, 1800),
    *rates("gateway", "Gateway", 600, 1800),
    *(
        Scenario(f"{one}-tokens", f"{title}, 120,000 tokens a minute", one, {"tokens_per_minute": 120_000}, batch=2)
        for one, title in (("dashscope", "DashScope"), ("siliconflow", "SiliconFlow"))
    ),
    Scenario("zhipu-two", "Two embedders, Zhipu, 8 in flight", "zhipu", {"in_flight": 8}, clients=2),
    Scenario(
        "dashscope-two", "Two embedders, DashScope, 600 a minute", "dashscope", {"requests_per_minute": 600}, clients=2
    ),
    Scenario("zhipu-halves", "Zhipu, 16 in flight, then 8", "zhipu", {"in_flight": 16}, halves=True),
    *(
        Scenario(
            f"dashscope-600-configured-{latency}",
            f"DashScope, 600 a minute configured, {latency} s",
            "dashscope",
            {"requests_per_minute": 600},
            latency=latency,
            configured=True,
        )
        for latency in (0.1, 0.3, 0.6)
    ),
    Scenario(
        "siliconflow-halves",
        "SiliconFlow, 1,200 a minute, then 600",
        "siliconflow",
        {"requests_per_minute": 1200},
        halves=True,
    ),
]


# ── the server's process ─────────────────────────────────────────────────────────────────────────


def serve(pipe: Any, scenario: Scenario) -> None:
    """Keep the quota, change it on command, and report the requests at the end."""
    with Simulator(latency=scenario.latency, record=False) as simulator:
        simulator.limit(**scenario.quota)
        pipe.send(simulator.base_url(scenario.provider))
        while (quota := pipe.recv()) is not None:
            if quota:
                simulator.limit(**quota)
            else:
                pipe.send(simulator.arrivals[:1])
        pipe.send([tuple(arrival) for arrival in simulator.arrivals])


# ── the client's process ─────────────────────────────────────────────────────────────────────────


@dataclass
class Outcome:
    """What became of the texts."""

    embedded: int = 0
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def add(self, result: EmbeddingResult) -> None:
        """A block came back; single texts of it may have failed."""
        self.embedded += len(result.vectors) - len(result.failures)
        for error in result.failures.values():
            self.broke_off(error)

    def broke_off(self, error: MultiEmbedError) -> None:
        """A text failed, or a stream ended with that error."""
        self.failed += 1
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        self.errors[words] = self.errors.get(words, 0) + 1


def embed(pipe: Any, scenario: Scenario, mode: str, base_url: str, seconds: float) -> None:
    """Embed until the time is over; then tell what became of it."""
    model, dimensions = MODELS[scenario.provider]
    options = {
        "base_url": base_url,
        "api_key": "sk-simulator",
        "dimensions": dimensions,
        "limits": {"max_items": scenario.batch},
        **(scenario.quota if scenario.configured else {}),
    }
    clients = [EmbeddingClient(f"{scenario.provider}:{model}", **options) for _ in range(scenario.clients)]
    outcome = Outcome()
    texts = Shared(scenario.texts(seconds + SPARE))
    if mode == "async":
        asyncio.run(aembed_all(clients, texts, outcome))
    else:
        embed_all(clients, texts, outcome)
    pipe.send(asdict(outcome))


class Shared:
    """An iterator that several threads may read."""

    def __init__(self, texts: Iterator[str]) -> None:
        self._texts = texts
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        with self._lock:
            return next(self._texts)


def embed_all(clients: list[EmbeddingClient], texts: Shared, outcome: Outcome) -> None:
    def stream(client: EmbeddingClient) -> None:
        try:
            for result in client.stream(texts, on_error="keep"):
                outcome.add(result)
        except MultiEmbedError as error:
            outcome.broke_off(error)

    threads = [threading.Thread(target=stream, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def aembed_all(clients: list[EmbeddingClient], texts: Shared, outcome: Outcome) -> None:
    async def stream(client: EmbeddingClient) -> None:
        try:
            async for result in client.astream(texts, on_error="keep"):
                outcome.add(result)
        except MultiEmbedError as error:
            outcome.broke_off(error)
        await client.aclose()

    await asyncio.gather(*map(stream, clients))


# ── one run ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def process(target: Any, *arguments: Any) -> Iterator[Any]:
    """A fresh Python that runs `target`, and the pipe to it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    one = context.Process(target=target, args=(there, *arguments), daemon=True)
    one.start()
    there.close()  # so that a child that breaks down is not waited for
    try:
        yield here
    finally:
        one.terminate()
        one.join()


def run(scenario: Scenario, mode: str, seconds: float) -> dict[str, Any]:
    with process(serve, scenario) as server:
        base_url = server.recv()
        with process(embed, scenario, mode, base_url, seconds) as client:
            first: list[Any] = []
            while not first:
                server.send({})
                first = server.recv()
                time.sleep(0.01)
            start, half = first[0].time, None
            if scenario.halves:
                time.sleep(max(0.0, start + seconds / 2 - time.monotonic()))
                half = time.monotonic() - start
                server.send({name: value // 2 for name, value in scenario.quota.items()})
            outcome: dict[str, Any] = {"embedded": None, "failed": None}
            if client.poll(start + seconds + PATIENCE - time.monotonic()):
                outcome = client.recv()
            else:
                outcome["errors"] = {f"it had not ended {PATIENCE:.0f} s after the last text": 1}
        server.send(None)
        arrivals = [(arrived - start, accepted, tokens) for arrived, accepted, tokens, _ in server.recv()]
    return {**judged(scenario, arrivals, seconds, half), **outcome}


def judged(scenario: Scenario, arrivals: list[Any], seconds: float, half: float | None) -> dict[str, Any]:
    """The figures of one run, and what happened in each second."""
    of_tokens = scenario.limit == "tokens_per_minute"
    rate = scenario.per_second()
    spans = [(SETTLES, seconds, rate)]
    if half is not None:
        spans = [(SETTLES, half, rate), (half + SETTLES, seconds, rate / 2)]
    possible = sum(max(0.0, end - start) * rate for start, end, rate in spans)
    within = [one for one in arrivals if one[0] < seconds]
    settled = [one for one in within if any(start <= one[0] < end for start, end, _ in spans)]
    used = sum(tokens if of_tokens else 1 for _, accepted, tokens in settled if accepted)
    series = {"accepted": [0] * int(seconds), "rejected": [0] * int(seconds)}
    for now, accepted, tokens in within:
        if now < int(seconds):
            series["accepted" if accepted else "rejected"][int(now)] += tokens if of_tokens else 1
    return {
        "used": used / possible if possible else None,
        "rejected": rejected_share(within),
        "rejected_settled": rejected_share(settled),
        "requests": len(within),
        "quota_per_second": [
            rate if half is None or second < round(half) else rate / 2 for second in range(int(seconds))
        ],
        "unit": "tokens" if of_tokens else "requests",
        "accepted_per_second": series["accepted"],
        "rejected_per_second": series["rejected"],
    }


def rejected_share(arrivals: list[Any]) -> float:
    return sum(not accepted for _, accepted, _ in arrivals) / max(1, len(arrivals))


# ── what is shown ────────────────────────────────────────────────────────────────────────────────


def markdown(about: dict[str, str], results: dict[str, Any]) -> str:
    """What is kept: the table, and where it was measured."""
    commits = ", ".join(sorted({one["commit"] for one in results.values()}))
    head = (
        f"{about['machine']}, Python {about['python']}, multiembed {about['multiembed']}, commit {commits}. Made by "
        "`python benchmarks/quotas.py`, which says how, and what the columns mean."
    )
    days = sorted({one["when"][:10] for one in results.values()})
    return f"# Quotas, {' and '.join(days)}\n\n{head}\n\n{table(results, SCENARIOS)}\n"


def table(results: dict[str, Any], scenarios: list[Scenario]) -> str:
    """A row for each run."""
    rows = [["scenario", "mode", "used", "rejected", "settled", "requests", "texts", "failed"]]
    for scenario in scenarios:
        for mode in MODES:
            if one := results.get(f"{scenario.name} {mode}"):
                shares = [said(one[name], ".1%") for name in ("used", "rejected", "rejected_settled")]
                counts = [said(one[name], ",") for name in ("requests", "embedded", "failed")]
                rows.append([scenario.title, mode, *shares, *counts])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width if place < 2 else "-" * (width - 1) + ":" for place, width in enumerate(widths)])
    return "\n".join(f"| {' | '.join(padded(row, widths))} |" for row in rows)


def padded(row: list[str], widths: list[int]) -> list[str]:
    """The names to the left, the numbers to the right."""
    cells = zip(row, widths, strict=True)
    return [cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in enumerate(cells)]


def said(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def draw(results: dict[str, Any], path: Path) -> None:
    """A panel for each scenario: accepted above the axis, rejected below, a line each for sync and async."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from PIL import Image

    shown = [one for one in SCENARIOS if any(f"{one.name} {mode}" in results for mode in MODES)]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 2.5 * rows + 0.4), squeeze=False)
    for spare in axes.flat[len(shown) :]:
        spare.axis("off")
    for axis, scenario in zip(axes.flat, shown, strict=False):
        found = {mode: results[key] for mode in MODES if (key := f"{scenario.name} {mode}") in results}
        for mode, one in found.items():
            panel(axis, mode, one)
        top = max(one["quota_per_second"][0] for one in found.values())
        highest = max(max(one["accepted_per_second"]) for one in found.values())
        lowest = max(max(one["rejected_per_second"]) for one in found.values())
        axis.set_ylim(-min(lowest * 1.15 + 0.03 * top, top), max(highest * 1.1, top * 1.45))
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_title(scenario.title, fontsize=9, loc="left")
        axis.set_ylabel(f"{next(iter(found.values()))['unit']} per second", fontsize=8)
        axis.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.tick_params(labelsize=8)
        axis.margins(x=0)
        axis.legend(fontsize=8, ncols=2, frameon=False, loc="upper right", handlelength=1.2, columnspacing=1)
    for axis in axes.flat[max(0, len(shown) - columns) : len(shown)]:
        axis.set_xlabel("seconds since the first request", fontsize=8)
    figure.suptitle(
        "Quotas (dashed): what is accepted (lines), what is rejected (bars, downwards),\n"
        "and the share of the quota used, from ten seconds after the start or a change to the end",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    with Image.open(path) as picture:  # few colours are enough, and a third of the size
        picture.convert("RGB").quantize(64).save(path, optimize=True)


def panel(axis: Any, mode: str, one: dict[str, Any]) -> None:
    """One run."""
    colour, left = {"sync": ("#1f6fb4", 0.0), "async": ("#e07b1f", 0.5)}[mode]
    edges = range(len(one["accepted_per_second"]) + 1)
    used = f"{mode} {said(one['used'], '.0%')}"
    axis.stairs(one["quota_per_second"], edges, color="black", linewidth=1.0, linestyle="--", baseline=None)
    axis.stairs(one["accepted_per_second"], edges, color=colour, linewidth=1.4, baseline=None, label=used)
    downwards = [-value for value in one["rejected_per_second"]]
    axis.bar([edge + left for edge in edges[:-1]], downwards, width=0.5, align="edge", color=colour)


def commit() -> str:
    """What is measured."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def main() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(description="Throughput over time under quotas.")
    parser.add_argument("scenario", nargs="*", help="run these only")
    parser.add_argument("--mode", choices=MODES, action="append", help="run this one only")
    parser.add_argument(
        "--seconds", type=float, default=40.0, help="how long each run takes; %(default)s unless arguments"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for quotas.json, .md and .png")
    parser.add_argument("--list", action="store_true", help="list the scenarios and stop")
    parser.add_argument("--draw", action="store_true", help="run nothing: show and draw the last results")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{scenario.name:<20} {scenario.title}" for scenario in SCENARIOS))
        return
    if wrong := set(arguments.scenario) - set(names):
        parser.error(f"there is no scenario {', '.join(sorted(wrong))}; there are {', '.join(names)}")
    os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    chosen = [scenario for scenario in SCENARIOS if not arguments.scenario or scenario.name in arguments.scenario]
    arguments.results.mkdir(parents=True, exist_ok=True)
    file = arguments.results / "quotas.json"
    kept = json.loads(file.read_text("utf-8")) if file.exists() else {"about": {}, "runs": {}}
    about, results = kept["about"], kept["runs"]
    for scenario in [] if arguments.draw else chosen:
        for mode in arguments.mode or MODES:
            print(f"{scenario.title}, {mode} …", file=sys.stderr, flush=True)
            one = run(scenario, mode, arguments.seconds)
            one["commit"] = commit()
            one["when"] = datetime.now(UTC).isoformat(timespec="seconds")
            for words, texts in one["errors"].items():
                print(f"  {texts} × {words}", file=sys.stderr)
            results[f"{scenario.name} {mode}"] = one
            about = {
                "multiembed": __version__,
                "python": platform.python_version(),
                "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
            }
            lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in results.items())
            written = ",\n".join(lines)
            file.write_text(f'{{"about": {json.dumps(about)},\n"runs": {{\n{written}\n}}}}\n', "utf-8")
    if results:
        draw(results, arguments.results / "quotas.png")
        (arguments.results / "quotas.md").write_text(markdown(about, results), "utf-8")
    print(table(results, chosen))


if __name__ == "__main__":
    main()
