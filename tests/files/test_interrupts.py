"""Interrupted runs of `multiembed embed`, full disks, closed pipes: one error, the right status, nothing left."""

from __future__ import annotations

import os
import signal
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.embed_command import ZHIPU, lines, rows
from support.fork_server import Programs

LOCAL = ("--model", "local:char-ngrams", "--dimensions", 8)
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files and signals")

# ── interrupts, full disks, closed pipes (E2) ────────────────────────────────────────────────────

# Sends itself a signal right after a function has returned, so that the moment is the same on every machine.
RUN = """
import os, signal, sys
owner, name, number, at = sys.argv[1:5]
sys.argv[:5] = ["multiembed"]
import multiembed.cli.run_embed as ingest, multiembed.files.outputs as outputs, multiembed.files.atomic_write as whole
outputs._ROW_GROUP_BYTES = 1 << 16
holder = eval(owner)
original, left = getattr(holder, name), int(at)

def interrupted(*arguments, **options):
    global left
    result = original(*arguments, **options)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), int(number))
    return result

setattr(holder, name, interrupted)
from multiembed.cli import main
main()
"""
TEXTS = [f"text {number}" for number in range(1500)]


OUTPUT = {"COLUMNS": "200", "NO_COLOR": "1"}


@pytest.fixture
def run_forked(programs):
    return partial(programs.run, environment=OUTPUT)


@pytest.fixture
def interrupt(run_forked, tmp_path, simulator):
    """`interrupt(suffix, owner, name, number, at)`: a run that gets a signal when a function returns for that time."""
    source = rows(tmp_path / "in.jsonl", TEXTS)

    def run(suffix, owner, name, number=signal.SIGINT, at=1):
        return run_forked(
            RUN, owner, name, int(number), at, "embed", source, "-o", tmp_path / f"out.{suffix}", "--model", ZHIPU,
            "--dimensions", 256, "--base-url", simulator.base_url("zhipu"), "--max-concurrency", 4,
            environment={**OUTPUT, **simulator.environment()},
        )  # fmt: skip

    return run


def left_in(folder):
    return {path.name for path in folder.iterdir()} - {"in.jsonl"}


def assert_interrupted(done, out):
    assert done.returncode == 130, done.stderr
    first, *others = [
        line for line in done.stderr.splitlines() if not line.startswith("Waiting for the last responses")
    ]
    assert first == f"Interrupted. Nothing was written to {out}."
    if others:
        kept, command = others
        assert kept.endswith("the same command goes on from there.")
        assert command.startswith("  multiembed embed ")
    assert done.stdout == ""


@POSIX
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "npy"])
@pytest.mark.parametrize(
    ("owner", "name", "at"),
    [("outputs.Output", "write", 3), ("outputs.Output", "prepare", 1)],
    ids=["writing", "finishing"],
)
def test_interrupt_while_writing_leaves_only_the_cache(tmp_path, interrupt, suffix, owner, name, at):
    done = interrupt(suffix, owner, name, at=at)
    assert_interrupted(done, tmp_path / f"out.{suffix}")
    assert left_in(tmp_path) == {f"out.{suffix}.vectors.sqlite"}


@POSIX
@pytest.mark.parametrize(
    ("number", "owner", "name", "at"),
    [
        ("SIGINT", "ingest", "_client", 1),
        ("SIGTERM", "ingest.Inputs", "survey", 1),
        ("SIGHUP", "ingest", "_output", 1),
        ("SIGINT", "ingest", "_output", 1),
        ("SIGTERM", "outputs.ParquetOutput", "_flush", 2),
        ("SIGHUP", "whole.os", "fsync", 1),
        ("SIGINT", "whole.os", "fsync", 1),
    ],
)
def test_interrupt_at_any_moment_is_one_message(tmp_path, interrupt, number, owner, name, at):
    done = interrupt("parquet", owner, name, getattr(signal, number), at)
    assert_interrupted(done, tmp_path / "out.parquet")
    assert left_in(tmp_path) <= {"out.parquet.vectors.sqlite"}


@POSIX
@pytest.mark.parametrize(("owner", "name"), [("outputs.Output", "place"), ("ingest", "print_result")])
def test_interrupt_after_the_output_is_finished_changes_nothing(tmp_path, interrupt, owner, name):
    done = interrupt("parquet", owner, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert left_in(tmp_path) == {"out.parquet"}
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == len(TEXTS)


TWICE = (
    RUN.replace("main()\n", "").replace("from multiembed.cli import main\n", "")
    + """
discard = whole.WholeFile.discard
def discarded(self):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    discard(self)
    os.kill(os.getpid(), signal.SIGINT)
whole.WholeFile.discard = discarded
from multiembed.cli import main
main()
"""
)


@POSIX
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "npy"])
def test_second_interrupt_during_clean_up_is_no_traceback(tmp_path, interrupt, monkeypatch, suffix):
    monkeypatch.setitem(globals(), "RUN", TWICE)
    done = interrupt(suffix, "outputs.Output", "write", at=3)
    assert_interrupted(done, tmp_path / f"out.{suffix}")
    assert left_in(tmp_path) == {f"out.{suffix}.vectors.sqlite"}


