"""Responses with a wrong list of items, or with a wrong vector in it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from multiembed.simulator.fault_injection.base import InjectedFault, find_items, items_fault, middle_of
from multiembed.simulator.vectors import as_base64

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.simulator.fault_injection.base import Occasion
    from multiembed.simulator.messages import Answer


def numbers(vector: Any) -> list[float]:
    """A vector as it stands in a reply, in numbers or in base64."""
    if isinstance(vector, str):
        return [float(number) for number in np.frombuffer(base64.b64decode(vector), "<f4")]
    return list(vector)


def in_base64(values: list[float]) -> str:
    """Numbers as base64."""
    return as_base64(np.array(values, dtype=np.float32))


def spelled_like(vector: Any, values: list[float]) -> Any:
    """Numbers as base64 where `vector` is base64."""
    return in_base64(values) if isinstance(vector, str) else values


def wrong(vector: Any) -> Any:
    """A vector of the right kind that is not the right one: the opposite."""
    return spelled_like(vector, [-value for value in numbers(vector)])


def _null_in_the_middle(items: list[Any], _index: str) -> None:
    items[middle_of(items)] = None


def _one_more(items: list[Any], index: str) -> None:
    items.append({**items[-1], index: len(items)})


def _twice(items: list[Any], index: str) -> None:
    items[-1][index] = items[-2][index]


def _from_one(items: list[Any], index: str) -> None:
    for item in items:
        item[index] += 1


def _without_index(items: list[Any], index: str) -> None:
    for item in items:
        del item[index]


ITEMS = (
    items_fault(
        "items-reordered",
        "The items come last first, each with its right index.",
        lambda items, _: items.reverse(),
        harmless=True,
    ),
    items_fault("item-missing-last", "The last item is missing.", lambda items, _: items.pop()),
    items_fault("items-missing-all", "The list of items is empty.", lambda items, _: items.clear()),
    items_fault("item-null", "The middle item is null.", _null_in_the_middle),
    items_fault("item-extra", "One item too many, with an index of its own.", _one_more),
    items_fault("index-twice", "The last two items have the same index; for two texts or more.", _twice, minimum=2),
    items_fault("index-off-by-one", "The indices begin at 1.", _from_one),
    items_fault("index-missing", "No item has an index.", _without_index),
)


def _vector(name: str, description: str, change: Callable[[Any], object]) -> InjectedFault:
    """A fault that puts something else in the place of a vector; `which` is "middle", "all", or a place."""

    def alter(occasion: Occasion) -> Answer:
        payload = orjson.loads(occasion.answer.body)
        holder, key = find_items(payload)
        items, which = holder[key], occasion.settings["which"]
        for item in items if which == "all" else [items[middle_of(items) if which == "middle" else which]]:
            item["embedding"] = change(item["embedding"])
        # Unlike orjson, this one writes NaN and Infinity.
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
        return replace(occasion.answer, body=body)

    def when(occasion: Occasion) -> bool:
        which, texts = occasion.settings["which"], len(occasion.texts)
        return occasion.has_vectors and (which in ("middle", "all") or -texts <= which < texts)

    settings = MappingProxyType({"which": "middle"})
    return InjectedFault(name, description, "vectors", settings=settings, when=when, alter=alter)


def _numbers(change: Callable[[list[float]], list[float]]) -> Callable[[Any], object]:
    """A change of numbers, in base64 too."""
    return lambda vector: spelled_like(vector, change(numbers(vector)))


def _second(value: object) -> Callable[[Any], object]:
    """Something else in the place of the second number, or of the only one."""

    def change(vector: Any) -> list[object]:
        values: list[object] = [*numbers(vector)]
        place = min(1, len(values) - 1)
        values[place] = str(values[place]) if value is str else value
        return values

    return change


def _cut_base64(vector: Any) -> str:
    data = np.array(numbers(vector), dtype="<f4").tobytes()
    return base64.b64encode(data[:-2]).decode()


VECTORS = (
    _vector("vector-short", "A vector has one number too few.", _numbers(lambda values: values[:-1])),
    _vector("vector-long", "A vector has one number too many.", _numbers(lambda values: [*values, 0.5])),
    _vector("vector-nan", "A number of a vector is NaN.", _numbers(lambda values: [float("nan"), *values[1:]])),
    _vector(
        "vector-infinity", "A number of a vector is Infinity.", _numbers(lambda values: [float("inf"), *values[1:]])
    ),
    _vector("vector-overflow", "A number of a vector is 1e300, which float32 cannot hold.", _second(1e300)),
    _vector("vector-null", "A vector is null.", lambda _: None),
    _vector("vector-element-null", "A number of a vector is null.", _second(None)),
    _vector("vector-element-string", "A number of a vector is written as a string.", _second(str)),
    _vector("vector-element-bool", "A number of a vector is true.", _second(True)),
    _vector("vector-nested", "A vector is a list in a list.", lambda vector: [numbers(vector)]),
    _vector("vector-zeros", "A vector is all zeros.", _numbers(lambda values: [0.0 for _ in values])),
    _vector("vector-empty", "A vector is empty.", _numbers(lambda _: [])),
    _vector(
        "base64-broken",
        "A vector is a string that is no base64.",
        lambda vector: "*" + in_base64(numbers(vector))[1:],
    ),
    _vector("base64-cut", "A vector is base64 that ends inside a number.", _cut_base64),
)
