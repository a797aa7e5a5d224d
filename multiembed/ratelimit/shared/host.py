"""Host of a shared quota: one limiter that decides for all members, and the messages by which it does.

Messages of a member: hello, ask, release, end, success, failure, rate_limited, spend_retry, limits, alive. Messages to
a member: state, admit, breaker, unknown.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.ratelimit.shared.quota_warning import warn
from multiembed.ratelimit.shared.snapshot import EndedRequests, Snapshot
from multiembed.transport.link import ALL

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from multiembed.ratelimit.limiter import Permit
    from multiembed.ratelimit.sliding_window import InFlightRecord
    from multiembed.transport.link import Link, Messages

logger = logging.getLogger("multiembed")
BEAT = 0.1
"""Seconds between two states that the host sends its members."""
MEMBER_SILENCE = 3.0
"""Seconds without a message, of which there is one each second, after which a member counts as dead."""
_WAIT_FOR_UNKNOWN = 0.1
"""Seconds for which a new host waits for members that it does not know of, before it admits requests."""
_WAIT_FOR_KNOWN = 0.5
"""The longest time for which it waits for those that it knows of."""
_LATENCY_WEIGHT = 0.1
_DELAY_WEIGHT = 0.25
_MAX_LATENCY = 1.25
"""Times the mean latency, for which a request of a process that has ended counts as in flight."""
_NEW_MEMBER = (0, 0, 0, 0)


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Member:
    """A process that shares the quota."""

    name: str
    permits: dict[int, Permit] = field(default_factory=dict)
    last_heard: float = 0.0
    delay: float = 0.0
    """Running mean of the seconds of a message to it."""
    successes: int = 0
    failures: int = 0
    ended: int = 0
    """Requests that have ended, by the member's own count."""

    def counts(self) -> list[int]:
        """As in `Snapshot.members`."""
        in_flight = sum(permit.record is not None and permit.record.in_flight for permit in self.permits.values())
        return [self.successes, self.failures, self.ended, in_flight]


