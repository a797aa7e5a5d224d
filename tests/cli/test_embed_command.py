"""`multiembed embed`: files in, vectors out, over real sockets; and what becomes of runs that do not end well."""

from __future__ import annotations

import argparse
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import cycle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.embed_command import ZHIPU, embed, lines, rows, rows_of, said

import multiembed
from multiembed import CacheFile, ClientStats, EmbeddingClient
from multiembed.cli import progress, summary
from multiembed.cli.corpus import passages
from multiembed.cli.estimate_run import SeenTexts
from multiembed.cli.progress import ProgressMeter, Rate, duration, format_cost, format_tokens
from multiembed.cli.row_stream import embed_chunks
from multiembed.files import Inputs, arrow
from multiembed.simulator import Simulator
from multiembed.simulator.tokenizer import count_tokens

LOCAL = "local:char-ngrams"
TOO_LONG = "word " * 6000
TEXTS = [f"text {number} 第{number}行" for number in range(1300)]


@pytest.fixture
def remote(simulator, monkeypatch):
    """`remote(*arguments)`: the command with a model that the simulator serves; 256 dimensions."""
    monkeypatch.setenv("ZHIPUAI_API_KEY", simulator.api_key)
    where = ("--base-url", simulator.base_url("zhipu"), "--dimensions", 256)

    def make(*arguments, **more):
        return embed(*arguments, "--model", ZHIPU, *where, **more)

    yield make
    simulator.heal()


def vectors_of(texts, dimensions=8):
    with EmbeddingClient(LOCAL, dimensions=dimensions) as client:
        return client.embed(texts).vectors


def sent_texts(simulator):
    return [text for request in simulator.requests for text in request.body["input"]]


# ── every kind of input to every kind of output ──────────────────────────────────────────────────


def as_text(folder):
    return lines(folder / "in.txt", TEXTS), {}


def as_csv(folder):
    (folder / "in.csv").write_text("n,text\n" + "".join(f'{n},"{text}"\n' for n, text in enumerate(TEXTS)))
    return folder / "in.csv", {"n": list(range(len(TEXTS)))}


def as_tsv(folder):
    (folder / "in.tsv").write_text("n\ttext\n" + "".join(f"{n}\t{text}\n" for n, text in enumerate(TEXTS)))
    return folder / "in.tsv", {"n": list(range(len(TEXTS)))}


def as_jsonl(folder):
    return rows(folder / "in.jsonl", TEXTS), {"n": list(range(len(TEXTS)))}


def as_parquet(folder):
    table = pa.table({"n": pa.array(range(len(TEXTS)), pa.int16()), "text": TEXTS})
    pq.write_table(table, folder / "in.parquet", row_group_size=1000)
    return folder / "in.parquet", {"n": list(range(len(TEXTS)))}


def as_folder(folder):
    (folder / "in").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "in" / f"{number:04}.md").write_text(text)
    return folder / "in", {"path": [str(folder / "in" / f"{number:04}.md") for number in range(len(TEXTS))]}


# Each input with its columns, and each output: what is between them knows neither's format.
@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (as_text, "npy"), (as_csv, "parquet"), (as_tsv, "jsonl"), (as_jsonl, "parquet"), (as_jsonl, "npy"),
        (as_parquet, "jsonl"), (as_parquet, "parquet"), (as_folder, "jsonl"),
    ],
)  # fmt: skip
def test_every_input_to_every_output_keeps_order_and_columns(tmp_path, make, suffix):
    source, columns = make(tmp_path)
    out = tmp_path / f"out.{suffix}"
    done = embed(source, "-o", out, "--model", LOCAL, "--dimensions", 8)
    assert done.exit_code == 0, done.output
    assert "1,300 texts" in said(done)
    if suffix == "npy":
        assert np.array_equal(np.load(out), vectors_of(TEXTS))
        return
    found = rows_of(out)
    assert [row["text"] for row in found] == TEXTS
    assert np.array_equal(np.array([row["embedding"] for row in found], np.float32), vectors_of(TEXTS))
    assert {name: [row[name] for row in found] for name in columns} == columns


def test_parquet_output_has_fixed_size_list_and_metadata(tmp_path):
    done = embed(as_parquet(tmp_path)[0], "-o", tmp_path / "out.parquet", "--model", LOCAL, "--dimensions", 8)
    assert done.exit_code == 0, done.output
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert [(field.name, field.type) for field in schema] == [
        ("n", pa.int16()),
        ("text", pa.string()),
        ("embedding", pa.list_(pa.float32(), 8)),
    ]
    facts = json.loads(schema.metadata[b"multiembed"])
    with EmbeddingClient(LOCAL, dimensions=8) as client:
        assert facts == {"model": LOCAL, "role": "document", "fingerprint": client.fingerprint("document")}


