"""A process that embeds texts under a shared quota, for tests: forked from a server that has imported all.

It tells what became of the texts, and which warnings there were. With `fork`, a child does the same after the parent's
first call.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import warnings
from contextlib import redirect_stderr

IMPORTS = (
    "multiembed.client",
    "multiembed.execution.call",
    "multiembed.ratelimit.shared.quota",
    "multiembed.transport.machine_link",
    "multiembed.transport.redis_link",
    "redis.asyncio",
)


class Worker:
    """A running worker.

    Args:
        options: of the EmbeddingClient, with its model.
        texts: how many it embeds.
        settings: further fields of the job.
    """

    def __init__(self, options, texts, **settings):
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        context.set_forkserver_preload(list(IMPORTS))
        self._results, results = context.Pipe(duplex=False)
        job = {"client": options, "texts": texts, **settings}
        self.process = context.Process(target=embed, args=(job, dict(os.environ), results))
        self.process.start()
        results.close()

    @property
    def pid(self):
        return self.process.pid

    def result(self, timeout=100):
        """What the worker has sent, once it has ended; with `fork`, once its child has sent it."""
        assert self._results.poll(timeout), "the worker hangs"
        result = self._results.recv()
        self.process.join(timeout)
        return result

    def kill(self):
        self.process.kill()
        self.process.join()
        self._results.close()


def embed(job, environment, results):
    """Do the job in this process, and send its results."""
    os.environ.clear()
    os.environ.update(environment)
    with redirect_stderr(io.StringIO()) as errors:
        found = do(job)
    results.send({**found, "stderr": errors.getvalue()})
    if job.get("fork"):
        os._exit(0)


def do(job):
    from multiembed import EmbeddingClient, MultiEmbedError, QuotaWarning

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
    return found
