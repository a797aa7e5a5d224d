"""Corpus of the demo: Python's own reference in English, short essays in Chinese, questions on both.

The English passages are cut from `pydoc_data`, which CPython carries: nothing is downloaded or copied, and
the texts vary a little with the Python version. The Chinese ones were written for this package.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.resources import files
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Language = Literal["en", "zh"]

DEFAULT_QUESTION: Mapping[Language, str] = {
    "en": "Why is a mutable default value shared by all calls of a function?",
    "zh": "为什么要先把长文章切成小段再计算向量？",
}

# The debugger's page is a manual of commands, the format strings' one of codes. The type hierarchy is mostly
# lists of attributes, and on 3.13 half as long again as on 3.11: without it the corpus keeps about one size.
_EXCLUDED = frozenset({"debugger", "formatstrings", "types"})

# Characters of a passage: sections are cut towards the ideal, blocks above the longest at the end of a line,
# and sections below the shortest ("New in version 3.5.") are dropped.
_TARGET_LENGTH = 700
_MAX_LENGTH = 1300
_MIN_LENGTH = 120
# What it costs to part an indented block from the line that introduces it ("str.upper()", "For example:").
_SPLIT_PENALTY = 300**2

_GAP = "\n\n"
_HEADING = re.compile(r"^(\S.*)\n([*=\-^~])\2{2,}\n", re.MULTILINE)
_RANKS = "*=-^~"
_RULE = re.compile(r"^ *[-=+|]{4,}(\n|\Z)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """One text to embed; its first line is its title, so that the vector knows what the rest is about."""

    id: str
    title: str
    text: str
    language: Language


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question, worded differently from the passage that answers it.

    `expects` names that passage: in Chinese by its id, in English by "title :: phrase", since each Python
    version numbers the English passages anew.
    """

    text: str
    language: Language
    expects: str


def passages() -> list[Passage]:
    """All passages, English first; ids and order depend on the Python version alone."""
    chinese = [
        Passage(id=row["id"], title=row["title"], text=f"{row['title']}\n{row['text']}", language="zh")
        for row in _data("chinese.json")
    ]
    return [*_english(), *chinese]


def questions() -> list[Question]:
    """All questions, English first; each has at least one passage that answers it."""
    return [Question(**row) for row in _data("questions.json")]


def answers(question: Question, passage: Passage) -> bool:
    """Whether the passage answers the question."""
    if question.language != passage.language:
        return False
    if question.language == "zh":
        return question.expects == passage.id
    title, _, phrase = question.expects.partition(" :: ")
    return title == passage.title and phrase in " ".join(passage.text.split())


def _data(name: str) -> list[dict[str, Any]]:
    file = files("multiembed.cli") / "data" / name
    rows: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
    return rows


def _english() -> Iterator[Passage]:
    from pydoc_data.topics import topics

    number = count(1)
    seen: set[str] = set()
    pages = [page for name, page in topics.items() if name not in _EXCLUDED]
    # Long pages repeat the sections of short ones: with the short ones first, a section keeps its own title.
    for page in sorted(pages, key=lambda page: (len(page), page)):
        for title, body in _sections(page):
            if body in seen or len(body) < _MIN_LENGTH:
                continue
            seen.add(body)
            for part in _parts(body):
                yield Passage(id=f"en-{next(number):03}", title=title, text=f"{title}\n{part}", language="en")


def _sections(page: str) -> Iterator[tuple[str, str]]:
    """Each heading with the one above it, and the text that follows, without rows of dashes."""
    _, *pieces = _HEADING.split(page)
    trail: dict[int, str] = {}
    for heading, mark, body in zip(pieces[0::3], pieces[1::3], pieces[2::3], strict=True):
        rank = _RANKS.index(mark)
        trail = {above: title for above, title in trail.items() if above < rank}
        trail[rank] = re.sub(r'["*]', "", heading)
        yield ": ".join(list(trail.values())[-2:]), _RULE.sub("", body).strip("\n")


def _parts(body: str) -> list[str]:
    """The section cut at blank lines, where the parts come closest to `_TARGET_LENGTH` characters."""
    blocks = list(_blocks(body))
    starts = [0, *accumulate(len(block) + len(_GAP) for block in blocks)]
    indents = [len(block) - len(block.lstrip()) for block in blocks]
    # best[n]: what it costs to cut the first n blocks best, and where the last part of that cut begins.
    best = [(0, 0)]
    for end in range(1, len(blocks) + 1):
        penalty = _SPLIT_PENALTY if end < len(blocks) and indents[end] > indents[end - 1] else 0
        misses = (starts[end] - start - len(_GAP) - _TARGET_LENGTH for start in starts[:end])
        costs = [cost + miss**2 + penalty for (cost, _), miss in zip(best, misses, strict=True)]
        best.append(min(zip(costs, range(end), strict=True)))
    parts: list[str] = []
    end = len(blocks)
    while end:
        first = best[end][1]
        parts.insert(0, _GAP.join(blocks[first:end]))
        end = first
    return parts


def _blocks(body: str) -> Iterator[str]:
    """Paragraphs; tables and grammars that are longer than a passage may be, in pieces of whole lines."""
    for block in re.split(r"\n{2,}", body):
        piece = ""
        for line in block.splitlines():
            row = " ".join(line.split()) if line.startswith("|") else line
            if len(block) > _MAX_LENGTH and len(piece) + len(row) > _TARGET_LENGTH:
                yield piece
                piece = row
            else:
                piece = f"{piece}\n{row}" if piece else row
        yield piece
