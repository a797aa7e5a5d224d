"""Programs that end as any program does, without an interpreter start each: forked from one that has imported all."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from support.adapters import clean_environment

SERVER = """
import gc, json, os, signal, socket, sys, warnings
import multiembed.client, multiembed.execution.call, multiembed.execution.stream
import multiembed.providers.local
for name in sys.argv[2:]:
    __import__(name)
gc.collect()
gc.freeze()  # no program collects or counts what it has not made
orders = socket.socket(fileno=int(sys.argv[1]))
children = {}

def report_ends(*_):
    while children:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # the handler interrupted itself, here
            break
        if not pid:
            break
        os.write(children[pid], b"%d\\n" % os.waitstatus_to_exitcode(status))
        os.close(children.pop(pid))

signal.signal(signal.SIGCHLD, report_ends)
orders.sendall(b"ready")
while True:
    length, files, *_ = socket.recv_fds(orders, 8, 4)
    if not length:
        orders.close()
        break
    order = json.loads(orders.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork while the C threads of numpy run
        pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        orders.close()
        for number, file in enumerate(files[:3]):
            os.dup2(file, number)
        for file in (*files, *children.values()):
            os.close(file)
        os.environ.clear()
        os.environ.update(order["environment"])
        sys.argv = ["-c", *order["arguments"]]
        exec(compile(order["program"], "<program>", "exec"))
        break
    for file in files[:3]:
        os.close(file)
    os.write(files[3], b"%d\\n" % pid)
    children[pid] = files[3]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
"""


class ForkedProgram:
    """A program that a fork server has started; what tests need of `subprocess.Popen`.

    Args:
        status: reads the process id, and the exit code when the program has ended.
        stdin: writes to its standard input; None where it has another one.
        stdout: reads its standard output, or None.
        stderr: reads its standard error, or None.
    """

    def __init__(self, status, stdin, stdout, stderr):
        self._status, self.stdin, self.stdout, self.stderr = status, stdin, stdout, stderr
        self.pid = int(status.readline())
        self.returncode = None

    def poll(self, timeout=0.0):
        """The exit code; None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(self._status.readline())
        return self.returncode

    def wait(self, timeout=60.0):
        if self.poll(timeout) is None:
            raise subprocess.TimeoutExpired("program", timeout)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.wait()
        for stream in (self._status, self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


class Programs:
    """Starts programs, with warnings as errors and this process's environment of that moment, without keys."""

    def start(self, program, *arguments, environment=None, stdin=None, stdout=None, stderr=None):
        """Start a program.

        Args:
            program: its text.
            arguments: what it finds in `sys.argv[1:]`.
            environment: additional variables.
            stdin, stdout, stderr: an open file or `subprocess.PIPE`; standard input is empty by default.
        """
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
            env=clean_environment(environment),
            stdin=subprocess.DEVNULL if stdin is None else stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
        )

    def run(self, program, *arguments, environment=None, within=60.0, **files):
        """Run a program to its end; one that hangs is killed.

        Returns: its exit code and what it wrote, but for what went to a file of `files`.
        """
        with ExitStack() as stack:
            written = {
                name: stack.enter_context(tempfile.TemporaryFile("w+"))
                for name in ("stdout", "stderr")
                if name not in files
            }
            with self.start(program, *arguments, environment=environment, **written, **files) as running:
                with suppress(subprocess.TimeoutExpired):
                    running.wait(within)
                running.kill()
            for file in written.values():
                file.seek(0)
            texts = {name: file.read() for name, file in written.items()}
        return subprocess.CompletedProcess(arguments, running.returncode, **texts)


class ForkServer(Programs):
    """As above, by a server that forks them."""

    def __init__(self, orders):
        self._orders = orders

    def start(self, program, *arguments, environment=None, stdin=None, stdout=None, stderr=None):
        given, ours = [], []
        with Path(os.devnull).open("rb") as nothing:
            for number, file in enumerate((nothing if stdin is None else stdin, stdout or 1, stderr or 2)):
                if file == subprocess.PIPE:
                    reading, writing = os.pipe()
                    given.append(writing if number else reading)
                    ours.append(os.fdopen(reading, "r") if number else os.fdopen(writing, "w"))
                else:
                    given.append(os.dup(file if isinstance(file, int) else file.fileno()))
                    ours.append(None)
        reading, writing = os.pipe()
        order = {
            "program": program,
            "arguments": list(map(str, arguments)),
            "environment": clean_environment(environment),
        }
        order = json.dumps(order).encode()
        socket.send_fds(self._orders, [len(order).to_bytes(8, "big")], [*given, writing])
        self._orders.sendall(order)
        for file in (*given, writing):
            os.close(file)
        return ForkedProgram(os.fdopen(reading, "rb", buffering=0), *ours)


@contextmanager
def fork_server(*modules):
    """Yield Programs that find these modules imported; without os.fork, programs of their own."""
    if not hasattr(os, "fork"):
        yield Programs()
        return
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SERVER, str(theirs.fileno()), *modules],
            env=clean_environment(),
            pass_fds=[theirs.fileno()],
            text=True,
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),  # Python keeps that it cannot seek there
        ) as server,
    ):
        theirs.close()
        assert ours.recv(5) == b"ready"
        try:
            yield ForkServer(ours)
        finally:
            ours.close()
            said = server.communicate()
            assert said == ("", ""), said
