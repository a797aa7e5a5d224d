"""What the members of a shared quota keep of the host's state, so that any of them can become the host. No I/O.

A message with times of the host's clock also has the host's present time: another process, perhaps on another machine,
uses differences only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TICK = 0.02
"""Seconds in which ended requests are counted together."""
_KEPT = 61.0
"""Seconds for which they are kept: the longest window, and a second."""


class EndedRequests:
    """Number, tokens and mean seconds of the ended requests of the last minute, in ticks of a clock."""

    def __init__(self) -> None:
        self._ticks: dict[int, list[float]] = {}
        self._changed: set[int] = set()

    def add(self, ended: float, tokens: float, seconds: float) -> None:
        """Count a request that has ended, so many seconds after it was admitted."""
        tick = int(ended / TICK)
        requests, all_tokens, mean = self._ticks.get(tick, (0, 0.0, 0.0))
        self._ticks[tick] = [requests + 1, all_tokens + tokens, mean + (seconds - mean) / (requests + 1)]
        self._changed.add(tick)

    def add_tokens(self, now: float, tokens: float) -> None:
        """Correct the tokens of a request that was counted before."""
        counted = self._ticks.get(int(now / TICK))
        if counted is not None:
            counted[1] += tokens
            self._changed.add(int(now / TICK))

    def changes(self) -> list[list[float]]:
        """What has changed since the last time that this was called, as `update` takes it."""
        changed, self._changed = self._changed, set()
        return [[tick, *self._ticks[tick]] for tick in sorted(changed) if tick in self._ticks]

    def export(self) -> list[list[float]]:
        """All of them, as `update` takes it."""
        return [[tick, *counted] for tick, counted in sorted(self._ticks.items())]

    def update(self, ticks: Iterable[Sequence[float]]) -> None:
        """Take over what another process exported."""
        for tick, requests, tokens, seconds in ticks:
            self._ticks[int(tick)] = [int(requests), float(tokens), float(seconds)]

    def expire(self, now: float) -> None:
        """Forget what no window counts any more."""
        for tick in [tick for tick in self._ticks if tick * TICK < now - _KEPT]:
            del self._ticks[tick]

    def requests(self) -> Iterator[tuple[float, float, float]]:
        """When each request ended, at the latest, its tokens, and its seconds."""
        for tick, (requests, tokens, seconds) in sorted(self._ticks.items()):
            for _ in range(int(requests)):
                yield (tick + 1) * TICK, tokens / requests, seconds


@dataclass(slots=True)
class Snapshot:
    """The last state of the host that a member has received."""

    now: float = 0.0
    """Of the host."""
    received: float = float("-inf")
    """On the member's clock."""
    host: str = ""
    """Name of the host's own member."""
    members: dict[str, list[int]] = field(default_factory=dict)
    """Of each member: its successes, its failures, its ended requests, as far as the host has counted them, and its
    requests in flight."""
    latency: float = 0.0
    """Mean seconds from permit to end."""
    full_at: int = 0
    """Maximum of requests in flight, if it was used up; else 0."""
    ended: EndedRequests = field(default_factory=EndedRequests)
    learned: dict[str, Any] = field(default_factory=dict)
    """What the pacer has learned."""
    breaker: list[Any] = field(default_factory=list)
    """State of the circuit breaker and, last, the retries that are left."""

    def update(self, state: dict[str, Any], received: float) -> None:
        """Take a state of the host: all of it, or what has changed."""
        if state["full"]:
            self.ended = EndedRequests()
        self.ended.update(state["ended"])
        self.now, self.received, self.host = state["now"], received, state["host"]
        self.ended.expire(self.now)
        self.members, self.latency, self.full_at = state["members"], state["latency"], state["full_at"]
        self.learned, self.breaker = state["learned"], state["breaker"]

    @property
    def others(self) -> set[str]:
        """The members that still live if the host has ended."""
        return self.members.keys() - {self.host}

    def export(self, now: float) -> dict[str, Any]:
        """The snapshot for a new host, with the seconds since it was received."""
        return {
            "age": now - self.received,
            "now": self.now,
            "host": self.host,
            "members": self.members,
            "latency": self.latency,
            "full_at": self.full_at,
            "ended": self.ended.export(),
            "learned": self.learned,
            "breaker": self.breaker,
        }

    @classmethod
    def read(cls, exported: dict[str, Any], now: float) -> Snapshot:
        """Read what a member has exported."""
        snapshot = cls()
        snapshot.update({**exported, "full": True}, now - exported["age"])
        return snapshot

    def requests(self) -> Iterator[tuple[float, float, float]]:
        """When each ended request ended, on the member's clock, its tokens, and its seconds."""
        for ended, tokens, seconds in self.ended.requests():
            yield min(ended - self.now, 0.0) + self.received, tokens, seconds
