"""One measurement, in this process alone: a client, a number of texts, and what it took. See throughput.py.

    python benchmarks/measure.py '{"client": …, "base_url": …, "last_value": …, and the fields of a Case}'

Importing the client's module and building the client are outside the clock; connections and the first contact are
within. So is memory, but a virtual machine may have to get it from its host first, which takes ten times as long and
would tell who came last rather than who is fast: just before the clock starts, another process takes 1 GiB and gives it
back. Peak RSS is the whole process's, read before the vectors are checked.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path[:0] = [str(Path(__file__).parents[1])]  # the checkout is measured, not what is installed

from clients import CLIENTS, OURS, Setting  # noqa: E402 - after the path
from server import id_of  # noqa: E402

WORDS = "the sea was grey and the ships came home late with nets full of herring while children counted them aloud; "


def texts_of(count: int, length: int) -> Iterator[str]:
    """Texts of `length` characters, each with its number in front."""
    return (f"text {number:07d} {WORDS * 2}"[:length] for number in range(count))


def check(vectors: Any, first: int, case: dict[str, Any]) -> int:
    """See that vectors are whole and in order. The return value is their number.

    Raises:
        AssertionError: one is not.
    """
    for place, vector in enumerate(vectors, first):
        assert id_of(vector) == place, f"text {place} has the vector of text {id_of(vector)}"
        whole = len(vector) == case["dimensions"] and abs(vector[-1] - case["last_value"]) < 1e-7
        assert whole, f"the vector of text {place} is not whole"
    return len(vectors)


def machine_seconds() -> float:
    """CPU seconds that the whole machine has worked; they show whether other programs worked as well."""
    with Path("/proc/stat").open() as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def have_memory_ready() -> None:
    """See that the system need not ask its host for the next gigabyte."""
    subprocess.run([sys.executable, "-S", "-c", "bytearray(1 << 30)"], check=True)


def measure(case: dict[str, Any]) -> dict[str, Any]:
    one = CLIENTS[case["client"]]
    module = importlib.import_module(one.module)
    embed = one.opens(module, Setting(case["base_url"], case["batch"], case["concurrency"]))
    texts = texts_of(case["texts"], case["length"])
    if one.returns != "blocks":
        texts = list(texts)
    have_memory_ready()
    machine, cpu, begun = machine_seconds(), cpu_seconds(), time.perf_counter()
    vectors, count = embed(texts), 0
    if one.returns == "blocks":
        for block in vectors:
            count += check(block, count, case)
    wall, cpu, machine = time.perf_counter() - begun, cpu_seconds() - cpu, machine_seconds() - machine
    peak = peak_mib()
    if one.returns == "bytes":
        count = len(texts)
    elif one.returns != "blocks":
        count = check(vectors, 0, case)
    assert count == case["texts"], f"{count} vectors for {case['texts']} texts"
    release = "" if one.package in (OURS, "python") else version(one.package)
    return {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak, "machine_cpu_s": machine, "version": release}


if __name__ == "__main__":
    logging.disable()
    warnings.simplefilter("ignore")
    # Nothing is asked of a proxy or of the network.
    os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", LITELLM_LOCAL_MODEL_COST_MAP="True")
    print(json.dumps(measure(json.loads(sys.argv[1]))))
