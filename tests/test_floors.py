"""The house stands: every room imports only what lies below it, and the front door opens without the furniture."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import multiembed

HOUSE = Path(multiembed.__file__).parents[1]
PACKAGES = ("multiembed", "langchain_multiembed", "llamaindex_multiembed")
GROUND, FACTS, ENGINE, CLIENT, EMBEDDER, PORCH, FACE = range(7)

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


@dataclass(frozen=True)
class Import:
    """One imported module (or name of one), and where it stands."""

    by: str
    module: str
    name: str | None
    typing_only: bool

    def __str__(self) -> str:
        return f"{self.by} imports {self.name or ''} from {self.module}"


def floor(module: str) -> int | None:
    """The floor of a module of ours; None for the simulator, which stands aside, and for what is not ours."""
    package, _, rest = module.partition(".")
    room = rest.partition(".")[0]
    if package in PACKAGES[1:] or room in ("cli", "files", "__main__"):
        return FACE
    if package != "multiembed" or room == "simulator":
        return None
    floors = {
        "": PORCH,
        "records": GROUND,
        "errors": GROUND,
        "providers": FACTS,
        "client": CLIENT,
        "embedder": EMBEDDER,
    }
    return floors.get(room, ENGINE)


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for package in PACKAGES:
        for path in sorted((HOUSE / package).rglob("*.py")):
            parts = path.relative_to(HOUSE).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for name, tree in modules().items() for found in _imports_of(name, tree, typing_only=False))


def _imports_of(by: str, node: ast.AST, *, typing_only: bool) -> list[Import]:
    if isinstance(node, ast.Import):
        return [Import(by, alias.name, None, typing_only) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert not node.level, f"{by} imports by a relative name"
        return [_imported(by, str(node.module), alias.name, typing_only=typing_only) for alias in node.names]
    found = []
    for child in ast.iter_child_nodes(node):
        guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and child in node.body
        found += _imports_of(by, child, typing_only=typing_only or guarded)
    return found


def _imported(by: str, module: str, name: str, *, typing_only: bool) -> Import:
    whole = f"{module}.{name}"
    return Import(by, whole, None, typing_only) if whole in modules() else Import(by, module, name, typing_only)


def _ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def _show(found: list[Import]) -> str:
    return "\n".join(map(str, found))


def test_every_room_of_the_core_imports_only_what_lies_below_it():
    climbing = [
        each
        for each in imports()
        if _ours(each.module)
        and (here := floor(each.by)) is not None
        and here != FACE
        and ((there := floor(each.module)) is None or there > here)
    ]
    assert not climbing, _show(climbing)


def test_the_simulator_imports_only_ground_and_facts():
    wrong = [
        each
        for each in imports()
        if _within(each.by, "multiembed.simulator")
        and _ours(each.module)
        and not _within(each.module, "multiembed.simulator")
        and floor(each.module) not in (GROUND, FACTS)
    ]
    assert not wrong, _show(wrong)


@pytest.mark.parametrize("face", [*PACKAGES[1:], "multiembed.cli", "multiembed.files"])
def test_a_face_imports_only_itself_and_public_names(face):
    # The demonstration shows the two adapters; a server's words reach the terminal by the core's own redaction only;
    # the doctor names the proxy that the core takes.
    allowed = (
        {*PACKAGES[1:], "multiembed.redaction", "multiembed.transport.proxies"} if face == "multiembed.cli" else set()
    )
    wrong = [
        each
        for each in imports()
        if _within(each.by, face)
        and _ours(each.module)
        and not _within(each.module, face)
        and not (each.module == "multiembed" and (each.name is None or each.name in multiembed.__all__))
        and not (face == "multiembed.cli" and each.module in ("multiembed.simulator", "multiembed.files"))
        and each.module not in allowed
    ]
    assert not wrong, _show(wrong)


def test_whoever_imports_the_package_whole_uses_only_its_public_names():
    holders = {each.by for each in imports() if each.module == "multiembed" and each.name is None}
    private = [
        f"{name} uses multiembed.{node.attr}"
        for name in holders
        for node in ast.walk(modules()[name])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "multiembed"
        and node.attr not in multiembed.__all__
    ]
    assert not private


def test_only_one_file_imports_httpx():
    imported = {each.by for each in imports() if _within(each.module, "httpx") and not each.typing_only}
    assert imported == {"multiembed.transport.httpx_client"}


NETWORK = ("aiohttp", "certifi", "h11", "http", "httpx", "select", "selectors", "socket", "ssl", "truststore", "yarl")


def test_only_the_transport_knows_sockets_tls_and_http():
    """The simulator is a server, and has its own."""
    wrong = [
        each
        for each in imports()
        if (each.module.partition(".")[0] in NETWORK or each.module == "urllib.request")
        and not each.typing_only  # the options name the user's httpx clients
        and not _within(each.by, "multiembed.transport")
        and not _within(each.by, "multiembed.simulator")
    ]
    assert not wrong, _show(wrong)


def test_the_core_imports_neither_framework():
    frameworks = ("langchain", "llama_index", "llamaindex")
    wrong = [
        each
        for each in imports()
        if _within(each.by, "multiembed")
        and not _within(each.by, "multiembed.cli")
        and each.module.startswith(frameworks)
    ]
    assert not wrong, _show(wrong)


def test_neither_adapter_imports_the_other_framework():
    strangers = {"langchain_multiembed": ("llama",), "llamaindex_multiembed": ("langchain",)}
    wrong = [
        each
        for face, prefixes in strangers.items()
        for each in imports()
        if _within(each.by, face) and each.module.startswith(prefixes)
    ]
    assert not wrong, _show(wrong)


def test_no_rooms_import_each_other_in_a_circle():
    graph = {name: set() for name in modules()}
    for each in imports():
        if not each.typing_only and each.module in graph and each.module != each.by:
            graph[each.by].add(each.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_every_module_says_in_its_first_line_what_it_is():
    mute = [name for name, tree in modules().items() if not (ast.get_docstring(tree) or "").partition("\n")[0].strip()]
    assert not mute


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
    done = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True, check=True)
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