def test_standard_input_is_embedded(tmp_path):
    done = embed("-", "--format", "jsonl", "-o", tmp_path / "out.jsonl", "--model", LOCAL, stdin='{"text": "a"}\n')
    assert done.exit_code == 0, done.output
    assert [row["text"] for row in rows_of(tmp_path / "out.jsonl")] == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_remote_run_sends_each_text_once_and_leaves_output_only(tmp_path, remote, simulator):
    done = remote(lines(tmp_path / "in.txt", TEXTS * 2), "-o", tmp_path / "out.npy")
    assert done.exit_code == 0, done.output
    assert np.array_equal(np.load(tmp_path / "out.npy"), vectors_of(TEXTS * 2, 256))
    assert set(sent_texts(simulator)) == set(TEXTS)
    tokens = sum(request.body["input"] != [] and sum(map(count_tokens, request.body["input"])) for request in
                 simulator.requests)  # fmt: skip
    assert f"{format_tokens(tokens)}, {format_cost(tokens * 0.5e-6)} (price of 2026-" in said(done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy"]


def test_the_embedding_options_reach_the_wire(tmp_path, simulator, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    done = embed(
        lines(tmp_path / "in.txt", ["what is it"]), "-o", tmp_path / "out.npy",
        "--model", "dashscope:text-embedding-v4",
        "--base-url", simulator.base_url("dashscope"), "--dimensions", 64, "--role", "query", "--instruct", "Find it",
        "--query-prefix", "Q: ", "--max-concurrency", 2, "--requests-per-minute", 600, "--tokens-per-minute", 60_000,
        "--max-retries", 0, "--timeout", 5, "--on-too-long", "truncate",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    body = simulator.requests[0].body
    assert body["input"]["texts"] == ["Q: what is it"]
    assert body["parameters"] == {"text_type": "query", "dimension": 64, "instruct": "Find it", "output_type": "dense"}


# ── mistakes, before anything is sent ────────────────────────────────────────────────────────────


def test_faulty_rows_are_all_reported_and_nothing_is_sent(tmp_path, remote, simulator):
    source = rows(tmp_path / "in.jsonl", ["good", "", None, "good"])
    done = remote(source, "-o", tmp_path / "out.jsonl")
    assert done.exit_code == 2
    assert f"2 of 4 rows cannot be embedded; nothing was sent. {source}:2: the text is empty" in said(done)
    assert f"{source}:3: 'text' is null" in said(done)
    assert "--on-error skip" in said(done)
    assert not simulator.requests
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("in.txt", "-o", "in.txt", "--output-format", "jsonl", "--overwrite"), "is an input, too"),
        (("in.txt", "-o", "out.npy", "--cache", "in.txt"), "is the cache, too"),
        (("in.txt", "-o", "out.csv"), "end it with .parquet, .jsonl or .npy"),
        (("in.txt", "-o", "nowhere/out.npy"), "folder"),
        (("in.txt", "-o", "out.npy", "--column", "body", "--dimensions", "0"), "--dimensions: must be"),
        (("d.jsonl", "-o", "out.npy", "--column", "body"), "there is no column 'body'"),
        (("in.txt", "-o", "out.npy", "--limits", "max_items"), "--limits takes NAME=VALUE"),
        (("in.txt", "-o", "out.npy", "--api-key-env", "NO_SUCH_KEY"), "--api-key-env names NO_SUCH_KEY"),
        (("in.txt", "-o", "in.txt/out.npy"), "cannot be written: Not a directory"),
        (("empty.txt", "-o", "out.npy"), "nothing to embed"),
        (("in.txt", "-o", "out.npy", "--cache", "c.sqlite", "--no-cache"), "do not go together"),
        (("in.txt", "-o", "out.npy", "--model", "dashscope:text-embedding-v4"), "DASHSCOPE_API_KEY"),
        (("missing.txt", "-o", "out.npy"), "The file or folder missing.txt does not exist"),
        (("in.txt", "-o", os.devnull, "--output-format", "npy", "--overwrite"), "is no regular file"),
    ],
)
def test_a_mistake_ends_with_what_to_do(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "in.txt", ["a"])
    (tmp_path / "empty.txt").touch()
    rows(tmp_path / "d.jsonl", ["a"])
    done = embed(*(arguments if "--model" in arguments else (*arguments, "--model", LOCAL)))
    assert done.exit_code == 2
    assert words in said(done)
    assert "Traceback" not in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", "empty.txt", "in.txt"]


