"""What a provider is: facts, and three pure functions that write a body, read a reply and judge a fault."""

from __future__ import annotations

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


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One provider. A new one is one file with one of these, and one line in the registry."""

    id: str
    title: str
    models: tuple[ModelInfo, ...]
    unknown: ModelInfo
    """The careful defaults for a model that is not in the catalog."""
    regions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Base URL by region; the first is the default. Empty when the user must name one."""
    address_hint: str = ""
    """What to say of addresses where none, or an unknown region, was given; begins with a blank."""
    base_url_env: tuple[str, ...] = ()
    """Environment variables that may hold the base URL, in order."""
    other_paths: tuple[str, ...] = ()
    """Base paths of the vendor's other APIs, which a shared address variable may hold instead of this one's."""
    path: str = "/embeddings"
    """Added to the base URL."""
    not_found_hint: str = ""
    """What to say when nothing is at the address; begins with a blank."""
    key_env: tuple[str, ...] = ()
    """Environment variables that may hold the key, in order; empty when no key is needed."""
    key_required: bool = True
    """False: without a key, requests are sent without one."""
    key_of: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Address variable or region to the key variable of the same account, where there are several accounts."""
    key_page: str = ""
    """Where a user gets a key."""
    refuses: Literal["empty", "blank"] = "blank"
    """Which texts the API does not embed: "" only, or whitespace too."""
    own_fields: frozenset[str] = frozenset({"model", "input", "dimensions"})
    """Body fields that have an option of their own and may not come through `parameters`."""
    request_id_headers: tuple[str, ...] = ()
    quota: LimitKind | None = None
    """What its documents say is limited: requests in flight, or requests a minute."""
    unsupported: tuple[tuple[re.Pattern[str], str], ...] = ()
    """Models of the vendor that this library cannot call, by name, each with the reason."""
    per_second: bool = False
    """Whether a sixtieth of a minute's quota is enforced in each second, too."""

    # The OpenAI form, unless a provider has another.
    encode: Callable[[EncodeInput], dict[str, Any]] = openai_format.encode
    """One request's JSON body."""
    decode: Callable[[Mapping[str, Any]], DecodedResponse] = openai_format.decode
    """A successful reply taken apart. Raises ValueError saying what is missing."""
    classify: Callable[[int, object], ApiFailure | None] = classify_compatible
    """HTTP status and parsed body (or the body's first words) to a fault; None when the reply is a success."""
    compute: LocalEmbedder | None = None
    """Set for a provider that needs no network: texts and dimensions to vectors."""

    @property
    def needs_address(self) -> bool:
        """Whether the user must name the server. Its `auth_header` and `query` are then the user's choice, too."""
        return not self.regions and self.compute is None

    def model(self, name: str) -> ModelInfo:
        """The facts of a model; the careful defaults under its name when it is not in the catalog."""
        for facts in self.models:
            if facts.name == name:
                return facts
        return replace(self.unknown, name=name, known=False)
