"""The options in the docstrings of the classes that take them, so that `help()` shows each one."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic.fields import FieldInfo

_Class = TypeVar("_Class", bound=type)


def with_option_docs(options: type, fields: Mapping[str, FieldInfo] | None = None) -> Callable[[_Class], _Class]:
    """A class decorator that appends name, type, default and description of each option to the docstring.

    Args:
        options: the TypedDict with the types that callers may give.
        fields: the options' defaults and descriptions; None: those of the decorated model.
    """

    def decorate(cls: _Class) -> _Class:
        if cls.__doc__ is not None:  # python -OO
            described = getattr(cls, "model_fields") if fields is None else fields  # noqa: B009 - a model has it
            entries = "\n".join(_entry(name, hint, described[name]) for name, hint in options.__annotations__.items())
            cls.__doc__ = f"{cls.__doc__.rstrip()}\n\n    Options:\n{entries}\n"
        return cls

    return decorate


def _entry(name: str, hint: Any, field: FieldInfo) -> str:
    written = getattr(hint, "__forward_arg__", hint)  # as in the source: "int | None"
    head = f"        {name}: {written} = {field.get_default(call_default_factory=False)!r}"
    body = textwrap.fill(" ".join((field.description or "").split()), 100, break_on_hyphens=False)
    return f"{head}\n{textwrap.indent(body, ' ' * 12)}"
