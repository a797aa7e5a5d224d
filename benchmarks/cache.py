"""The cache's file: how large it is, how fast it is looked up, and what a finished request pays to be kept.

python benchmarks/cache.py [vectors] [dimensions] [directory]

Measures 1,000,000 vectors of 256 dimensions by default, put in requests of 64 texts, and then requests of 10
and groups of such requests on top, each group in one commit. Lookups are done by a fresh process each time, in the
order the texts were put and in a random one; "warm" is with the file in the system's memory, "cold" with it pushed out
where the system can be asked to. Seconds are of the wall; the process's own follow them: they differ where the
machine is busy or reads its disk.
"""

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from multiembed.cache import open_cache
from multiembed.cache.base import CacheEntry

SPACE = "5" * 64
WINDOW = 10_000


def texts(numbers):
    return [f"The text with the number {number}." for number in numbers]


def vectors(begin, count, dimensions):
    return np.random.default_rng(begin).standard_normal((count, dimensions), dtype=np.float32)


def put(cache, numbers, dimensions, size):
    """Milliseconds of each put."""
    taken = []
    for begin in range(numbers.start, numbers.stop, size):
        some = range(begin, min(begin + size, numbers.stop))
        words, rows = texts(some), vectors(begin, len(some), dimensions)
        begun = time.perf_counter()
        cache.put(SPACE, words, rows, None)
        taken.append((time.perf_counter() - begun) * 1000)
    return taken


def put_many(cache, begin, dimensions, size):
    """Vectors a second of groups of requests of 10, each group in one commit: by the wall, and by CPU time."""
    seconds = worked = 0.0
    for group in range(begin, begin + 20_480, size * 10):
        entries = [
            CacheEntry(SPACE, texts(range(first, first + 10)), vectors(first, 10, dimensions), None)
            for first in range(group, group + size * 10, 10)
        ]
        begun, before = time.perf_counter(), time.process_time()
        cache.put_many(entries)
        seconds += time.perf_counter() - begun
        worked += time.process_time() - before
    return 20_480 / seconds, 20_480 / worked


def summary(taken):
    ordered = sorted(taken)
    return (
        f"median {statistics.median(ordered):.3f} ms, mean {statistics.fmean(ordered):.3f}, "
        f"99 % {ordered[len(ordered) * 99 // 100]:.2f}, longest {ordered[-1]:.0f}"
    )


def look_up(path, order, count, limit, window):
    """In a fresh process: vectors a second, and whether they are the right ones."""
    numbers = range(count) if order == "put" else random.Random(7).sample(range(count), count)
    numbers = list(numbers[:limit])
    cache = open_cache(path)
    seconds = worked = 0.0
    for begin in range(0, len(numbers), window):
        words = texts(numbers[begin : begin + window])
        begun, before = time.perf_counter(), time.process_time()
        found = cache.get(SPACE, words)
        seconds += time.perf_counter() - begun
        worked += time.process_time() - before
        assert len(found.positions) == len(words)
    if order == "put":
        first = cache.get(SPACE, texts(range(64))).dense
        assert (first == vectors(0, 64, first.shape[1])).all()
    own = f"{len(numbers) / worked:,.0f} by the process's own time"
    print(f"{len(numbers) / seconds:,.0f} vectors/s ({own})")


def push_out(path):
    """Ask the system to forget the file's pages."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path):
    """Have the system hold the file's pages."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    dimensions = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    place = Path(tempfile.mkdtemp(dir=sys.argv[3] if len(sys.argv) > 3 else None))
    path = place / "vectors.sqlite"
    try:
        cache = open_cache(path)
        begun = time.perf_counter()
        taken = put(cache, range(count), dimensions, 64)
        seconds = time.perf_counter() - begun
        cache.close()
        size = path.stat().st_size
        print(f"{count:,} vectors of {dimensions} dimensions, put in {seconds:.0f} s")
        print(f"file: {size:,} bytes, {size / (count * dimensions * 4):.3f} x its float32 data")
        print(f"puts of 64: {count / sum(taken) * 1000:,.0f} vectors/s")
        print(f"a put of 64, over all: {summary(taken)}")
        print(f"a put of 64, the last tenth: {summary(taken[-len(taken) // 10 :])}")
        print(f"a put of 10, on top: {summary(put(cache, range(count, count + 20_000), dimensions, 10))}")
        for turn in range(3):
            for place_of_size, size in enumerate((1, 4, 16, 64)):
                first = 10 * count + (4 * turn + place_of_size) * 20_480
                wall, own = put_many(cache, first, dimensions, size)
                print(
                    f"puts of {size} x 10 in one commit: {wall:,.0f} vectors/s ({own:,.0f} by the process's own time)"
                )
        cache.close()
        for order in ("put", "random"):
            for state, window in (("cold", WINDOW), ("warm", WINDOW), ("warm", 1024), ("warm", count)):
                if state == "warm":
                    read_through(path)
                elif hasattr(os, "posix_fadvise"):
                    push_out(path)
                limit = count if window == count else count // 5
                command = [sys.executable, __file__, "look-up", path, order, count, limit, window]
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
                print(
                    f"lookups, order: {order}, {window:,} texts a call, {state}: {done.stdout.strip()}",
                    flush=True,
                )
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    if sys.argv[1:2] == ["look-up"]:
        look_up(Path(sys.argv[2]), sys.argv[3], *map(int, sys.argv[4:]))
    else:
        main()
