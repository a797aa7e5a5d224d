"""The documentation's code runs, against the simulator, and prints what its pages say."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multiembed import EmbeddingClient
from multiembed.cli.app import app
from multiembed.providers import PROVIDERS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("README*.md")])
SERVERS = tomllib.loads((ROOT / "docs" / "servers.toml").read_text(encoding="utf-8"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OPTIONAL = re.compile(r"^from (fastapi|langchain_(?:qdrant|milvus)|llama_index\.vector_stores\.\w+) ", re.MULTILINE)
"""Packages that development does not need: a block is run where they are installed, also by tests/stores."""
NOT_RUN = (
    "pip ",
    "export ",
    "multiembed simulate",
    "python ",
    "cd ",
    "git ",
    "pre-commit",
    "nox",
    "jupyter",
    "multiembed demo",
    "uvicorn ",
    "gunicorn ",
    "MULTIEMBED_QUOTA=",
)
"""Commands that install something, or run until they are stopped."""


def blocks(page):
    """Language and text of each code block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture
def live(simulator, monkeypatch, tmp_path):
    """A user's machine: keys in the environment, addresses that lead to the simulator, and an input file."""
    for name, provider in PROVIDERS.items():
        if provider.compute is None:
            for variable in provider.key_env:
                monkeypatch.setenv(variable, simulator.api_key)
            monkeypatch.setenv(provider.base_url_env[0], simulator.base_url(name))
    monkeypatch.chdir(tmp_path)
    rows = [{"id": number, "text": f"text {number}"} for number in range(20)]
    Path("docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is not installed
        return False


def run(code, variables):
    """What a block prints; `await` at its top level is allowed, as in a notebook."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "documentation", "exec"), variables)
    return printed.getvalue()


@pytest.mark.filterwarnings("ignore:The 'ranker_type':DeprecationWarning")  # its successor needs Milvus 2.6
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=lambda page: page.stem
)
def test_python_blocks_of_a_page_print_what_it_says(page, live):
    if page.stem == "add-a-provider":
        pytest.skip("its test is tests/providers/test_add_a_provider.py")
    if page.stem == "data-engines":
        pytest.skip("its tests are in tests/scale")
    variables, found = {"__name__": "__main__"}, blocks(page)
    for (language, code), (after, expected) in zip(found, [*found[1:], ("", "")], strict=True):
        if language == "python" and all(map(is_installed, OPTIONAL.findall(code))):
            printed = run(code, variables)
            if after == "text":
                assert printed == expected, code
    for value in variables.values():
        if isinstance(value, EmbeddingClient):
            value.close()


COMMANDS = [
    (page, line)
    for page in PAGES
    for language, code in blocks(page)
    if language == "bash"
    for line in code.splitlines()
    if line.startswith("multiembed ") and not line.startswith(NOT_RUN)
]


def test_commands_of_all_pages_run(live):
    """In the order of the pages; the cache file that they name is made by a run."""
    runner = CliRunner()
    made = [
        "embed",
        "docs.jsonl",
        "-o",
        "made.parquet",
        "--model",
        "dashscope:text-embedding-v4",
        "--cache",
        "vectors.sqlite",
    ]
    assert runner.invoke(app, [*made, "--column", "text"]).exit_code == 0
    assert COMMANDS
    for page, line in {line: (page, line) for page, line in COMMANDS}.values():
        Path("docs.parquet").unlink(missing_ok=True)
        done = runner.invoke(app, shlex.split(line, comments=True)[1:])
        assert done.exit_code == 0, f"{page.name}: {line}\n{done.output}"


def test_every_other_command_is_known_to_the_test():
    unknown = [
        (page.name, line)
        for page in PAGES
        for language, code in blocks(page)
        if language == "bash"
        for line in code.splitlines()
        if line.strip() and not line.startswith((*NOT_RUN, "multiembed ", "#", "python3", ".venv/"))
    ]
    assert not unknown


def numbers(page):
    """The cells of a page's tables that hold figures, and names of clients."""
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    return [
        [re.sub(r"[^\x00-\x7f]|, each of its three classes", "", cell).strip() for cell in row.split("|")]
        for row in rows[1:]
    ]


def test_both_languages_have_the_same_code_and_figures():
    english, chinese = ROOT / "README.md", ROOT / "README.zh.md"
    assert blocks(chinese) == blocks(english)
    assert numbers(chinese) == numbers(english)
    links = [re.findall(r"\]\((?!http)([^)]*)\)", page.read_text(encoding="utf-8")) for page in (english, chinese)]
    links[0].remove(chinese.name)
    links[1].remove(english.name)
    assert sorted(links[0]) == sorted(links[1])


def test_relative_links_of_pages_lead_to_files():
    made = {"architecture.md", "changelog.md", "chinese.md"} | {f"{page}.md" for page in SERVERS}
    missing = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md"]
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists() and Path(target).name not in made
    ]
    assert not missing
