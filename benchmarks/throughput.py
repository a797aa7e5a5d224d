"""How fast texts become vectors: this package's clients and its peers, in one run against one fast local server.

    pip install ".[all]" -r benchmarks/requirements-peers.txt
    (and a C compiler, for server.c; over TLS also OpenSSL's headers, Debian: libssl-dev; Linux)
    python benchmarks/throughput.py [--quick] [--only SCENARIO …] [--clients WORD …] [--rounds 3]

Each measurement has a process and a server of its own; the clients take turns, in another order in every round; the
table shows medians. Every vector is checked: it must be its text's and whole. A measurement during which others used
the machine is done again. Writes throughput.json, .md and .png into benchmarks/results; `--draw` makes the last two
from the first. With `--only`, the other scenarios of the same commit, machine and day stay there.

Ideal is ceil(ceil(texts / batch) / concurrency) * latency: what the wire would allow if a client cost nothing. That
the server is no bottleneck is shown by its own CPU time, next to every result, and by raw sockets that decode nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import random
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import throughput_plot
import throughput_table
from clients import CLIENTS, OURS, QUERY
from server import Server, compiled
from tqdm import tqdm

HERE = Path(__file__).parent
OTHERS = 0.1
"""Cores that others may use during a measurement, besides the clock's own steps; else it is done again."""
STEPS = 0.03
PACKAGES = ("multiembed", "langchain_multiembed", "llamaindex_multiembed")
TRIES = 4
SECONDS = 300


@dataclass(frozen=True)
class Case:
    """One thing that is measured."""

    scenario: str
    client: str
    texts: int
    concurrency: int
    latency: float
    batch: int = 10
    dimensions: int = 1024
    length: int = 200
    tls: bool = False

    @property
    def ideal(self) -> float:
        """Seconds that the wire alone would take."""
        return math.ceil(math.ceil(self.texts / self.batch) / self.concurrency) * self.latency


@dataclass(frozen=True)
class Scenario:
    """Some clients, at one or more points."""

    title: str
    clients: tuple[str, ...]
    points: tuple[tuple[int, int], ...]
    """Texts and requests in flight."""
    latency: float
    batch: int = 10
    dimensions: int = 1024
    length: int = 200
    tls: bool = False

    def cases(self, name: str) -> list[Case]:
        """All cases. A client with a maximum takes no more texts; a sequential one takes the end points only."""
        found = []
        for texts, concurrency in self.points:
            for each in map(CLIENTS.__getitem__, self.clients):
                most = each.most or texts
                inner = (texts, concurrency) not in (self.points[0], self.points[-1])
                if (name == "texts" and texts > most) or (name == "concurrency" and each.sequential and inner):
                    continue
                shape = (self.latency, self.batch, self.dimensions, self.length, self.tls)
                found.append(Case(name, each.name, min(texts, most), concurrency, *shape))
        return found


BULK = tuple(name for name, each in CLIENTS.items() if not name.startswith(QUERY) and each.returns != "blocks")
LINES = (
    "EmbeddingClient.embed",
    "MultiEmbeddings.embed_documents",
    "MultiEmbeddings.aembed_documents",
    "MultiEmbedding.get_text_embedding_batch",
    "baseten, list",
    "baseten, numpy",
    "aiohttp + orjson",
    "httpx.AsyncClient + orjson",
    "LangChain OpenAIEmbeddings",
    "LlamaIndex OpenAILikeEmbedding, async",
)
TLS = (
    "EmbeddingClient.embed",
    "EmbeddingClient.aembed",
    "MultiEmbeddings.embed_documents",
    "MultiEmbeddings.aembed_documents",
    "MultiEmbedding.get_text_embedding_batch",
    "MultiEmbedding.aget_text_embedding_batch",
    "baseten, list",
    "baseten, numpy",
    "aiohttp + orjson",
    "httpx.AsyncClient + orjson",
)
TLS_WIDE = (
    "EmbeddingClient.embed",
    "MultiEmbeddings.embed_documents",
    "MultiEmbedding.aget_text_embedding_batch",
    "baseten, list",
    "baseten, numpy",
    "aiohttp + orjson",
)
SCENARIOS = {
    "main": Scenario("50 in flight, 50 ms", BULK, ((10_000, 50),), 0.05),
    "wide": Scenario("200 in flight, 100 ms", BULK, ((10_000, 200),), 0.1),
    "tls": Scenario("50 in flight, 50 ms, over TLS", TLS, ((10_000, 50),), 0.05, tls=True),
    "tls-wide": Scenario("200 in flight, 100 ms, over TLS", TLS_WIDE, ((10_000, 200),), 0.1, tls=True),
    "no-latency": Scenario("No latency", BULK, ((10_000, 50), (10_000, 8)), 0.0),
    "texts": Scenario(
        "The more texts, 50 in flight, 50 ms",
        LINES,
        tuple((texts, 50) for texts in (1_000, 3_000, 10_000, 30_000, 100_000)),
        0.05,
    ),
    "concurrency": Scenario(
        "The more in flight, 50 ms",
        (*LINES, "raw sockets, nothing decoded"),
        tuple((200 * most, most) for most in (1, 2, 5, 10, 20, 50, 100, 200)),
        0.05,
    ),
    "query": Scenario(
        "Single queries, one after the other, no latency",
        tuple(name for name in CLIENTS if name.startswith(QUERY)),
        ((1_000, 1),),
        0.0,
        batch=1,
    ),
    "stream": Scenario(
        "A stream of short texts, no latency",
        ("EmbeddingClient.stream",),
        ((100_000, 8), (1_000_000, 8)),
        0.0,
        batch=100,
        dimensions=64,
        length=20,
    ),
}


