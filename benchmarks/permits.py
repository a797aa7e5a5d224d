"""Cost of a permit where processes share a quota: its time, and the CPU of the process that asks and of the host.

    pip install ".[redis]"
    python benchmarks/permits.py             # also redis-server, see scale.py
    python benchmarks/permits.py --permits 20000

No key, no network. One process is the host, another asks for permits of an account without limits: so many at a time,
each released at once. In a run of one at a time both processes sleep and wake for each message, which costs most of
the CPU; the more wait at a time, the more messages travel together.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale import Redis

from multiembed.ratelimit.registry import limiter_for

if TYPE_CHECKING:
    from multiembed.ratelimit.limiter import AccountLimiter

AT_A_TIME = (1, 2, 4, 10)
WARM_UP = 20


def limiter(quota: str) -> AccountLimiter:
    return limiter_for("benchmark", asyncio.get_running_loop().time, quota=quota)


async def take(account: AccountLimiter) -> float:
    """Take a permit and give it back. Returns: the seconds until it was there."""
    begun = time.perf_counter()
    permit = account.permit()
    async with permit:
        seconds = time.perf_counter() - begun
        permit.report_success()
    return seconds


async def be_host(quota: str) -> None:
    """Decide for the other process; print the CPU seconds so far at each line of the input."""
    await take(limiter(quota))
    print(flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(time.process_time(), flush=True)
    os._exit(0)


async def measure(name: str, quota: str, permits: int, host: Any) -> None:
    """Print a row for each number of permits at a time."""
    account = limiter(quota)

    def host_cpu() -> float:
        host.stdin.write("\n")
        host.stdin.flush()
        return float(host.stdout.readline())

    async def take_turns(count: int) -> list[float]:
        return [await take(account) for _ in range(count)]

    await take_turns(WARM_UP)
    for at_a_time in AT_A_TIME:
        own, others = time.process_time(), host_cpu()
        times = await asyncio.gather(*(take_turns(permits // at_a_time) for _ in range(at_a_time)))
        own, others = time.process_time() - own, host_cpu() - others
        median = statistics.median(each for one in times for each in one)
        figures = [f"{1e3 * seconds:.3f}" for seconds in (median, own / permits, others / permits)]
        print(f"| {' | '.join([name, str(at_a_time), *figures])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--permits", type=int, default=5000, help="in each run")
    parser.add_argument("--host", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.host:
        asyncio.run(be_host(given.host))
        return
    print("| `quota=` | at a time | ms | ms of CPU | ms of the host's CPU |\n| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="me") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        server = Redis(Path(folder))
        try:
            for name, quota in (("machine", "machine"), ("Redis", server.url)):
                command = [sys.executable, __file__, "--host", quota]
                host: Any = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                with host:
                    host.stdout.readline()
                    asyncio.run(measure(name, quota, given.permits, host))
                    host.stdin.close()
        finally:
            server.stop()


if __name__ == "__main__":
    main()
