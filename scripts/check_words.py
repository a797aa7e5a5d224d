"""Checks the words of docstrings, comments, messages and documentation.

    python scripts/check_words.py            lines with a denied word, and metaphors per 1,000 words
    python scripts/check_words.py PATH ...   the same for some files or folders

The status is 1 when a line holds a denied word, or when metaphors reach 0.3 per 1,000 words of docstrings and comments.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
CODE = ("multiembed", "langchain_multiembed", "llamaindex_multiembed")
MORE_CODE = ("tests", "benchmarks", "scripts")
MOST_METAPHORS = 0.3
"""For 1,000 words of docstrings and comments; httpx, stamina, urllib3 and aiohttp have 0.00 to 0.12 (2026-11)."""

METAPHORS = re.compile(
    r"\b(hands?|gates?|crews?|weathers?|rooms?|stor(?:y|ies)|houses?|floors?|doors?|believe[sd]?|believing|judges?|judged"
    r"|judging|judge?ments?|lessons?|storms?|porch|courts?|furniture|culprits?|illness|illnesses|sick|ill|teach(?:es)?"
    r"|taught|wisdoms?|corridors?|kitchens?|faces?|mouths?|ears?|guests?|strangers?|neighbours?|newcomers?|thrift)\b",
    re.IGNORECASE,
)
"""Names of the first edition, which a reader cannot search for, and words like them."""
ALLOWED = re.compile(
    r"hands? (?:over|on|out|back)|handed|by hand|hand-fed|hand[- ]written|Hugging Face",
    re.IGNORECASE,
)
DENIED = re.compile(
    r"\b(nobody|somebody|whoever|whatever it may be|lest|beside|aside|for ever|told|be it"
    r"|is no [a-z]+(?=[,.;:)]| that| which| and| or|$)"
    r"|are no [a-z]+s(?=[,.;:)]| that)|gave nan|whole number|sets? one's|the likes of)\b",
    re.IGNORECASE,
)


def code_texts(path: Path, *, messages: bool) -> Iterator[tuple[int, str, bool]]:
    """Line, text, and whether it is a docstring or a comment (else a message)."""
    source = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", ()) if isinstance(getattr(node, "body", None), list) else ():
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                docstrings.add((statement.lineno, statement.col_offset))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        is_string = token.type == tokenize.STRING or tokenize.tok_name[token.type] == "FSTRING_MIDDLE"
        prose = token.type == tokenize.COMMENT or (is_string and token.start in docstrings)
        if prose or (messages and is_string and token.string.count(" ") >= 2):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line, prose


def texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """The lines of a file that people read."""
    if path.suffix == ".py":
        yield from code_texts(path, messages=path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in CODE)
    else:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield number, line, False


def files(arguments: list[str]) -> list[Path]:
    """The files to check."""
    given = [Path(each).resolve() for each in arguments] or [
        *(ROOT / each for each in (*CODE, *MORE_CODE, "docs", "notebooks")),
        *ROOT.glob("*.md"),
    ]
    found = [path for each in given for path in ([each] if each.is_file() else sorted(each.rglob("*")))]
    return [path for path in found if path.suffix in (".py", ".md", ".ipynb") and path != Path(__file__).resolve()]


def main() -> int:
    """Print what was found; the exit status."""
    words = metaphors = denied = 0
    for path in files(sys.argv[1:]):
        in_tests = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in MORE_CODE
        for number, line, prose in texts(path):
            words += len(line.split()) if prose and not in_tests else 0
            plain = ALLOWED.sub("", line)
            for found in METAPHORS.findall(plain):
                metaphors += prose and not in_tests
                print(f"{path}:{number}: metaphor {found!r}: {line.strip()[:90]}")
            for found in DENIED.findall(plain):
                denied += 1
                print(f"{path}:{number}: denied {found!r}: {line.strip()[:90]}")
    rate = 1000 * metaphors / words if words else 0.0
    print(f"{denied} denied; {metaphors} metaphors in {words} words of docstrings and comments: {rate:.2f} per 1,000")
    return int(denied > 0 or rate >= MOST_METAPHORS)


if __name__ == "__main__":
    raise SystemExit(main())
