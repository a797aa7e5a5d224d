"""Injected faults by name.

    simulator.fail("rate-limit", times=3)
    simulator.fail("batch-too-large-with-cap", provider="zhipu", cap=8)
    simulator.heal()

`multiembed simulate --faults` lists them. `faults` defines those that users meet, `schedule` selects the requests that
meet one. Tests register more.
"""

from __future__ import annotations

import difflib
from types import MappingProxyType
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.simulator.fault_injection.base import InjectedFault
from multiembed.simulator.fault_injection.faults import USER_FAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FAULTS", "InjectedFault", "find_fault", "register"]

_FAULTS = {fault.name: fault for fault in USER_FAULTS}
FAULTS: Mapping[str, InjectedFault] = MappingProxyType(_FAULTS)


def register(*faults: InjectedFault) -> None:
    """Add faults for this process."""
    _FAULTS.update({fault.name: fault for fault in faults})


def find_fault(name: str) -> InjectedFault:
    """The fault of that name.

    Raises:
        ConfigurationError: there is none; the message names the nearest.
    """
    if name not in FAULTS:
        near = difflib.get_close_matches(name, FAULTS, n=1, cutoff=0.0)
        raise ConfigurationError(
            f"There is no fault {name!r}. Did you mean {near[0]!r}? `multiembed simulate --faults` lists all."
        )
    return FAULTS[name]
