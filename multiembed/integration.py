"""FrameworkEmbedder: base class of the framework integrations, with the options as fields and a client of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, PrivateAttr

from multiembed.batching.inputs import iter_texts
from multiembed.client import EmbeddingClient
from multiembed.config.option_names import run_validation
from multiembed.config.options import EmbeddingOptions, EmbeddingOptionsDict, add_option_docs, can_be_pickled
from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class FrameworkEmbedder(EmbeddingOptions):
    """Embedder of a framework; a subclass adds the framework's base class and the field of the model.

    A field may be assigned; the next call uses it. A copy has the key; a pickle has it only with `key_in_pickle`.
    """

    model_config = ConfigDict(use_attribute_docstrings=False)  # reading the source costs each subclass 2 to 3 ms

    model_field: ClassVar[str]
    """Name of the field that holds the model."""
    options_dict: ClassVar[type] = EmbeddingOptionsDict
    """TypedDict of the options, which are listed in the docstring of the class."""
    drop_empty: ClassVar[str | None] = None
    """How to leave empty texts out in this framework, in one line of Python; for error messages."""

    _clients: dict[str, EmbeddingClient] = PrivateAttr(default_factory=dict)

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        add_option_docs(cls, cls.options_dict, cls.model_fields)

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        client = self._clients["own"] = self._make_client()
        if self.base_url is None and client.target.url_variable:
            self.__dict__["base_url"] = client.target.base_url  # from the environment; it changes vectors, so it shows

    @property
    def client(self) -> EmbeddingClient:
        """Client of this embedder: for usage, statistics, estimates, sparse vectors and closing."""
        client = self._clients.get("own")
        if client is None:  # in a copy; setdefault: threads that make their first call at once get the same one
            client = self._clients.setdefault("own", self._make_client())
        return client

    _can_be_pickled = staticmethod(can_be_pickled)

    @staticmethod
    def _warn_of_missing(cache: object, option: str) -> Callable[[], object]:
        """Make a function that warns, once in each process, that a cache object could not be pickled."""
        from multiembed.cache.unavailable_cache import UnavailableCache

        return UnavailableCache(type(cache).__name__, option).warn

    @staticmethod
    def _listed(texts: Iterable[str]) -> list[str]:
        """Validate that `texts` is not one text, which a framework would split into its letters, and list them."""
        return list(iter_texts(texts))

    def _make_client(self) -> EmbeddingClient:
        if self.output == "sparse":
            raise ConfigurationError(
                "output='sparse' gives no dense vectors, and this framework's class must return some: take "
                "'dense&sparse', or EmbeddingClient for sparse vectors alone."
            )
        fields: dict[str, Any] = {name: getattr(self, name) for name in EmbeddingOptions.model_fields}
        options = EmbeddingOptions(**fields)  # validated again: model_copy(update=…) does not validate
        return EmbeddingClient.from_options(getattr(self, self.model_field), options, drop_empty=self.drop_empty)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in EmbeddingOptions.model_fields and name != self.model_field:
            super().__setattr__(name, value)
            return
        before, was_set = self.__dict__.get(name), name in self.model_fields_set
        assign = super().__setattr__
        run_validation(type(self), lambda: assign(name, value))
        try:
            client = self._make_client()
        except ConfigurationError:  # the embedder keeps its old options
            self.__dict__[name] = before
            if not was_set:
                self.model_fields_set.discard(name)
            raise
        client.adopt_stats(self._clients.get("own"))
        self._clients["own"] = client

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_clients": {}}}

    def __copy__(self) -> Any:
        copied = super().__copy__()
        copied._clients = {}
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        memo[id(self._clients)] = {}  # the copy makes its own client
        return super().__deepcopy__(memo)
