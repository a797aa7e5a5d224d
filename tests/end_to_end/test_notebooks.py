"""The notebooks run from a fresh kernel without a key, say what is true, and keep the outputs of such a run."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
from pathlib import Path

import pytest

from multiembed.cli.corpus import passages, questions
from multiembed.providers import PROVIDERS

nbformat = pytest.importorskip("nbformat")
pytestmark = pytest.mark.notebook

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
KEYS = {
    "DASHSCOPE_API_KEY": "dashscope:text-embedding-v4",
    "SILICONFLOW_API_KEY": "siliconflow:Qwen/Qwen3-Embedding-0.6B",
    "ZHIPUAI_API_KEY": "zhipu:embedding-3",
}

SPARSE_ONLY = ("05_hybrid_search",)
"""Notebooks that only DashScope's key makes live."""

# What a cell at the end of each notebook tells of it.
TELL = "import json\nfrom multiembed.providers import local\nprint(json.dumps({{{facts}}}))"
FACTS = {
    "01_rag_langchain": """
        "answers": [reply["answer"] for reply in replies],
        "estimated": before.tokens, "billed": paid.total_tokens, "requests": paid.requests, "hits": hits,
    """,
    "02_index_llamaindex": """
        "chunks": len(chunks), "embedded": len(nodes), "requests": built.requests, "bills": bills,
        "edited": [node.text for node in index.docstore.docs.values() if node.ref_doc_id == "assert"],
        "ids": len(index.index_struct.nodes_dict),
    """,
    "03_choosing_provider_and_dimensions": """
        "sizes": sizes, "recall": recall, "known": list(known), "answered": bool(right.any(axis=1).all()),
        "ranks": {size: ranks[size].tolist() for size in sizes}, "rows": rows, "tokens": tokens,
        "shares": list(zip(low, recall[3], high)), "compared": compared, "enough": enough,
        "differences": [[*map(float, intervals[size]), float(differences[size].mean())] for size in intervals],
    """,
    "04_ingest_resume": """
        "right": bool((local.embed(texts, 512) == result.vectors).all()),
        "received": received(), "in_flight": simulator.peak_in_flight,
        "kept": kept, "interrupted": interrupted.requests,
        "resumed": [resumed.requests, resumed.cached_texts], "edited": [one_edited.requests, one_edited.cached_texts],
        "again": [nothing_new.requests, nothing_new.total_tokens, nothing_new.cost, nothing_new.cached_texts],
        "asked": client.usage.requests, "found": found[0].payload["title"],
    """,
    "05_hybrid_search": """
        "found": found, "asked": total, "requests": requests, "ingested": ingested.requests, "needed": needed,
    """,
}


