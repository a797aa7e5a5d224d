"""API formats by provider. The module of a format has the name of the provider's id, with underscores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from multiembed.providers import PROVIDERS

if TYPE_CHECKING:
    from multiembed.simulator.api_format import ApiFormat

API_FORMATS: dict[str, ApiFormat] = {
    name: import_module(f"{__name__}.{name.replace('-', '_')}").FORMAT
    for name, provider in PROVIDERS.items()
    if not provider.compute
}
