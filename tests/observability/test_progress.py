"""Progress bar: its steps for every way to embed, and its form in a terminal, a notebook and a log."""

from __future__ import annotations

import asyncio
import errno
import io
import re
import sys
import threading
from contextlib import closing

import pytest
from support.adapters import (
    DASHSCOPE,
    ENTRY_POINTS,
    REPOSITORY,
    SYNC_ENTRY_POINTS,
    call,
    client_of,
    options_for,
    texts_of,
)

from llamaindex_multiembed import MultiEmbedding
from multiembed import EmbeddingClient, PartialFailureError
from multiembed.execution.stream import CHUNK_TEXTS
from multiembed.observability import progress

PER_REQUEST = 10
"""Texts in one of DashScope's requests."""


class Bar:
    """Replacement of tqdm that keeps its settings and updates."""

    made: list[Bar]

    def __init__(self, *, total, desc, unit, **settings):
        self.total, self.desc, self.unit, self.settings = total, desc, unit, settings
        self.steps = []
        self.totals = []
        self.first_total = total
        self.closed = False
        self.made.append(self)

    def update(self, texts):
        assert not self.closed
        self.steps.append(texts)
        self.totals.append(self.total)

    def close(self):
        self.closed = True

    @property
    def done(self):
        return sum(self.steps)


