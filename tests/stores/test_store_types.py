"""What a strict type checker says of the companions in the stores' own signatures: tests/typing/stores_*.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.hybrid_stores import needs

pytestmark = pytest.mark.stores
REPOSITORY = Path(__file__).parents[2]
CASES = {
    "stores_langchain.py": ("pyright", "--pythonpath", sys.executable),
    # LlamaIndex's stores are not typed to pyright's strictness.
    "stores_llamaindex.py": ("mypy", "--strict", "--config-file", os.devnull, "--cache-dir", ".mypy_cache/stores"),
}
MODULES = {
    "stores_langchain.py": ("langchain_qdrant", "langchain_milvus"),
    "stores_llamaindex.py": ("llama_index.vector_stores.qdrant", "llama_index.vector_stores.milvus"),
}


@pytest.mark.parametrize("file", CASES)
def test_companions_have_the_types_of_the_stores(file):
    checker, *options = CASES[file]
    needs(checker, *MODULES[file])
    done = subprocess.run(
        [sys.executable, "-m", checker, *options, str(REPOSITORY / "tests" / "typing" / file)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
