"""When the next request of an account may go: ceilings that were told are kept exactly, others are learned. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multiembed.ratelimit.adaptive_limit import BACK, AdaptiveLimit, ThroughputMeter
from multiembed.ratelimit.sliding_window import BilledShare, InFlightRecord, SlidingWindow, Transit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.types import LimitKind

_MINUTE = 60.0
_SECOND = 1.0
_LOST = 600.0
"""Seconds after which nobody waits any more for an answer to count from."""
FIRST_IN_FLIGHT = 8
"""Requests in flight to begin with, when no ceiling is told: well below the lowest documented quota (Zhipu V0: 50)."""
MOST_IN_FLIGHT = 256
"""No more are tried, when no ceiling is told."""
_SLOWEST = 0.2
"""A learned rate never falls below this, in requests a second; longer pauses are the weather's matter."""
_UNDER = 0.98
"""Where a learned rate rests: a server that counts each second refuses now and then close under its limit, too."""
_CATCH_UP = 0.02
"""Seconds by which a request that is late, because timers are, lets the next one come sooner."""
_EARLY_SUCCESSES = 30
_EARLY_REFUSALS = 6
"""Until an account has answered so often or refused so often, a refusal changes little: it may be a stray one. An
account that passed nothing or one request had its rate set to 0.2 a second: two stray refusals cost 64 s, of 2.7 s
for 500 requests at 0.1 s of latency; now at most 2.4 s (2026-11-28)."""
_EARLY_RATE = 48.0
"""The least requests a second from which a rate is searched after an early refusal. 500 requests take 3.0 s from there.
"""
_EARLY_LEFT = 0.8
_EARLY_LEFT_IN_VAIN = 0.5
"""What is left of a searched rate after an early refusal, and where nothing passed since the one before."""
_EARLY_IN_VAIN = 3
"""Early refusals from which the latter holds."""
_EARLY_BACK = 0.5
"""Seconds of use from an early refusal until the requests in flight are again as many as were refused."""
_ALIKE = 0.9
"""Levels in flight count as alike from this ratio: a request that is on its way back occupies a place only here."""
_IDLE = 1.0
"""A longer pause between two requests is no use of a limit."""
_LATELY = 2.0
_MOST_VOTES = 3
_DOCUMENTS: Mapping[LimitKind | None, int] = {"in_flight": 2, None: 0, "requests": -2, "tokens": -2}


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """What the user knows of the account's quota. None: it is learned."""

    in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    per_second: bool = False
    """The provider also allows no more than a sixtieth of both in each second."""

    @property
    def max_tokens_per_request(self) -> float:
        """The most tokens that one request may ever have."""
        return _share(self.tokens_per_minute, 60 if self.per_second else 1)


