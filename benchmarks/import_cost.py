"""What importing the packages costs: medians of fresh processes, in turn, so that a slow machine slows all alike.

python benchmarks/import_cost.py [rounds]
"""

import statistics
import subprocess
import sys

STATEMENTS = (
    "pass",
    "import multiembed",
    "from langchain_core.embeddings import Embeddings",
    "import langchain_multiembed",
    "from llama_index.core.base.embeddings.base import BaseEmbedding",
    "import llamaindex_multiembed",
)
TIMER = "import time; begun = time.perf_counter(); {}; print(time.perf_counter() - begun)"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    seconds = {statement: [] for statement in STATEMENTS}
    for _ in range(rounds):
        for statement in STATEMENTS:
            run = subprocess.run(
                [sys.executable, "-c", TIMER.format(statement)], capture_output=True, text=True, check=True
            )
            seconds[statement].append(float(run.stdout))
    for statement, measured in seconds.items():
        print(f"{statement:<65} {statistics.median(measured) * 1000:8.1f} ms")


if __name__ == "__main__":
    main()
