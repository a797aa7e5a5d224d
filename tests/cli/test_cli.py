"""The command line: what it prints, and what it says when something is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from importlib import metadata

import pytest
from typer.testing import CliRunner

import multiembed
from multiembed.cli import demo
from multiembed.cli.app import app
from multiembed.cli.corpus import passages, questions
from multiembed.providers import PROVIDERS, list_models


def run(*arguments, stdin=None, **environ):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", **environ}).invoke(app, arguments, stdin)


@pytest.fixture
def small_corpus(monkeypatch):
    """Some passages and the questions that they answer, so that a run takes a second."""
    chinese = [passage for passage in passages() if passage.language == "zh"]
    asked = [question for question in questions() if question.language == "zh"][:5]
    monkeypatch.setattr(demo, "passages", lambda: chinese)
    monkeypatch.setattr(demo, "questions", lambda: asked)


def test_the_version_is_the_packages():
    assert run("--version").stdout.split() == ["multiembed", multiembed.__version__]


@pytest.mark.parametrize("columns", [40, 60, 80, 110, 200])
def test_models_show_every_model_whole_at_any_width(columns):
    lines = run("models", COLUMNS=str(columns)).stdout.splitlines()
    words = {word for line in lines for word in line.split()}
    for provider, facts in list_models():
        assert f"{provider.id}:{facts.name}" in words
        assert facts.source in words
        assert f"{facts.checked}:" in words
        assert f"{facts.limits.max_items}" in words
    assert not [line for line in lines if len(line) > columns and len(line.split()) > 1]


def test_the_json_of_models_holds_every_field():
    rows = json.loads(run("models", "--json").stdout)
    assert [(row["provider"], row["name"]) for row in rows] == [
        (owner.id, facts.name) for owner, facts in list_models()
    ]
    names = {field.name for field in dataclasses.fields(multiembed.ModelInfo)} - {"known"} | {"provider"}
    assert all(set(row) == names for row in rows)


def test_models_of_one_provider_are_listed_alone():
    shown = run("models", "zhipu").stdout
    assert "embedding-3" in shown
    assert "text-embedding-v4" not in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("models", "zhpu"), "zhipu"),
        (("models", "gateway"), "10 texts a request"),
        (("models", "openai-compatible"), "32 texts a request"),
        (("demo", "--model", "x"), "--live"),
        (("demo", "--live", "dashscop"), "Did you mean 'dashscope'?"),
        (("demo", "--live", "dashscope"), "DASHSCOPE_API_KEY"),
        (("demo", "--live", "gateway"), "--model"),
        (("demo", "--live", "openai-compatible"), "--model"),
        (("demo", "--live", "zhipu:embedding-3", "--model", "embedding-2"), "once"),
        (("demo", " "), "question is empty"),
        (("demo", ""), "question is empty"),
        (("simulate", "--api-key", ""), "--api-key must be"),
        (("simulate", "--api-key", "钥匙"), "--api-key must be"),
        (("simulate", "--fault", "item-mising-middle"), "item-missing-middle"),
        (("simulate", "--retry-after", "2"), "--requests-per-minute"),
    ],
)
def test_wrong_option_ends_with_status_two_and_advice(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
    assert "Traceback" not in done.output


def test_demo_shows_every_provider_framework_and_passage(small_corpus):
    shown = run("demo", "如何泡绿茶？").stdout
    for provider in PROVIDERS:
        assert f"{provider}:" in shown
    assert shown.count("LangChain") == shown.count("LlamaIndex") == len(PROVIDERS) + 1  # two local models
    assert " 0%" not in shown
    assert "水温" in shown
    assert "local:use-multilingual is a real model" in shown
    assert "pip install" not in shown


def test_demo_without_the_semantic_model_names_its_extra(small_corpus, monkeypatch):
    def not_found(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_found)
    done = run("demo", "如何泡绿茶？")
    assert done.exit_code == 0, done.output
    assert 'pip install "multiembed[semantic]"' in done.stdout
    assert "use-multilingual" not in done.stdout
    assert "水温" in done.stdout


def test_taken_port_ends_simulate_with_advice(simulator):
    port = simulator.url.rpartition(":")[2]
    done = run("simulate", "--port", port)
    assert done.exit_code == 2
    assert f"Port {port} is taken" in done.output
    assert "--port" in done.output


@pytest.mark.parametrize(
    ("live", "model"),
    [
        (("zhipu",), "embedding-3"),
        (("zhipu", "--model", "embedding-2"), "embedding-2"),
        (("zhipu:embedding-2",), "embedding-2"),
    ],
)
def test_live_demo_uses_provider_address_and_environment_key(small_corpus, monkeypatch, simulator, live, model):
    address = {"cn": simulator.base_url("zhipu")}
    monkeypatch.setitem(PROVIDERS, "zhipu", dataclasses.replace(PROVIDERS["zhipu"], regions=address))
    monkeypatch.setenv("ZHIPUAI_API_KEY", simulator.api_key)
    done = run("demo", "--live", *live)
    assert done.exit_code == 0, done.output
    assert f"Live: zhipu:{model}" in done.stdout
    assert "CNY" in done.stdout
    assert {request.body["model"] for request in simulator.requests} == {model}
    assert simulator.api_key not in done.output


def test_live_demo_failure_prints_reason_and_ends_with_one(small_corpus, monkeypatch, simulator):
    address = {"cn": simulator.base_url("zhipu")}
    monkeypatch.setitem(PROVIDERS, "zhipu", dataclasses.replace(PROVIDERS["zhipu"], regions=address))
    monkeypatch.setenv("ZHIPUAI_API_KEY", "sk-wrong")
    done = run("demo", "--live", "zhipu")
    assert done.exit_code == 1
    assert "AuthenticationError" in done.output
    assert "Traceback" not in done.output


def python(*arguments, **environ):
    known = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, timeout=60, check=False, env={**known, **environ}
    )
    return done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")


MAIN = "import sys; sys.argv[0] = 'multiembed'; from multiembed.cli import main; main()"


def test_python_m_multiembed_runs_the_command_line():
    assert python("-m", "multiembed", "--version") == (0, f"multiembed {multiembed.__version__}\n", "")


PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
TEA = ("embed-text", "茶", "--model", "local:char-ngrams")


def test_terminal_without_unicode_gets_escapes():
    """In the C locale, standard output is ASCII with the error handler "surrogateescape"."""
    status, shown, said = python("-m", "multiembed", *TEA, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert (status, said) == (0, "")
    assert "\\u2026" in shown
    assert shown.isascii()


@pytest.mark.parametrize("arguments", [TEA, ("models",), ("-h",), ("doctor", "local"), ("models", "--json")])
def test_output_to_a_pipe_has_no_escape_sequence(programs, arguments):
    environment = {"TERM": "xterm-256color", "NO_COLOR": "1"}
    with programs.start(MAIN, *arguments, environment=environment, **PIPES) as running:
        shown, complaints = running.stdout.read(), running.stderr.read()
        assert (running.wait(), complaints) == (0, "")
    assert shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("arguments", [TEA, ("models",), ("-h",), ("embed", "-h"), ("models", "--json")])
def test_closed_pipe_is_no_error(programs, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        done = programs.run(MAIN, *arguments, stdout=pipe)
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupted_command_says_so_without_a_traceback():
    command = [sys.executable, "-u", "-m", "multiembed", "simulate", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert b"listens" in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (0, b"")


def test_misspelt_command_and_option_name_the_nearest():
    assert "Did you mean 'embed'" in run("embd").output
    assert "--dimensions" in run("embed-text", "a", "--dimension", "3").output


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_cache_info_holds_names_whole_at_any_width(columns, tmp_path, simulator, monkeypatch):
    model = "netease-youdao/bce-embedding-base_v1"
    monkeypatch.setenv("SILICONFLOW_API_KEY", simulator.api_key)
    cache = tmp_path / "v"
    options = {"base_url": simulator.base_url("siliconflow"), "cache": cache}
    with multiembed.EmbeddingClient(f"siliconflow:{model}", **options) as client:
        client.embed(["green tea", "a second text"])
    lines = run("cache", "info", str(cache), COLUMNS=str(columns)).stdout.splitlines()
    assert lines[0] == f"siliconflow:{model}"
    assert "document, 768 dimensions, 2 vectors" in " ".join(" ".join(lines).split())
    assert not [line for line in lines[1:-1] if len(line) > columns]


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_table_of_faults_fits_the_terminal(columns):
    lines = run("simulate", "--faults", COLUMNS=str(columns)).stdout.splitlines()
    assert not [line for line in lines if len(line) > columns]
    assert {"item-missing-middle", "retry-after-seconds"} <= {word for line in lines for word in line.split()}


def test_interrupt_while_loading_is_reported():
    """Ctrl-C in the first half second ended the run with status 130 and without a word."""
    assert python(
        "-c",
        "import sys, multiembed.cli\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "multiembed.cli.main()",
    ) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(
    ("package", "framework", "extra"),
    [("langchain_multiembed", "langchain_core", "langchain"), ("llamaindex_multiembed", "llama_index", "llamaindex")],
)
def test_missing_framework_names_the_extra(package, framework, extra):
    hide = f"""
import sys
class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name == {framework!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hiding())
import {package}
"""
    status, _, complaints = python("-c", hide)
    assert status == 1
    last = complaints.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError")
    assert f"[{extra}]" in last
