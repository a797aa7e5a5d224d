"""Provider interface: facts, and three pure functions: encode a request, decode a response, classify an error."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from multiembed.providers import openai_format
from multiembed.providers.error_parsing import classify_compatible

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Mapping

    from multiembed.providers.types import ApiFailure, DecodedResponse, EncodeInput, LocalEmbedder
    from multiembed.types import LimitKind, ModelInfo

MULTIMODAL = "is a multimodal model (text, images, video), and such models are not supported yet."

_SIMILARITY = 0.8
"""difflib's ratio: "embeding-3" and "embedding-3" have 0.95."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One provider. docs/add-a-provider.md adds one step by step."""

    id: str
    title: str
    models: tuple[ModelInfo, ...]
    unknown: ModelInfo
    """Cautious limits for a model that is not listed."""
    regions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Base URL by region; the first is the default. Empty when the user must name the address."""
    address_hint: str = ""
    """End of the error for a missing address or an unknown region; begins with a blank."""
    base_url_env: tuple[str, ...] = ()
    """Environment variables of the base URL, in order of precedence."""
    other_paths: tuple[str, ...] = ()
    """Base paths of the vendor's other APIs, which a shared address variable may hold."""
    path: str = "/embeddings"
    """Path of the endpoint after the base URL."""
    not_found_hint: str = ""
    """End of the error for a 404; begins with a blank."""
    key_env: tuple[str, ...] = ()
    """Environment variables of the API key, in order of precedence; empty when no key is needed."""
    key_required: bool = True
    """False: without a key, requests are sent without one."""
    key_of: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Address variable or region to the key variable of the same account, where there are several accounts."""
    key_page: str = ""
    """Page on which a user gets a key."""
    refuses: Literal["empty", "blank"] = "blank"
    """Texts that the API does not embed: "" only, or whitespace too."""
    own_fields: frozenset[str] = frozenset({"model", "input", "dimensions"})
    """Body fields that have an option of their own and may not be set by `parameters`."""
    request_id_headers: tuple[str, ...] = ()
    quota: LimitKind | None = None
    """What its documentation says is limited: requests in flight, or requests a minute."""
    unsupported: tuple[tuple[re.Pattern[str], str], ...] = ()
    """Models that this library cannot call: a pattern of their names, and the reason."""
    per_second: bool = False
    """Whether a sixtieth of a minute's quota is enforced in each second, too."""
    encode: Callable[[EncodeInput], dict[str, Any]] = openai_format.encode
    """Write the JSON body of one request."""
    decode: Callable[[Mapping[str, Any]], DecodedResponse] = openai_format.decode
    """Read a successful response. Raises ValueError that says what is missing."""
    classify: Callable[[int, object], ApiFailure | None] = classify_compatible
    """Classify a response by its HTTP status and its parsed body, or the beginning of a body that is not JSON; None for
    a success."""
    compute: Callable[[str], LocalEmbedder] | None = None
    """Find the function that embeds with a model without a network: (texts, dimensions) to vectors. Raises
    ConfigurationError: there is no such model, or a package is missing."""

    @property
    def needs_address(self) -> bool:
        """Whether the user must name the server; `auth_header` and `query` are then the user's choice, too."""
        return not self.regions and self.compute is None

    def model(self, name: str) -> ModelInfo:
        """Find a model by its name; one that is not listed gets the cautious limits of `unknown`."""
        for model in self.models:
            if model.name == name:
                return model
        return replace(self.unknown, name=name, known=False)

    def similar_model(self, name: str) -> str | None:
        """Find the listed model that a name which is not listed may mean; None if no name is near."""
        listed = [model.name for model in self.models]
        by_name = {each.lower().rpartition("/")[2]: each for each in reversed(listed)} if "/" not in name else {}
        by_name |= {each.lower(): each for each in listed}
        near = difflib.get_close_matches(name.lower(), by_name, n=1, cutoff=_SIMILARITY)
        return by_name[near[0]] if near and name not in listed else None
