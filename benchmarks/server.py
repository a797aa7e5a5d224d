"""The fast embeddings server of server.c as a process: compiled when needed, ended for certain."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

SOURCE = Path(__file__).with_name("server.c")


def compiled() -> Path:
    """The program, made from the source as it is now."""
    program = SOURCE.parent / "build" / f"server-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", made, SOURCE, "-lm"], check=True)
        made.replace(program)
    return program


class Server:
    """A running server: `with Server(latency=0.05) as server: ... server.base_url ...`.

    It ends when its input is closed, so it also ends when this process is killed.

    Args:
        latency: seconds from a whole request to its answer.
        dimensions: numbers in a vector.
        base64: whether "encoding_format": "base64" is heeded.

    Attributes:
        base_url: where it listens.
        last_value: the last number of every vector.
    """

    def __init__(self, *, latency: float = 0.0, dimensions: int = 1024, base64: bool = True) -> None:
        told = [compiled(), "--latency", f"{latency * 1000:.3f}", "--dimensions", str(dimensions)]
        self._process = subprocess.Popen(
            told if base64 else [*told, "--no-base64"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        port, last_value = self._process.stdout.readline().split()
        self.base_url = f"http://127.0.0.1:{port}"
        self.last_value = float(last_value)

    def stop(self) -> dict[str, Any]:
        """End it. The return value is what it did: requests, CPU seconds, requests in flight, lateness."""
        told, _ = self._process.communicate()
        return json.loads(told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.communicate()


def id_of(vector: Any) -> int:
    """The number that stood in the text of a vector; float32 keeps it up to 9,999,999."""
    return round(float(vector[0]) * 1e7)