class QuotaHost:
    """Decides for all members of a shared quota.

    Args:
        link: to the members, this process's own among them.
        name: for log lines.
        snapshot: what this process last received as a member.
    """

    def __init__(self, link: Link, name: str, snapshot: Snapshot) -> None:
        self._link = link
        self._limiter = AccountLimiter(link.loop.time, f"{name} (shared)")
        self._limiter.may_admit = self._may_admit
        self._members: dict[str, _Member] = {}
        self._ended = EndedRequests()
        self._latency = 0.0
        """Running mean of the seconds from the permit to the end of a request."""
        self._disturbed_until = float("-inf")
        self._is_ready = False
        self._best = snapshot
        """The youngest snapshot of all members that have said hello before this host is ready."""
        self._hellos: list[tuple[str, Sequence[Any]]] = []
        self._asks: list[tuple[str, Sequence[Any]]] = []
        """What came before this host is ready."""
        self._told = ""
        wait = _WAIT_FOR_KNOWN if snapshot.others else _WAIT_FOR_UNKNOWN
        self._timers: list[asyncio.TimerHandle] = [link.loop.call_later(wait, self._begin)]
        self._tick()

    def close(self) -> None:
        """Decide no more."""
        self._is_ready = False
        for timer in self._timers:
            timer.cancel()

    @property
    def members(self) -> int:
        """How many processes share the quota."""
        return len(self._members)

    def on_messages(self, sender: str, messages: Messages) -> None:
        """Handle the messages of a member, in order."""
        for message in messages:
            self._on_message(sender, message)
        if self._is_ready:
            self._tell_breaker()

    def on_member_gone(self, name: str) -> None:
        """Free the permits of a member that has ended, once the provider has probably answered its requests."""
        member = self._members.pop(name, None)
        if member is not None:
            self._disturbed_until = self._limiter.clock() + 2.0 * _MAX_LATENCY * self._latency
            for permit in member.permits.values():
                sent = self._limiter.clock() if permit.record is None else permit.record.sent
                delay = max(0.0, sent + _MAX_LATENCY * self._latency - self._limiter.clock())
                self._timers.append(self._link.loop.call_later(delay, self._free, permit))

    def _free(self, permit: Permit) -> None:
        if permit.record is not None and permit.record.in_flight:
            self._add_ended(permit.record)
        self._limiter.release(permit)

    def _add_ended(self, record: InFlightRecord) -> None:
        now = self._limiter.clock()
        self._ended.add(now, record.tokens, now - record.sent)

    def _may_admit(self) -> bool:
        return self._is_ready and self._link.may_decide()

    # ── taking over ──────────────────────────────────────────────────────────────────────────────

    def _on_message(self, sender: str, message: Sequence[Any]) -> None:
        kind, *values = message
        if kind == "hello":
            self._on_hello(sender, values)
        elif not self._is_ready:
            if any(name == sender for name, _ in self._hellos):
                self._asks.append((sender, message))
        elif sender not in self._members:
            self._link.send(sender, "unknown")
        else:
            self._members[sender].last_heard = self._limiter.clock()
            handle = _HANDLERS.get(kind)
            if handle is not None:
                handle(self, self._members[sender], *values)

    def _on_hello(self, sender: str, values: Sequence[Any]) -> None:
        now = self._limiter.clock()
        exported = values[-1]
        if self._is_ready:
            self._welcome(sender, values)
            self._limiter.admit_waiting()
            return
        self._hellos.append((sender, values))
        if exported is not None:
            snapshot = Snapshot.read(exported, now)
            if snapshot.received > self._best.received:
                self._best = snapshot
        if self._best.others and self._best.others <= {name for name, _ in self._hellos}:
            self._begin()

    def _begin(self) -> None:
        """Go on from what the members know, and admit requests."""
        if self._is_ready:
            return
        limiter, now, best = self._limiter, self._limiter.clock(), self._best
        if best.learned:
            limiter.pacer.import_state(now, best.learned)
            self._import_breaker(best)
        for past in best.requests():
            self._add_past(*past)
        self._is_ready = True
        hellos, self._hellos, asks, self._asks = dict(self._hellos), [], self._asks, []
        # A host that has ended had as many as were left of the maximum, if that was used up.
        others = best.full_at - sum(len(values[1]) for values in hellos.values())
        for name, (*_, in_flight) in best.members.items():
            if name not in hellos:
                self._adopt_ended(name, max(in_flight, others) if name == best.host else in_flight)
        for sender, values in hellos.items():
            self._welcome(sender, values)
        for sender, message in asks:
            self._on_message(sender, message)
        limiter.admit_waiting()

    def _adopt_ended(self, name: str, in_flight: int) -> None:
        """Count the requests of a process that has ended: the provider still works on them."""
        self._latency = self._best.latency
        member = self._members[name] = _Member(name)
        for permit_id in range(in_flight):
            permit = member.permits[permit_id] = self._limiter.permit()
            permit.record = self._limiter.pacer.adopt(self._limiter.clock(), 0.0)
        self.on_member_gone(name)

    def _import_breaker(self, snapshot: Snapshot) -> None:
        *breaker, retries = snapshot.breaker
        self._limiter.breaker.import_state(snapshot.received, breaker)
        self._limiter.retry_budget.retries = retries

    def _add_past(self, ended: float, tokens: float, seconds: float) -> None:
        self._limiter.pacer.add_past(ended - seconds, ended, tokens)
        self._ended.add(ended, tokens, seconds)

    def _welcome(self, sender: str, values: Sequence[Any]) -> None:
        """Take a member with its requests in flight, and those that ended without the last host's knowledge."""
        limits, in_flight, first, ended, _ = values
        limiter, now = self._limiter, self._limiter.clock()
        known = self._members.get(sender) or _Member(sender, ended=self._best.members.get(sender, _NEW_MEMBER)[2])
        limiter.owners.pop(known, None)
        listed = {permit_id for permit_id, *_ in in_flight}
        for permit_id in [permit_id for permit_id in known.permits if permit_id not in listed]:
            limiter.release(known.permits.pop(permit_id))
        for index, (age, tokens, seconds) in enumerate(ended, start=first):
            if index > known.ended:
                self._add_past(now - age, tokens, seconds)
        known.ended = max(known.ended, first + len(ended) - 1)
        for permit_id, age, tokens in sorted(in_flight, key=lambda each: -each[1]):
            permit = known.permits.get(permit_id)
            if permit is None or permit.record is None:
                permit = known.permits[permit_id] = limiter.permit(AccountLimits(*limits), tokens)
                permit.record = limiter.pacer.adopt(now - age, tokens)
        known.last_heard = now
        self._members[sender] = known
        limiter.owners[known] = AccountLimits(*limits)
        self._link.send(sender, "state", self._state(full=True))

    # ── what a member says ───────────────────────────────────────────────────────────────────────

    def _on_ask(self, member: _Member, permit_id: int, tokens: float, limits: Sequence[Any]) -> None:
        permit = member.permits[permit_id] = self._limiter.permit(AccountLimits(*limits), tokens)
        self._limiter.submit(permit).add_done_callback(partial(self._on_decided, member, permit_id, permit))

    def _on_decided(self, member: _Member, permit_id: int, permit: Permit, _: asyncio.Future[bool]) -> None:
        if permit.record is not None and member.permits.get(permit_id) is permit:
            self._link.send(member.name, "admit", permit_id)

    def _on_end(self, member: _Member, permit_id: int, *, final: bool = True) -> None:
        permit = member.permits.get(permit_id)
        if permit is None:
            return
        now, record = self._limiter.clock(), permit.record
        if final:
            del member.permits[permit_id]
        if record is not None and record.in_flight:
            member.ended += 1
            self._add_ended(record)
            self._latency += _LATENCY_WEIGHT * (now - record.sent - self._latency)
        self._limiter.release(permit)

    def _on_success(self, member: _Member, permit_id: int, billed: int | None) -> None:
        member.successes += 1
        permit = self._permit(member, permit_id)
        if permit.record is not None and not permit.record.in_flight and billed is not None:
            self._ended.add_tokens(self._limiter.clock(), billed - permit.record.tokens)
        permit.report_success(billed)

    def _on_failure(self, member: _Member, permit_id: int, delay: float, kind: Any) -> None:
        member.failures += 1
        self._permit(member, permit_id).report_failure(delay, kind)

    def _on_rate_limited(self, member: _Member, permit_id: int, delay: float, *details: Any) -> None:
        asked, reported, documented = details
        # After a process has ended, its last requests may be what exceeded the quota: no limit is to fall for them.
        disturbed = self._limiter.clock() < self._disturbed_until
        permit = self._limiter.permit() if disturbed else self._permit(member, permit_id)
        permit.report_rate_limited(delay, asked=asked, reported=reported, documented=documented)

    def _permit(self, member: _Member, permit_id: int) -> Permit:
        """The permit of a request; one without a record where it is not known."""
        return member.permits.get(permit_id) or self._limiter.permit()

    def _on_spend_retry(self, _: _Member) -> None:
        self._limiter.retry_budget.try_spend()

    def _on_limits(self, member: _Member, limits: Sequence[Any]) -> None:
        self._limiter.owners[member] = AccountLimits(*limits)

    def _on_alive(self, member: _Member, state: float, held: float) -> None:
        """Measure the delay of messages. `state` is the time of the last state that the member has got."""
        round_trip = max(0.0, self._limiter.clock() - state - held)
        member.delay += _DELAY_WEIGHT * (round_trip / 2.0 - member.delay)
        self._limiter.pacer.allow_for(max(each.delay for each in self._members.values()))

    # ── messages to the members ─────────────────────────────────────────────────────────────────

    def _tick(self) -> None:
        loop, now = self._link.loop, self._limiter.clock()
        self._timers = [timer for timer in self._timers if timer.when() > loop.time() and not timer.cancelled()]
        self._timers.append(loop.call_later(BEAT, self._tick))
        if not self._is_ready:
            return
        for name in [name for name, each in self._members.items() if now - each.last_heard > MEMBER_SILENCE]:
            logger.info("%s: a process that shares the quota is silent", self._limiter.name)
            self._link.drop(name)
            self.on_member_gone(name)
        self._divide(1 + self._link.other_versions)
        self._ended.expire(now)
        self._limiter.admit_waiting()  # it may have been kept from it by a lease that is renewed now
        self._link.send(ALL, "state", self._state(full=False))

    def _divide(self, share: int) -> None:
        """Divide the quota with the hosts of other versions of multiembed."""
        if share > self._limiter.share:
            warn(
                f"{self._limiter.name}: processes with another version of multiembed share the same quota, and they "
                f"cannot understand this one's. Each version gets one of {share} parts of the configured quota. Run "
                "one version everywhere."
            )
        self._limiter.share = share

    def _state(self, *, full: bool) -> dict[str, Any]:
        limiter, now = self._limiter, self._limiter.clock()
        return {
            "full": full,
            "now": now,
            "host": self._link.member,
            "members": {name: each.counts() for name, each in self._members.items()},
            "latency": self._latency,
            "ended": self._ended.export() if full else self._ended.changes(),
            "full_at": self._full_at(),
            "learned": limiter.pacer.export_state(now),
            "breaker": self._breaker(),
        }

    def _full_at(self) -> int:
        """The maximum of requests in flight, if that is what the next request waits for; else 0."""
        pacer, waiting = self._limiter.pacer, self._limiter.waiting
        maximum = pacer.max_in_flight(waiting[0].limits) if waiting else 0
        return maximum if pacer.in_flight >= maximum else 0

    def _breaker(self) -> list[Any]:
        return [*self._limiter.breaker.export_state(self._limiter.clock()), self._limiter.retry_budget.retries]

    def _tell_breaker(self) -> None:
        """Tell at once what changes whether requests may start."""
        breaker = self._limiter.breaker
        told = repr((breaker.is_closed, breaker.ever_succeeded, breaker.open_until, breaker.rejected_probes))
        if told != self._told:
            self._told = told
            self._link.send(ALL, "breaker", self._breaker())


_HANDLERS: dict[str, Any] = {
    "ask": QuotaHost._on_ask,
    "end": QuotaHost._on_end,
    "release": partial(QuotaHost._on_end, final=False),
    "success": QuotaHost._on_success,
    "failure": QuotaHost._on_failure,
    "rate_limited": QuotaHost._on_rate_limited,
    "spend_retry": QuotaHost._on_spend_retry,
    "limits": QuotaHost._on_limits,
    "alive": QuotaHost._on_alive,
}
