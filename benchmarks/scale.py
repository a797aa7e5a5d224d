"""Several processes on one account: how much of its quota they use, and what is refused, with faults in the middle.

    pip install ".[all]" uvicorn
    python benchmarks/scale.py                       # every scenario: about 20 minutes
    python benchmarks/scale.py machine-fixed redis-kills --seconds 40
    python benchmarks/scale.py --list

No key, no network. The simulator, in a process of its own, keeps DashScope's quota (also per second). Each worker is a
process with one EmbeddingClient, and embeds distinct short texts, one in each request. `redis` scenarios
start `redis-server` (Debian: apt-get install redis-server) on a Unix socket.

used      accepted / possible, from 10 s after the first request to the end
rejected  refused for the quota / all requests, in the same time; "all": from the start
1 s       the most requests within any second, from 10 s after the first request
failed    texts that got no vector, in workers that were not killed
warnings  QuotaWarnings of all workers

Results go to benchmarks/results/scale.json, where scenarios that are not run again keep their last results, and are
shown in scale.md. To add an engine, write a function that starts its workers and put it into ENGINES.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiembed import EmbeddingClient, MultiEmbedError, QuotaWarning, __version__
from multiembed.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RESULTS = Path(__file__).parent / "results"
SETTLES = 10.0
"""Seconds that the workers have to find the quota."""
PATIENCE = 60.0
LATENCY = 0.1
CALLS, TEXTS = 4, 10
"""Calls of each worker at a time, and their texts: one is always busy, and few are left when the time is over."""
MODELS = ("text-embedding-v4", "text-embedding-v3")


@dataclass(frozen=True)
class Scenario:
    """A quota, the workers that share it, and what happens to them."""

    name: str
    title: str
    quota: str | None
    """The option; "redis" stands for the URL of a server that is started."""
    per_minute: int = 600
    configured: bool = True
    """Whether each worker is configured with the whole quota."""
    engine: str = "process"
    workers: int = 4
    in_flight: int | None = None
    """Quota of requests in flight, which each worker is configured with."""
    latency: float = LATENCY
    fault: str | None = None
    models: int = 1
    """Models, each with a quota of its own; workers take turns."""

    def options(self) -> dict[str, Any]:
        """Options of a worker's client."""
        limits = {
            "requests_per_minute": self.per_minute if self.configured and self.in_flight is None else None,
            "max_concurrency": self.in_flight,
        }
        return {name: value for name, value in limits.items() if value is not None}

    def limits(self) -> dict[str, int]:
        """Quota of the simulator."""
        return {"requests_per_minute": self.per_minute} if self.in_flight is None else {"in_flight": self.in_flight}

    def per_second(self) -> float:
        """Requests that the quota lets pass in a second."""
        return self.per_minute / 60.0 if self.in_flight is None else self.in_flight / self.latency


def _scenarios() -> Iterator[Scenario]:
    yield Scenario("none-fixed", "600 a minute, configured", None)
    yield Scenario("none", "600 a minute", None, configured=False)
    for quota in ("machine", "redis"):
        yield Scenario(f"{quota}-fixed", "600 a minute, configured", quota)
        yield Scenario(f"{quota}", "600 a minute", quota, configured=False)
        yield Scenario(f"{quota}-fixed-1800", "1,800 a minute, configured", quota, per_minute=1800)
        yield Scenario(f"{quota}-1800", "1,800 a minute", quota, per_minute=1800, configured=False)
        yield Scenario(f"{quota}-uvicorn", "600 a minute, configured", quota, engine="uvicorn")
        yield Scenario(f"{quota}-two-models", "two models, 600 a minute each, configured", quota, models=2)
        kills = {"fault": "kill workers", "latency": 0.3}
        yield Scenario(f"{quota}-kills", "600 a minute, configured; 12 x kill -9 in 25 s", quota, **kills)
        yield Scenario(f"{quota}-kills-ten", "10 in flight; 12 x kill -9 in 25 s", quota, in_flight=10, **kills)
        yield Scenario(f"{quota}-host", "600 a minute, configured; host killed three times", quota, fault="kill host")
    yield Scenario("redis-away", "600 a minute, configured; Redis away for 10 s", "redis", fault="redis away")


SCENARIOS = list(_scenarios())


# ── the server's process ─────────────────────────────────────────────────────────────────────────


