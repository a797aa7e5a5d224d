"""Run the notebooks against the simulator and keep their outputs: `python notebooks/refresh.py [NOTEBOOK…]`.

No key reaches them, so what is kept is what everybody sees who has none. Progress bars are left out: they tell how
fast this machine was. A warning, or a picture that is too large for a repository, is a mistake.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbclient import NotebookClient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nbformat import NotebookNode

HERE = Path(__file__).parent
NOTEBOOKS = sorted(HERE.glob("*.ipynb"))
LARGEST_PICTURE = 60_000
"""Bytes of one PNG."""

_SECONDS = 120
# All but those that Python hides from everybody: Qdrant leaves a connection to SQLite open, which 3.13 notices.
_WARNINGS = "default,ignore::ResourceWarning"
_VENDORS = ("ZHIPU", "ZAI_", "SILICONFLOW_", "DASHSCOPE_", "OPENAI_", "MULTIEMBED_")
_WIDGET = "application/vnd.jupyter.widget-view+json"


async def run(notebook: NotebookNode, directory: Path) -> NotebookNode:
    """The notebook, run from a fresh kernel in that directory; its progress bars left out.

    Raises:
        CellExecutionError: a cell failed.
    """
    client = NotebookClient(
        notebook,
        timeout=_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(directory)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    await client.async_execute(env=_environment(os.environ, directory))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_bar(output)]
    return notebook


def complaints(notebook: NotebookNode) -> list[str]:
    """What must not be kept: warnings and other words on stderr, and pictures that are too large."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr":
                found.append(f"{cell.id}: {output.text}")
            picture = output.get("data", {}).get("image/png", "")
            if len(picture) * 3 // 4 > LARGEST_PICTURE:
                found.append(f"{cell.id}: a picture of {len(picture) * 3 // 4:,} bytes")
    return found


def _environment(environ: Mapping[str, str], directory: Path) -> dict[str, str]:
    """The environment without keys, addresses and proxies; IPython's own files in the directory; warnings shown."""
    kept = {
        name: value
        for name, value in environ.items()
        if not name.upper().startswith(_VENDORS) and not name.upper().endswith("_PROXY")
    }
    return {
        **kept,
        "PYTHONWARNINGS": _WARNINGS,
        "IPYTHONDIR": str(directory / ".ipython"),
        "PYTHONPATH": str(HERE.parent),
    }


def _is_bar(output: NotebookNode) -> bool:
    return _WIDGET in output.get("data", {}) or (output.get("name") == "stderr" and "%|" in output.text)


async def _main(paths: list[Path]) -> int:
    status = 0
    for path in paths:
        with tempfile.TemporaryDirectory() as directory:
            notebook = await run(nbformat.read(path, as_version=4), Path(directory))
        if wrong := complaints(notebook):
            print(f"{path.name} is not kept:", *wrong, sep="\n")
            status = 1
            continue
        nbformat.write(notebook, path)
        print(f"{path.name} is kept")
    return status


if __name__ == "__main__":
    sys.exit(asyncio.run(_main([Path(name) for name in sys.argv[1:]] or NOTEBOOKS)))
