"""Link of a process to the others that share a quota: who decides for all, and messages to and from that process.

One of the processes is the host. The others, and the host's own part too, are its members. A link finds out which
process is the host, and carries messages; `ratelimit.shared` says what they mean.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger("multiembed")
PROTOCOL = 1
"""Version of the messages. Processes with different versions do not understand each other, and elect hosts of their
own, which divide the quota."""
MAX_PROTOCOL = 9
"""Highest version that a host looks for."""
HOST = ""
"""Recipient of messages to the host; sender of messages from it."""
ALL = "*"
"""Recipient of messages to all members."""

Messages: TypeAlias = "list[Sequence[Any]]"


class LinkHandler(Protocol):
    """What a link calls, on the event loop that it was started on."""

    def on_elected(self) -> None:
        """This process is the host from now on."""

    def on_connected(self) -> None:
        """Messages reach the host, which may be this process."""

    def on_disconnected(self) -> None:
        """Messages do not reach the host any more, and this process is not the host. The link looks for another."""

    def on_failed(self, reason: str) -> None:
        """Neither is a host found nor can this process be one. The link tries again unless it is closed."""

    def on_messages(self, sender: str, messages: Messages) -> None:
        """Messages have arrived: from the host, or for the host from the member that is named."""

    def on_member_gone(self, member: str) -> None:
        """A member's connection to this host has ended."""


class Link(ABC):
    """Base of all links. Messages of one turn of the event loop travel together."""

    def __init__(self, handler: LinkHandler) -> None:
        self.member = secrets.token_hex(8)
        """Name of this process among the members."""
        self.loop = asyncio.get_running_loop()
        self.is_host = False
        self.other_versions = 0
        """As the host: number of hosts of other versions of the messages."""
        self._handler = handler
        self._pending: dict[str, Messages] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look for the host, or become it."""
        self._task = self.loop.create_task(self._run(), name="idle")

    def close(self) -> None:
        """End the link at once. The handler is not called any more."""
        self._pending.clear()
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._close()

    def may_decide(self) -> bool:
        """Whether this process is certainly the host now, even if it was stopped for a while."""
        return self.is_host

    def send(self, recipient: str, *message: Any) -> None:
        """Send a message to HOST, to a member by its name, or as the host to ALL. It is lost while no host is known."""
        if not self._pending:
            self.loop.call_soon(self._flush)
        self._pending.setdefault(recipient, []).append(message)

    def receive(self, sender: str, messages: Messages) -> bool:
        """Pass messages on. Returns: False if they cannot be understood."""
        try:
            self._handler.on_messages(sender, messages)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            logger.warning("messages about the shared quota are not understood (%s)", type(error).__name__)
            return False
        return True

    def _flush(self) -> None:
        pending, self._pending = self._pending, {}
        for recipient, messages in pending.items():
            if recipient == HOST and self.is_host:
                self.receive(self.member, messages)
            elif recipient == self.member:
                self.receive(HOST, messages)
            else:
                self._transmit(recipient, messages)
                if recipient == ALL:
                    self.receive(HOST, messages)

    @abstractmethod
    async def _run(self) -> None: ...

    @abstractmethod
    def _transmit(self, recipient: str, messages: Messages) -> None: ...

    @abstractmethod
    def drop(self, member: str) -> None:
        """End the connection of a member that is silent, if it has one of its own."""

    @abstractmethod
    def _close(self) -> None: ...


MakeLink: TypeAlias = "Callable[[LinkHandler], Link]"