SWALLOWED = """
import os, signal, sys
import multiembed.cli.run_embed as ingest
class Finalizer:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
survey = ingest.Inputs.survey
def interrupted(*arguments, **options):
    Finalizer()
    return survey(*arguments, **options)
ingest.Inputs.survey = interrupted
sys.argv[:1] = ["multiembed"]
from multiembed.cli import main
main()
"""


@POSIX
def test_interrupt_in_a_finalizer_is_not_lost(run_forked, tmp_path):
    source = rows(tmp_path / "in.jsonl", TEXTS)
    done = run_forked(SWALLOWED, "embed", source, "-o", tmp_path / "out.npy", *LOCAL)
    assert_interrupted(done, tmp_path / "out.npy")
    assert left_in(tmp_path) == set()


@POSIX
def test_ignored_signal_stays_ignored(run_forked, tmp_path):
    program = RUN.replace("holder =", "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nholder =")
    source = rows(tmp_path / "in.jsonl", TEXTS)
    out = tmp_path / "out.npy"
    done = run_forked(
        program, "outputs.Output", "write", int(signal.SIGHUP), 2, "embed", source, "-o", out, *LOCAL
    )  # as nohup does
    assert done.returncode == 0, done.stderr
    assert "nterrupted" not in done.stderr
    assert len(np.load(out)) == len(TEXTS)


LIMITED = """
import resource, signal, sys
import multiembed.files.outputs as outputs
outputs._ROW_GROUP_BYTES = 1 << 16
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))
sys.argv[:1] = ["multiembed"]
from multiembed.cli import main
main()
"""


@POSIX
@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "npy"])
def test_full_disk_is_one_error_that_names_the_file(run_forked, tmp_path, suffix):
    source = rows(tmp_path / "in.jsonl", TEXTS)
    out = tmp_path / f"out.{suffix}"
    done = run_forked(LIMITED, "embed", source, "-o", out, "--model", "local:char-ngrams", "--dimensions", 256)
    assert done.returncode == 1
    stopped, error = done.stderr.splitlines()
    assert stopped == f"Stopped. Nothing was written to {out}."
    assert error.startswith("OSError: [Errno 27]")
    assert str(out) in error
    assert left_in(tmp_path) == set()


@POSIX
def test_full_disk_during_copy_of_stdin_leaves_nothing(run_forked, tmp_path, tmp_path_factory):
    out, given = tmp_path / "out.npy", lines(tmp_path_factory.mktemp("given") / "in.txt", ["x"] * 200_000)
    with given.open() as stdin:
        done = run_forked(LIMITED, "embed", "-", "--format", "text", "-o", out, *LOCAL, stdin=stdin)
    assert done.returncode == 1
    assert done.stderr.startswith("OSError: [Errno 27]")
    assert left_in(tmp_path) == set()


PLAIN = "import sys; sys.argv[0] = 'multiembed'; from multiembed.cli import main; main()"


@POSIX
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(("arguments", "status"), [(("models",), 0), (("embed", "{}"), 0), (("embed", "none.txt"), 2)])
def test_closed_pipe_changes_no_status(run_forked, tmp_path, stream, arguments, status):
    source = lines(tmp_path / "in.txt", ["a"])
    arguments = [each.format(source) for each in arguments]
    if arguments[0] == "embed":
        arguments += ["-o", tmp_path / "out.npy", *LOCAL]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run_forked(PLAIN, *arguments, **{stream: writer})
    finally:
        os.close(writer)
    assert done.returncode == status
    if stream == "stdout":
        assert "Traceback" not in done.stderr
        assert "Nothing was written" not in done.stderr


@POSIX
def test_output_of_ascii_only_terminal_is_printed(tmp_path):
    source, environment = lines(tmp_path / "in.txt", ["a"]), {**OUTPUT, "PYTHONIOENCODING": "ascii"}
    done = Programs().run(PLAIN, "embed", source, "-o", tmp_path / "出.npy", *LOCAL, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u51fa.npy" in done.stdout


def test_interrupted_export_leaves_no_file(tmp_path, monkeypatch):
    from multiembed import CacheFile, EmbeddingClient
    from multiembed.cli.export import export_vectors

    with EmbeddingClient("local:char-ngrams", dimensions=8, cache=str(tmp_path / "c.sqlite")) as client:
        client.embed(["a", "b"])
    vectors = CacheFile.vectors

    def broken(self, chosen):
        yield from vectors(self, chosen)
        raise KeyboardInterrupt

    monkeypatch.setattr(CacheFile, "vectors", broken)
    for suffix in ("jsonl", "parquet"):
        with pytest.raises(KeyboardInterrupt):
            export_vectors(None, tmp_path / "c.sqlite", tmp_path / f"out.{suffix}", models=None, namespaces=None)
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]