@pytest.fixture(scope="module")
def refresh():
    """The program that makes the kept outputs."""
    spec = importlib.util.spec_from_file_location("refresh", NOTEBOOKS / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(refresh, tmp_path_factory):
    """Each notebook after a run, and its facts."""

    async def run(name):
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        notebook.cells.append(nbformat.v4.new_code_cell(TELL.format(facts=FACTS[name])))
        await refresh.run(notebook, tmp_path_factory.mktemp(name))
        return notebook, json.loads(notebook.cells.pop().outputs[0].text)

    async def run_all():
        return dict(zip(NAMES, await asyncio.gather(*map(run, NAMES)), strict=True))

    return asyncio.run(run_all())


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_without_a_key_and_without_a_warning(runs, refresh, name):
    notebook, _ = runs[name]
    shown = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert shown.startswith("SIMULATOR: no key")
    assert refresh.complaints(notebook) == []


@pytest.mark.parametrize("name", NAMES)
def test_kept_outputs_are_those_of_a_run(runs, name):
    kept = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    run, _ = runs[name]
    same_texts = kept.metadata.language_info.version == run.metadata.language_info.version
    for before, after in zip(kept.cells, run.cells, strict=True):
        assert kinds(before) == kinds(after)
        # Each Python carries a reference of its own, so another one finds, and counts, other passages.
        if same_texts and "varies" not in before.metadata.get("tags", ()):
            assert words(before) == words(after)


@pytest.mark.parametrize("name", NAMES)
def test_kept_outputs_are_small_and_name_no_machine(refresh, name):
    kept = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert refresh.complaints(kept) == []
    assert any("image/png" in output.get("data", {}) for cell in kept.cells for output in cell.get("outputs", ()))
    assert not re.search(
        r"/(home|tmp|Users|root|opt)/|127\.0\.0\.1|localhost", json.dumps(list(map(words, kept.cells)))
    )
    assert all("execution" not in cell.metadata for cell in kept.cells)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", [*KEYS, None])
def test_key_in_the_environment_makes_it_live(monkeypatch, capsys, name, key):
    if key:
        monkeypatch.setenv(key, "sk-live")
    switch = next(cell for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells if is_code(cell))
    namespace = {}
    exec(switch.source, namespace)
    if simulator := namespace.get("simulator"):
        simulator.stop()
    if name in SPARSE_ONLY and key != "DASHSCOPE_API_KEY":
        key = None
    assert namespace["LIVE"] == (key is not None)
    assert namespace["MODEL"] == KEYS.get(key, "dashscope:text-embedding-v4")
    assert capsys.readouterr().out.startswith("LIVE" if key else "SIMULATOR")
    assert ("base_url" in namespace["OPTIONS"]) == (key is None)


def test_chain_answers_from_the_passages(runs):
    _, facts = runs["01_rag_langchain"]
    texts = [" ".join(passage.text.split()) for passage in passages()]
    assert all(any(answer in text for text in texts) for answer in facts["answers"])
    assert "matches anything" in facts["answers"][1]
    assert "水温" in facts["answers"][2]
    assert len(questions()) > facts["hits"] > 0.6 * len(questions())


def test_chain_documents_cost_what_was_estimated(runs):
    _, facts = runs["01_rag_langchain"]
    assert facts["requests"] == -(-len(passages()) // 10)
    assert facts["estimated"] == pytest.approx(facts["billed"], rel=0.1)


def test_index_pays_for_changed_documents_only(runs):
    _, facts = runs["02_index_llamaindex"]
    assert facts["embedded"] == facts["chunks"]
    assert facts["requests"] == -(-facts["chunks"] // 10)
    assert facts["bills"]["same documents"] == [0, 0]
    assert 0 < facts["bills"]["one page edited"][0] < 0.05 * facts["bills"]["first run"][0]
    assert sum("This line is new." in text for text in facts["edited"]) == 1
    assert facts["ids"] == facts["chunks"]


def test_retrieval_is_measured_at_all_dimensions(runs):
    _, facts = runs["03_choosing_provider_and_dimensions"]
    (model,) = [facts for facts in PROVIDERS["dashscope"].models if facts.name == "text-embedding-v4"]
    assert tuple(facts["sizes"]) == model.dimensions
    assert facts["answered"]
    for k, shares in facts["recall"].items():
        ranks = facts["ranks"].values()
        assert shares == [sum(rank < int(k) for rank in of_size) / len(questions()) for of_size in ranks]
    assert facts["recall"]["10"][-1] > facts["recall"]["10"][0] + 0.2


def test_shares_and_differences_have_intervals_of_95_percent(runs):
    _, facts = runs["03_choosing_provider_and_dimensions"]
    for low, share, high in facts["shares"]:
        assert low < share < high
        assert (1 - low) * low * 1.96**2 / len(questions()) == pytest.approx((share - low) ** 2)  # Wilson's equation
        assert (1 - high) * high * 1.96**2 / len(questions()) == pytest.approx((share - high) ** 2)
    assert all(lowest <= mean <= highest for lowest, highest, mean in facts["differences"])
    lower = [highest < 0 for _, highest, _ in facts["differences"]]
    assert facts["enough"] == facts["sizes"][lower.index(False)]


def test_models_are_compared_by_language(runs):
    _, facts = runs["03_choosing_provider_and_dimensions"]
    lexical, semantic = facts["compared"]["lexical n-grams (simulator)"], facts["compared"]["local:use-multilingual"]
    assert lexical["zh"][1] == semantic["zh"][1] == sum(question.language == "zh" for question in questions())
    assert semantic["zh"][0] >= lexical["zh"][0] + 10


def test_model_with_a_price_has_a_bill(runs):
    _, facts = runs["03_choosing_provider_and_dimensions"]
    bills = {name: cost for name, cost, _ in facts["rows"]}
    assert set(facts["known"]) == {
        f"{owner}:{model.name}"
        for owner, provider in PROVIDERS.items()
        if owner not in ("local", "dashscope-compatible")
        for model in provider.models
    }
    assert bills["siliconflow:BAAI/bge-m3"] == 0
    assert bills["zhipu:embedding-3"] == pytest.approx(0.5 * facts["tokens"])
    assert bills["dashscope:qwen3.7-text-embedding-flash"] == pytest.approx(0.125 * facts["tokens"])


def test_interrupted_run_resumes_with_the_right_vectors(runs):
    _, facts = runs["04_ingest_resume"]
    texts = passages()
    assert facts["right"]
    assert facts["interrupted"] >= 1
    assert facts["kept"] == facts["resumed"][1]
    assert 100 <= facts["kept"] < len(texts)
    assert facts["resumed"][0] == -(-(len(texts) - facts["kept"]) // 10)
    again = facts["received"] - len(texts) - 3  # one edited text and two questions
    assert 0 <= again <= facts["in_flight"] * 10
    assert facts["again"] == [0, 0, 0, len(texts)]
    assert facts["edited"] == [1, len(texts) - 1]
    assert facts["asked"] == 2
    assert facts["found"] == "围棋"


def test_hybrid_search_costs_and_finds_what_the_notebook_says(runs):
    _, facts = runs["05_hybrid_search"]
    assert facts["ingested"] == facts["needed"]
    assert facts["requests"] == 2 * facts["asked"]  # dense and sparse share one, hybrid has one
    hits = {mode: sum(sum(kind[mode]) for kind in facts["found"].values()) for mode in ("dense", "sparse", "hybrid")}
    assert facts["asked"] > hits["hybrid"] >= max(hits["dense"], hits["sparse"])


def is_code(cell):
    return cell.cell_type == "code"


def kinds(cell):
    """What kinds of output a cell has, one after another."""
    return [
        (output.output_type, output.get("name"), sorted(output.get("data", ()))) for output in cell.get("outputs", ())
    ]


def words(cell):
    """What a cell has printed, and its tables."""
    return [output.get("text") or output.data.get("text/markdown") for output in cell.get("outputs", ())]
