"""A process that uses one cache file, as commands on its standard input say, or as fast as it can."""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np

from multiembed import CacheFile, open_cache
from multiembed.cache import schema, sqlite

NAMESPACE = "a" * 64


def texts_of(numbers):
    return [f"text {number}" for number in numbers]


def rows_of(numbers):
    """Vectors that say which text they belong to."""
    return np.array([[number + 1.0, *range(1, 64)] for number in numbers], dtype=np.float32)


def put(cache, begin, end):
    cache.put(NAMESPACE, texts_of(range(begin, end)), rows_of(range(begin, end)), None)


def find(cache, begin, end):
    """The numbers of the texts that are found, each with its own vector."""
    found = cache.get(NAMESPACE, texts_of(range(begin, end)))
    numbers = [begin + position for position in found.positions]
    if numbers and not np.array_equal(found.dense, rows_of(numbers)):
        raise AssertionError("a wrong vector")
    return numbers


def use_second_cache(path):
    second = open_cache(path)
    find(second, 0, 1)
    second.close()


def obey(path):
    """Run commands, JSON lists of a name and its arguments, each answered by a line."""
    cache = open_cache(path)
    actions = {
        "put": lambda begin, end: put(cache, begin, end),
        "find": lambda begin, end: len(find(cache, begin, end)),
        "close": cache.close,
        "check": cache.check,
        "second cache": lambda: use_second_cache(path),
        "info": lambda: CacheFile(path).namespaces(),
        "export": lambda: list(CacheFile(path).vectors()),
        "half an export": lambda: next(CacheFile(path).vectors()),
        "prune": lambda begin: CacheFile(path).prune(written_before=begin),
    }
    for line in sys.stdin:
        name, *values = json.loads(line)
        result = actions[name](*values)
        tell(json.dumps(result if isinstance(result, int) else None))
    cache.close()


def work(path, begin, known, seed):
    """Look batches of texts up, pay for what is missing and keep it; print what is paid and what is kept.

    Args:
        path: of the cache file.
        begin: the first text.
        known: the text after those that a killed worker has been seen to pay for; they are one batch.
        seed: of the random numbers.
    """
    schema.PATIENCE = sqlite.PATIENCE = 60.0  # a busy machine is not a fault
    chance = random.Random(seed)
    cache = open_cache(path)
    batch = range(begin, known)
    while True:
        missing = sorted(set(batch) - set(find(cache, batch.start, batch.stop)))
        if missing:
            tell("paid", *missing)
            put(cache, batch.start, batch.stop)
            tell("kept", *missing)
        if chance.random() < 0.02:
            chance.choice([cache.close, cache.check, CacheFile(path).namespaces, lambda: use_second_cache(path)])()
        batch = range(batch.stop, batch.stop + 10)
        time.sleep(0.002)  # so that the file stays small


def tell(*words):
    print(*words, flush=True)  # noqa: T201 - the test reads it


def main():
    if sys.argv[2:]:
        work(sys.argv[1], *map(int, sys.argv[2:]))
    else:
        obey(sys.argv[1])
