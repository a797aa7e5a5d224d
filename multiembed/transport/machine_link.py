"""Link among the processes of one user on one machine: a file lock decides which is the host, which has a Unix socket.

The lock is a record lock on one byte of a file, the byte at the number of the generation that the file holds. The
system gives it up when its process ends, and a forked child does not inherit it. A host that is stopped keeps its
lock; the process that replaces it locks the next byte and writes the next generation, which the old host finds when it
goes on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import orjson

from multiembed.errors import ConfigurationError
from multiembed.transport.link import ALL, HOST, MAX_PROTOCOL, PROTOCOL, Link

if TYPE_CHECKING:
    from multiembed.transport.link import LinkHandler, Messages

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SILENCE = 2.0
"""Seconds without a message of the host, which sends ten in each second, until another process replaces it."""
_TICK = 0.25
_RETRY = 0.01
_MAX_UNCHECKED = 1.0
"""Seconds after which a host that did not run looks whether it was replaced."""
_RETRY_AFTER_FAILURE = 1.0
_SHORT = 1.0
"""Seconds: after a connection that ended sooner, the next one is tried later."""
_MAX_SOCKET_PATH = 103  # bytes, on macOS; 107 on Linux
_descriptors: set[int] = set()
"""Of all connections. A forked child gives them up: they would hold the connections open when the parent has ended."""


def check_machine() -> None:
    """Check that processes of this machine can share a quota.

    Raises:
        ConfigurationError: there are no Unix sockets, or their folder cannot be used.
    """
    if fcntl is None or not hasattr(socket, "AF_UNIX"):
        raise ConfigurationError(
            "quota='machine' needs Unix sockets and file locks, which Python does not have on this system. Share the "
            "quota through Redis: quota='redis://host:6379/0'."
        )
    runtime_folder()


def runtime_folder() -> Path:
    """The folder of locks and sockets, which only this user may enter. Made if it is missing.

    Raises:
        ConfigurationError: it belongs to another user or is open to others, or it cannot be made.
    """
    uid = os.getuid()
    bases = [os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"]  # the second: cron jobs do not have the first
    base = next((base for base in bases if base and _is_private(base, uid)), None)
    folder = Path(base, "multiembed") if base else Path(tempfile.gettempdir(), f"multiembed-{uid}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        private = _is_private(folder, uid)
    except OSError as error:
        raise ConfigurationError(
            f"quota='machine' needs the folder {folder}, which cannot be made ({error.strerror}). Make it, with mode "
            "0700, or set XDG_RUNTIME_DIR to a folder of yours."
        ) from error
    if not private:
        raise ConfigurationError(
            f"quota='machine' needs a folder that only you may enter, and {folder} belongs to another user or is open "
            "to others. Remove it, or set XDG_RUNTIME_DIR to a folder of yours with mode 0700."
        )
    if len(os.fsencode(folder)) + len("/.12345.sock") + 32 > _MAX_SOCKET_PATH:
        raise ConfigurationError(
            f"quota='machine' needs a folder with a shorter path than {folder}: the system limits paths of sockets. "
            "Set XDG_RUNTIME_DIR to a folder of yours with mode 0700."
        )
    return folder


def _is_private(folder: str | Path, uid: int) -> bool:
    try:
        found = os.lstat(folder)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


class HostLock:
    """The lock that the host holds, and the generation of hosts.

    Args:
        path: of the lock file, made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @property
    def is_present(self) -> bool:
        """Whether other processes find this lock: its file may have been removed, as old files in /tmp are."""
        with suppress(FileNotFoundError):
            return os.path.samestat(self._path.stat(), os.fstat(self._descriptor))
        return False

    @property
    def generation(self) -> int:
        """Number of times that a host that did not respond was replaced."""
        return int(os.pread(self._descriptor, 20, 0) or 0)

    def acquire(self, generation: int) -> bool:
        """Become the host of the present generation, or of the next one. Returns: False if another process is."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, generation)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        if self.generation not in (generation, generation - 1):
            self.release(generation)
            return False
        os.pwrite(self._descriptor, b"%-20d" % generation, 0)
        return True

    def release(self, generation: int) -> None:
        """Give up the lock of a generation."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, generation)

    def is_held(self) -> bool:
        """Whether another process is the host. Closes the file."""
        generation = self.generation
        held = not self.acquire(generation)
        self.close()
        return held

    def close(self) -> None:
        """Close the file, which gives up the lock."""
        os.close(self._descriptor)


