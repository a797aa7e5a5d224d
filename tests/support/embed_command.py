"""Runs `multiembed embed` and reads what it wrote."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
from typer.testing import CliRunner

from multiembed.cli.app import app

ZHIPU = "zhipu:embedding-3"


def embed(*arguments, stdin=None):
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return runner.invoke(app, ["embed", *map(str, arguments)], input=stdin)


def said(done):
    return " ".join(done.output.split())


def rows_of(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines(path, texts):
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def rows(path, texts):
    path.write_text("".join(json.dumps({"n": n, "text": text}) + "\n" for n, text in enumerate(texts)))
    return path
