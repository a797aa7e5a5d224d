"""What `multiembed embed` takes to turn a large JSONL file into Parquet: peak memory of all its processes, and time.

python benchmarks/ingest.py [--gigabytes 0.05] [--dimensions 256] [--directory …]

The file is made first: texts of some 300 characters, put together from the demo's English and Chinese sentences, beside
an id, a number, a date, a list and an object. The model is `local`, so that nothing waits for a network. Afterwards the
output is read back: every row is there, in order, and some of the vectors are those of their texts.
"""

import argparse
import json
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from multiembed import EmbeddingClient
from multiembed.cli.corpus import passages

MODEL = "local:char-ngrams"
PROGRAM = "from multiembed.cli import main; main()"
EVERY = 0.05  # seconds between two looks at the memory


def make(path, size):
    """Write rows until the file has so many bytes; the number of rows."""
    chance = random.Random(5)
    text = "\n".join(passage.text for passage in passages())
    sentences = [found.strip() for found in re.split(r"(?<=[.。])\s+|\n\n", text) if len(found) > 20]
    rows = written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            body = " ".join(chance.choices(sentences, k=4))[: chance.randint(100, 600)]
            row = {
                "id": f"doc-{rows:09}",
                "price": round(chance.random() * 100, 2),
                "day": f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}",
                "tags": chance.sample(["news", "law", "code", "art"], 2),
                "source": {"site": f"site-{chance.randint(1, 500)}", "page": chance.randint(1, 10_000)},
                "text": body,
            }
            line = json.dumps(row, ensure_ascii=False) + "\n"
            file.write(line)
            written += len(line.encode())
            rows += 1
    return rows


def tree(process):
    """A process and all that come from it."""
    yield process
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in children:
        yield from tree(int(child))


def resident(process):
    """Bytes in memory of a process and all that come from it."""
    pages = 0
    for each in tree(process):
        try:
            pages += int(Path(f"/proc/{each}/statm").read_text().split()[1])
        except OSError:  # it has ended
            continue
    return pages * resource.getpagesize()


def run(command):
    """Seconds, CPU seconds and peak bytes of memory of a command."""
    begun, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(EVERY)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"The command ended with {process.returncode}.")
    return time.monotonic() - begun, used.ru_utime + used.ru_stime, max(peak, used.ru_maxrss * 1024)


def check(out, rows, dimensions):
    """See that all rows are there in order, and that the first of each row group has its text's vector."""
    file = pq.ParquetFile(out)
    assert file.metadata.num_rows == rows, f"{file.metadata.num_rows} rows of {rows}"
    number = 0
    with EmbeddingClient(MODEL, dimensions=dimensions) as client:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["id", "text", "embedding"])
            ids = [f"doc-{number + row:09}" for row in range(table.num_rows)]
            assert table["id"].to_pylist() == ids, f"row group {group} is not in order"
            (expected,) = client.embed([table["text"][0].as_py()]).vectors
            assert np.array_equal(np.array(table["embedding"][0].as_py(), np.float32), expected)
            number += table.num_rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.05)
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--directory", help="where there is room for the input and the output")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        source, out = Path(folder, "rows.jsonl"), Path(folder, "rows.parquet")
        rows = make(source, given.gigabytes * 1e9)
        options = ["-o", str(out), "--model", MODEL, "--dimensions", str(given.dimensions), "--column", "text"]
        seconds, cpu, peak = run([sys.executable, "-c", PROGRAM, "embed", str(source), *options])
        check(out, rows, given.dimensions)
        print(f"input   {source.stat().st_size / 1e9:.2f} GB, {rows:,} rows")
        print(f"output  {out.stat().st_size / 1e9:.2f} GB, {given.dimensions} dimensions")
        print(f"time    {seconds:,.0f} s, {rows / seconds:,.0f} rows a second, {cpu:,.0f} s of CPU")
        print(f"memory  {peak / 2**20:,.0f} MiB at most")


if __name__ == "__main__":
    main()