def quicker(scenario: Scenario) -> Scenario:
    """The same with a tenth of the texts."""
    return replace(scenario, points=tuple((texts // 10, most) for texts, most in scenario.points))


def run(case: Case, prefix: list[str], tries: int) -> dict[str, Any]:
    """One measurement, done again while others use the machine."""
    found: dict[str, Any] = {}
    for _ in range(tries):
        found = run_once(case, prefix)
        if "error" in found or not found["disturbed"]:
            break
    return {**asdict(case), "ideal_s": case.ideal, **found}


def run_once(case: Case, prefix: list[str]) -> dict[str, Any]:
    with Server(latency=case.latency, dimensions=case.dimensions, tls=case.tls) as server:
        options = {**asdict(case), "base_url": server.base_url, "last_value": server.last_value}
        words = [*prefix, sys.executable, str(HERE / "measure.py"), json.dumps(options)]
        trust = {"SSL_CERT_FILE": str(server.authority)} if case.tls else {}  # all clients read it, baseten's too
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, check=True, timeout=SECONDS, env={**os.environ, **trust}
            )
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {SECONDS} seconds"}
        except subprocess.CalledProcessError as error:
            return {"error": error.stderr.strip().rpartition("\n")[2][:200]}
        found, served = json.loads(done.stdout), server.stop()
    if served["refused"] or served["texts"] < case.texts:
        return {"error": f"the server refused {served['refused']} requests and saw {served['texts']} texts"}
    others = found.pop("machine_cpu_s") - found["cpu_s"] - served["cpu_s"]
    return {
        **found,
        "requests": served["requests"],
        "in_flight": served["max_in_flight"],
        "connections": served["connections"],
        "server_cpu_s": served["cpu_s"],
        "disturbed": others > found["wall_s"] * OTHERS + STEPS,
    }


def installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(CLIENTS[name].module) is not None
    except ModuleNotFoundError:
        return False


def about(options: argparse.Namespace) -> dict[str, Any]:
    """The date, the machine and what was measured."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *PACKAGES], cwd=HERE.parent, check=False)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores ({model or platform.machine()}), {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": _git("log", "-1", "--format=%h") + ("-dirty" if changed.returncode else ""),
        "asked": {"quick": options.quick, "clients": options.clients, "rounds": options.rounds},
    }


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=HERE.parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()


def plan(options: argparse.Namespace) -> list[list[Case]]:
    """The cases of every scenario that was asked for; clients that are not installed are left out with a word."""
    wanted = [name for name in CLIENTS if not options.clients or any(word in name for word in options.clients)]
    missing = {name for name in wanted if not installed(name)}
    for package in sorted({CLIENTS[name].package for name in missing}):
        print(f"left out, because it is not installed: {package}", file=sys.stderr)
    planned = []
    for name, scenario in SCENARIOS.items():
        if not options.only or name in options.only:
            shape = quicker(scenario) if options.quick else scenario
            planned.append([case for case in shape.cases(name) if case.client in wanted and case.client not in missing])
    return planned


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the texts, one round: to see that all works")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, help="these scenarios")
    parser.add_argument("--clients", nargs="+", metavar="WORD", help="clients whose name has one of these words in it")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each case; the median counts")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="a folder")
    parser.add_argument("--prefix", type=shlex.split, default=[], help='before each process: "taskset -c 0,1"')
    parser.add_argument("--draw", action="store_true", help="measure nothing: make table and picture from the JSON")
    options = parser.parse_args()
    kept = options.output / "throughput.json"
    if not options.draw:
        measure_all(options, kept)
    result = json.loads(kept.read_text(encoding="utf-8"))
    titles = {name: scenario.title for name, scenario in SCENARIOS.items()}
    table = throughput_table.markdown(result, titles)
    kept.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    throughput_plot.draw(result, kept.with_suffix(".png"))
    return int(any("error" in found and CLIENTS[found["client"]].package == OURS for found in result["runs"]))


def earlier(options: argparse.Namespace, kept: Path, now: set[str]) -> list[dict[str, Any]]:
    """What stands there of other scenarios, when it was measured alike: same commit, machine, day and choices."""
    try:
        result = json.loads(kept.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    same = result["about"] == about(options)
    return [found for found in result["runs"] if found["scenario"] not in now] if same else []


def measure_all(options: argparse.Namespace, kept: Path) -> None:
    """Every case in every round; what is done is kept after each round of a scenario."""
    planned = plan(options)
    for tls in {case.tls for cases in planned for case in cases}:
        compiled(tls=tls)
    kept.parent.mkdir(parents=True, exist_ok=True)
    scenarios = {case.scenario for cases in planned for case in cases}
    result = {"about": about(options), "runs": earlier(options, kept, scenarios)}
    rounds, tries = (1, 1) if options.quick else (options.rounds, TRIES)
    for cases in planned:
        for turn in range(rounds):
            order = random.Random(turn).sample(cases, len(cases))
            for case in (bar := tqdm(order, disable=None)):
                bar.set_description(f"{case.scenario}, round {turn + 1}: {case.client}")
                result["runs"].append(run(case, options.prefix, tries))
            kept.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
