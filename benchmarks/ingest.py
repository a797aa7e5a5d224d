"""What `multiembed embed` takes to turn a large JSONL file into Parquet: peak memory of all its processes, and time.

python benchmarks/ingest.py [--gigabytes 0.05] [--dimensions 256] [--directory …]
python benchmarks/ingest.py --server [--rows 300000] [--dimensions 1024] [--latency 50] [--concurrency 50]

The file is made first: texts of some 300 characters, a number and then the demo's English and Chinese sentences,
and an id, a number, a date, a list and an object. Afterwards the output is read back: every row is there, in order, and
has its text's vector.

The model is `local`, so that nothing waits for a network. With --server it is the server of server.c: `multiembed
embed`, with its own cache, takes turns with a process that reads the same texts into `EmbeddingClient.stream` without a
cache and drops the vectors. Model, batches and requests in flight are the same; medians of --rounds.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from server import Server

from multiembed import EmbeddingClient
from multiembed.cli.corpus import passages

LOCAL = "local:char-ngrams"
SERVED = "dashscope-compatible:text-embedding-v4"  # ten texts a request
EMBED = "from multiembed.cli import main; main()"
STREAM = """
import json, sys
from multiembed import EmbeddingClient

source, rows, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
with EmbeddingClient(**options) as client, open(source, encoding="utf-8") as file:
    texts = (json.loads(line)["text"] for line in file)
    assert sum(len(result.vectors) for result in client.stream(texts, role="document")) == rows
"""
EVERY = 0.05  # seconds between two looks at the memory


def make(path, *, size=None, rows_wanted=None):
    """Write so many bytes or rows; the number of rows."""
    chance = random.Random(5)
    text = "\n".join(passage.text for passage in passages())
    sentences = [found.strip() for found in re.split(r"(?<=[.。])\s+|\n\n", text) if len(found) > 20]
    rows = written = 0
    with path.open("w", encoding="utf-8") as file:
        while rows < rows_wanted if size is None else written < size:
            body = f"{rows:07} " + " ".join(chance.choices(sentences, k=4))[: chance.randint(100, 600)]
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


def peak_of(process):
    """Bytes that a process has held at most, as far as it is there; a fork's own figure would count its parent's."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0
    held = re.search(r"VmHWM:\s+(\d+)", status)  # a zombie holds nothing
    return int(held[1]) * 1024 if held else 0


def run(command):
    """Seconds, CPU seconds and peak bytes of memory of a Python program and all processes that come from it."""
    begun, peaks, pid = time.monotonic(), {}, 0
    process = subprocess.Popen([sys.executable, "-c", *command], stdout=subprocess.DEVNULL)
    while not pid:
        for each in tree(process.pid):
            peaks[each] = max(peaks.get(each, 0), peak_of(each))
        time.sleep(EVERY)
        pid, status, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"The command ended with {process.returncode}.")
    return time.monotonic() - begun, used.ru_utime + used.ru_stime, sum(peaks.values())


def embed(source, out, options):
    """What `multiembed embed` takes; see `run`."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return run([EMBED, "embed", str(source), "-o", str(out), "--column", "text", "--overwrite", *words])


def check(out, rows, expected):
    """See that all rows are there in order, and that the first of each row group has its text's vector.

    Args:
        out: the output.
        rows: how many it must have.
        expected: makes the vector of a text, or the first numbers of it.
    """
    file = pq.ParquetFile(out)
    assert file.metadata.num_rows == rows, f"{file.metadata.num_rows} rows of {rows}"
    number = 0
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["id", "text", "embedding"])
        ids = [f"doc-{number + row:09}" for row in range(table.num_rows)]
        assert table["id"].to_pylist() == ids, f"row group {group} is not in order"
        for row in (0, table.num_rows - 1):
            numbers = expected(table["text"][row].as_py())
            found = np.array(table["embedding"][row].as_py(), np.float32)
            assert np.array_equal(found[: len(numbers)], numbers), f"row {number + row} has another text's vector"
        number += table.num_rows


def served(text):
    """The first number of the vector that the server has for a text."""
    return np.array([int(text[:7]) / 1e7], np.float32)


def summary(name, rows, seconds, cpu, peak):
    return f"{name}  {seconds:,.1f} s, {rows / seconds:,.0f} rows/s, {cpu:,.1f} s of CPU, {peak / 2**20:,.0f} MiB"


def measure_local(source, out, given):
    rows = make(source, size=given.gigabytes * 1e9)
    options = {"model": LOCAL, "dimensions": given.dimensions or 256}
    taken = embed(source, out, options)
    with EmbeddingClient(**options) as client:
        check(out, rows, lambda text: client.embed([text]).vectors[0])
    print(f"input   {source.stat().st_size / 1e9:.2f} GB, {rows:,} rows")
    print(f"output  {out.stat().st_size / 1e9:.2f} GB, {options['dimensions']} dimensions")
    print(summary("embed ", rows, *taken))


def measure_served(source, out, given):
    rows, dimensions = make(source, rows_wanted=given.rows), given.dimensions or 1024
    os.environ.update(DASHSCOPE_API_KEY="none", NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    taken = {"embed ": [], "stream": []}
    for turn in range(given.rounds):
        for name in sorted(taken, reverse=turn % 2 == 1):
            with Server(latency=given.latency / 1000, dimensions=dimensions) as server:
                options = {"model": SERVED, "dimensions": dimensions, "max_concurrency": given.concurrency}
                options["base_url"] = f"{server.base_url}/v1"
                if name == "stream":
                    found = run([STREAM, str(source), str(rows), json.dumps(options)])
                else:
                    found = embed(source, out, options)
                    check(out, rows, served)
                share = server.stop()["cpu_s"] / found[0]
            taken[name].append(found)
            print(f"{summary(name, rows, *found)}; the server took {share:.0%} of a core", flush=True)
    medians = {name: [statistics.median(each) for each in zip(*rounds, strict=True)] for name, rounds in taken.items()}
    print(f"medians of {given.rounds}, {rows:,} rows, {dimensions} dimensions, {given.latency:g} ms:")
    for name, found in medians.items():
        print(summary(name, rows, *found))
    print(f"ratio   {medians['stream'][0] / medians['embed '][0]:.0%} of the stream's rate")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.05, help="of the input, without --server")
    parser.add_argument("--server", action="store_true", help="against server.c, next to EmbeddingClient.stream")
    parser.add_argument("--rows", type=int, default=300_000, help="of the input, with --server, as all that follows")
    parser.add_argument("--latency", type=float, default=50, help="milliseconds")
    parser.add_argument("--concurrency", type=int, default=50, help="requests in flight")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dimensions", type=int, help="256, with --server 1,024")
    parser.add_argument("--directory", help="where there is room for the input, the output and the cache")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.directory) as folder:
        measure = measure_served if given.server else measure_local
        measure(Path(folder, "rows.jsonl"), Path(folder, "rows.parquet"), given)


if __name__ == "__main__":
    main()
