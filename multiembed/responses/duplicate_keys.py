"""Duplicate-key check of JSON: parsers silently use the last value of a key that an object holds twice. No I/O."""

from __future__ import annotations

import json
import re

_KEY_ENDS = re.compile(rb'"[ \t\r\n]*:')


def has_duplicate_keys(text: bytes, parsed: object) -> bool:
    """Whether an object of a JSON text holds a key twice.

    Compares the number of colons, and then of colons after quotes, with the number of parsed keys, which is fast. Only
    where they differ, which a string with `":` in it can also cause, the text is parsed again.

    Raises:
        ValueError: the text is nested too deeply.
    """
    keys = _count_keys(parsed)
    if text.count(b":") == keys or len(_KEY_ENDS.findall(text)) == keys:
        return False
    duplicates: list[bool] = []

    def read(pairs: list[tuple[str, object]]) -> dict[str, object]:
        result = dict(pairs)
        duplicates.append(len(result) != len(pairs))
        return result

    try:
        json.loads(text, object_pairs_hook=read)
    except RecursionError:  # Python 3.11 fails at about 1,000 levels
        raise ValueError("the body is nested too deeply") from None
    except ValueError:
        pass  # not JSON, which the caller reports
    return any(duplicates)


def _count_keys(parsed: object) -> int:
    """Count all keys, except in lists that begin with neither object nor list, such as vectors."""
    count, nodes = 0, [parsed]
    for node in nodes:  # the loop appends to it
        if type(node) is dict:
            count += len(node)
            nodes += node.values()
        elif type(node) is list and node and type(node[0]) in (dict, list):
            nodes += node
    return count
