"""The package as it is imported: public names, what an import loads, and the import rules of pyproject.toml."""

from __future__ import annotations

import ast
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
def modules() -> dict[str, ast.Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def test_import_rules_of_pyproject_are_kept():
    done = subprocess.run(["lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True)
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


# ── the front door ───────────────────────────────────────────────────────────────────────────────


def test_the_names_of_the_contract_are_public():
    assert set(multiembed.__all__) >= PUBLIC
    assert len(set(multiembed.__all__)) == len(multiembed.__all__)


@pytest.mark.parametrize("name", sorted({*multiembed.__all__, *PUBLIC}))
def test_every_public_name_can_be_imported(name):
    room = {}
    exec(f"from multiembed import {name}", room)
    assert room[name] is getattr(multiembed, name)
    assert name in dir(multiembed)


def test_a_name_that_is_not_public_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="EmbedingClient"):
        multiembed.EmbedingClient  # noqa: B018


def test_the_adapters_show_one_class_each():
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


def test_importing_the_langchain_class_loads_no_more_than_langchain_does():
    loaded = loads("langchain_multiembed", after="langchain_core.embeddings, pydantic")
    assert "langchain_multiembed" in loaded
    assert loaded.isdisjoint({"llama_index", "httpx", "numpy"})


def test_importing_the_llamaindex_class_loads_no_langchain():
    loaded = loads("llamaindex_multiembed", after="llama_index.core.base.embeddings.base")
    assert "llamaindex_multiembed" in loaded
    assert loaded.isdisjoint({"langchain_core", "langchain_multiembed", "httpx"})
