"""Whether a JSON text has a key twice in one object, where parsers silently take the last one. Pure."""

from __future__ import annotations

import json
import re

_COLONS = re.compile(rb'"[ \t\r\n]*:')


def says_twice(text: bytes, parsed: object) -> bool:
    """Whether an object of the text holds a key twice.

    Counting quotes before colons and comparing with the keys that came out is fast; only where the numbers differ,
    which a token such as `":` can also make, the text is read again slowly.
    """
    return len(_COLONS.findall(text)) != _keys(parsed) and _twice(text)


def _keys(node: object) -> int:
    if isinstance(node, dict):
        return len(node) + sum(map(_keys, node.values()))
    if isinstance(node, list) and node and isinstance(node[0], (dict, list)):  # never into a vector
        return sum(map(_keys, node))
    return 0


class _TwiceError(Exception):
    pass


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise _TwiceError
    return read


def _twice(text: bytes) -> bool:
    try:
        json.loads(text, object_pairs_hook=_once)
    except _TwiceError:
        return True
    except ValueError:
        return False  # the fast parser took it, and what it means is judged elsewhere
    return False
