"""What the simulator finds around it: an address of this machine, and the signals that end a program."""

from __future__ import annotations

import ipaddress
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


def loopback(host: str) -> str:
    """The address to listen on.

    Raises:
        ConfigurationError: it would be reachable from another machine.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass  # a name: refused like a public address
    raise ConfigurationError(f"The simulator listens on loopback only: 127.0.0.1, ::1 or localhost, not {host!r}.")


@contextmanager
def signals(end: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call `end` meanwhile; only the main thread can be asked for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        end()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
