"""Which request meets which fault: a list of what is to go wrong, and for how long."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from multiembed.errors import ConfigurationError
from multiembed.simulator.fault_injection import fault_named
from multiembed.simulator.fault_injection.base import EVERY_PROVIDER, InjectedFault, Occasion
from multiembed.simulator.gateway import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from multiembed.simulator.api_format import Form
    from multiembed.simulator.messages import Answer, Request


@dataclass(kw_only=True)
class Entry:
    """A fault, when it is due, and how often it was."""

    fault: InjectedFault
    settings: Mapping[str, Any] = field(default_factory=dict)
    providers: tuple[str, ...] = EVERY_PROVIDER
    times: int | None = None
    probability: float | None = None
    every: int | None = None
    after: int = 0
    until: float | None = None
    """By the monotonic clock."""
    random: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - repeatable on purpose
    matched: int = 0
    made: int = 0

    def is_for(self, request: Request, form: Form | None) -> bool:
        """Whether it is about such requests at all, and its time is not over."""
        if self.until is not None and time.monotonic() >= self.until:
            return False
        if request.method == "CONNECT":
            return self.fault.on_connect
        return request.method == "POST" and form is not None and form.provider in self.providers

    def due(self) -> bool:
        """Count one more request that the fault could be made for, and tell whether it is to be made."""
        if self.times is not None and self.made >= self.times:
            return False
        self.matched += 1
        beyond = self.matched - self.after
        if beyond <= 0 or (self.every is not None and beyond % self.every):
            return False
        if self.probability is not None and self.random.random() >= self.probability:
            return False
        self.made += 1
        return True


@dataclass(frozen=True, slots=True)
class Made:
    """A fault that is to be made now."""

    fault: InjectedFault
    occasion: Occasion


class Schedule:
    """Entries in the order in which they were added. Written by any thread, read by the server's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """One more, behind the others."""
        with self._lock:
            self._entries.append(entry)

    def clear(self) -> None:
        """None is left."""
        with self._lock:
            self._entries.clear()

    def choose(self, request: Request, form: Form | None, answer: Answer, *, reused: bool) -> Made | None:
        """The first fault that matches the request and is due; those behind it do not count the request."""
        with self._lock:
            for entry in self._entries:
                if entry.is_for(request, form):
                    occasion = Occasion(
                        request=request, form=form or GATEWAY, answer=answer, reused=reused, settings=entry.settings
                    )
                    if entry.fault.when(occasion) and entry.due():
                        return Made(entry.fault, occasion)
        return None


def entry_of(
    fault: str | Callable[[Request, Answer], Answer],
    *,
    times: int | None,
    probability: float | None,
    every: int | None,
    after: int,
    seconds: float | None,
    provider: str | None,
    seed: int,
    settings: Mapping[str, Any],
) -> Entry:
    """A checked entry.

    Raises:
        ConfigurationError: no such fault, provider or setting, or a number that makes no sense.
    """
    named = fault_named(fault) if isinstance(fault, str) else _own(fault)
    if provider is not None and provider not in named.applies_to:
        raise ConfigurationError(f"{named.name} is made for {', '.join(named.applies_to)}, not for {provider!r}.")
    if unknown := [name for name in settings if name not in named.settings]:
        known = ", ".join(named.settings) or "none"
        raise ConfigurationError(f"{named.name} has no setting {unknown[0]!r}; it has {known}.")
    for name, value in settings.items():
        if isinstance(named.settings[name], int | float) and not isinstance(value, int | float):
            raise ConfigurationError(f"{named.name}: {name} must be a number, not {value!r}.")
    for name, value, least in (("times", times, 1), ("every", every, 1), ("after", after, 0), ("seconds", seconds, 0)):
        if value is not None and not value >= least:
            raise ConfigurationError(f"{name} must be {least} or more, not {value!r}.")
    if probability is not None and not 0.0 <= probability <= 1.0:
        raise ConfigurationError(f"probability must be from 0 to 1, not {probability!r}.")
    return Entry(
        fault=named,
        settings={**named.settings, **settings},
        providers=named.applies_to if provider is None else (provider,),
        times=times,
        probability=probability,
        every=every,
        after=after,
        until=None if seconds is None else time.monotonic() + seconds,
        random=random.Random(seed),  # noqa: S311 - repeatable on purpose
    )


def _own(function: Callable[[Request, Answer], Answer]) -> InjectedFault:
    """The caller's function as a fault."""
    return InjectedFault(
        getattr(function, "__name__", "function"),
        "A function of the caller's.",
        "body",
        alter=lambda occasion: function(occasion.request, occasion.answer),
    )