class _Connection(asyncio.Protocol):
    """One connection: a line of JSON for the messages of one turn of the event loop."""

    def __init__(self, link: MachineLink, *, to_host: bool) -> None:
        self.member = HOST if to_host else None
        """Name of the other side; None until its first line has come."""
        self.ended = asyncio.Event()
        self.silent_ticks = 0
        self._link = link
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._descriptor = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._descriptor = transport.get_extra_info("socket").fileno()
        _descriptors.add(self._descriptor)

    def data_received(self, data: bytes) -> None:
        self.silent_ticks = 0
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            try:
                understood = self._link._on_line(self, orjson.loads(line))
            except ValueError:
                understood = False
            if not understood:
                self.close()
                return

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - the protocol has it
        _descriptors.discard(self._descriptor)
        self.ended.set()
        self._link._on_lost(self)

    def write(self, data: object) -> None:
        if self._transport is not None:
            self._transport.write(orjson.dumps(data) + b"\n")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class MachineLink(Link):
    """Link among the processes of this user on this machine.

    Args:
        name: of the quota; it becomes a file name.
        handler: of the events.
    """

    def __init__(self, name: str, handler: LinkHandler) -> None:
        super().__init__(handler)
        self._quota = name
        self._name = f"{name}.{PROTOCOL}"
        self._lock: HostLock | None = None
        self._server: asyncio.Server | None = None
        self._host: _Connection | None = None
        """Connection to the host, in another process."""
        self._members: dict[str, _Connection] = {}
        self._generation = 0
        self._checked_at = 0.0

    async def _run(self) -> None:
        while True:
            try:
                try:
                    await self._find_host()
                finally:
                    self._close()
            except Exception as error:  # noqa: BLE001 - whatever fails, no request may wait without end
                reason = error.strerror if isinstance(error, OSError) else error
                self._handler.on_failed(f"quota='machine' does not work: {reason}.")
                await asyncio.sleep(_RETRY_AFTER_FAILURE)

    async def _find_host(self) -> None:
        """Become the host or connect to it, again and again. Returns when the lock file was removed."""
        folder = runtime_folder()
        self._lock = lock = HostLock(folder / f"{self._name}.lock")
        silence, retry = 0.0, _RETRY
        while lock.is_present:
            generation = lock.generation
            path = folder / f"{self._name}.{generation % 100_000}.sock"
            if silence >= SILENCE and lock.acquire(generation + 1):  # the host is stopped
                silence = 0.0
            elif lock.acquire(generation):
                await self._serve(lock, generation, path)
                lock.release(generation)
                silence = 0.0
            else:
                started = self.loop.time()
                is_silent = await self._connect(path)
                if is_silent is None:  # the host is about to listen
                    await asyncio.sleep(_RETRY)
                    silence += _RETRY
                    continue
                silence = SILENCE if is_silent else 0.0
                retry = min(2.0 * retry, SILENCE) if self.loop.time() - started < _SHORT else _RETRY
                await asyncio.sleep(retry if retry > _RETRY else 0.0)

    async def _serve(self, lock: HostLock, generation: int, path: Path) -> None:
        """Be the host until another process has replaced this one."""
        listening = _listen(path)
        try:
            self._server = await self.loop.create_unix_server(lambda: _Connection(self, to_host=False), sock=listening)
        except BaseException:
            listening.close()
            raise
        _descriptors.add(listening.fileno())
        self._generation, self._checked_at, self.is_host = generation, time.monotonic(), True
        self._handler.on_elected()
        self._handler.on_connected()
        while lock.generation == generation and lock.is_present:
            self._checked_at = time.monotonic()
            self.other_versions = self._count_other_versions(path.parent)
            await asyncio.sleep(_TICK)
        self._disconnect()

    def _count_other_versions(self, folder: Path) -> int:
        versions = [version for version in range(1, MAX_PROTOCOL + 1) if version != PROTOCOL]
        paths = [folder / f"{self._quota}.{version}.lock" for version in versions]
        return sum(path.exists() and HostLock(path).is_held() for path in paths)

    async def _connect(self, path: Path) -> bool | None:
        """Be a member until the connection ends. Returns: whether the host was silent; None if none listens."""
        try:
            _, self._host = await self.loop.create_unix_connection(lambda: _Connection(self, to_host=True), str(path))
        except (FileNotFoundError, ConnectionError):
            return None
        host = self._host
        host.write(self.member)
        self._handler.on_connected()
        while host.silent_ticks * _TICK < SILENCE and not host.ended.is_set():
            host.silent_ticks += 1  # counted, not measured: this process may have been stopped itself
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await host.ended.wait()
        self._disconnect()
        return not host.ended.is_set()

    def _disconnect(self) -> None:
        self._close_connections()
        self._handler.on_disconnected()

    def _close_connections(self) -> None:
        self.is_host = False
        if self._server is not None:
            for listening in self._server.sockets:
                _descriptors.discard(listening.fileno())
            self._server.close()
            self._server = None
        members, self._members = self._members, {}
        for connection in members.values():
            connection.close()
        if self._host is not None:
            self._host.close()
            self._host = None

    def may_decide(self) -> bool:
        """Whether this process is the host, and has not been replaced while it was stopped."""
        if self.is_host and time.monotonic() - self._checked_at > _MAX_UNCHECKED and self._lock is not None:
            self.is_host = self._lock.generation == self._generation
            self._checked_at = time.monotonic()
        return self.is_host

    def _transmit(self, recipient: str, messages: Messages) -> None:
        if recipient == HOST:
            targets = [self._host]
        elif recipient == ALL:
            targets = [*self._members.values()]
        else:
            targets = [self._members.get(recipient)]
        for connection in targets:
            if connection is not None:
                connection.write(messages)

    def drop(self, member: str) -> None:
        """End the connection of a member."""
        connection = self._members.pop(member, None)
        if connection is not None:
            connection.close()

    def _on_line(self, connection: _Connection, line: object) -> bool:
        """Handle a line of a connection. Returns: False if it cannot be understood."""
        if connection.member is None:
            if not isinstance(line, str):
                return False
            connection.member = line
            self._members[line] = connection
            return True
        if connection.member != HOST and not self.may_decide():
            return True  # it was replaced while it was stopped
        return isinstance(line, list) and self.receive(connection.member, line)

    def _on_lost(self, connection: _Connection) -> None:
        if connection.member and self._members.get(connection.member) is connection:
            del self._members[connection.member]
            self._handler.on_member_gone(connection.member)

    def _close(self) -> None:
        self._close_connections()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _listen(path: Path) -> socket.socket:
    """Bind a socket that only this user may connect to."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(path))
        path.chmod(0o600)
    except BaseException:
        listening.close()
        raise
    return listening


def _give_up_inherited() -> None:
    """In a forked child, replace the parent's connections by an empty device; their numbers stay taken."""
    if _descriptors:
        empty = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for descriptor in _descriptors:
            os.dup2(empty, descriptor, inheritable=False)
        os.close(empty)
        _descriptors.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up_inherited)
