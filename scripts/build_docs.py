"""Builds the documentation site from docs/, after it has filled the generated parts of the pages from the code.

    python scripts/build_docs.py             into build/site; warnings are errors
    python scripts/build_docs.py --check     only check that the generated parts are those of the code

A part between `<!-- models: zhipu -->` and `<!-- end -->` is the table of a provider's models. Other parts are
`catalog` (models of all providers), `providers`, `options`, `errors`, `servers` and `commands`. The pages of the
OpenAI-compatible servers are made from servers.toml. The site's architecture, changelog and Chinese pages are files of
the repository.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import typer.main

import multiembed
from multiembed.cli.app import app
from multiembed.cli.help import EXAMPLES
from multiembed.config.options import EmbeddingOptions
from multiembed.providers import PROVIDERS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCES = ROOT / "build" / "docs"
REPOSITORY_FILES = {"architecture.md": "ARCHITECTURE.md", "changelog.md": "CHANGELOG.md", "chinese.md": "README.zh.md"}
_PART = re.compile(r"^(<!-- (\w+)(?:: (\S+))? -->)$.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)

SERVER = """# {name}

```python
from langchain_multiembed import MultiEmbeddings  # or llamaindex_multiembed.MultiEmbedding(model_name=…)

embeddings = MultiEmbeddings(
    {arguments}
)
```

- **Address**: {address}
- **Key**: {key}{variable}
- **Model**: {model}
- **Source**: {source}, read 2026-11-28
{insecure}
{notes}

The options of every OpenAI-compatible server are on [this page](../providers/openai-compatible.md). When it does not
work, `multiembed doctor openai-compatible --base-url …` finds out why.
"""


INSECURE = """
An `http://` address on another machine is refused, because key and texts would travel unencrypted. Use `https://`, or
pass `allow_insecure=True` in a network that you trust.
"""


def servers() -> dict[str, dict[str, Any]]:
    """The OpenAI-compatible servers by the names of their pages."""
    return tomllib.loads((DOCS / "servers.toml").read_text(encoding="utf-8"))


def pages() -> dict[Path, str]:
    """The pages that have generated parts, as they must be."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        found[path] = _PART.sub(lambda part: f"{part[1]}\n{_TABLES[part[2]](part[3])}\n<!-- end -->", text)
    for page, server in servers().items():
        arguments = ",\n    ".join(f"{name}={json.dumps(value)}" for name, value in server["options"].items())
        notes = server.get("notes", "").strip()
        insecure = INSECURE if server["options"]["base_url"].startswith("http://") else ""
        variable = "" if server["key"] == "none" else "; in `api_key=`, or in the variable `OPENAI_COMPATIBLE_API_KEY`"
        parts = {"arguments": f"{arguments},", "notes": notes, "insecure": insecure, "variable": variable}
        text = SERVER.format(**{**server, **parts})
        found[DOCS / "servers" / f"{page}.md"] = re.sub(r"\n{3,}", "\n\n", text)
    return found


def refresh(*, write: bool) -> list[Path]:
    """Write the pages that differ from what they must be. Returns: those pages."""
    changed = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed if write else ():
        path.parent.mkdir(exist_ok=True)
        path.write_text(pages()[path], encoding="utf-8")
    return changed


def table(head: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in lines)


def models(provider: str) -> str:
    """The models of a provider."""
    rows = [
        [
            f"`{model.name}`",
            " ".join(map(str, model.dimensions or ("any",))),
            model.default_dimensions or "",
            model.limits.max_items,
            model.limits.max_tokens_per_item or "",
            "" if model.price_cny_per_mtok is None else f"{model.price_cny_per_mtok:g}",
            ", ".join(
                filter(None, ("sparse" if model.sparse else "", "query/document" if model.role_parameter else ""))
            ),
            f"[{model.checked}]({model.source})" if model.source.startswith("http") else model.checked,
        ]
        for model in PROVIDERS[provider].models
    ]
    head = [
        "model",
        "dimensions",
        "default",
        "texts a request",
        "tokens a text",
        "CNY a million tokens",
        "extras",
        "checked on",
    ]
    empty = head.index("extras")
    if not any(row[empty] for row in rows):
        rows = [[cell for column, cell in enumerate(row) if column != empty] for row in [head, *rows]]
        head = rows.pop(0)
    notes = [f"- `{each.name}`: {each.notes}" for each in PROVIDERS[provider].models if each.notes]
    return table(head, rows) + ("\n\n" + "\n".join(notes) if notes else "")


def catalog(_: str | None) -> str:
    """The models of all providers: dimensions and price."""
    rows, defaults = [], []
    for name, provider in PROVIDERS.items():
        if provider.compute is None:
            defaults.append(f"- `{name}`: {str(provider.unknown.limits)[len('Limits(') : -1]}")
        for model in provider.models if name != "dashscope-compatible" else ():  # it has models of dashscope
            sizes = [
                f"**{size}**" if size == model.default_dimensions else str(size)
                for size in model.dimensions or ("any",)
            ]
            price = model.price_cny_per_mtok
            shown = "" if price is None else f"{price:g}" if price else "free"
            rows.append([f"`{name}:{model.name}`", " ".join(sizes), "none" if provider.compute else shown])
    shown = table(["model", "dimensions (default in bold)", "CNY a million tokens"], rows)
    return f"{shown}\n\nDefaults for a model that is not listed; `limits=` changes them:\n\n" + "\n".join(defaults)


