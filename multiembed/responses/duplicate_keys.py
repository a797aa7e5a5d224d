"""Whether a JSON text has a key twice in one object, where parsers silently take the last one. Pure."""

from __future__ import annotations

import json
import re

_COLONS = re.compile(rb'"[ \t\r\n]*:')


def has_duplicate_keys(text: bytes, parsed: object) -> bool:
    """Whether an object of the text holds a key twice.

    Raises:
        ValueError: the text is nested too deeply to tell.

    Counting colons, and then only those behind quotes, and comparing with the keys that came out is fast; only where
    the numbers differ, which a token such as `":` can also make, the text is read again slowly.
    """
    keys = _keys(parsed)
    return text.count(b":") != keys and len(_COLONS.findall(text)) != keys and _twice(text)


def _keys(parsed: object) -> int:
    """All keys but those in a list that begins with neither object nor list: a vector is not gone through."""
    count, nodes = 0, [parsed]
    for node in nodes:  # which grows meanwhile
        if type(node) is dict:
            count += len(node)
            nodes += node.values()
        elif type(node) is list and node and type(node[0]) in (dict, list):
            nodes += node
    return count


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
    except RecursionError:  # Python 3.11 gives up at about 1,000 levels
        raise ValueError("the body is nested too deeply") from None
    except ValueError:
        pass  # the fast parser took it, and what it means is judged elsewhere
    return False
