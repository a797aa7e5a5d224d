"""Option values as configuration files and the environment give them: numbers as text, and nothing at all."""

from __future__ import annotations

import math
import operator
import re
from decimal import Decimal
from numbers import Real
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_MAX_DIGITS = 40
"""Text longer than this is refused: int() takes quadratic time, and stops with an error at 4,300 digits."""


def whole_number(value: Any) -> Any:
    """Convert to int: 512, 512.0, "512" and "5.12e2" are the same number.

    PyYAML reads `1e6` as text, and an environment has nothing but text.

    Raises:
        PydanticCustomError: the value is not a whole number. The message does not repeat it: it may be a key.
    """
    number = _number(value)
    if isinstance(number, float):
        number = int(number) if math.isfinite(number) and number.is_integer() else None
    if number is None:
        raise PydanticCustomError("whole_number", "must be a whole number, for example 512")
    return number


def seconds(value: Any) -> Any:
    """Convert to float, by the rules of `whole_number`.

    Raises:
        PydanticCustomError: the value is not a number.
    """
    number = _number(value)
    if number is None:
        raise PydanticCustomError("seconds", "must be a number of seconds, for example 60 or 2.5")
    return _float(number)


def _number(value: Any) -> int | float | None:
    """The number that a value stands for; None for anything else, bool included."""
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _MAX_DIGITS or not _NUMBER.fullmatch(text):
            return None
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # int, and NumPy's integers
    except TypeError:
        return _float(value) if isinstance(value, (Real, Decimal)) else None


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


_INT64 = 2**63
"""Above any quota, and the first number that orjson refuses to write."""

PositiveInt: TypeAlias = Annotated[int, BeforeValidator(whole_number), Field(gt=0, lt=_INT64)]
NaturalInt: TypeAlias = Annotated[int, BeforeValidator(whole_number), Field(ge=0, lt=_INT64)]
AnyInt: TypeAlias = Annotated[int, BeforeValidator(whole_number)]
Seconds: TypeAlias = Annotated[float, BeforeValidator(seconds), Field(gt=0, allow_inf_nan=False)]
