"""Schedule of injected faults: selects the fault for a request."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multiembed.errors import ConfigurationError
from multiembed.simulator.fault_injection.base import InjectedFault, Occasion
from multiembed.simulator.formats import API_FORMATS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.simulator.api_format import ApiFormat
    from multiembed.simulator.messages import Answer, Request


@dataclass(kw_only=True)
class ScheduledFault:
    """A fault, the rules for injecting it, and how often it was injected. `Account.fail` describes the rules.

    Raises:
        ConfigurationError: no such provider or setting, or a number out of range.
    """

    fault: InjectedFault
    times: int | None = None
    probability: float | None = None
    every: int | None = None
    after: int = 0
    seconds: float | None = None
    provider: str | None = None
    seed: int = 0
    settings: Mapping[str, Any]
    _matched: int = field(default=0, init=False)
    _injected: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        fault = self.fault
        if self.provider is not None and self.provider not in fault.applies_to:
            raise ConfigurationError(
                f"{fault.name} is made for {', '.join(fault.applies_to)}, not for {self.provider!r}."
            )
        for name, value in self.settings.items():
            if name not in fault.settings:
                known = ", ".join(fault.settings) or "none"
                raise ConfigurationError(f"{fault.name} has no setting {name!r}; it has {known}.")
            if isinstance(fault.settings[name], int | float) and not isinstance(value, int | float):
                raise ConfigurationError(f"{fault.name}: {name} must be a number, not {value!r}.")
        for name, minimum in (("times", 1), ("every", 1), ("after", 0), ("seconds", 0)):
            value = getattr(self, name)
            if value is not None and not value >= minimum:
                raise ConfigurationError(f"{name} must be {minimum} or more, not {value!r}.")
        if self.probability is not None and not 0.0 <= self.probability <= 1.0:
            raise ConfigurationError(f"probability must be from 0 to 1, not {self.probability!r}.")
        self.settings = {**fault.settings, **self.settings}
        self._end = None if self.seconds is None else time.monotonic() + self.seconds
        self._random = random.Random(self.seed)  # noqa: S311 - repeatable on purpose

    def matches(self, request: Request, api_format: ApiFormat | None) -> bool:
        """Whether it is for such requests at all, and its time is not over."""
        if self._end is not None and time.monotonic() >= self._end:
            return False
        if request.method == "CONNECT":
            return self.fault.on_connect
        if request.method != "POST" or api_format is None:
            return False
        return api_format.provider in (self.fault.applies_to if self.provider is None else (self.provider,))

    def is_due(self) -> bool:
        """Count one more request that it could be injected for; whether it is injected."""
        if self.times is not None and self._injected >= self.times:
            return False
        self._matched += 1
        number = self._matched - self.after
        if number <= 0 or (self.every is not None and number % self.every):
            return False
        if self.probability is not None and self._random.random() >= self.probability:
            return False
        self._injected += 1
        return True


class Schedule:
    """Scheduled faults, in the order in which they were added. Written by any thread, read by the server's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scheduled: list[ScheduledFault] = []

    def add(self, scheduled: ScheduledFault) -> None:
        """Add a fault after the others."""
        with self._lock:
            self._scheduled.append(scheduled)

    def clear(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._scheduled.clear()

    def choose(
        self, request: Request, api_format: ApiFormat | None, answer: Answer, *, reused: bool
    ) -> tuple[InjectedFault, Occasion] | None:
        """The first fault that matches the request and is due; later ones do not count the request."""
        with self._lock:
            for scheduled in self._scheduled:
                if not scheduled.matches(request, api_format):
                    continue
                occasion = Occasion(
                    request=request,
                    api_format=api_format or API_FORMATS["gateway"],
                    answer=answer,
                    reused=reused,
                    settings=scheduled.settings,
                )
                if scheduled.fault.when(occasion) and scheduled.is_due():
                    return scheduled.fault, occasion
        return None