def serve(pipe: Any, scenario: Scenario) -> None:
    """Keep a quota for each model, and report the requests on command."""
    with ExitStack() as stack:
        simulators = [stack.enter_context(Simulator(latency=scenario.latency)) for _ in range(scenario.models)]
        for simulator in simulators:
            simulator.limit(**scenario.limits(), kind="sliding" if scenario.in_flight is None else "bucket")
        pipe.send([simulator.base_url("dashscope") for simulator in simulators])
        while pipe.recv():
            pipe.send([[tuple(arrival)[:2] for arrival in simulator.arrivals] for simulator in simulators])


# ── workers ──────────────────────────────────────────────────────────────────────────────────────


def work(argument: str) -> None:
    """Embed until the time is over, in a process of its own; then print what became of the texts."""
    job = json.loads(argument)
    client = EmbeddingClient(**job["client"])
    end = time.monotonic() + job["seconds"]

    done: dict[str, Any] = {"embedded": 0, "failed": 0, "errors": []}
    numbers = iter(range(10**9))

    def embed() -> None:
        while time.monotonic() < end:
            texts = [f"note {job['worker']}-{next(numbers)}" for _ in range(TEXTS)]
            try:
                done["embedded"] += len(client.embed(texts).vectors)
            except MultiEmbedError as error:
                done["failed"] += len(getattr(getattr(error, "result", None), "failures", texts))
                done["errors"] += [str(error)[:200]][: 3 - len(done["errors"])]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        threads = [threading.Thread(target=embed) for _ in range(CALLS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    done["warnings"] = [str(each.message)[:300] for each in caught if issubclass(each.category, QuotaWarning)]
    print(json.dumps(done), flush=True)


def client_options(scenario: Scenario, url: str, quota: str | None, model: str) -> dict[str, Any]:
    return {
        "model": f"dashscope:{model}",
        "base_url": url,
        "api_key": "sk-simulator",
        "dimensions": 64,
        "limits": {"max_items": 1},
        "quota": quota,
        **scenario.options(),
    }


class Processes:
    """Plain Python processes, one stream in each."""

    def __init__(self, scenario: Scenario, urls: list[str], quota: str | None, seconds: float) -> None:
        self.scenario, self.urls, self.quota, self.end = scenario, urls, quota, time.monotonic() + seconds
        self.running: list[subprocess.Popen[str]] = []
        self.number = 0
        for _ in range(scenario.workers):
            self.start()

    def start(self) -> None:
        """Start one more worker, which ends with the others."""
        place = self.number % self.scenario.models
        options = client_options(self.scenario, self.urls[place], self.quota, MODELS[place])
        seconds = max(1.0, self.end - time.monotonic())
        job = {"client": options, "seconds": seconds, "worker": self.number}
        self.number += 1
        command = [sys.executable, __file__, "--work", json.dumps(job)]
        self.running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    def kill(self, number: int) -> None:
        """Kill one, and start another in its place."""
        victim = self.running.pop(number)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        self.start()

    def finish(self) -> dict[str, Any]:
        """Wait for the workers, and add up their counts."""
        total: dict[str, Any] = {"embedded": 0, "failed": 0, "errors": [], "warnings": []}
        for process in self.running:
            try:
                output, _ = process.communicate(timeout=PATIENCE)
                done = json.loads(output)
            except (subprocess.TimeoutExpired, ValueError):
                done = {"errors": ["a worker has not ended"], "failed": 1}
            finally:
                process.kill()
            for name, value in done.items():
                total[name] += value
        return total


async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """ASGI application for uvicorn: embeds one text in each request."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    client = _app_client()
    try:
        await client.aembed([scope["query_string"].decode()])
        status = 200
    except Exception as error:  # noqa: BLE001 - counted by the status
        print(repr(error)[:200], file=sys.stderr)
        status = 500
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


_clients: list[EmbeddingClient] = []


def _app_client() -> EmbeddingClient:
    if not _clients:
        _clients.append(EmbeddingClient(**json.loads(os.environ["SCALE_CLIENT"])))
    return _clients[0]


class Uvicorn:
    """`uvicorn --workers N`, and a load of 60 requests at a time."""

    def __init__(self, scenario: Scenario, urls: list[str], quota: str | None, seconds: float) -> None:
        self.port = free_port()
        self.end = time.monotonic() + seconds
        options = client_options(scenario, urls[0], quota, MODELS[0])
        self.server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "scale:app", "--workers", str(scenario.workers), "--port", str(self.port),
             "--log-level", "warning", "--app-dir", str(Path(__file__).parent)],
            env={**os.environ, "SCALE_CLIENT": json.dumps(options)},
        )  # fmt: skip
        self.load = multiprocessing.get_context("spawn").Pool(1)
        self.outcome = self.load.apply_async(load, (self.port, seconds))

    def finish(self) -> dict[str, Any]:
        """Wait for the load, stop uvicorn, and return the counts."""
        try:
            embedded, failed = self.outcome.get(PATIENCE + self.end - time.monotonic())
        finally:
            self.load.terminate()
            self.server.terminate()
            self.server.wait()
        return {"embedded": embedded, "failed": failed, "errors": [], "warnings": []}


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load(port: int, seconds: float) -> tuple[int, int]:
    """Send requests, 60 at a time, and count the statuses."""
    return asyncio.run(_load(port, seconds))


async def _load(port: int, seconds: float) -> tuple[int, int]:
    import aiohttp

    end, counts, numbers = time.monotonic() + seconds, [0, 0], iter(range(10**9))
    # A new connection for each request: the system spreads them over the workers.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:

        async def user() -> None:
            while time.monotonic() < end:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/?note-{next(numbers)}") as response:
                        counts[response.status != 200] += 1
                except aiohttp.ClientConnectorError:  # uvicorn has yet to start
                    await asyncio.sleep(0.1)

        await asyncio.gather(*(user() for _ in range(60)))
    return counts[0], counts[1]


ENGINES: dict[str, Callable[..., Any]] = {"process": Processes, "uvicorn": Uvicorn}
"""Each takes (scenario, urls, quota, seconds), starts its workers, and has `finish`, which returns the counts."""


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────


class Redis:
    """A Redis server of its own, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.start()

    def start(self) -> None:
        """Start the server, empty."""
        self.process = subprocess.Popen(
            [
                "redis-server",
                "--port",
                "0",
                "--unixsocket",
                str(self.socket),
                "--save",
                "",
                "--dir",
                str(self.socket.parent),
            ],
            stdout=subprocess.DEVNULL,
        )
        while not self.socket.exists():
            time.sleep(0.01)

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)


@contextmanager
def quota_of(scenario: Scenario) -> Iterator[tuple[str | None, Redis | None]]:
    """The option for the workers, and the server."""
    with tempfile.TemporaryDirectory(prefix="me") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder  # so that no other process of this user takes part
        if scenario.quota != "redis":
            yield scenario.quota, None
            return
        server = Redis(Path(folder))
        try:
            yield server.url, server
        finally:
            server.stop()


# ── faults ───────────────────────────────────────────────────────────────────────────────────────


def kill_workers(engine: Processes, _: Redis | None) -> Iterator[float]:
    chosen = random.Random(0)
    for _ in range(12):
        yield 2.0
        engine.kill(chosen.randrange(len(engine.running)))


def kill_host(engine: Processes, _: Redis | None) -> Iterator[float]:
    """Kill the oldest process three times: it is the host where the first one always is, so all in turn."""
    for _ in range(3):
        yield 5.0
        engine.kill(0)


def redis_away(_: Processes, server: Redis | None) -> Iterator[float]:
    assert server is not None
    yield 5.0
    server.stop()
    yield 10.0
    server.start()


FAULTS: dict[str, Callable[..., Iterator[float]]] = {
    "kill workers": kill_workers, "kill host": kill_host, "redis away": redis_away,
}  # fmt: skip


# ── one run ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def simulator_of(scenario: Scenario) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, scenario), daemon=True)
    process.start()
    there.close()
    try:
        yield here
    finally:
        process.terminate()
        process.join()


def run(scenario: Scenario, seconds: float) -> dict[str, Any]:
    with quota_of(scenario) as (quota, redis_server), simulator_of(scenario) as simulator:
        urls = simulator.recv()
        engine = ENGINES[scenario.engine](scenario, urls, quota, seconds + 3.0)
        start = None
        while start is None:
            time.sleep(0.02)
            simulator.send("report")
            first = [arrivals[0][0] for arrivals in simulator.recv() if arrivals]
            start = min(first, default=None)
        if scenario.fault is not None:
            time.sleep(max(0.0, start + SETTLES - time.monotonic()))
            for pause in FAULTS[scenario.fault](engine, redis_server):
                time.sleep(pause)
        time.sleep(max(0.0, start + seconds - time.monotonic()))
        simulator.send("report")
        arrivals = [
            [(at - start, accepted) for at, accepted in each if at < start + seconds] for each in simulator.recv()
        ]
        outcome = engine.finish()
        simulator.send(None)
    return {**judged(scenario, arrivals, seconds), **outcome}


def judged(scenario: Scenario, arrivals: list[list[Any]], seconds: float) -> dict[str, Any]:
    """The figures of one run, and what happened in each second."""
    settled = [arrival for each in arrivals for arrival in each if arrival[0] >= SETTLES]
    everything = [arrival for each in arrivals for arrival in each]
    series = {f"{kind}_per_second": [0] * int(seconds) for kind in ("accepted", "rejected")}
    for at, accepted in everything:
        series[f"{'accepted' if accepted else 'rejected'}_per_second"][min(int(at), int(seconds) - 1)] += 1
    possible = (seconds - SETTLES) * scenario.per_second() * scenario.models
    return {
        "used": sum(accepted for _, accepted in settled) / possible,
        "rejected": share(settled),
        "rejected_all": share(everything),
        "most_in_a_second": max(most([at for at, _ in each if at >= SETTLES]) for each in arrivals),
        "requests": len(everything),
        **series,
    }


def share(arrivals: list[Any]) -> float:
    return sum(not accepted for _, accepted in arrivals) / max(1, len(arrivals))


def most(times: list[float]) -> int:
    first = maximum = 0
    for number, at in enumerate(times):
        while at - times[first] >= 1.0:
            first += 1
        maximum = max(maximum, number - first + 1)
    return maximum


def markdown(about: dict[str, str], results: dict[str, Any]) -> str:
    rows = [["scenario", "quota=", "engine", "used", "rejected (all)", "1 s", "failed", "warnings"]]
    for scenario in SCENARIOS:
        if one := results.get(scenario.name):
            engine = f"{scenario.engine}:{scenario.workers}"
            rejected = f"{one['rejected']:.1%} ({one['rejected_all']:.1%})"
            counts = [str(one["most_in_a_second"]), str(one["failed"]), str(len(one["warnings"]))]
            rows.append([scenario.title, scenario.quota or "-", engine, f"{one['used']:.1%}", rejected, *counts])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    commits = ", ".join(sorted({one["commit"] for one in results.values()}))
    head = (
        f"{about['machine']}, Python {about['python']}, multiembed {about['multiembed']}, commit {commits}. Made by "
        "`python benchmarks/scale.py`, which says how, and what the columns mean."
    )
    last = max(one["when"] for one in results.values())[:10]
    return f"# Several processes on one account, {last}\n\n{head}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="scenarios; without any, all")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    if options.list:
        print("\n".join(f"{each.name:20} {each.title}" for each in SCENARIOS))
        return
    chosen = [each for each in SCENARIOS if not options.names or each.name in options.names]
    if not chosen:
        sys.exit("no such scenario; --list names them")
    if any(each.quota == "redis" for each in chosen) and not shutil.which("redis-server"):
        sys.exit("redis-server is missing: apt-get install redis-server")
    path = RESULTS / "scale.json"
    kept = json.loads(path.read_text()) if path.exists() else {"results": {}}
    revision = ["git", "-C", str(RESULTS), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(revision, capture_output=True, text=True, check=False).stdout.strip()
    about = {
        "machine": f"{os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "multiembed": __version__,
    }
    for scenario in chosen:
        one = run(scenario, options.seconds)
        kept["results"][scenario.name] = {**one, "commit": commit, "when": datetime.now(UTC).isoformat()}
        shares = {name: f"{one[name]:.1%}" for name in ("used", "rejected", "rejected_all")}
        counts = {name: one[name] for name in ("most_in_a_second", "failed", "errors")}
        print(scenario.name, shares, counts, f"{len(one['warnings'])} warnings", *one["warnings"][:1], flush=True)
        print("  accepted", *one["accepted_per_second"], flush=True)
        print("  rejected", *one["rejected_per_second"], flush=True)
    if options.keep or not options.names:
        path.write_text(json.dumps({"about": about, **kept}, indent=1) + "\n")
        (RESULTS / "scale.md").write_text(markdown(about, kept["results"]))
        print(markdown(about, kept["results"]))


if __name__ == "__main__":
    main()
