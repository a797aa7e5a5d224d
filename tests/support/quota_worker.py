"""A process that embeds texts under a shared quota, for tests: its options are JSON on the command line.

It prints a line of JSON with what became of the texts, and which warnings there were. With `fork`, a child does the
same after the parent's first call.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path


class Worker:
    """A running worker.

    Args:
        options: of the EmbeddingClient, with its model.
        texts: how many it embeds.
        environment: variables in addition to this process's.
        settings: further fields of the job.
    """

    def __init__(self, options, texts, *, environment=None, **settings):
        job = json.dumps({"client": options, "texts": texts, **settings})
        # Not the parent's warnings: each is counted.
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(environment or {})}
        self.process = subprocess.Popen(
            [sys.executable, __file__, job],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    @property
    def pid(self):
        return self.process.pid

    def result(self, timeout=100):
        """What the worker has printed, once it has ended."""
        output, errors = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, errors[-2000:]
        return {**json.loads(output.splitlines()[-1]), "stderr": errors}

    def kill(self):
        self.process.kill()
        self.process.communicate()


def main():
    from multiembed import EmbeddingClient, MultiEmbedError, QuotaWarning

    job = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    client = EmbeddingClient(**job["client"])
    found = {"embedded": 0, "failed": 0, "errors": []}
    name = str(os.getpid())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if job.get("fork"):
            client.embed([f"{name}-parent"])
            child = os.fork()
            if child:
                client.embed([f"{name}-{number}" for number in range(job["texts"])])
                os.waitpid(child, 0)
                os._exit(0)
            name = f"{name}-child"
        try:
            found["embedded"] = len(client.embed([f"{name}-{number}" for number in range(job["texts"])]).vectors)
        except MultiEmbedError as error:
            found["failed"] = job["texts"]
            found["errors"] = [type(error).__name__, str(error)]
    found["warnings"] = [str(each.message) for each in caught if issubclass(each.category, QuotaWarning)]
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    if job.get("fork"):
        os._exit(0)


if __name__ == "__main__":
    main()
