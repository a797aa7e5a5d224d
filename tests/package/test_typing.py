"""What strict type checkers say of user code: tests/typing/ and the README's snippets, by mypy and by pyright."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")  # and pyright, which comes with it
REPOSITORY = Path(__file__).parents[2]
ACCEPTED = REPOSITORY / "tests" / "typing" / "accepted.py"
REFUSED = REPOSITORY / "tests" / "typing" / "refused.py"
MARK = "# refused"

# What the frameworks import, and what no statement of these files reaches: two thirds of 3,200 modules (2026-11-29).
UNUSED = (
    "IPython PIL _pytest aiohttp cryptography dataclasses_json fsspec h2 httpcore jinja2 langchain_text_splitters "
    "langsmith markdown_it marshmallow matplotlib networkx nltk opentelemetry prompt_toolkit pytest qdrant_client "
    "redis requests rich sqlalchemy tiktoken tornado trio urllib3 workflows"
)
UNUSED_OF_LLAMAINDEX = (
    "agent chat_engine command_line composability data_structs download evaluation extractors graph_stores indices "
    "ingestion llama_dataset memory multi_modal_llms node_parser objects output_parsers postprocessor program prompts "
    "query_engine question_gen readers response_synthesizers retrievers selectors sparse_embeddings tools workflow"
)
SKIPPED = [*UNUSED.split(), *(f"llama_index.core.{name}" for name in UNUSED_OF_LLAMAINDEX.split())]
MYPY = f"""[mypy-{",".join(f"{name}.*" for name in SKIPPED)}]
follow_imports = skip
[mypy]
strict = true
"""
MYPY_WITH_PYDANTIC = f"""{MYPY}plugins = pydantic.mypy
[pydantic-mypy]
init_forbid_extra = true
init_typed = true
"""
# A snippet shows what an attribute holds by naming it, which is no statement of a program.
PYRIGHT = "# pyright: strict, reportUnusedExpression=false\n"


def mypy_errors(files, folder, settings):
    """The (file, line) of every error; the cache outlives the run, since LlamaIndex and NumPy take mypy 6 seconds."""
    config = folder / "mypy.ini"
    config.write_text(settings, encoding="utf-8")
    name = "typing-pydantic" if "plugins" in settings else "typing"
    options = ["--config-file", config, "--output", "json", "--cache-dir", REPOSITORY / ".mypy_cache" / name]
    lines = run("mypy", *options, *files).splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return [(REPOSITORY / each["file"], each["line"], each["message"]) for each in found if each["severity"] == "error"]


def pyright_errors(files):
    """Likewise; the files themselves say that they are strict. No network is needed: its wheels hold all of it."""
    report = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable, *files))
    assert report["summary"]["filesAnalyzed"] == len(files)
    found = [each for each in report["generalDiagnostics"] if each["severity"] == "error"]
    return [(Path(each["file"]), each["range"]["start"]["line"] + 1, each["message"]) for each in found]


def run(module, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYRIGHT_", "MYPY"))}
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr or done.stdout  # 1: there are errors in the files
    return done.stdout


def readme_snippets(folder):
    """Each Python snippet of the README as a file."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    files = [folder / f"readme_snippet_{number}.py" for number in range(len(snippets))]
    for file, snippet in zip(files, snippets, strict=True):
        file.write_text(f"{PYRIGHT}{snippet}", encoding="utf-8")
    return files


CHECKERS = {
    "mypy": lambda files, folder: mypy_errors(files, folder, MYPY),
    "mypy-pydantic": lambda files, folder: mypy_errors(files, folder, MYPY_WITH_PYDANTIC),
    "pyright": lambda files, folder: pyright_errors(files),
}


@pytest.fixture(scope="module", params=CHECKERS)
def errors(request, tmp_path_factory):
    """`errors(*files)`: the lines of files that one checker refuses, each with its message."""
    folder = tmp_path_factory.mktemp("typing")
    snippets = readme_snippets(folder)
    found = CHECKERS[request.param]([ACCEPTED, REFUSED, *snippets], folder)

    def of(*files):
        return {(file.name, line): message for file, line, message in found if file in files}

    of.snippets = snippets
    return of


def test_right_code_has_no_type_errors(errors):
    assert errors(ACCEPTED) == {}


def test_wrong_code_has_a_type_error_in_each_marked_line(errors):
    lines = REFUSED.read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith(MARK)}
    assert len(marked) > 30
    assert {line for _, line in errors(REFUSED)} == marked


def test_readme_snippets_have_no_type_errors(errors):
    assert len(errors.snippets) >= 4
    assert errors(*errors.snippets) == {}
