"""The package as it is imported: public names, what an import loads, and the import rules of pyproject.toml."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import multiembed

ROOT = Path(multiembed.__file__).parents[1]
PACKAGES = ("multiembed", "langchain_multiembed", "llamaindex_multiembed")

PUBLIC = {
    "APIError",
    "AuthenticationError",
    "ConfigurationError",
    "ConnectionFailedError",
    "ContentRejectedError",
    "DeadlineExceededError",
    "EmbeddingClient",
    "EmbeddingResult",
    "InputTooLongError",
    "InvalidRequestError",
    "MalformedResponseError",
    "ModelNotFoundError",
    "MultiEmbedError",
    "PartialFailureError",
    "PermissionDeniedError",
    "QuotaExhaustedError",
    "RateLimitError",
    "RequestTimeoutError",
    "ServerError",
    "SparseVector",
    "Usage",
}


@cache
def sources() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path.read_text(encoding="utf-8")
    return found


@cache
def modules() -> dict[str, ast.Module]:
    return {name: ast.parse(source) for name, source in sources().items()}


def test_import_rules_of_pyproject_are_kept():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_modules_that_import_multiembed_use_only_public_names():
    private = [
        f"{name} uses multiembed.{node.attr}"
        for name, tree in modules().items()
        if any(isinstance(node, ast.Import) and node.names[0].name == "multiembed" for node in ast.walk(tree))
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "multiembed"
        and node.attr not in multiembed.__all__
    ]
    assert not private


def test_every_module_docstring_has_a_first_line():
    without = [
        name for name, tree in modules().items() if not (ast.get_docstring(tree) or "").partition("\n")[0].strip()
    ]
    assert not without


def test_modules_have_at_most_400_lines_and_functions_50():
    long = [
        f"{name}: {len(source.splitlines())} lines" for name, source in sources().items() if source.count("\n") > 400
    ]
    long += [
        f"{name}.{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 50
    ]
    assert not long


def test_prose_has_no_denied_word_and_few_metaphors():
    done = subprocess.run([sys.executable, "scripts/check_words.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_names_of_the_contract_are_public():
    assert set(multiembed.__all__) >= PUBLIC
    assert len(set(multiembed.__all__)) == len(multiembed.__all__)


@pytest.mark.parametrize("name", sorted({*multiembed.__all__, *PUBLIC}))
def test_every_public_name_can_be_imported(name):
    found = {}
    exec(f"from multiembed import {name}", found)
    assert found[name] is getattr(multiembed, name)
    assert name in dir(multiembed)


def test_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="EmbedingClient"):
        multiembed.EmbedingClient  # noqa: B018


def test_adapters_show_one_class_each():
    langchain, llamaindex = (pytest.importorskip(name) for name in PACKAGES[1:])
    assert (langchain.__all__, llamaindex.__all__) == (
        ["MultiEmbeddings"],
        ["MultiEmbedding", "MultiEmbeddingOptionsDict"],
    )
    assert langchain.MultiEmbeddings
    assert llamaindex.MultiEmbedding


def loads(module: str, after: str = "sys") -> set[str]:
    """The top-level packages that importing a module brings in, once another one is there, in a fresh Python."""
    code = f"import sys, {after}; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_heavy():
    loaded = loads("multiembed")
    assert "multiembed" in loaded
    assert loaded.isdisjoint({"pydantic", "numpy", "httpx", "orjson", "tqdm", *PACKAGES[1:]})


def test_importing_the_langchain_class_loads_no_more_than_it():
    ours = "langchain_core.embeddings, langchain_core.callbacks, langchain_core.runnables.config"
    loaded = loads("langchain_multiembed", after=f"{ours}, pydantic")
    assert "langchain_multiembed" in loaded
    assert loaded.isdisjoint({"llama_index", "httpx", "numpy"})


def test_importing_the_llamaindex_class_loads_no_langchain():
    loaded = loads("llamaindex_multiembed", after="llama_index.core.base.embeddings.base")
    assert "llamaindex_multiembed" in loaded
    assert loaded.isdisjoint({"langchain_core", "langchain_multiembed", "httpx"})


def test_promises_lead_to_tests_that_exist():
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", (ROOT / "tests" / "README.md").read_text(encoding="utf-8"))
    missing = [
        f"{path}::{name}"
        for path, name in named
        if path != "conftest.py"
        and not (
            (file := ROOT / "tests" / path).exists() and f"def {name}" in file.read_text(encoding="utf-8") + "def "
        )
    ]
    assert len(named) > 50
    assert not missing
