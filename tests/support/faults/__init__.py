"""Registers the faults of the simulator that only tests inject. Import it where a test or a benchmark names one."""

from __future__ import annotations

from multiembed.simulator.fault_injection import register
from support.faults.bodies import BODIES
from support.faults.headers import PROXIES, RETRY_AFTERS
from support.faults.refusals import REFUSALS
from support.faults.sockets import SOCKETS
from support.faults.vectors import ITEMS, VECTORS

register(*ITEMS, *VECTORS, *BODIES, *REFUSALS, *PROXIES, *RETRY_AFTERS, *SOCKETS)
