"""The faults that the simulator can make, by name.

    simulator.fail("rate-limit", times=3)
    simulator.fail("batch-too-large-with-cap", provider="zhipu", cap=8)
    simulator.heal()

`multiembed simulate --faults` lists them. A room each for what they have in common: `items` (the list and one vector
of it), `bodies`, `refusals` and `conditions` (the vendors' own words), `headers`, `sockets`; `schedule` decides which
request meets which fault.
"""

from __future__ import annotations

import difflib
from types import MappingProxyType
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.simulator.fault_injection.base import InjectedFault, Occasion
from multiembed.simulator.fault_injection.bodies import BODIES
from multiembed.simulator.fault_injection.conditions import CONDITIONS
from multiembed.simulator.fault_injection.headers import PROXIES, RETRY_AFTERS
from multiembed.simulator.fault_injection.items import ITEMS, VECTORS
from multiembed.simulator.fault_injection.refusals import STATUSES
from multiembed.simulator.fault_injection.sockets import SOCKETS

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FAULTS", "InjectedFault", "Occasion", "fault_named"]

FAULTS: Mapping[str, InjectedFault] = MappingProxyType(
    {
        fault.name: fault
        for room in (ITEMS, VECTORS, BODIES, STATUSES, CONDITIONS, PROXIES, RETRY_AFTERS, SOCKETS)
        for fault in room
    }
)


def fault_named(name: str) -> InjectedFault:
    """The fault of that name.

    Raises:
        ConfigurationError: there is none; the nearest name is told.
    """
    fault = FAULTS.get(name)
    if fault is None:
        near = difflib.get_close_matches(name, FAULTS, n=1, cutoff=0.0)
        raise ConfigurationError(
            f"There is no fault {name!r}. Did you mean {near[0]!r}? `multiembed simulate --faults` lists all."
        )
    return fault