@pytest.fixture(autouse=True)
def no_notebook(monkeypatch):
    """Hide ipykernel, which nbclient imports into this process."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


@pytest.fixture
def bars(monkeypatch):
    """All bars of the test."""
    monkeypatch.setattr(Bar, "made", [], raising=False)
    for module in ("tqdm", "tqdm.auto"):  # the second one is used where ipywidgets is installed
        monkeypatch.setattr(f"{module}.tqdm", Bar)
    return Bar.made


@pytest.fixture(params=ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def entry_point(request):
    return request.param


@pytest.fixture
def options(simulator):
    return options_for(simulator)


# ── updates of a bar ───────────────────────────────────────────────────────────────────────────────


def test_bar_moves_with_each_request_and_counts_repeated_texts(bars, options, entry_point):
    texts = [*texts_of(45), *texts_of(5)]
    call(entry_point.embed, entry_point.make(DASHSCOPE, show_progress=True, **options), texts)
    [bar] = bars
    assert (bar.desc, bar.unit, bar.total, bar.done, bar.closed) == (DASHSCOPE, "text", 50, 50, True)
    assert len([step for step in bar.steps if step]) == 5
    assert max(bar.steps) <= 2 * PER_REQUEST


@pytest.mark.usefixtures("simulator")
def test_no_bar_is_shown_by_default(bars, options, entry_point, capfd):
    embedder = entry_point.make(DASHSCOPE, **options)
    call(entry_point.embed, embedder, texts_of(25))
    call(entry_point.embed_query, embedder, "a query")
    assert bars == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("count", [1, PER_REQUEST])
def test_one_request_has_no_bar(bars, options, entry_point, count):
    embedder = entry_point.make(DASHSCOPE, show_progress=True, **options)
    call(entry_point.embed, embedder, texts_of(count))
    call(entry_point.embed_query, embedder, "a query")
    assert bars == []


def test_batch_split_by_tokens_has_a_bar(bars, options, entry_point):
    """Few texts may take several requests: the bar appears when the first of them is done."""
    limits = {"max_items": 10, "max_tokens_per_request": 60}
    texts = [f"{number} {'long text ' * 20}" for number in range(4)]
    call(entry_point.embed, entry_point.make(DASHSCOPE, show_progress=True, limits=limits, **options), texts)
    [bar] = bars
    assert (bar.total, bar.done, bar.closed) == (4, 4, True)


@pytest.mark.parametrize("method", ["get_text_embedding_batch", "aget_text_embedding_batch"])
def test_one_request_of_llamaindex_has_no_bar(bars, options, method):
    embedding = MultiEmbedding(model_name=DASHSCOPE, **options)
    call(getattr(embedding, method), texts_of(PER_REQUEST), show_progress=True)
    assert bars == []


def test_missing_ipywidgets_is_no_warning(monkeypatch, recwarn):
    """In a notebook without ipywidgets, tqdm.auto warns and then draws the bar of a terminal."""
    monkeypatch.setattr(progress, "find_spec", lambda _name: None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress.Progress("a-model", 600, several=True).close()
    assert not recwarn.list


def test_bar_counts_cached_texts_at_once(bars, options, entry_point, tmp_path):
    embedder = entry_point.make(DASHSCOPE, show_progress=True, cache=tmp_path / "cache.sqlite", **options)
    with closing(client_of(embedder)):
        call(entry_point.embed, embedder, texts_of(30))
        call(entry_point.embed, embedder, texts_of(40))
    assert bars[1].steps == [30, PER_REQUEST]


def test_bar_counts_failed_texts_and_is_closed(bars, simulator, options, entry_point):
    texts = texts_of(30)
    texts[17] = "this is MODERATED"
    simulator.fail("moderated")
    with pytest.raises(PartialFailureError):
        call(entry_point.embed, entry_point.make(DASHSCOPE, show_progress=True, **options), texts)
    [bar] = bars
    assert (bar.done, bar.closed) == (30, True)


@pytest.mark.parametrize("workers", [None, 4], ids=["", "workers"])
@pytest.mark.parametrize("method", ["get_text_embedding_batch", "aget_text_embedding_batch"])
@pytest.mark.parametrize("by", ["argument", "option"])
def test_show_progress_of_llamaindex_is_one_bar_for_all_windows(bars, options, method, by, workers):
    embedding = MultiEmbedding(
        model_name=DASHSCOPE, embed_batch_size=40, num_workers=workers, show_progress=by == "option", **options
    )
    call(getattr(embedding, method), texts_of(130), **({"show_progress": True} if by == "argument" else {}))
    [bar] = bars
    assert (bar.total, bar.done, bar.closed) == (130, 130, True)
    assert max(bar.steps) <= PER_REQUEST
    assert set(bar.totals) == {130}


def test_shared_bar_is_not_used_by_other_calls(bars, options):
    client = EmbeddingClient(DASHSCOPE, show_progress=True, **options)

    async def both():
        with client.progress(60):
            await asyncio.gather(client.aembed(texts_of(30, "one")), client.aembed(texts_of(30, "other")))
        await client.aembed(texts_of(17))

    asyncio.run(both())
    together, alone = bars
    assert (together.total, together.done, together.closed) == (60, 60, True)
    assert (alone.total, alone.done, alone.closed) == (17, 17, True)


@pytest.mark.parametrize("kind", ["stream", "astream"])
def test_bar_of_a_stream_grows_with_the_texts_read(bars, kind):
    client = EmbeddingClient("local:char-ngrams", dimensions=16, show_progress=True)
    count = 3 * CHUNK_TEXTS + 5

    async def read():
        return [len(block.vectors) async for block in client.astream(iter(texts_of(count)))]

    if kind == "astream":
        asyncio.run(read())
    else:
        assert sum(len(block.vectors) for block in client.stream(iter(texts_of(count)))) == count
    [bar] = bars
    assert (bar.total, bar.done, bar.closed) == (count, count, True)
    assert bar.totals == sorted(bar.totals)
    assert bar.first_total < count
    assert all(sum(bar.steps[: at + 1]) <= total for at, total in enumerate(bar.totals))


def test_stream_closed_early_closes_its_bar(bars):
    client = EmbeddingClient("local:char-ngrams", dimensions=16, show_progress=True)
    with closing(client.stream(iter(texts_of(5 * CHUNK_TEXTS)))) as stream:
        next(stream)
    assert bars[0].closed


# ── where it is shown ────────────────────────────────────────────────────────────────────────────


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=SYNC_ENTRY_POINTS.values(), ids=SYNC_ENTRY_POINTS)
def sync_entry_point(request):
    return request.param


def test_bar_in_a_terminal_is_one_line(monkeypatch, options, sync_entry_point):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    call(sync_entry_point.embed, sync_entry_point.make(DASHSCOPE, show_progress=True, **options), texts_of(60))
    shown = terminal.getvalue()
    assert shown.count("\n") == 1
    assert shown.endswith("\n")
    assert "60/60" in shown.split("\r")[-1]


def test_bar_on_a_stopped_terminal_blocks_no_other_call(monkeypatch, options):
    stopped, resume = threading.Event(), threading.Event()
    draw = progress.Progress.draw

    def held(bar):
        stopped.set()
        assert resume.wait(20)
        draw(bar)

    monkeypatch.setattr(progress.Progress, "draw", held)
    client = EmbeddingClient(DASHSCOPE, show_progress=True, **options)
    caller = threading.Thread(target=client.embed, args=[texts_of(60)])
    caller.start()
    try:
        assert stopped.wait(20)
        assert len(EmbeddingClient(DASHSCOPE, **options).embed(texts_of(60, "other")).vectors) == 60
    finally:
        resume.set()
        caller.join(20)


def test_bar_in_a_log_writes_few_whole_lines(monkeypatch, options, sync_entry_point):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "_LOG_INTERVAL", 1e6)
    call(sync_entry_point.embed, sync_entry_point.make(DASHSCOPE, show_progress=True, **options), texts_of(600))
    lines = log.getvalue().splitlines()
    assert len(lines) == 2, "only the first and the last state"
    assert "600/600" in lines[-1]
    assert not re.search(r"[\r\x1b]", log.getvalue())


def test_bar_in_a_log_writes_a_line_every_ten_seconds(monkeypatch):
    log, clock = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", log)
    bar = progress.Progress("a-model", 600, several=True)
    monkeypatch.setattr(bar._bar, "_time", lambda: clock[0])
    bar._bar.start_t = bar._bar.last_print_t = 0.0
    for _ in range(600):
        clock[0] += 0.1
        bar.done(1)
        bar.draw()
    bar.close()
    assert 5 <= len(log.getvalue().splitlines()) <= 9


def test_unchanged_line_is_not_repeated(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    progress.Progress("a-model", 600, several=True).close()
    assert len(log.getvalue().splitlines()) == 1


class Broken(io.StringIO):
    """A standard error whose descriptor is closed."""

    def write(self, _text):
        raise OSError(errno.EBADF, "Bad file descriptor")

    def flush(self):
        self.write("")


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("stream", [lambda: None, closed, Broken], ids=["missing", "closed", "broken"])
def test_bar_without_a_console_does_not_stop_the_call(stream, monkeypatch, options, entry_point):
    monkeypatch.setattr(sys, "stderr", stream())
    vectors = call(entry_point.embed, entry_point.make(DASHSCOPE, show_progress=True, **options), texts_of(25))
    assert len(vectors) == 25


CELLS = {
    "sync": "len(client.embed(texts).vectors)",
    "async": "len((await client.aembed(texts)).vectors)",
    "async with a cache": "len((await EmbeddingClient('local', cache='c', **options).aembed(texts)).vectors)",
    "stream": "sum(len(block.vectors) for block in client.stream(iter(texts)))",
    "together": "with client.progress(len(texts)):\n    client.embed(texts)\nlen(texts)",
}
"""All ways to 2,500 texts."""


def test_bar_in_a_notebook_is_a_widget_that_ends_full(tmp_path, monkeypatch):
    for needed in ("nbformat", "ipykernel", "ipywidgets"):
        pytest.importorskip(needed)
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat.v4")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    first = (
        "from multiembed import EmbeddingClient\n"
        "options = {'dimensions': 16, 'show_progress': True}\n"
        "client = EmbeddingClient('local:char-ngrams', **options)\n"
        "texts = [f'text {number}' for number in range(2500)]"
    )
    notebook = nbformat.new_notebook(cells=[nbformat.new_code_cell(cell) for cell in (first, *CELLS.values())])
    run = nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
    run.execute()
    for cell in notebook.cells[1:]:
        shown, result = cell.outputs
        assert result["data"]["text/plain"] == "2500"
        box = run.widget_state[shown["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]]
        label, bar, numbers = (run.widget_state[child.removeprefix("IPY_MODEL_")] for child in box["children"])
        assert label["value"].replace("\u2007", " ") == "local:char-ngrams: 100%"
        layout = run.widget_state[label["layout"].removeprefix("IPY_MODEL_")]
        assert layout["min_width"] == "max-content", "the label would be broken into lines"
        assert (bar["value"], bar["max"], bar["bar_style"]) == (2500, 2500, "success")
        assert "2500/2500" in numbers["value"]
