"""What the framework classes share: the options as fields, and a client that is made from them when it is needed."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import PrivateAttr

from multiembed.client import EmbeddingClient
from multiembed.errors import ConfigurationError
from multiembed.options import EmbeddingOptions, configured


class Embedder(EmbeddingOptions):
    """An embedder that stands in a framework; a subclass adds the framework's base class and the model's field.

    Fields may be assigned, and the next call heeds them. A copy has the key; a pickle has not, unless `key_in_pickle`.
    """

    model_field: ClassVar[str]
    """The name under which the framework keeps the model."""

    _client: EmbeddingClient | None = PrivateAttr(default=None)

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        self._client = self._make()

    @property
    def client(self) -> EmbeddingClient:
        """The client behind it: usage so far, estimates, sparse vectors, closing."""
        client = self._client
        if client is None:
            self._client = client = self._make()
        return client

    def _make(self) -> EmbeddingClient:
        if self.output == "sparse":
            raise ConfigurationError(
                "output='sparse' gives no dense vectors, and this framework's class must return some: take "
                "'dense&sparse', or EmbeddingClient for sparse vectors alone."
            )
        fields = {name: getattr(self, name) for name in EmbeddingOptions.model_fields}
        return EmbeddingClient.from_options(getattr(self, self.model_field), EmbeddingOptions.model_construct(**fields))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in EmbeddingOptions.model_fields and name != self.model_field:
            super().__setattr__(name, value)
            return
        before = self.__dict__.get(name)
        assign = super().__setattr__
        configured(type(self), lambda: assign(name, value))
        try:
            self._client = self._make()
        except ConfigurationError:
            self.__dict__[name] = before  # an option that cannot work leaves the embedder as it was
            raise

    def __copy__(self) -> Any:
        copied = super().__copy__()
        copied._client = None
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        memo[id(self._client)] = None  # the copy makes its own when it needs one
        return super().__deepcopy__(memo)