class Pacer:
    """The requests of one account: how many, how fast, and how they fared.

    All times are seconds on the caller's clock.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self._in_flight = AdaptiveLimit(FIRST_IN_FLIGHT, least=1, most=MOST_IN_FLIGHT)
        self._rates: dict[LimitKind, AdaptiveLimit] = {}
        self._passed: dict[LimitKind, ThroughputMeter] = {"requests": ThroughputMeter(), "tokens": ThroughputMeter()}
        self._free: dict[LimitKind, float] = {}
        """When the next request may go at each learned rate."""
        self._minute = SlidingWindow(_MINUTE, _LOST)
        self._transit = Transit()
        self._billed = BilledShare()
        self._second = SlidingWindow(_SECOND, self._transit.spread)
        self._last = float("-inf")
        self._changed = float("-inf")
        """When a limit last fell: what went before tells nothing of the new one."""
        self._held: deque[tuple[float, int]] = deque(maxlen=1024)
        """When requests passed, and with how many in flight they had gone."""
        self._successes = 0
        self._last_success = float("-inf")
        self._refusals = 0
        """Those that changed a limit; what was sent before the last change does not count."""
        self._in_flight_changed = float("-inf")
        self._votes = 0
        """For requests in flight, above 0, or a rate, below, as what is limited."""

    def learned(self) -> str:
        """The learned limits in words, for a log line; empty while none is known."""
        limits = [] if self._in_flight.searching else [f"{int(self._in_flight.value)} requests in flight"]
        limits += [f"{rate.value:.3g} {quota} per second" for quota, rate in self._rates.items()]
        return ", ".join(limits)

    def max_in_flight(self, ceilings: AccountLimits) -> int:
        """The most requests in flight."""
        told = ceilings.in_flight
        if told is not None and self._in_flight.searching:
            return told
        learned = int(self._in_flight.value)
        return learned if told is None else min(told, learned)

    def delay(self, now: float, ceilings: AccountLimits, tokens: float, *, learned: bool = True) -> float:
        """Seconds until rates allow one more request; infinite when an answer must come first.

        Args:
            now: the time.
            ceilings: the told ones.
            tokens: of the request, as estimated.
            learned: whether learned rates hold, too.
        """
        tokens = self._reserved(ceilings, tokens)
        waits = [free - now - _CATCH_UP for free in self._free.values()] if learned else []
        windows = [(self._minute, 1), (self._second, 60)] if ceilings.per_second else [(self._minute, 1)]
        for window, parts in windows:
            requests = _share(ceilings.requests_per_minute, parts)
            most = _share(ceilings.tokens_per_minute, parts)
            waits.append(window.wait(now, requests - 1, max(0.0, most - tokens)))
        return max(waits)

    def start(self, now: float, ceilings: AccountLimits, tokens: float, *, learned: bool = True) -> InFlightRecord:
        """One more request goes; where it did not wait for learned rates, nobody pays for it later."""
        self._use(now, ceilings)
        for quota, rate in self._rates.items() if learned else ():
            amount = 1.0 if quota == "requests" else tokens
            self._free[quota] = max(self._free[quota], now - _CATCH_UP) + amount / rate.value
        self.in_flight += 1
        ticket = InFlightRecord(now, self._reserved(ceilings, tokens), self.in_flight, tokens)
        self._minute.sent(ticket, now)
        self._second.sent(ticket, now)
        return ticket

    def _reserved(self, ceilings: AccountLimits, tokens: float) -> float:
        """Tokens to count for a request before its bill.

        A minute is counted by the full estimate. In a second most requests have no bill yet, so an estimate that is a
        tenth too high would leave a tenth of the quota unused.
        """
        return float(round(tokens * self._billed.value)) if ceilings.per_second else tokens

    def _use(self, now: float, ceilings: AccountLimits) -> None:
        """Let those limits grow that hold requests up."""
        last, self._last = self._last, now
        seconds = min(now - last, _IDLE)
        if self.in_flight >= self.max_in_flight(ceilings) - 1:
            self._in_flight.grow(seconds)
        for quota, rate in self._rates.items():
            if self._free[quota] > now - 2 * _CATCH_UP:
                rate.grow(max(seconds, min(now, self._free[quota]) - last))

    def finish(self, ticket: InFlightRecord, now: float) -> None:
        """It is no longer in flight."""
        self._minute.answered(ticket, now)
        self._second.answered(ticket, now)
        self.in_flight -= 1

    def on_success(self, ticket: InFlightRecord, now: float, billed: int | None) -> None:
        """The provider did what was asked, and billed so many tokens."""
        if billed is not None:
            self._minute.billed(ticket, billed)
            self._second.billed(ticket, billed)
            ticket.tokens = billed
            self._billed.add(billed, ticket.estimated)
        self._second.on_the_way = self._transit.answered()
        self._successes += 1
        self._last_success = now
        self._passed["requests"].add(now, 1.0)
        self._passed["tokens"].add(now, ticket.tokens)
        self._held.append((now, ticket.concurrency))

    def on_rate_limited(
        self, ticket: InFlightRecord, now: float, told: LimitKind | None, usual: LimitKind | None, pause: float
    ) -> None:
        """The provider found it too much.

        Args:
            ticket: of the refused request.
            now: the time.
            told: of what, where its words tell.
            usual: what its documents say it limits.
            pause: seconds for which it wants to be left alone.
        """
        if ticket.sent < self._changed:
            return  # it went before the limit fell, so it says nothing new
        if told != "in_flight":
            self._second.on_the_way = self._transit.refused(now - ticket.sent)
        in_vain = self._last_success < self._changed
        self._changed = now
        self._refusals += 1
        early = self._successes < _EARLY_SUCCESSES and self._refusals <= _EARLY_REFUSALS
        if early and not self._successes and self._alone(ticket):
            return  # before the first success requests go one at a time, which is slow enough
        quota = told or self._infer_quota(ticket, now, usual, early=early)
        if quota == "in_flight":
            self._in_flight_changed = now
            level = max(ticket.concurrency, FIRST_IN_FLIGHT // 2) if early else ticket.concurrency
            self._in_flight.decrease(level, pause=pause, back=_EARLY_BACK if early else BACK)
            self.recovered()
            return
        if told is None and not self._in_flight.searching:
            self._in_flight.restart_search(self._in_flight.value)
        if quota not in self._rates:
            self._begin_rate(quota, now, _EARLY_RATE * (1.0 if quota == "requests" else ticket.tokens) * early, pause)
        elif early:
            rate = self._rates[quota]
            left = _EARLY_LEFT_IN_VAIN if in_vain and self._refusals > _EARLY_IN_VAIN else _EARLY_LEFT
            rate.restart_search(rate.value * left)
        else:
            self._lower_rate(quota, now, pause)

    def _alone(self, ticket: InFlightRecord) -> bool:
        """Whether nothing else is in flight. The level alone does not tell: others may have gone a moment later."""
        return ticket.concurrency == 1 == self.in_flight

    def _begin_rate(self, quota: LimitKind, now: float, least: float, pause: float) -> None:
        """Search a rate from what passed lately, or from `least` if that is more."""
        start = max(self._passed[quota].rate(now), least)
        rate = self._rates[quota] = AdaptiveLimit(start, least=_SLOWEST, most=float("inf"), rests=_UNDER)
        self._free[quota] = now
        rate.decrease(start, pause=pause)
        rate.restart_search(rate.value)

    def _lower_rate(self, quota: LimitKind, now: float, pause: float) -> None:
        """Lower a rate; a search ends at what passed lately, but few successes do not more than halve it."""
        rate, meter = self._rates[quota], self._passed[quota]
        passed = meter.rate(now)
        at = rate.value
        if rate.searching:
            at = max(passed, at / 2.0 if meter.holds_few(now) else _SLOWEST)
        rate.decrease(at, passed, pause)

    def _infer_quota(self, ticket: InFlightRecord, now: float, usual: LimitKind | None, *, early: bool) -> LimitKind:
        """Whether a refusal was for requests in flight, or for a rate.

        The former is met with more in flight than lately were allowed, the latter with any number. So each refusal is a
        vote, and the documents have two. One request alone is not too many in flight. Early refusals do not vote for a
        rate, nor does one at the usual level soon after the number in flight was lowered: it has just grown back.
        """
        held = max((level for when, level in self._held if now - when <= _LATELY), default=0)
        grown_back = ticket.concurrency > _ALIKE * held and now - self._in_flight_changed <= 2.0 * _LATELY
        if self._alone(ticket):
            vote = -_MOST_VOTES
        elif ticket.concurrency > held:
            vote = 1
        else:
            vote = 0 if early or grown_back else -1
        self._votes = max(-_MOST_VOTES, min(_MOST_VOTES, self._votes + vote))
        return "in_flight" if self._votes + _DOCUMENTS[usual] > 0 else "requests"

    def recovered(self) -> None:
        """What the rates have fallen to says little: it was for something else, or after refusals only one passed."""
        for rate in self._rates.values():
            rate.restart_search(rate.value)


def _share(per_minute: int | None, parts: int) -> float:
    return float("inf") if per_minute is None else max(1, per_minute // parts)
