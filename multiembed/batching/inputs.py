"""Validation of input texts, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def check_texts(
    texts: Iterable[str], *, refuses: Literal["empty", "blank"], first: int = 0
) -> tuple[list[str], list[int]]:
    """Validate texts. `first` is the position of the first one, for the error.

    Returns:
        The texts as plain `str` that UTF-8 can encode, and the positions of those that the API refuses.

    Raises:
        ConfigurationError: `texts` is one text, is not iterable, or an item is not a `str`.
    """
    checked = list(iter_texts(texts))
    rejected = []
    for index, text in enumerate(checked):
        if not isinstance(text, str):
            raise ConfigurationError(
                f"The text at position {first + index} is {type(text).__name__}, not str: convert it first. Nothing "
                "was sent.",
                indices=(first + index,),
            )
        if type(text) is not str:  # a subclass may have an encode of its own
            checked[index] = text = str.__str__(text)
        if not (text.strip() if refuses == "blank" else text):
            rejected.append(index)
        elif not text.isascii():
            checked[index] = replace_surrogates(text)
    return checked, rejected


def iter_texts(texts: Iterable[str]) -> Iterator[str]:
    """Iterate over texts.

    Raises:
        ConfigurationError: it is one text, a mapping or table, or not iterable.
    """
    if isinstance(texts, (str, bytes)):
        raise ConfigurationError("Give a list of texts, not one text: [text], or embed_query(text) for a query.")
    given = f"Give a list of texts, not {type(texts).__name__}"
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):  # both iterate over names
        raise ConfigurationError(f"{given}: its values(), or one column of it.")
    try:
        return iter(texts)
    except TypeError:
        raise ConfigurationError(f"{given}.") from None


def replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