def test_existing_output_is_kept_without_overwrite(tmp_path):
    source, out = lines(tmp_path / "in.txt", ["a"]), tmp_path / "out.jsonl"
    out.write_text("before")
    refused = embed(source, "-o", out, "--model", LOCAL)
    assert (refused.exit_code, out.read_text()) == (2, "before")
    assert "--overwrite" in said(refused)
    assert embed(source, "-o", out, "--model", LOCAL, "--overwrite").exit_code == 0
    assert [row["text"] for row in rows_of(out)] == ["a"]


# ── failures ─────────────────────────────────────────────────────────────────────────────────────


def test_failed_row_stops_run_names_line_and_keeps_old_output(tmp_path, remote, simulator):
    source, out = rows(tmp_path / "in.jsonl", ["a", "b", TOO_LONG, "c"]), tmp_path / "out.jsonl"
    out.write_text("before")
    done = remote(source, "-o", out, "--overwrite")
    assert done.exit_code == 1
    assert f"InputTooLongError: {source}:3:" in said(done)
    assert "the same command goes on from there" in said(done)
    assert out.read_text() == "before"
    source.write_text(source.read_text().replace(TOO_LONG, "short"))
    before = len(sent_texts(simulator))
    assert remote(source, "-o", out, "--overwrite").exit_code == 0
    assert sent_texts(simulator)[before:] == ["short"]
    assert [row["text"] for row in rows_of(out)] == ["a", "b", "short", "c"]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "npy"])
def test_on_error_skip_writes_failed_rows_to_side_file(tmp_path, remote, suffix):
    source, out = rows(tmp_path / "in.jsonl", ["a", "", TOO_LONG, "b"]), tmp_path / f"out.{suffix}"
    done = remote(source, "-o", out, "--on-error", "skip")
    assert done.exit_code == 3
    assert "2 rows left out" in said(done)
    empty, long = rows_of(tmp_path / f"out.{suffix}.failed.jsonl")
    assert empty == {
        "row": 1, "file": str(source), "line": 2, "error": "InputError", "reason": "the text is empty", "text": "",
    }  # fmt: skip
    assert (long["row"], long["line"], long["error"]) == (2, 3, "InputTooLongError")
    assert "longer" in long["reason"]
    assert len(long["text"]) == 80
    if suffix == "npy":
        matrix = np.load(out)
        assert matrix.shape == (4, 256)
        assert np.isnan(matrix).all(axis=1).tolist() == [False, True, True, False]
        assert np.array_equal(matrix[[0, 3]], vectors_of(["a", "b"], 256))
    else:
        assert [(row["n"], row["text"]) for row in rows_of(out)] == [(0, "a"), (3, "b")]


def test_failed_text_is_sent_once_and_reported_for_each_row(tmp_path, remote, simulator):
    texts = [TOO_LONG, *TEXTS[:700], TOO_LONG, "", *TEXTS[:700], TOO_LONG]
    source, out = lines(tmp_path / "in.txt", texts), tmp_path / "out.npy"
    assert remote(source, "-o", out, "--on-error", "skip").exit_code == 3
    assert [row["line"] for row in rows_of(tmp_path / "out.npy.failed.jsonl")] == [1, 702, 703, 1404]
    assert sent_texts(simulator).count(TOO_LONG) <= 1
    matrix = np.load(out)
    assert np.flatnonzero(np.isnan(matrix).any(axis=1)).tolist() == [0, 701, 702, 1403]
    assert np.array_equal(matrix[1:701], vectors_of(TEXTS[:700], 256))
    assert np.array_equal(matrix[703:1403], matrix[1:701])


def test_partial_files_of_killed_run_are_removed_by_next_run(tmp_path):
    (tmp_path / ".out.npy.partial").write_text("half")
    (tmp_path / ".out.npy.failed.jsonl.partial").write_text("half")
    assert embed(lines(tmp_path / "in.txt", ["a"]), "-o", tmp_path / "out.npy", "--model", LOCAL).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy"]


