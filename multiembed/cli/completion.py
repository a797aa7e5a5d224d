"""Shell completion of providers and models."""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WITHOUT_MODELS = ("openai-compatible", "gateway")
"""Providers that take any model, so that the catalog has no row of them."""


def complete_model(incomplete: str) -> list[str]:
    """The models, as provider:model, that begin with the text."""
    from multiembed import list_models

    names = [f"{owner.id}:{model.name}" for owner, model in list_models()]
    names += [f"{name}:" for name in WITHOUT_MODELS]
    return [name for name in names if name.startswith(incomplete)]


def complete_provider(incomplete: str) -> list[str]:
    """The providers that begin with the text, and after a colon their models."""
    if ":" in incomplete:
        return complete_model(incomplete)
    return list(dict.fromkeys(model.partition(":")[0] for model in complete_model(incomplete)))


def run_completion(run: Callable[[], object]) -> None:
    """Answer a request of the shell. Bash breaks words at : and =, and replaces only what follows the last of them."""
    if os.environ.get("_MULTIEMBED_COMPLETE") != "complete_bash":
        run()
        return
    words, current = os.environ.get("COMP_WORDS", "").split("\n"), int(os.environ.get("COMP_CWORD", 0))
    joined = re.sub(r"\n([:=]+)(\n|$)", r"\1", "\n".join(words[: current + 1]))
    word = joined.rpartition("\n")[2]
    os.environ.update(COMP_WORDS=joined, COMP_CWORD=str(joined.count("\n")))
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            run()
    finally:
        value = word.rpartition("=")[2]
        before = value[: value.rfind(":") + 1]
        sys.stdout.write("".join(f"{line.removeprefix(before)}\n" for line in shown.getvalue().splitlines()))
