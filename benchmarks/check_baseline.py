"""Compares our own CPU time with benchmarks/baseline.json; the status is 1 where a figure is more than 15 % above it.

    python benchmarks/check_baseline.py             compare
    python benchmarks/check_baseline.py --update    write the figures of this run as the new baseline

Each figure is a ratio: CPU seconds of a piece of work in this process, divided by those of a fixed calculation that
runs just before it, so that machines of different speed give about the same. It is the least of five rounds; a figure
that is too high is measured again, because other programs can only make it higher. Needs a C compiler for the server.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [str(Path(__file__).parents[1])]  # the checkout is measured, not what is installed

import numpy as np  # noqa: E402 - after the path, like the next ones
from measure import texts_of  # noqa: E402
from server import Server  # noqa: E402

from langchain_multiembed import MultiEmbeddings  # noqa: E402
from multiembed import EmbeddingClient, open_cache  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

BASELINE = Path(__file__).with_name("baseline.json")
TOLERANCE = 1.15
ROUNDS = 5
TRIES = 3


def calibration() -> None:
    """Work of the kind that embedding takes: JSON, dictionaries, calls, and arrays."""
    for number in range(60):
        text = json.dumps([{"index": at, "embedding": [at / 7 + number] * 40} for at in range(60)])
        rows = json.loads(text)
        {row["index"]: np.array(row["embedding"], dtype=np.float32).sum() for row in rows}


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process and its children that have ended."""
    before = _cpu_so_far()
    work()
    return _cpu_so_far() - before


def _cpu_so_far() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def ratio(work: Callable[[], object]) -> float:
    """CPU of some work for each CPU second of the calibration."""
    unit = min(cpu(calibration) for _ in range(2))
    return cpu(work) / unit


def cases(base_url: str, folder: str) -> dict[str, Callable[[], object]]:
    """Name to work; each is called several times."""
    options = {"api_key": "sk-any", "base_url": base_url, "max_concurrency": 50}
    model, texts, many = "siliconflow:BAAI/bge-m3", list(texts_of(5_000, 120)), list(texts_of(50_000, 120))
    client, embedder = EmbeddingClient(model, **options), MultiEmbeddings(model=model, **options)
    client.embed(texts[:1]), embedder.embed_query(texts[0])
    rows = np.random.default_rng(7).random((20_000, 256), dtype=np.float32)
    names = [f"text {number}" for number in range(len(rows))]
    kept = open_cache(f"{folder}/kept.sqlite")
    kept.put("namespace", names, rows, None)

    def write() -> None:
        path = Path(folder) / f"{time.monotonic_ns()}.sqlite"
        with_cache = open_cache(str(path))
        for at in range(0, len(names), 100):
            with_cache.put("namespace", names[at : at + 100], rows[at : at + 100], None)
        with_cache.close()

    return {
        "embed 5,000 texts, float32": lambda: client.embed(texts),
        "embed 5,000 texts, lists": lambda: embedder.embed_documents(texts),
        "300 single queries": lambda: [embedder.embed_query(text) for text in texts[:300]],
        "estimate 50,000 texts": lambda: client.estimate(many),
        "look up 20,000 cached vectors": lambda: kept.get("namespace", names),
        "cache 20,000 vectors": write,
        "import langchain_multiembed": lambda: subprocess.run(
            [sys.executable, "-c", "import langchain_multiembed"], check=True
        ),
    }


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--update", action="store_true", help="write the figures as the new baseline")
    update = parser.parse_args().update
    logging.disable()
    os.environ.update(NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    known = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    measured, failed = {}, []
    with Server() as server, tempfile.TemporaryDirectory() as folder:
        for name, work in cases(f"{server.base_url}/v1", folder).items():
            limit = TOLERANCE * known.get(name, float("inf"))
            for _ in range(1 if update else TRIES):
                figure = min([ratio(work) for _ in range(ROUNDS)] + [measured.get(name, float("inf"))])
                measured[name] = round(figure, 3)
                if figure <= limit:
                    break
            else:
                failed.append(name)
            print(f"{name:32} {measured[name]:8.3f}   baseline {known.get(name, '-'):>8}", flush=True)
    if update:
        BASELINE.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
        return 0
    if failed:
        print(f"More than {TOLERANCE - 1:.0%} above the baseline: {', '.join(failed)}.")
    missing = known.keys() ^ measured.keys()
    if missing:
        print(f"Measured and baseline hold different figures ({', '.join(sorted(missing))}): run with --update.")
    return int(bool(failed or missing))


if __name__ == "__main__":
    raise SystemExit(main())