def test_a_folder_may_hold_its_own_output(tmp_path, remote):
    (tmp_path / "a.md").write_text("# a")
    (tmp_path / "b.txt").write_text("b")
    done = remote(tmp_path, "-o", tmp_path / "out.jsonl")
    assert done.exit_code == 0, done.output
    assert [row["text"] for row in rows_of(tmp_path / "out.jsonl")] == ["# a", "b"]


def test_second_run_after_skipped_rows_sends_only_these(tmp_path, remote, simulator):
    source, out = rows(tmp_path / "in.jsonl", ["a", TOO_LONG, "b"]), tmp_path / "out.jsonl"
    assert remote(source, "-o", out, "--on-error", "skip").exit_code == 3
    simulator.clear()
    source.write_text(source.read_text().replace(TOO_LONG, "short"))
    assert remote(source, "-o", out, "--on-error", "skip", "--overwrite").exit_code == 0
    assert sent_texts(simulator) == ["short"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_wrong_key_ends_run_despite_on_error_skip(tmp_path, remote, monkeypatch):
    monkeypatch.setenv("ZHIPUAI_API_KEY", "sk-wrong")
    done = remote(lines(tmp_path / "in.txt", TEXTS), "-o", tmp_path / "out.npy", "--on-error", "skip")
    assert done.exit_code == 1
    assert "AuthenticationError" in said(done)
    assert "sk-wrong" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_run_with_only_failed_rows_writes_nothing(tmp_path, remote):
    done = remote(lines(tmp_path / "in.txt", [TOO_LONG] * 2), "-o", tmp_path / "out.npy", "--on-error", "skip")
    assert done.exit_code == 1
    assert "InputTooLongError" in said(done)
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_failed_rows_before_known_dimensions_become_nan(tmp_path, simulator, monkeypatch):
    monkeypatch.setenv("MULTIEMBED_GATEWAY_API_KEY", simulator.api_key)
    source = lines(tmp_path / "in.txt", [*[""] * 600, *TEXTS])
    done = embed(
        source, "-o", tmp_path / "out.npy", "--model", "gateway:any", "--on-error", "skip",
        "--base-url", simulator.base_url("gateway"),
    )  # fmt: skip
    assert done.exit_code == 3, done.output
    matrix = np.load(tmp_path / "out.npy")
    assert np.isnan(matrix).all(axis=1).tolist() == [True] * 600 + [False] * 1300
    assert np.array_equal(matrix[600:], vectors_of(TEXTS, matrix.shape[1]))


def test_own_server_is_reached_by_its_address_and_key_header(tmp_path, simulator, monkeypatch):
    monkeypatch.setenv("OPENAI_COMPATIBLE_API_KEY", simulator.api_key)
    done = embed(
        lines(tmp_path / "in.txt", TEXTS), "-o", tmp_path / "out.npy", "--model", "openai-compatible:a/b:latest",
        "--base-url", f"{simulator.base_url('openai-compatible')}?api-version=1", "--auth-header", "X-API-Key",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert {request.headers["x-api-key"] for request in simulator.requests} == {simulator.api_key}
    matrix = np.load(tmp_path / "out.npy")
    assert np.array_equal(matrix, vectors_of(TEXTS, matrix.shape[1]))


def test_provider_outage_ends_run_despite_on_error_skip(tmp_path, remote, simulator):
    source, out = lines(tmp_path / "in.txt", TEXTS), tmp_path / "out.npy"
    simulator.fail("server-error", after=5)
    with multiembed.no_waits():
        done = remote(source, "-o", out, "--on-error", "skip", "--max-retries", 0, "--max-concurrency", 1)
    assert done.exit_code == 1
    assert "ServerError: " in said(done)
    assert "texts=" not in said(done)
    assert "320 vectors kept" in said(done)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", "out.npy.vectors.sqlite"]


# ── interrupted and resumed ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def stopped(programs, tmp_path, monkeypatch):
    """`stopped(signal)`: a run of TEXTS to which a signal comes after five requests, and what it said."""
    source, out = rows(tmp_path / "in.jsonl", TEXTS), tmp_path / "out.parquet"
    with Simulator(latency=0.1) as simulator:
        for name, value in simulator.environment().items():
            monkeypatch.setenv(name, value)
        command = [
            "embed", str(source), "-o", str(out), "--model", ZHIPU, "--dimensions", "256",
            "--base-url", simulator.base_url("zhipu"), "--max-concurrency", "3",
        ]  # fmt: skip

        def run(name):
            program = "import sys; sys.argv[0] = 'multiembed'; from multiembed.cli import main; main()"
            environment = simulator.environment()
            with programs.start(program, *command, environment=environment, stderr=subprocess.PIPE) as started:
                while len(simulator.requests) < 5:
                    time.sleep(0.01)
                started.send_signal(getattr(signal, name))
                return started.wait(30), started.stderr.read()

        yield run, simulator, command[1:], out


def assert_whole(out):
    """The output of TEXTS is right, and nothing but it is left."""
    found = rows_of(out)
    assert [(row["n"], row["text"]) for row in found] == list(enumerate(TEXTS))
    assert np.array_equal(np.array([row["embedding"] for row in found], np.float32), vectors_of(TEXTS, 256))
    assert sorted(path.name for path in out.parent.iterdir()) == ["in.jsonl", out.name]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_interrupted_run_prints_resume_and_sends_no_text_twice(stopped, name):
    run, simulator, command, out = stopped
    status, told = run(name)
    assert status == 130, told
    assert "Interrupted. Nothing was written" in told
    assert f"  multiembed embed {command[0]} -o {out} --model {ZHIPU}" in told
    assert sorted(path.name for path in out.parent.iterdir()) == ["in.jsonl", "out.parquet.vectors.sqlite"]
    assert 0 < len(sent_texts(simulator)) < len(TEXTS)
    again = embed(*command)
    assert again.exit_code == 0, again.output
    assert "Resuming with the vectors in" in again.output
    assert "texts from the cache" in again.output
    assert sorted(sent_texts(simulator)) == sorted(TEXTS)
    assert_whole(out)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_killed_run_resumes_and_resends_only_texts_in_flight(stopped):
    run, simulator, command, out = stopped
    status, _ = run("SIGKILL")
    assert status == -signal.SIGKILL
    assert not out.exists()
    assert 0 < len(sent_texts(simulator)) < len(TEXTS)
    again = embed(*command)
    assert again.exit_code == 0, again.output
    assert len(sent_texts(simulator)) <= len(TEXTS) + 3 * 64
    assert_whole(out)


def test_own_cache_file_is_used_and_kept(tmp_path, remote, simulator):
    source, cache = lines(tmp_path / "in.txt", TEXTS[:10]), tmp_path / "vectors.sqlite"
    assert remote(source, "-o", tmp_path / "a.npy", "--cache", cache).exit_code == 0
    assert [space.vectors for space in CacheFile(cache).namespaces()] == [10]
    simulator.clear()
    assert remote(source, "-o", tmp_path / "b.npy", "--cache", cache).exit_code == 0
    assert not simulator.requests
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))


