"""Log lines by level; none holds a key or a text."""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import sys
from contextlib import suppress

import pytest
from support.scripted_server import Reply, openai_reply, scripted

from multiembed import EmbeddingClient, MultiEmbedError, no_waits

NUMBERS = itertools.count()


@pytest.fixture(params=["sync", "async"])
def lines(request, caplog):
    """`lines(answer, texts, level, **options)`: what a call logs, as "LEVEL message"."""

    def run(answer, texts, level=logging.DEBUG, **options):
        with scripted(answer) as server, caplog.at_level(level, logger="multiembed"), no_waits():
            client = EmbeddingClient("gateway:m", api_key=f"sk-logged-{next(NUMBERS)}", base_url=server.url, **options)
            with suppress(MultiEmbedError):
                client.embed(texts) if request.param == "sync" else asyncio.run(client.aembed(texts))
        found = [
            f"{record.levelname} {record.getMessage()}" for record in caplog.records if record.name == "multiembed"
        ]
        assert not [line for line in found if "sk-logged" in line or "secret text" in line]
        return found

    return run


def test_each_request_and_the_call_are_logged(lines):
    def answer(request):
        return openai_reply(request, request_id="id-1\x1b[31m")

    logged = lines(answer, ["secret text"])
    assert len(logged) == 2
    assert logged[0].startswith("DEBUG gateway:m: 1 texts, attempt 1, status 200 in ")
    assert "1 tokens, request id id-1" in logged[0]
    assert logged[0].isprintable()
    assert logged[1].startswith("INFO gateway:m: 1 texts in ")
    assert "0 failed, 0 from cache; 1 requests, 0 retries, 1 tokens, unknown CNY" in logged[1]


def test_refusals_pauses_and_retries_are_logged(lines):
    answers = iter([Reply({"error": {"message": "secret text is too fast", "code": "rate_limit"}}, 429)] * 2)

    logged = lines(lambda request: next(answers, openai_reply(request)), ["secret text"])
    assert [line.split(",")[1].strip() for line in logged if "DEBUG" in line] == ["attempt 1", "attempt 2", "attempt 3"]
    assert sum("status 429" in line and "rate_limit, code rate_limit" in line for line in logged) == 2
    assert sum(line.startswith("INFO gateway:m: paused for ") and "rate_limit" in line for line in logged) == 2


def test_learned_limit_is_logged(lines):
    numbers = itertools.count()

    def answer(request):
        busy = Reply({"error": {"message": "too many requests per minute"}}, 429)
        return busy if next(numbers) in (60, 61, 62) else openai_reply(request)

    logged = lines(
        answer,
        [f"secret text {number}" for number in range(120)],
        logging.INFO,
        limits={"max_items": 1},
        max_concurrency=1,
    )
    assert any("slowed down to" in line and "requests per second" in line for line in logged)


def test_outage_and_its_end_are_logged(lines):
    numbers = itertools.count()

    def answer(request):
        return Reply(b"", 503) if 3 <= next(numbers) < 7 else openai_reply(request)

    logged = lines(
        answer,
        [f"secret text {number}" for number in range(8)],
        logging.INFO,
        limits={"max_items": 1},
        max_concurrency=1,
    )
    assert any("circuit breaker open" in line for line in logged)
    assert any("works again" in line for line in logged)


def test_text_that_is_given_up_is_a_warning(lines):
    def answer(request):
        return Reply(b"", 500) if "secret text 3" in request.texts else openai_reply(request)

    logged = lines(answer, [f"secret text {number}" for number in range(40)], logging.WARNING)
    assert logged == ["WARNING gateway:m: one text makes requests fail (server) and is given up"]


def test_learned_cap_is_logged(lines):
    def answer(request):
        if len(request.texts) > 3:
            return Reply({"error": {"message": "maximum allowed batch size 3"}}, 413)
        return openai_reply(request)

    logged = lines(answer, [f"secret text {number}" for number in range(10)], logging.INFO)
    assert "INFO gateway:m: the server takes 3 texts in a request" in logged


def test_nothing_is_logged_above_the_level(lines):
    assert lines(openai_reply, ["secret text"], logging.WARNING) == []


def test_unconfigured_logging_prints_nothing():
    code = "import multiembed.observability.log; multiembed.observability.log.logger.warning('a warning')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
