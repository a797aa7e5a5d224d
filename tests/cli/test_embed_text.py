"""`multiembed embed-text`: one text, and what is printed of its vector."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from multiembed import EmbeddingClient
from multiembed.cli.app import app

LOCAL = ("--model", "local:char-ngrams", "--dimensions", "8")


def embed_text(*arguments, stdin=None, columns=80):
    runner = CliRunner(env={"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"})
    return runner.invoke(app, ["embed-text", *arguments], input=stdin)


@pytest.fixture
def remote(simulator, monkeypatch):
    """`remote(*arguments)`: the command with a model of DashScope, whose API has roles."""
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    where = ("--model", "dashscope:text-embedding-v4", "--base-url", simulator.base_url("dashscope"))
    yield lambda *arguments: embed_text(*arguments, *where, "--dimensions", "64")
    simulator.heal()


@pytest.mark.parametrize("columns", [40, 80])
def test_facts_of_the_vector_are_printed(columns):
    done = embed_text("green tea", *LOCAL, columns=columns)
    assert done.exit_code == 0, done.output
    facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert (facts["model"], facts["size"], facts["norm"]) == ("local:char-ngrams, document", "8 dimensions", "1.000000")
    assert (facts["tokens"], facts["time"].split()[1]) == ("0", "ms")
    [vector] = EmbeddingClient("local:char-ngrams", dimensions=8).embed(["green tea"]).vectors
    assert facts["first"] == f"{' '.join(f'{number:.4f}' for number in vector[:3])} …"
    assert all(len(line) <= columns for line in done.stdout.splitlines())


def test_json_holds_the_whole_vector():
    shown = json.loads(embed_text("green tea", *LOCAL, "--json").stdout)
    [vector] = EmbeddingClient("local:char-ngrams", dimensions=8).embed(["green tea"]).vectors
    assert np.array_equal(np.float32(shown.pop("vector")), vector)
    assert shown.pop("ms") >= 0
    assert shown.pop("norm") == pytest.approx(1.0)
    expected = {"model": "local:char-ngrams", "role": "document", "dimensions": 8, "tokens": 0, "cost_cny": 0.0}
    assert shown == expected


def test_hyphen_reads_standard_input():
    piped = json.loads(embed_text("-", *LOCAL, "--json", stdin="绿茶\n").stdout)
    assert piped["vector"] == json.loads(embed_text("绿茶", *LOCAL, "--json").stdout)["vector"]


@pytest.mark.parametrize("role", ["document", "query"])
def test_role_and_options_reach_the_wire(remote, simulator, role):
    done = remote("green tea", "--role", role)
    assert done.exit_code == 0, done.output
    assert "CNY" in done.stdout
    [request] = simulator.requests
    assert (request.body["parameters"]["text_type"], request.body["parameters"]["dimension"]) == (role, 64)


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_text_ends_with_status_two(text):
    done = embed_text(text, *LOCAL)
    assert (done.exit_code, done.stderr) == (2, "ConfigurationError: The text is empty: nothing was sent.\n")


def test_refused_key_ends_with_status_one_and_no_index(remote, simulator):
    simulator.fail("bad-key")
    done = remote("green tea")
    assert done.exit_code == 1
    assert done.stderr.startswith("AuthenticationError: ")
    assert "texts=" not in done.stderr


def test_mappings_reach_the_wire(simulator, monkeypatch):
    monkeypatch.setenv("OPENAI_COMPATIBLE_API_KEY", simulator.api_key)
    done = embed_text(
        "a text", "--model", "openai-compatible:m", "--base-url", simulator.base_url("openai-compatible"),
        "--query", "api-version=2024=10", "--headers", "X-Workspace=one", "--parameters", "user=me",
        "--parameters", "n=3", "--limits", "max_items=4", "--no-send-dimensions",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    [request] = simulator.requests
    assert request.headers["x-workspace"] == "one"
    assert (request.body["user"], request.body["n"]) == ("me", 3)
    assert "dimensions" not in request.body