def test_stopped_run_without_cache_reports_no_kept_vectors(tmp_path, remote):
    done = remote(lines(tmp_path / "in.txt", ["a", TOO_LONG]), "-o", tmp_path / "out.npy", "--no-cache")
    assert done.exit_code == 1
    assert "No vectors were kept." in said(done)
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


# ── what a run would take ────────────────────────────────────────────────────────────────────────


def test_dry_run_sends_nothing_and_needs_no_key(tmp_path, remote, simulator, monkeypatch):
    monkeypatch.delenv("ZHIPUAI_API_KEY")
    done = remote(lines(tmp_path / "in.txt", TEXTS), "-o", tmp_path / "out.npy", "--dry-run")
    assert done.exit_code == 0, done.output
    for words in ("texts 1,300", "requests 21", "tokens about", "money about", "CNY (price of 2026-", "time unknown: "):
        assert words in said(done)
    assert "Nothing was sent." in said(done)
    assert not simulator.requests
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def corpus(kind):
    english = [passage.text for passage in passages() if passage.language == "en"]
    chinese = [passage.text for passage in passages() if passage.language == "zh"]
    source = inspect.getsource(argparse)
    return {
        "English": english,
        "Chinese": chinese,
        "code": [source[start : start + 800] for start in range(0, len(source), 800)],
        "both": [
            f"{number}, {one[:200]} {two[:60]}"
            for number, (one, two) in enumerate(zip(english, cycle(chinese), strict=False))
        ],
        "short": sorted({" ".join(text.split()[at : at + 3]) for text in english for at in (0, 9, 20, 30)} - {""}),
        "duplicates": [english[number * 7919 % 97] for number in range(6000)],
    }[kind]


