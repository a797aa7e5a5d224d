"""Memory that hybrid ingestion keeps between the dense and the sparse call, for a million documents.

    python benchmarks/hybrid_memory.py [--documents 1000000] [--tokens 120] [--dimensions 1024]

No HTTP: a client that returns ready vectors takes the server's place, so that a million documents take minutes; all
else is the code that real calls run. Two orders, each in a process of its own: in windows, as Qdrant's stores ask (64
documents dense, the same 64 sparse), and all documents dense before the first sparse one, the worst case. What is held
is the growth of the process's resident memory, at its peak.

2026-11-28, a million documents: 0 MiB in windows; 147 MiB with all dense first, where the cap of 64 MiB of each kind
drops most sparse vectors, so that 943,129 texts are sent twice. A warning says so, and the option cache avoids it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings

import numpy as np

from multiembed import EmbeddingClient, EmbeddingResult, SparseVector, Usage
from multiembed.integration.hybrid import UnclaimedVectors


class ReadyClient(EmbeddingClient):
    """A client whose vectors are ready: as large as real ones, and the same for each text."""

    def embed(self, texts, role="document", *, lists=False):  # noqa: ARG002 - the client's own parameters
        """Vectors of the texts."""
        self.sent += len(texts)
        vectors = np.ones((len(texts), self.size), dtype=np.float32)
        sparse = [self.vector] * len(texts)
        rows = [self.row] * len(texts) if lists else None
        return EmbeddingResult(vectors=None if lists else vectors, sparse=sparse, usage=Usage(), model="", lists=rows)


def ingest(order, documents, tokens, dimensions):
    """Ingest, and return what was held at most."""
    client = ReadyClient("dashscope:text-embedding-v4", api_key="sk-none", output="dense&sparse", dimensions=dimensions)
    client.size, client.sent, client.row = dimensions, 0, [1.0] * dimensions
    client.vector = SparseVector(tuple(range(246_351, 246_351 + tokens)), tuple(0.5 + n / 7 for n in range(tokens)))
    kept = UnclaimedVectors()
    step = 64 if order == "windows" else 1024

    def embed(kind, start):
        texts = [f"document {number}" for number in range(start, min(start + step, documents))]
        kept.embed(client, kind, texts, "document", lambda result: result)

    embed("dense", -step)  # what every process needs
    embed("sparse", -step)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    client.sent = 0
    for start in range(0, documents, step):
        embed("dense", start)
        if order == "windows":
            embed("sparse", start)
    for start in range(0, documents if order != "windows" else 0, step):
        embed("sparse", start)
    return {
        "order": order,
        "documents": documents,
        "held_MiB": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, 1),
        "texts_sent": client.sent,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--tokens", type=int, default=120)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--order", choices=("windows", "all dense first"), default=None)
    arguments = parser.parse_args()
    if arguments.order is not None:
        warnings.simplefilter("ignore")  # the one that says that vectors were dropped
        print(json.dumps(ingest(arguments.order, arguments.documents, arguments.tokens, arguments.dimensions)))
        return
    for order in ("windows", "all dense first"):
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--order", order], check=True)


if __name__ == "__main__":
    main()
