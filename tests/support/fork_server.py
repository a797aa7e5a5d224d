"""Programs that end as any program does, without an interpreter start each: forked from one that has imported all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager

from support.adapters import clean_environment, run_python

SERVER = """
import json, os, signal, sys, warnings
import multiembed.client, multiembed.execution.call, multiembed.execution.stream
import multiembed.providers.local
for name in sys.argv[1:]:
    __import__(name)
print("ready", flush=True)
while line := sys.stdin.readline():
    order = json.loads(line)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork while the C threads of numpy run
        pid = os.fork()
    if pid == 0:
        for number, path in ((1, order["stdout"]), (2, order["stderr"])):
            file = os.open(path, os.O_WRONLY)
            os.dup2(file, number)
            os.close(file)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        os.environ.update(order["environment"])
        sys.argv = ["-c", *order["arguments"]]
        exec(compile(order["program"], "<program>", "exec"))
        break
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(int(order["within"]))
    status = os.waitpid(pid, 0)[1]
    signal.alarm(0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@contextmanager
def fork_server(directory, *modules):
    """Yield `run(program, *arguments, environment=None, within=60.0)`: it runs a program with warnings as errors.

    A program that hangs is killed. `environment` has additional variables.

    Args:
        directory: for the programs' output.
        modules: imported before the programs start.
    """
    if not hasattr(os, "fork"):
        yield run_python
        return
    output = directory / "stdout", directory / "stderr"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVER, *modules],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout.readline() == "ready\n"

        def run(program, *arguments, environment=None, within=60.0):
            for path in output:
                path.write_text("")
            order = {
                "program": program,
                "arguments": list(map(str, arguments)),
                "environment": dict(environment or {}),
                "within": within,
                "stdout": str(output[0]),
                "stderr": str(output[1]),
            }
            server.stdin.write(json.dumps(order) + "\n")
            server.stdin.flush()
            status = int(server.stdout.readline())
            return subprocess.CompletedProcess(arguments, status, *(path.read_text() for path in output))

        try:
            yield run
        finally:
            server.stdin.close()
            server.wait()