@pytest.mark.parametrize("kind", ["English", "Chinese", "code", "both", "short", "duplicates"])
def test_the_estimate_is_within_a_tenth_of_the_bill(tmp_path, remote, simulator, kind):
    texts = corpus(kind)
    source = rows(tmp_path / "in.jsonl", texts)
    told = said(remote(source, "-o", tmp_path / "out.npy", "--dry-run"))
    assert remote(source, "-o", tmp_path / "out.npy").exit_code == 0
    assert sorted(sent_texts(simulator)) == sorted(set(texts))
    billed = sum(map(count_tokens, sent_texts(simulator)))
    assert int(told.split("tokens about ")[1].split()[0].replace(",", "")) == pytest.approx(billed, rel=0.1)
    assert int(told.split("requests ")[1].split()[0]) == pytest.approx(len(simulator.requests), rel=0.1, abs=1)


def test_dry_run_counts_cached_and_duplicate_texts_as_free(tmp_path, remote):
    cache = tmp_path / "vectors.sqlite"
    first, all_of_them = lines(tmp_path / "a.txt", TEXTS[:650]), lines(tmp_path / "b.txt", TEXTS * 3)
    assert remote(first, "-o", tmp_path / "a.npy", "--cache", cache).exit_code == 0
    told = said(remote(all_of_them, "-o", tmp_path / "b.npy", "--cache", cache, "--dry-run"))
    assert "texts 3,900, 2,600 of them duplicates" in told
    requests = int(told.split("requests ")[1].split()[0])
    assert requests == pytest.approx(650 / 64, abs=2)


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        ((), "time unknown: the server's speed decides"),
        (("--max-concurrency", 1), "time unknown"),
        (("--requests-per-minute", 7), "time about 3 min 00 s, by 7 requests a minute"),
        (("--requests-per-minute", 7, "--tokens-per-minute", 1), "by 1 tokens a minute"),
    ],
)
def test_dry_run_estimates_time_from_known_quotas_only(tmp_path, remote, quota, words):
    """A server without a quota takes seconds for what the former guess called 21 minutes."""
    source = lines(tmp_path / "in.txt", TEXTS)
    assert words in said(remote(source, "-o", tmp_path / "out.npy", "--dry-run", *quota))


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (as_text, "npy"), (as_csv, "parquet"), (as_tsv, "jsonl"), (as_jsonl, "parquet"), (as_parquet, "jsonl"),
        (as_folder, "npy"),
    ],
)  # fmt: skip
def test_limit_embeds_the_first_rows(tmp_path, make, form):
    out = tmp_path / f"out.{form}"
    done = embed(make(tmp_path)[0], "-o", out, "--model", LOCAL, "--dimensions", 8, "--limit", 700)
    assert done.exit_code == 0, done.output
    assert "700 texts" in said(done)
    assert "A trial of the first 700 rows: without --limit, all are embedded." in said(done)
    if form == "npy":
        assert np.array_equal(np.load(out), vectors_of(TEXTS[:700]))
    else:
        assert [row["text"] for row in rows_of(out)] == TEXTS[:700]


def test_limit_counts_rows_over_all_inputs(tmp_path, remote, simulator):
    inputs = [lines(tmp_path / f"{name}.txt", TEXTS[:5]) for name in "abc"]
    rows(tmp_path / "d.jsonl", ["", "never read"])
    done = remote(*inputs, tmp_path / "d.jsonl", "-o", tmp_path / "out.npy", "--limit", 12, "--column", "text")
    assert done.exit_code == 0, done.output
    assert np.array_equal(np.load(tmp_path / "out.npy"), vectors_of([*TEXTS[:5] * 2, *TEXTS[:2]], 256))
    told = said(remote(*inputs, "-o", tmp_path / "b.npy", "--limit", 12, "--dry-run"))
    assert "texts 12, 7 of them duplicates" in told
    assert "A trial of the first 12 rows" in told


def test_quiet_run_prints_errors_only(tmp_path, remote):
    source = lines(tmp_path / "in.txt", TEXTS[:5])
    done = remote(source, "-o", tmp_path / "out.npy", "--quiet")
    assert (done.exit_code, done.output) == (0, "")
    assert len(np.load(tmp_path / "out.npy")) == 5
    failed = remote(source, "-o", tmp_path / "out.npy", "-q")
    assert failed.exit_code == 2
    assert "--overwrite" in said(failed)


