"""Messages of the core in the words of the command line."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from multiembed import EmbeddingOptions
from multiembed.cli.app import app
from multiembed.cli.messages import in_command_words


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "No key: set A, or pass api_key. Else pass key_in_pickle=True there.",
            "No key: set A, or pass --api-key-env.",
        ),
        ("Set A; in a worker, pass key_in_pickle=True.", "Set A."),
        ("'dimensions': must be greater than 0.", "--dimensions: must be greater than 0."),
        (
            "Give base_url or region, not both: a region is one.",
            "Give --base-url or --region, not both: a region is one.",
        ),
        ("no place for instruct; query_prefix='recommended'", "no place for --instruct; --query-prefix recommended"),
        ("use https://, or allow_insecure=True if you must", "use https://, or --allow-insecure if you must"),
        ("unless limits={'max_items': …} says it", "unless --limits max_items=… says it"),
        ("HTTPS_PROXY=http://host:port or proxy=.", "HTTPS_PROXY=http://host:port or --proxy."),
        ("within the timeout. Raise timeout, or", "within the timeout. Raise --timeout, or"),
        (
            "parameters may not hold 'x': use the option dimensions.",
            "--parameters may not hold 'x': use the option --dimensions.",
        ),
        ("leave send_dimensions out", "leave --no-send-dimensions out"),
        (
            "The dimensions of the query, its region and timeout.",
            "The dimensions of the query, its region and timeout.",
        ),
        ("given as cache=….", "given as --cache."),
    ],
)
def test_option_names_become_those_of_the_command_line(message, words):
    assert in_command_words(message) == words


WRONG = {
    "--auth-header": "Host",
    "--base-url": "nowhere",
    "--ca-bundle": "missing.pem",
    "--client-cert": "missing.pem",
    "--deadline": "0",
    "--dimensions": "-1",
    "--headers": "Host=x",
    "--instruct": "Find it",
    "--limits": "texts=3",
    "--max-concurrency": "0",
    "--max-retries": "-1",
    "--parameters": "input=3",
    "--proxy": "socks5://x",
    "--query": "=x",
    "--query-prefix": "recommended",
    "--region": "moon",
    "--requests-per-minute": "0",
    "--timeout": "0",
    "--tokens-per-minute": "0",
}


@pytest.mark.parametrize(("option", "value"), WRONG.items())
def test_wrong_value_is_reported_by_the_name_of_the_option(option, value, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_COMPATIBLE_API_KEY", "sk-0123456789abcdef")
    model = "zhipu:embedding-3" if option in ("--region", "--instruct", "--query-prefix") else "openai-compatible:m"
    address = () if option in ("--region", "--base-url") else ("--base-url", "http://127.0.0.1:9")
    monkeypatch.setenv("ZHIPUAI_API_KEY", "sk-0123456789abcdef")
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["embed-text", "a", "--model", model, *address, option, value])
    assert done.exit_code == 2, done.output
    assert option in done.stderr
    named = [name for name in EmbeddingOptions.model_fields if "_" in name]
    assert not [name for name in named if re.search(rf"\b{name}\b", done.stderr)]


def test_missing_key_names_no_option_of_python():
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["embed-text", "a", "--model", "zhipu:embedding-3"])
    assert done.exit_code == 2
    assert "set ZHIPUAI_API_KEY or ZAI_API_KEY, or pass --api-key-env" in done.stderr
    assert "pickle" not in done.stderr
