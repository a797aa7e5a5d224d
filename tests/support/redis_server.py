"""A Redis server of a test's own, from the package redis-server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time

import pytest


def require_redis_server():
    """Skip a test where redis-server is not installed; fail it in CI, where it must be."""
    if shutil.which("redis-server") is None:
        message = "redis-server is not installed: apt-get install redis-server"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(message)


class RedisServer:
    """Runs `redis-server` on a Unix socket in a folder, without a TCP port.

    Args:
        folder: short, since the path of a socket is limited.
        arguments: of the command.
    """

    def __init__(self, folder, *arguments):
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._arguments = arguments
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(self.socket), "--save", "", *self._arguments],
            stdout=subprocess.DEVNULL,
            cwd=self.socket.parent,
        )
        while not self.socket.exists():
            time.sleep(0.005)
        return self

    def stop(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.socket.unlink(missing_ok=True)

    def signal(self, number):
        self.process.send_signal(number)
