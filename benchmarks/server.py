"""The fast embeddings server of server.c as a process: compiled when needed, ended for certain."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

SOURCE = Path(__file__).with_name("server.c")


def compiled(*, tls: bool = False) -> Path:
    """The program, made from the source as it is now. With TLS it needs OpenSSL's headers (Debian: libssl-dev)."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    program = SOURCE.parent / "build" / f"server{'-tls' if tls else ''}-{digest}"
    if not program.exists():
        program.parent.mkdir(exist_ok=True)
        made = program.with_suffix(f".{os.getpid()}")
        libraries = ["-DTLS", "-lm", "-lssl", "-lcrypto"] if tls else ["-lm"]
        subprocess.run([os.environ.get("CC", "cc"), "-O2", "-o", made, SOURCE, *libraries], check=True)
        made.replace(program)
    return program


class Server:
    """A running server: `with Server(latency=0.05) as server: ... server.base_url ...`.

    It ends when its input is closed, so it also ends when this process is killed.

    Args:
        latency: seconds from a whole request to its answer.
        dimensions: numbers in a vector.
        base64: whether "encoding_format": "base64" is heeded.
        tls: whether it speaks TLS; its certificate is made by trustme, for 127.0.0.1 and localhost.

    Attributes:
        base_url: where it listens.
        last_value: the last number of every vector.
        authority: with TLS, the PEM file of the authority that clients have to trust; it goes with the server.
    """

    def __init__(self, *, latency: float = 0.0, dimensions: int = 1024, base64: bool = True, tls: bool = False) -> None:
        words = [compiled(tls=tls), "--latency", f"{latency * 1000:.3f}", "--dimensions", str(dimensions)]
        words += [] if base64 else ["--no-base64"]
        self._folder = tempfile.TemporaryDirectory() if tls else None
        self.authority = None
        if self._folder is not None:
            self.authority, certificate = certified(Path(self._folder.name))
            words += ["--tls", certificate, certificate]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        port, last_value = self._process.stdout.readline().split()
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        self.last_value = float(last_value)

    def stop(self) -> dict[str, Any]:
        """End it. The return value is what it did: requests, CPU seconds, requests in flight, lateness."""
        output, _ = self._process.communicate()
        return json.loads(output)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.communicate()
        if self._folder is not None:
            self._folder.cleanup()


def certified(folder: Path) -> tuple[Path, Path]:
    """Write the certificate of an authority, and the key and certificate of a server, into a folder."""
    import trustme

    made, authority, certificate = trustme.CA(), folder / "authority.pem", folder / "server.pem"
    made.cert_pem.write_to_path(authority)
    made.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    return authority, certificate


def id_of(vector: Any) -> int:
    """The number that stood in the text of a vector; float32 keeps it up to 9,999,999."""
    return round(float(vector[0]) * 1e7)
