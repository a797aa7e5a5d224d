"""Member of a shared quota: asks the host for the permits of this process's limiter, and goes on without it.

While the host is away for good, because Redis is, the limiter decides itself and keeps this process's share of the
quota: the quota divided by the number of processes that shared it last.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from multiembed.errors import ConfigurationError
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.ratelimit.shared.host import QuotaHost
from multiembed.ratelimit.shared.quota_warning import warn
from multiembed.ratelimit.shared.snapshot import Snapshot
from multiembed.transport.link import HOST

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from multiembed.ratelimit.limiter import AccountLimiter, Permit
    from multiembed.transport.link import Link, LinkHandler, Messages

logger = logging.getLogger("multiembed")
ALIVE = 1.0
"""Seconds between two messages by which the host knows that this process lives."""
_IDLE = 120.0
"""Seconds without a permit after which a member leaves, until the next one."""


def _values(limits: AccountLimits) -> tuple[Any, ...]:
    return limits.in_flight, limits.requests_per_minute, limits.tokens_per_minute, limits.per_second


class QuotaMember:
    """Shares the quota of a limiter's account with other processes.

    Args:
        limiter: of this process.
        make_link: makes the link to the other processes, on the running loop.
    """

    def __init__(self, limiter: AccountLimiter, make_link: Callable[[LinkHandler], Link]) -> None:
        self._limiter = limiter
        self._make_link = make_link
        self._link: Link | None = None
        self._host: QuotaHost | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_connected = False
        """Whether hello was sent to the present host."""
        self._has_joined = False
        """Whether any host has ever welcomed this process."""
        self._is_welcome = False
        """Whether the present host has."""
        self._is_alone = False
        """Whether the limiter decides itself, because the others cannot be reached."""
        self._snapshot = Snapshot()
        self._permits: dict[int, Permit] = {}
        """Those that wait or whose requests are in flight."""
        self._ids: dict[Permit, int] = {}
        self._last_id = 0
        self._ended = 0
        """Requests that have ended."""
        self._unconfirmed: deque[tuple[float, float, float]] = deque()
        """When the last of them ended, their tokens and seconds. No host may know of these."""
        self._told_limits: tuple[Any, ...] = ()

    def leave(self) -> None:
        """As `close`, from any thread."""
        link = self._link
        if link is not None and not link.loop.is_closed():
            link.loop.call_soon_threadsafe(self.close)

    def close(self) -> None:
        """Leave, until a permit is asked for. Called on the loop of the link."""
        self._is_connected = self._is_welcome = False
        if self._timer is not None:
            self._timer.cancel()
        if self._host is not None:
            self._host.close()
            self._host = None
        if self._link is not None:
            self._link.close()
            self._link = None

    # ── for the limiter ──────────────────────────────────────────────────────────────────────────

    @property
    def decides(self) -> bool:
        """Whether the host decides, or has yet to be found."""
        return not self._is_alone

    def ask(self, permit: Permit) -> None:
        """Ask the host for a permit."""
        self._last_id += 1
        self._permits[self._last_id] = permit
        self._ids[permit] = self._last_id
        if self._link is None:
            self._link = self._make_link(self)
            self._link.start()
            self._tick()
        elif not self._is_alone:
            self._send_ask(permit)

    def _send_ask(self, permit: Permit) -> None:
        self._send("ask", self._ids[permit], permit.tokens, _values(permit.limits))

    def end(self, permit: Permit, *, final: bool) -> None:
        """Tell the host that a request has ended, or its wait."""
        permit_id = self._ids.get(permit)
        if permit_id is None:
            return
        if final:
            del self._ids[permit], self._permits[permit_id]
        if permit.record is not None and not permit.is_counted:
            permit.is_counted = True
            self._count_ended(permit.record.tokens, self._limiter.clock() - permit.record.sent)
        self._send("end" if final else "release", permit_id)

    def _count_ended(self, tokens: float, seconds: float) -> None:
        self._ended += 1
        self._unconfirmed.append((self._limiter.clock(), tokens, seconds))

    def report(self, permit: Permit, *result: object) -> None:
        """Tell the host the result of a request."""
        kind, *details = result
        self._send(str(kind), self._ids.get(permit, 0), *details)

    def spend_retry(self) -> None:
        """Tell the host that a retry was spent."""
        self._send("spend_retry")

    def _send(self, *message: Any) -> None:
        if self._link is not None and self._is_connected:
            self._link.send(HOST, *message)

    @property
    def _joined_link(self) -> Link:
        if self._link is None:
            raise LookupError("the process has left the shared quota")
        return self._link

    # ── events of the link ───────────────────────────────────────────────────────────────────────

    def on_elected(self) -> None:
        """Decide for all from now on."""
        logger.info("%s: this process (%d) decides for all that share the quota", self._limiter.name, os.getpid())
        self._host = QuotaHost(self._joined_link, self._limiter.name, self._snapshot)

    def on_connected(self) -> None:
        """Say hello to the host: limits, requests in flight, and what it may not know."""
        now = self._limiter.clock()
        in_flight = [
            (permit_id, now - permit.record.sent, permit.record.tokens)
            for permit_id, permit in self._permits.items()
            if permit.record is not None and permit.record.in_flight
        ]
        ended = [(now - when, tokens, seconds) for when, tokens, seconds in self._unconfirmed]
        snapshot = self._snapshot.export(now) if self._snapshot.members else None
        self._told_limits = self._lowest_limits()
        first = self._ended - len(ended) + 1
        self._is_connected = True
        self._send("hello", self._told_limits, in_flight, first, ended, snapshot)
        if not self._is_alone:
            self._ask_waiting()

    def _ask_waiting(self) -> None:
        for permit in self._limiter.waiting:
            self._send_ask(permit)

    def _lowest_limits(self) -> tuple[Any, ...]:
        """The lowest limits of all clients in this process, whatever the order in which they came."""
        return _values(self._limiter.effective_limits(AccountLimits(per_second=False)))

    def on_disconnected(self) -> None:
        """Wait for another host."""
        self._is_connected = self._is_welcome = False
        if self._host is not None:
            self._host.close()
            self._host = None

    def on_failed(self, reason: str) -> None:
        """Go on with this process's share, or fail what waits if the quota was never shared."""
        self.on_disconnected()
        if not self._has_joined:
            self.close()
            for permit in self._limiter.waiting:
                permit.fail(ConfigurationError(f"{reason} Nothing was sent."))
            return
        if not self._is_alone:
            self._is_alone = True
            self._go_alone(reason)

    def _go_alone(self, reason: str) -> None:
        limiter, members = self._limiter, sorted(self._snapshot.members)
        limiter.share = share = max(1, len(members))
        own, now = self._joined_link.member, limiter.clock()
        rank = members.index(own) if own in members else 0
        limiter.pacer.import_state(now, self._snapshot.learned, share, rank)
        # Each counts its part of what all have sent. So the parts add up to the quota.
        past = [(ended - seconds, ended, tokens) for ended, tokens, seconds in self._snapshot.requests()]
        records = [permit.record for permit in self._permits.values() if permit.record is not None]
        limiter.pacer.replace_past(past[rank::share], records)
        warn(
            f"{limiter.name}: {reason} Until it works again, this process goes on with its share of the quota: one of "
            f"{share} parts."
        )
        limiter.admit_waiting()

    def on_member_gone(self, member: str) -> None:
        """Free what a process held that has ended."""
        if self._host is not None:
            self._host.on_member_gone(member)

    def on_messages(self, sender: str, messages: Messages) -> None:
        """Handle messages of the host, or pass those for this process as the host to it."""
        if sender != HOST:
            if self._host is not None:
                self._host.on_messages(sender, messages)
            return
        for kind, *values in messages:
            if kind == "state":
                self._on_state(*values)
            elif kind == "unknown":
                if self._is_welcome:
                    self._is_welcome = False
                    self.on_connected()
            elif self._is_welcome and kind == "admit":
                self._on_admit(*values)
            elif self._is_welcome and kind == "breaker":
                self._import_breaker(*values)

    # ── what the host says ───────────────────────────────────────────────────────────────────────

    def _on_state(self, state: dict[str, Any]) -> None:
        if not (self._is_welcome or state["full"]):
            return
        limiter, own = self._limiter, self._joined_link.member
        before = {} if state["full"] else self._snapshot.members
        for name, (successes, failures, *_) in state["members"].items():
            if name != own and name in before:
                known = before[name]
                if successes > known[0]:
                    limiter.last_answer = limiter.clock()
                limiter.successes += max(0, successes - known[0])
                limiter.failures += max(0, failures - known[1])
        self._snapshot.update(state, limiter.clock())
        unconfirmed = self._ended - state["members"].get(own, (0, 0, 0))[2]
        while len(self._unconfirmed) > max(0, unconfirmed):
            self._unconfirmed.popleft()
        if state["full"]:
            self._on_welcome()
        self._import_breaker(state["breaker"])

    def _on_welcome(self) -> None:
        """The host knows this process: let it decide."""
        limiter = self._limiter
        self._is_welcome = self._has_joined = True
        if self._is_alone:
            self._is_alone = False
            limiter.share = 1
            logger.info("%s: the quota is shared again", limiter.name)
            self._ask_waiting()

    def _import_breaker(self, state: list[Any]) -> None:
        *breaker, retries = state
        self._limiter.breaker.import_state(self._limiter.clock(), breaker)
        self._limiter.retry_budget.retries = retries
        self._limiter.end_late_waits()

    def _on_admit(self, permit_id: int) -> None:
        permit = self._permits.get(permit_id)
        if permit is None or (permit.is_decided and permit.record is None):
            self._count_ended(0.0, 0.0)  # its wait has ended meanwhile, and the host counts a request
        elif permit.record is None:
            self._limiter.admit(permit)

    # ── time ─────────────────────────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        """Say that this process lives, and what limits its clients have; leave if none has asked for long."""
        limiter = self._limiter
        now = limiter.clock()
        while self._unconfirmed and now - self._unconfirmed[0][0] > _IDLE:
            self._unconfirmed.popleft()
        others = self._host is not None and self._host.members > 1
        if not self._permits and not others and now - limiter.used_at > _IDLE:
            self.close()
            return
        self._timer = self._joined_link.loop.call_later(ALIVE, self._tick)
        limits = self._lowest_limits()
        if limits != self._told_limits:
            self._told_limits = limits
            self._send("limits", limits)
        if self._is_welcome:
            self._send("alive", self._snapshot.now, now - self._snapshot.received)
