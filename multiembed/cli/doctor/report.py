"""Report of the findings: text for a terminal of any width, or JSON."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

import multiembed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from multiembed.cli.doctor.setup import Finding, Setup

_LIBRARIES = (
    *("aiohttp", "httpx", "certifi", "truststore"),
    *("numpy", "orjson", "pysimdjson", "langchain-core", "llama-index-core"),
)
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def versions() -> dict[str, str]:
    """The versions that a bug report needs; a package that is not installed is left out."""
    system = {"Python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    found = {"multiembed": multiembed.__version__, **system}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def show(console: Console, setup: Setup, findings: Sequence[Finding]) -> None:
    """Print one provider's findings."""
    console.print(Text(":".join(filter(None, (setup.provider.id, setup.model))), style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        state = "FAIL" if finding.state == "fail" else finding.state
        table.add_row(Text(f"  {state}", style=_STYLES[finding.state]), Text(f"{finding.name}: {finding.says}"))
        if finding.advice:
            table.add_row(Text("  do:", style="bold"), Text(finding.advice, style="bold"))
    console.print(table)
    console.print()


def failed_check(findings: Sequence[Finding]) -> str | None:
    """The name of the first check that failed."""
    return next((finding.name for finding in findings if finding.state == "fail"), None)


def show_summary(console: Console, results: Mapping[Setup, Sequence[Finding]], missing: Mapping[str, Finding]) -> None:
    """Print the providers without a key, and the result."""
    for provider, finding in missing.items():
        console.print(Text(f"{provider}: no key{finding.says.removeprefix('none')}", style="dim"))
    if missing and not any(setup.provider.key_env for setup in results):
        console.print("No provider has a key: `multiembed doctor PROVIDER` says where to get one.", highlight=False)
    if missing:
        console.print()
    failed = [f"{setup.provider.id} ({name})" for setup, each in results.items() if (name := failed_check(each))]
    if failed:
        console.print(Text(f"Does not work: {', '.join(failed)}.", style="bold red"))
    else:
        console.print(Text(f"Works: {', '.join(setup.provider.id for setup in results)}.", style="green"))


def as_json(results: Mapping[Setup, Sequence[Finding]], missing: Mapping[str, Finding]) -> dict[str, Any]:
    """The versions and all findings, without secrets."""
    rows: list[dict[str, Any]] = [
        {
            "provider": setup.provider.id,
            "model": setup.model,
            "state": "ill" if failed_check(findings) else "well",
            "findings": [asdict(finding) for finding in findings],
        }
        for setup, findings in results.items()
    ]
    rows += [{"provider": provider, "model": None, "state": "no key", "findings": []} for provider in missing]
    return {"versions": versions(), "well": all(row["state"] != "ill" for row in rows), "providers": rows}
