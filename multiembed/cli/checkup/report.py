"""The findings for people, in 80 columns, and for machines."""

from __future__ import annotations

import platform
import ssl
from dataclasses import asdict
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

import multiembed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from multiembed.cli.checkup.findings import Finding, Patient

_LIBRARIES = ("httptools", "httpx", "certifi", "numpy", "orjson", "pysimdjson", "langchain-core", "llama-index-core")
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_NAMES = max(map(len, ("address", "regions")))


def versions() -> dict[str, str]:
    """Of everything that a bug report needs; what is not installed is left out."""
    found = {
        "multiembed": multiembed.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "OpenSSL": ssl.OPENSSL_VERSION.split()[1],
    }
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def show_versions(console: Console) -> None:
    """Print them in a sentence."""
    known = versions()
    console.print(
        f"multiembed {known.pop('multiembed')} on Python {known.pop('Python')}, {known.pop('system')}", highlight=False
    )
    console.print(", ".join(f"{name} {version}" for name, version in known.items()), style="dim", highlight=False)
    console.print(
        "Each provider that has a key gets two calls of one short text, which cost next to nothing.\n", highlight=False
    )


def show(console: Console, who: Patient, findings: Sequence[Finding]) -> None:
    """Print one provider's findings."""
    console.print(Text(f"{who.id}:{who.model}" if who.model else who.id, style="bold"))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=_NAMES)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        state = "FAIL" if finding.state == "fail" else finding.state
        table.add_row(f"  {finding.name}", Text(state, style=_STYLES[finding.state]), Text(finding.says))
        if finding.advice:
            table.add_row("", Text("do:", style="bold"), Text(finding.advice, style="bold"))
    console.print(table)
    console.print()


def show_without_key(console: Console, missing: Mapping[str, Finding], *, nobody: bool) -> None:
    """Print briefly who has no key, and what to do when nobody has one."""
    if not missing:
        return
    width = max(map(len, missing))
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=width)
    table.add_column(overflow="fold")
    for provider, finding in missing.items():
        table.add_row(Text(provider, style="bold"), Text(f"no key{finding.says.removeprefix('none')}", style="dim"))
    console.print(table)
    if nobody:
        console.print("No provider has a key: `multiembed doctor PROVIDER` says where to get one.", highlight=False)
    console.print()


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether nothing failed."""
    return all(finding.state != "fail" for finding in findings)


def show_verdict(console: Console, seen: Mapping[str, Sequence[Finding]]) -> None:
    """Print the end of it."""
    ill = {
        provider: next(finding.name for finding in findings if finding.state == "fail")
        for provider, findings in seen.items()
        if not is_well(findings)
    }
    if ill:
        named = ", ".join(f"{provider} ({name})" for provider, name in ill.items())
        console.print(Text(f"Does not work: {named}.", style="bold red"))
    else:
        console.print(Text(f"Works: {', '.join(seen)}.", style="green"))


def as_json(seen: Mapping[str, tuple[Patient, Sequence[Finding]]], missing: Mapping[str, Finding]) -> dict[str, Any]:
    """Everything, without secrets."""
    rows: list[dict[str, Any]] = [
        {
            "provider": provider,
            "model": who.model,
            "state": "well" if is_well(findings) else "ill",
            "findings": [asdict(finding) for finding in findings],
        }
        for provider, (who, findings) in seen.items()
    ]
    rows += [{"provider": provider, "model": None, "state": "no key", "findings": []} for provider in missing]
    return {"versions": versions(), "well": all(row["state"] != "ill" for row in rows), "providers": rows}