def test_log_level_prints_the_log_on_stderr(tmp_path, remote, simulator):
    source = lines(tmp_path / "in.txt", ["a secret text"])
    done = remote(source, "-o", tmp_path / "out.npy", "--log-level", "debug")
    assert "DEBUG multiembed: zhipu:embedding-3: " in done.stderr
    assert "DEBUG" not in done.stdout
    assert simulator.api_key not in done.output
    assert "a secret text" not in done.output
    again = remote(source, "-o", tmp_path / "out.npy", "--overwrite", "--log-level", "error")
    assert "DEBUG" not in again.output


def test_key_comes_from_the_named_variable(tmp_path, remote, simulator, monkeypatch):
    monkeypatch.delenv("ZHIPUAI_API_KEY")
    monkeypatch.setenv("COMPANY_KEY", simulator.api_key)
    done = remote(lines(tmp_path / "in.txt", ["a"]), "-o", tmp_path / "out.npy", "--api-key-env", "COMPANY_KEY")
    assert done.exit_code == 0, done.output
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("suffix", ["jsonl", "npy", "parquet"])
def test_install_without_pyarrow_embeds_or_says_what_to_install(tmp_path, monkeypatch, suffix):
    source = as_csv(tmp_path)[0]
    arrow.arrow.cache_clear()
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    done = embed(source, "-o", tmp_path / f"out.{suffix}", "--model", LOCAL)
    arrow.arrow.cache_clear()
    if suffix == "parquet":
        assert done.exit_code == 2
        assert "pip install 'multiembed[files]'" in said(done)
    else:
        assert done.exit_code == 0, done.output


def test_dry_run_of_unknown_price_reports_it(tmp_path):
    source = lines(tmp_path / "in.txt", ["a"])
    done = embed(source, "-o", tmp_path / "out.npy", "--model", "gateway:any", "--base-url", "http://127.0.0.1:9",
                 "--dry-run")  # fmt: skip
    assert "money unknown" in said(done)


def test_seen_texts_are_recognised_in_bounded_memory():
    seen = SeenTexts(bits=20)
    assert sum(seen.add(f"text {number}") for number in range(20_000)) == pytest.approx(20_000, rel=0.01)
    assert not any(seen.add(f"text {number}") for number in range(20_000))


# ── what is shown meanwhile ──────────────────────────────────────────────────────────────────────


def report(**known):
    others = dict.fromkeys(("cached_texts", "failed_texts", "retries", "rate_errors"), 0)
    return ClientStats(**others | {"requests": 20, "p50": None, "p99": None} | known)


def test_progress_in_log_prints_lines_with_all_figures(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.01)
    log = io.StringIO()
    with ProgressMeter(Console(file=log), 4000, lambda: report(texts=700, total_tokens=2_500_000, cost=1.25)) as shown:
        shown.add_unsent(300)
        while log.getvalue().count("\n") < 2:
            assert shown._thread.is_alive()
            time.sleep(0.005)
    line = log.getvalue().splitlines()[1]
    assert line.startswith("1,000 of 4,000 texts, 2.5M tokens, ")
    assert "texts a second, 1.25 CNY, " in line
    assert line.endswith(" left")


def test_progress_bar_is_removed_at_the_end(monkeypatch):
    monkeypatch.setattr(progress, "_BAR_INTERVAL", 0.01)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    with ProgressMeter(console, 4000, lambda: report(texts=1000, total_tokens=None, cost=None)) as shown:
        while "25 %" not in screen.getvalue():
            assert shown._thread.is_alive()
            time.sleep(0.005)
    assert "1,000/4,000" in screen.getvalue()
    assert "cost unknown" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[2K")


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_progress_bar_keeps_percent_cost_and_time_at_any_width(monkeypatch, columns):
    monkeypatch.setattr(progress, "_BAR_INTERVAL", 0.01)
    monkeypatch.setattr(Rate, "per_second", lambda *_: 0.08)
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=columns, color_system=None)
    stats = report(texts=100_000, total_tokens=2_500_000, cost=1234.56)
    with ProgressMeter(console, 400_000, lambda: stats) as shown:
        while "25 %" not in screen.getvalue():
            assert shown._thread.is_alive()
            time.sleep(0.005)
    line = next(line for line in re.split(r"\x1b\[2K|\n|\r", screen.getvalue()) if "25 %" in line)
    line = re.sub(r"\x1b\[[0-9;?]*[a-z]", "", line).rstrip()
    assert len(line) <= columns
    assert "1,234.56 CNY  1,041 h 40 min left" in line
    assert ("100,000/400,000" in line) is (columns >= 60)
    assert ("2.5M tokens" in line) is (columns >= 120)
    assert "…" not in line