def providers(_: str | None) -> str:
    """All providers: where keys and addresses come from."""
    rows, addresses = [], []
    for name, provider in PROVIDERS.items():
        regions = ", ".join(f"`{region}`" for region in provider.regions) or "given by you"
        urls = ", ".join(f"`{region}` {url}" for region, url in provider.regions.items())
        addresses += [f"- `{name}`: {urls}"] if urls else []
        variables = [
            ", ".join(f"`{each}`" for each in names) or "none" for names in (provider.key_env, provider.base_url_env)
        ]
        page = (DOCS / "providers" / f"{name}.md").exists()
        rows.append(
            [
                f"[`{name}`]({name}.md)" if page else f"`{name}`",
                *variables,
                "no network" if provider.compute else regions,
            ]
        )
    shown = table(["provider", "key from", "address from", "regions"], rows)
    return f"{shown}\n\nThe addresses of the regions; the first is the default:\n\n" + "\n".join(addresses)


def options(_: str | None) -> str:
    """Every option with its type, default and description."""
    types = multiembed.EmbeddingOptionsDict.__annotations__
    parts = []
    for name, field in EmbeddingOptions.model_fields.items():
        hint = getattr(types[name], "__forward_arg__", str(types[name]))
        description = " ".join((field.description or "").split())
        parts.append(f"### `{name}`\n\nType `{hint}`, default `{field.default!r}`.\n\n{description}\n")
    return "\n".join(parts)


def errors(_: str | None) -> str:
    """The tree of errors, as its module draws it."""
    lines = (multiembed.errors.__doc__ or "").splitlines()
    return "```text\n" + "\n".join(line.removeprefix("    ") for line in lines if line.startswith("    ")) + "\n```"


def list_servers(_: str | None) -> str:
    """The OpenAI-compatible servers."""
    rows = [
        [f"[{each['name']}](../servers/{page}.md)", each["address"], each["key"]] for page, each in servers().items()
    ]
    return table(["server", "`base_url`", "key"], rows)


def commands(_: str | None) -> str:
    """Every command with its options."""
    parts = []

    def add(name: str, command: Any) -> None:
        for sub, child in getattr(command, "commands", {}).items():
            add(f"{name} {sub}", child)
        if not getattr(command, "commands", None):
            rows = [
                [", ".join(f"`{each}`" for each in option.opts), (getattr(option, "help", "") or "")]
                for option in command.params
                if not option.hidden
            ]
            described = " ".join((command.help or "").split())
            examples = "\n".join(EXAMPLES[name.removeprefix("multiembed ")])
            shown = f"```sh\n{examples}\n```\n\n{table(['option', 'meaning'], rows)}"
            parts.append(f"## {name}\n\n{described}\n\n{shown}\n")

    add("multiembed", typer.main.get_command(app))
    return "\n".join(parts)


def stats(_: str | None) -> str:
    """The fields of ClientStats."""
    return table(["field"], [[f"`{each.name}`"] for each in dataclasses.fields(multiembed.ClientStats)])


_TABLES = {
    "models": models,
    "catalog": catalog,
    "providers": providers,
    "options": options,
    "errors": errors,
    "servers": list_servers,
    "commands": commands,
    "stats": stats,
}


def with_links_of_site(text: str) -> str:
    """The text of a file of the repository or of docs/, with links as the site's pages need them."""
    text = text.replace("](docs/", "](").replace("](README.md)", "](index.md)")
    for page, source in REPOSITORY_FILES.items():
        text = text.replace(f"]({source})", f"]({page})").replace(f"](../{source})", f"]({page})")
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)*(?:notebooks[^)]*|CONTRIBUTING\.md)\)", r"\1", text)  # not on the site


def main() -> int:
    """Refresh the pages and build the site; the exit status."""
    check = "--check" in sys.argv
    changed = refresh(write=not check)
    if check:
        print(*(f"{path.relative_to(ROOT)} is out of date: run scripts/build_docs.py." for path in changed), sep="\n")
        return int(bool(changed))
    shutil.rmtree(SOURCES, ignore_errors=True)
    shutil.copytree(DOCS, SOURCES, ignore=shutil.ignore_patterns("*.toml"))
    for page, source in REPOSITORY_FILES.items():
        shutil.copy(ROOT / source, SOURCES / page)
    for path in SOURCES.glob("*.md"):
        path.write_text(with_links_of_site(path.read_text(encoding="utf-8")), encoding="utf-8")
    command = ["zensical", "build", "--strict", "--clean", "-f", str(ROOT / "mkdocs.yml")]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    raise SystemExit(main())
