"""The blocks of docs/data-engines.md, and the Parquet file of real rows that the engines read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from multiembed.providers.local import embed

PAGE = Path(__file__).parents[2] / "docs" / "data-engines.md"
ROWS = 20_000
SIZE = 256
MISSING = range(0, ROWS, 997)
"""Rows without a text."""
EMPTY = (5, 4321, 19_999)
"""Rows whose text the API rejects."""


def block(heading: str) -> str:
    """The first Python block below a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[:1]
    return code


def texts(rows: int = ROWS) -> list[str | None]:
    return [None if row in MISSING else "" if row in EMPTY else f"row {row}: 向量 {row * 7919}" for row in range(rows)]


def write_rows(path: Path, rows: int = ROWS) -> None:
    """Write a Parquet file with ids and texts, in row groups."""
    table = pa.table({"id": pa.array(range(rows), pa.int64()), "text": pa.array(texts(rows), pa.string())})
    pq.write_table(table, path, row_group_size=2500)


def check_rows(rows: dict[int, object], count: int = ROWS) -> None:
    """Check the vector of each row, by its id; rows without a vector are None."""
    given = texts(count)
    assert sorted(rows) == list(range(count))
    assert {row for row, vector in rows.items() if vector is None} == {
        row for row, text in enumerate(given) if not text
    }
    kept = [row for row, text in enumerate(given) if text]
    vectors = np.array([rows[row] for row in kept], dtype=np.float32)
    assert np.array_equal(vectors, embed([given[row] for row in kept], SIZE))
