"""Texts and vectors that tell which text they belong to, and caches filled with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import multiembed
from multiembed import CacheEntry

ROOT = Path(multiembed.__file__).parents[1]
NAMESPACE, OTHER = "a" * 64, "b" * 64


def texts_of(numbers):
    return [f"text {number} 文" for number in numbers]


def dense_of(numbers, dimensions=8):
    """A vector that tells which text it belongs to."""
    return np.array([[number + 1, *range(1, dimensions)] for number in numbers], dtype=np.float32)


def holds(cache, numbers, namespace=NAMESPACE, dimensions=8):
    found = cache.get(namespace, texts_of(numbers))
    return found.positions == list(range(len(numbers))) and (found.dense == dense_of(numbers, dimensions)).all()


def fill(cache, numbers, namespace=NAMESPACE, dimensions=8):
    cache.put(namespace, texts_of(numbers), dense_of(numbers, dimensions), None)


def entry(numbers, namespace=NAMESPACE, **changes):
    fields = {"namespace": namespace, "texts": texts_of(numbers), "dense": dense_of(numbers), "sparse": None}
    return CacheEntry(**fields | changes)


def run_python(code, *arguments, **options):
    """Start a process that has these helpers and `open_cache`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    code = f"import sys\nfrom multiembed import open_cache\nfrom support.cache_vectors import *\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)