def test_progress_advances_with_each_request(tmp_path, remote, simulator, monkeypatch):
    shown = []
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.001)
    monkeypatch.setattr(ProgressMeter, "_status", lambda self, done, report: shown.append(done) or {})
    source = lines(tmp_path / "in.txt", [*TEXTS[:500], *TEXTS[:100], *TEXTS[500:]])
    assert remote(source, "-o", tmp_path / "out.npy", "--max-concurrency", 1).exit_code == 0
    assert shown == sorted(shown)
    assert any(done % 64 == 0 and 0 < done < 500 for done in shown)
    assert shown[-1] <= 1400


def test_cached_texts_do_not_count_in_the_rate(monkeypatch):
    monkeypatch.setattr(progress, "_LINE_INTERVAL", 0.01)
    log = io.StringIO()
    known = report(texts=3000, cached_texts=3000, total_tokens=0, cost=0.0)
    with ProgressMeter(Console(file=log), 4000, lambda: known) as shown:
        while log.getvalue().count("\n") < 2:
            assert shown._thread.is_alive()
            time.sleep(0.005)
    assert log.getvalue().splitlines()[1] == "3,000 of 4,000 texts, 0 tokens, 0.00 CNY"


def test_rate_covers_the_last_half_minute():
    rate = Rate()
    assert rate.per_second(0.0) is None
    for second in range(101):
        rate.mark(float(second), 10_000 if second else 0)
    assert rate.per_second(100.0) is None
    for second in range(101, 201):
        rate.mark(float(second), 10_000 + (second - 100) * 5)
    assert rate.per_second(200.0) == pytest.approx(5.0)


def test_figures_are_formatted_with_units():
    assert [format_tokens(n) for n in (None, 5, 12_345, 1_234_567)] == [
        "tokens unknown", "5 tokens", "12.3k tokens", "1.2M tokens",
    ]  # fmt: skip
    assert [format_cost(n) for n in (None, 0.0, 0.01234, 12.5)] == [
        "cost unknown",
        "0.00 CNY",
        "0.0123 CNY",
        "12.50 CNY",
    ]
    assert [duration(n) for n in (5, 65, 7265)] == ["5 s", "1 min 05 s", "2 h 01 min"]


def test_resume_command_is_quoted_for_the_shell(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/multiembed", "embed", "my file.txt", "-o", "out.npy"])
    assert summary._command() == "tools/multiembed embed 'my file.txt' -o out.npy"


def test_chunks_held_are_bounded_by_what_the_stream_reads_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr("multiembed.execution.stream.CHUNK_TEXTS", 256)
    source = lines(tmp_path / "in.txt", [str(number) for number in range(6_000)])
    read = []

    def watched(chunks):
        for chunk in chunks:
            read.append(len(chunk))
            yield chunk

    with Inputs([str(source)]) as inputs, EmbeddingClient(LOCAL, dimensions=4) as client:
        done = 0
        for part in embed_chunks(client, watched(inputs.chunks()), "document"):
            done += len(part.chunk)
            assert sum(read) - done < 4_000
    assert done == 6_000


def test_duplicates_of_one_text_do_not_read_the_whole_input(tmp_path):
    source = lines(tmp_path / "in.txt", ["always the same"] * 100_000)
    read = []

    def watched(chunks):
        for chunk in chunks:
            read.append(len(chunk))
            yield chunk

    with Inputs([str(source)]) as inputs, EmbeddingClient(LOCAL, dimensions=4) as client:
        (vector,) = client.embed(["always the same"]).vectors
        done = 0
        for part in embed_chunks(client, watched(inputs.chunks()), "document"):
            done += len(part.chunk)
            assert (part.vectors == vector).all()
            assert sum(read) - done < 30_000
    assert done == 100_000


@pytest.mark.parametrize("allowed", [False, True])
def test_http_address_beyond_this_machine_needs_the_option(allowed, tmp_path, monkeypatch):
    (tmp_path / "in.txt").write_text("a text\n")
    monkeypatch.setenv("ZHIPUAI_API_KEY", "sk-0123456789abcdef")
    option = ["--allow-insecure"] if allowed else []
    done = embed(
        tmp_path / "in.txt", "-o", tmp_path / "out.npy", "--model", ZHIPU, "--base-url", "http://host.example/v4",
        "--dry-run", *option,
    )  # fmt: skip
    assert done.exit_code == (0 if allowed else 2), done.output
    assert ("--allow-insecure" in said(done)) is not allowed
