"""Help of every command: its examples, which run as they stand, its options at any width; and shell completion."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys

import pytest
import typer.main
from support.embed_command import rows
from typer.testing import CliRunner

from multiembed import EmbeddingClient
from multiembed.cli import demo
from multiembed.cli.app import app
from multiembed.cli.corpus import passages, questions
from multiembed.cli.help import EXAMPLES
from multiembed.providers import PROVIDERS
from multiembed.simulator import Simulator

COMMANDS = ["", *(name for name in EXAMPLES if name)]


def invoke(*arguments, stdin=None, columns=80, **environ):
    runner = CliRunner(env={"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb", **environ})
    return runner.invoke(app, arguments, input=stdin, prog_name="multiembed")


def command_of(path):
    command = typer.main.get_command(app)
    for name in path.split():
        command = command.commands[name]
    return command


def all_commands(command, path=""):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from all_commands(inner, f"{path} {name}".strip())


def test_every_command_has_two_or_three_examples():
    assert set(all_commands(command_of(""))) == set(EXAMPLES)
    assert all(2 <= len(examples) <= 3 for examples in EXAMPLES.values())


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("path", COMMANDS)
def test_help_holds_options_examples_and_exit_codes_at_any_width(path, columns):
    done = invoke(*path.split(), "--help", columns=columns)
    assert done.exit_code == 0
    assert invoke(*path.split(), "-h", columns=columns).stdout == done.stdout
    words = set(re.split(r"[\s,│]+", done.stdout))
    options = [option for parameter in command_of(path).params for option in parameter.opts if option.startswith("--")]
    assert set(options) <= words
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert set(EXAMPLES[path]) <= set(lines)
    assert "Exit codes:" in lines
    assert any(line.startswith("130 ") for line in lines)
    others = [line for line in done.stdout.splitlines() if line.strip() not in EXAMPLES[path]]
    assert not [line for line in others if len(line) > columns]


@pytest.fixture
def prepared(tmp_path, monkeypatch, simulator):
    """A folder with the files of the examples, and an environment in which every provider is the simulator."""
    monkeypatch.chdir(tmp_path)
    for name, value in simulator.environment().items():
        monkeypatch.setenv(name, value)
    rows(tmp_path / "docs.jsonl", ["green tea", "black tea"])
    (tmp_path / "table.csv").write_text("id,text\n1,green tea\n")
    with EmbeddingClient("zhipu:embedding-3", cache="vectors.sqlite") as client:
        client.embed(["green tea"])
    chinese = [passage for passage in passages() if passage.language == "zh"]
    monkeypatch.setattr(demo, "_has_semantic_model", bool)  # which test_cli.py runs
    monkeypatch.setattr(demo, "passages", lambda: chinese)
    monkeypatch.setattr(demo, "questions", lambda: [each for each in questions() if each.language == "zh"][:5])
    monkeypatch.setattr(Simulator, "serve_forever", lambda self, on_ready: run_once(self, on_ready))
    return simulator


def run_once(simulator, on_ready):
    with simulator:
        on_ready(simulator)


@pytest.mark.parametrize("example", sorted({example for examples in EXAMPLES.values() for example in examples}))
def test_example_runs_as_it_stands(prepared, example):
    piped, _, line = example.rpartition(" | ")
    arguments = shlex.split(line)
    assert arguments.pop(0) == "multiembed"
    if "http://localhost:8000/v1" in arguments:
        arguments[arguments.index("http://localhost:8000/v1")] = prepared.base_url("openai-compatible")
    if arguments == ["simulate"]:
        arguments += ["--port", "0"]  # another program may have the usual one
    done = invoke(*arguments, stdin=f"{shlex.split(piped)[1]}\n" if piped else None)
    assert done.exit_code == 0, done.output
    assert "Warning" not in done.output


# ── completion ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """`bash(*lines)`: what bash offers for each line; its words are split as readline does it."""
    shell = shutil.which("bash")
    if shell is None:
        pytest.skip("no bash")
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "multiembed"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from multiembed.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    script = """
export PATH=$0:$PATH _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1
eval "$(multiembed --show-completion bash)"
for line in "$@"; do
    IFS=' ' read -r -a COMP_WORDS <<< "$line"
    [[ $line == *' ' ]] && COMP_WORDS+=("")
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )) COMPREPLY=()
    _multiembed_completion multiembed
    echo "${COMPREPLY[@]}"
done
"""

    def run(*lines):
        done = subprocess.run([shell, "-c", script, folder, *lines], capture_output=True, text=True, check=True)
        return [line.split() for line in done.stdout.splitlines()]

    return run


MAIN = "import sys; sys.argv[0] = 'multiembed'; from multiembed.cli import main; main()"
ZHIPU = [model.name for model in PROVIDERS["zhipu"].models]
COMPLETIONS = {
    "multiembed embed-": ["embed-text"],
    "multiembed embed a.txt --model zhi": [f"zhipu:{name}" for name in ZHIPU],
    "multiembed embed a.txt --model zhipu :": ZHIPU,
    "multiembed embed a.txt --model zhipu : embedding-2": ["embedding-2"],
    "multiembed embed a.txt --model = zhipu : embedding-2": ["embedding-2"],
    "multiembed embed-text a --model gate": ["gateway:"],
    "multiembed doctor sil": ["siliconflow"],
    "multiembed doctor zhipu :": ZHIPU,
    "multiembed models open": ["openai-compatible"],
    "multiembed cache prune f --model dashscope : text-embedding-v4": ["text-embedding-v4"],
    "multiembed embed a.txt --on-e": ["--on-error"],
    "multiembed embed a.txt --role q": ["query"],
}


@pytest.mark.parametrize("line", COMPLETIONS)
def test_commands_options_providers_and_models_are_completed(programs, line):
    words = line.split()
    environ = {
        "_MULTIEMBED_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    assert programs.run(MAIN, environment=environ).stdout.split() == COMPLETIONS[line]


def test_bash_shows_the_completions(bash):
    lines = ("multiembed embed a.txt --model = zhipu : embedding-2", "multiembed doctor zhipu :")
    assert bash(*lines) == [COMPLETIONS[line] for line in lines]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_whole_models(programs, shell):
    environ = {
        "_MULTIEMBED_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_ARGS": "multiembed embed --model zhipu:embedding-2",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = programs.run(MAIN, environment=environ)
    assert "zhipu:embedding-2" in done.stdout.replace("\\\\", "")
    assert "embedding-3" not in done.stdout
