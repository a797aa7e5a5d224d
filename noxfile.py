"""Tasks of development: `nox -l` lists them, `nox -s test-fast` runs one.

Each session installs what it needs into an environment of its own; with `--no-venv` it uses the active one.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "test-fast"]
EVERYTHING = ("--editable", ".[all,notebooks]")


def _install(session: nox.Session) -> None:
    if session.virtualenv.is_sandboxed:
        session.install(*EVERYTHING, *_group("dev"))


def _group(name: str) -> tuple[str, ...]:
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name)


@nox.session(name="test-fast")
def test_fast(session: nox.Session) -> None:
    """Tests without sockets and threads, in under 25 seconds; arguments go to pytest."""
    _install(session)
    session.run("pytest", "-m", "unit", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """All tests but those marked slow; arguments go to pytest."""
    _install(session)
    session.run("pytest", *session.posargs)


@nox.session(python="3.11", venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """All tests with the lowest release of each dependency that pyproject.toml allows; arguments go to pytest."""
    session.install("--resolution", "lowest-direct", "--editable", ".[all]")
    installed = Path(session.create_tmp(), "lowest.txt")
    installed.write_text(str(session.run("uv", "--quiet", "pip", "freeze", "--exclude-editable", silent=True)))
    session.install("--constraint", str(installed), *_group("test"))
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, import rules, and the words of prose."""
    _install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports")
    session.run("python", "scripts/check_words.py")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types."""
    _install(session)
    session.run("mypy")


@nox.session
@nox.parametrize("framework", ["langchain", "llamaindex"])
def stores(session: nox.Session, framework: str) -> None:
    """Hybrid search in real Qdrant and Milvus Lite; the stores of the frameworks exclude each other."""
    if session.virtualenv.is_sandboxed:
        groups = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), f"stores-{framework}")
        session.install("--editable", f".[{framework}]", *groups)
    session.run("pytest", "-m", "stores", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests, and the branches of the code that they take."""
    _install(session)
    session.run("pytest", "--cov", "--cov-report=term:skip-covered", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare speed with benchmarks/baseline.json; fails above +15 %."""
    _install(session)
    session.run("python", "benchmarks/check_baseline.py", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and source archive: built, checked, tried in clean environments. `--lock` renews the lock file."""
    _install(session)
    session.run("python", "scripts/check_package.py", *session.posargs)


@nox.session(venv_backend="none")
def ci(session: nox.Session) -> None:
    """What has to pass before a change lands."""
    session.run("bash", ".ci/run", external=True)
