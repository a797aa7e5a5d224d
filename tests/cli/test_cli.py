"""The command line: what it prints, and what it says when something is wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import multiembed
from multiembed.cli import demo
from multiembed.cli.app import app
from multiembed.cli.corpus import passages, questions
from multiembed.providers import PROVIDERS, list_models


def run(*arguments):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, arguments)


@pytest.fixture
def small_corpus(monkeypatch):
    """Some passages and the questions that they answer, so that a run takes a second."""
    chinese = [passage for passage in passages() if passage.language == "zh"]
    asked = [question for question in questions() if question.language == "zh"][:5]
    monkeypatch.setattr(demo, "passages", lambda: chinese)
    monkeypatch.setattr(demo, "questions", lambda: asked)


def test_the_version_is_the_packages():
    assert run("--version").stdout.split() == ["multiembed", multiembed.__version__]


def test_the_table_of_models_holds_every_model_with_its_source():
    shown = run("models").stdout
    for provider, facts in list_models():
        assert f"{provider.id}:" in shown
        assert facts.name in shown
        assert facts.source in shown
        assert facts.checked in shown


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
        (("simulate", "--api-key", ""), "api_key must be"),
        (("simulate", "--api-key", "钥匙"), "api_key must be"),
        (("simulate", "--fault", "item-mising-middle"), "item-missing-middle"),
        (("simulate", "--retry-after", "2"), "requests_per_minute"),
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
    assert shown.count("LangChain") == shown.count("LlamaIndex") == len(PROVIDERS)
    assert " 0%" not in shown
    assert "水温" in shown


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


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_python_m_multiembed_runs_the_command_line():
    done = python("-m", "multiembed", "--version")
    assert (done.returncode, done.stdout) == (0, f"multiembed {multiembed.__version__}\n")


def test_interrupt_while_loading_is_reported():
    """FINDINGS E2: Ctrl-C in the first half second ended the run with status 130 and without a word."""
    done = python(
        "-c",
        "import sys, multiembed.cli\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "multiembed.cli.main()",
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.parametrize(
    ("package", "framework", "extra"),
    [("langchain_multiembed", "langchain_core", "langchain"), ("llamaindex_multiembed", "llama_index", "llamaindex")],
)
def test_missing_framework_names_the_extra(package, framework, extra):
    """FINDINGS E5."""
    hide = f"""
import sys
class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name == {framework!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hiding())
import {package}
"""
    done = python("-c", hide)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError")
    assert f"[{extra}]" in last
