"""What may be embedded: texts are checked, cleaned and named by their position before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def check_texts(
    texts: Iterable[str], *, refuses: Literal["empty", "blank"], first: int = 0
) -> tuple[list[str], list[int]]:
    """The texts as plain `str` that UTF-8 can carry, in order, and the positions of those that the API refuses.

    Args:
        texts: any iterable of text, but not one text alone.
        refuses: which texts the API does not embed.
        first: the position of the first text, for the words of an error.

    Raises:
        ConfigurationError: it is one text, no iterable, or holds something that is no text.
    """
    checked = list(iter_texts(texts))
    refused = []
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
            refused.append(index)
        elif not text.isascii():
            checked[index] = replace_surrogates(text)
    return checked, refused


def iter_texts(texts: Iterable[str]) -> Iterator[str]:
    """An iterator over texts.

    Raises:
        ConfigurationError: it is one text, or no iterable.
    """
    if isinstance(texts, (str, bytes)):
        raise ConfigurationError("Give a list of texts, not one text: [text], or embed_query(text) for a query.")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):  # both give their names and not their texts
        raise ConfigurationError(
            f"Give a list of texts, not {type(texts).__name__}: its values(), or one column of it."
        )
    try:
        return iter(texts)
    except TypeError:
        raise ConfigurationError(f"Give a list of texts, not {type(texts).__name__}.") from None


def replace_surrogates(text: str) -> str:
    """Lone surrogates become U+FFFD, because UTF-8 has no place for them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
