"""LiteLLM's proxy, a real OpenAI-compatible server, between the provider openai-compatible and the simulator.

    python3 -m venv /tmp/litellm && /tmp/litellm/bin/pip install "litellm[proxy]"
    python benchmarks/litellm_proxy.py /tmp/litellm/bin/litellm

The proxy runs in an environment of its own, so that its dependencies need not fit ours. Everything stays on loopback:
the proxy does not fetch its list of prices (LITELLM_LOCAL_MODEL_COST_MAP), and its one model is the simulator's.

Seen on 2026-11-28 with litellm 1.108.7, Python 3.11, 2 cores. The proxy was ready after 19 to 26 seconds.

    case                                    outcome
    base_url http://HOST:PORT               1000 right vectors, sync and async
    base_url http://HOST:PORT/v1            1000 right vectors, sync and async
    base_url http://HOST:PORT/v1/embeddings 1000 right vectors, sync and async
    LangChain MultiEmbeddings               1000 right vectors, sync and async
    LlamaIndex MultiEmbedding               1000 right vectors, sync and async
    dimensions=256                          passed on: vectors of 256 numbers
    encoding_format base64                  passed on and read
    2,100 texts in one request              the upstream's cap of 2048 reaches the client and is learned: 3 requests
    auth_header="x-litellm-api-key"         accepted
    unknown model                           InvalidRequestError, status 400, "Invalid model name passed in model=none"
    wrong path (/v2)                        ModelNotFoundError, status 404, the message names the address
    wrong key                               InvalidRequestError, status 400, "No connected db." (it has no database)
    no key                                  ServerError, status 500 (the proxy's own fault)
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import EmbeddingClient, MultiEmbedError
from multiembed.providers.local import embed
from multiembed.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEY = "sk-litellm-0123456789"
TEXTS = [f"text {number}: 向量" for number in range(1000)]
CONFIG = """
model_list:
  - model_name: embed
    litellm_params: {{model: openai/text-embedding-3-small, api_base: "{base_url}", api_key: "{api_key}"}}
general_settings: {{master_key: "{key}"}}
litellm_settings: {{telemetry: false}}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


@contextmanager
def proxy(litellm: str, simulator: Simulator, patience: float = 120.0) -> Iterator[str]:
    """The proxy's address, while it runs in front of the simulator."""
    url = f"http://127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(
            CONFIG.format(base_url=simulator.base_url("openai-compatible"), api_key=simulator.api_key, key=KEY)
        )
        command = [litellm, "--config", str(config), "--host", "127.0.0.1", "--port", url.rpartition(":")[2]]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "NO_PROXY": "127.0.0.1"}
        with Path(folder, "log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            started = time.monotonic()
            while not ready(url):
                if process.poll() is not None or time.monotonic() - started > patience:
                    raise SystemExit(Path(folder, "log").read_text())
                time.sleep(0.5)
            print(f"The proxy was ready after {time.monotonic() - started:.0f} s.\n")
            yield url
        finally:
            process.terminate()
            process.wait()


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/liveliness", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def outcome(run: Callable[[], Any]) -> str:
    try:
        return str(run())
    except MultiEmbedError as error:
        return f"{type(error).__name__}: {error}"


def right(make: Callable[[], Any], sync: str, asynchronous: str) -> str:
    """How many of the vectors are those of their texts, through both methods."""
    count = 0
    for method in (sync, asynchronous):
        answer = getattr(make(), method)(TEXTS)
        answer = asyncio.run(answer) if asyncio.iscoroutine(answer) else answer
        rows = answer.to_list() if hasattr(answer, "to_list") else answer
        count += int((np.float32(rows) == embed(TEXTS, 1536)).all(axis=1).sum())
    return f"{count} of {2 * len(TEXTS)} vectors right, sync and async"


def client(url: str, model: str = "embed", **options: Any) -> EmbeddingClient:
    options = {"api_key": KEY, "base_url": f"{url}/v1", "max_retries": 0, **options}
    return EmbeddingClient(f"openai-compatible:{model}", **options)


def size(url: str, **options: Any) -> str:
    return f"shape {client(url, **options).embed(['a']).vectors.shape}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("litellm", help="the program of the environment that has litellm[proxy]")
    with Simulator() as simulator, proxy(parser.parse_args().litellm, simulator) as url:
        named = {"api_key": KEY, "base_url": f"{url}/v1"}
        cases: dict[str, Callable[[], Any]] = {
            **{
                f"base_url ending in {end or 'nothing'}": lambda end=end: right(
                    lambda: client(url, base_url=url + end), "embed", "aembed"
                )
                for end in ("", "/v1", "/v1/embeddings")
            },
            "LangChain": lambda: right(
                lambda: MultiEmbeddings(model="openai-compatible:embed", **named), "embed_documents", "aembed_documents"
            ),
            "LlamaIndex": lambda: right(
                lambda: MultiEmbedding(model_name="openai-compatible:embed", **named),
                "get_text_embedding_batch",
                "aget_text_embedding_batch",
            ),
            "dimensions=256": lambda: size(url, dimensions=256),
            "base64": lambda: size(url, parameters={"encoding_format": "base64"}),
            "2,100 texts in one request": lambda: (
                client(url, limits={"max_items": 3000}).embed([f"text {number}" for number in range(2100)]).usage
            ),
            "auth_header": lambda: size(url, auth_header="x-litellm-api-key"),
            "unknown model": lambda: size(url, model="none"),
            "wrong path": lambda: size(url, base_url=f"{url}/v2"),
            "wrong key": lambda: size(url, api_key="sk-wrong-0123456789"),
            "no key": lambda: size(url, api_key=None),
        }
        for name, run in cases.items():
            print(f"{name:<34} {outcome(run)}")


if __name__ == "__main__":
    main()
