"""Ray actors on one account: more scenarios for benchmarks/scale.py, whose command line it takes.

    pip install ".[all,ray]"
    python benchmarks/scale_engines.py                     # also redis-server, see scale.py
    python benchmarks/scale_engines.py ray-machine-fixed --seconds 40

Four actors, each configured with the whole quota, embed one dataset by `multiembed.ray.embed(…, workers=4, quota=…)`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from typing import Any

import scale

ROWS_PER_BLOCK = 20
SPARE = 4
"""Rows in the dataset for each that the quota lets pass, so that all actors have work to the end."""


class RayActors:
    """A Ray of its own with the actors of one dataset, in a process of its own."""

    def __init__(self, scenario: scale.Scenario, urls: list[str], quota: str | None, seconds: float) -> None:
        options = scale.client_options(scenario, urls[0], quota, scale.MODELS[0])
        del options["api_key"]
        job = {
            "options": options,
            "workers": scenario.workers,
            "rows": int(scenario.per_second() * seconds * SPARE),
        }
        self.driver = subprocess.Popen(
            [sys.executable, __file__, "--ray", json.dumps(job)],
            env={**os.environ, "DASHSCOPE_API_KEY": "sk-simulator", "RAY_USAGE_STATS_ENABLED": "0"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> dict[str, Any]:
        """End the job, and count its rows."""
        output, _ = self.driver.communicate(timeout=scale.PATIENCE * 3)
        return {"errors": [], "warnings": [], **json.loads(output.splitlines()[-1])}


def drive(argument: str) -> None:
    """Embed a dataset until standard input is closed."""
    import ray.data

    from multiembed.ray import embed

    job = json.loads(argument)
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    texts = ray.data.range(job["rows"], override_num_blocks=job["rows"] // ROWS_PER_BLOCK).map_batches(
        lambda batch: {"text": [f"note {number}" for number in batch["id"]]}
    )
    made = embed(texts, workers=job["workers"], batch_size=ROWS_PER_BLOCK, **job["options"])
    embedded, failed = 0, 0
    for batch in made.iter_batches(batch_size=None, batch_format="pyarrow"):
        failed += len(batch) - batch["error"].null_count
        embedded += batch["error"].null_count
        if over.is_set():
            break
    print(json.dumps({"embedded": embedded, "failed": failed}), flush=True)
    os._exit(0)  # Ray ends its processes when the driver is gone


scale.ENGINES["ray"] = RayActors
scale.SCENARIOS[:] = [
    scale.Scenario(f"ray-{quota}{name}", f"600 a minute{title}", quota, engine="ray", configured=configured)
    for quota in (None, "machine", "redis")
    for name, title, configured in (("-fixed", ", configured", True), ("", "", False))
]

if __name__ == "__main__":
    if sys.argv[1:2] == ["--ray"]:
        drive(sys.argv[2])
    else:
        scale.main()
