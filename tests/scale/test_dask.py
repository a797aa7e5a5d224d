"""The lines for Dask of docs/data-engines.md, over a Parquet file."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from support.engines import block, check_rows, write_rows

pytestmark = [pytest.mark.dask, pytest.mark.filterwarnings("default")]


def test_parquet_file_comes_back_with_its_vectors(simulator, tmp_path, monkeypatch):
    pytest.importorskip("dask.dataframe")
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    monkeypatch.setenv("DASHSCOPE_BASE_URL", simulator.base_url("dashscope"))
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "texts.parquet")
    exec(compile(block("Dask"), "documentation", "exec"), {})
    table = pq.read_table(tmp_path / "vectors")
    check_rows(dict(zip(table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True)))
    assert len(simulator.requests) <= 2200
