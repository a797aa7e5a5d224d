"""Pacer: when may the next request of an account start? Configured limits are kept exactly, others learned. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from multiembed.ratelimit.adaptive_limit import RECOVERY, AdaptiveLimit, ThroughputMeter
from multiembed.ratelimit.sliding_window import BilledRatio, InFlightRecord, SlidingWindow, TransitSpread
from multiembed.testing import apply_test_mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from multiembed.types import LimitKind

_MINUTE = 60
_MAX_ATTEMPT = 600.0  # seconds after which a request that has not ended counts as arrived
INITIAL_IN_FLIGHT = 8
"""Requests in flight at first, unless configured: well below the lowest documented quota (Zhipu V0: 50)."""
MAX_IN_FLIGHT = 256
"""Maximum of requests in flight, unless configured."""
_MIN_RATE = 0.2
"""Minimum of a learned rate, in requests a second. Longer pauses are made by the circuit breaker."""
_RATE_TARGET = 0.98
"""A server that counts each second rejects a few requests just below its limit, too."""
_CATCH_UP = 0.02  # seconds by which a request that timers delayed lets the next one start sooner
_MAX_IDLE = 1.0  # seconds between two requests that count as use of a limit, at most

# Up to so many successes and rejections, a rejection changes little: it may be a stray one. Otherwise two stray
# rejections of a new account cost 64 s, where 500 requests take 2.7 s at 0.1 s of latency; now up to 2.4 s
# (2026-11-28). A search starts at 48 requests a second, from where 500 take 3.0 s. It is lowered by the larger factor
# from the fourth rejection, if nothing succeeded since the one before. The requests in flight recover in 0.5 s of use.
_EARLY_SUCCESSES = 30
_EARLY_REJECTIONS = 6
_EARLY_MIN_RATE = 48.0
_EARLY_DECREASE = 0.8
_EARLY_DECREASE_WITHOUT_SUCCESS = 0.5
_MAX_EARLY_SMALL_DECREASES = 3
_EARLY_RECOVERY = 0.5

_SAME_CONCURRENCY = 0.9
"""Ratio from which two numbers in flight count as equal: a response on its way is in flight only here."""
_RECENT = 2.0
_MAX_VOTES = 3
_VOTES_OF_DOCUMENTS: Mapping[LimitKind | None, int] = {"in_flight": 2, None: 0, "requests": -2, "tokens": -2}


@dataclass(frozen=True, slots=True)
class AccountLimits:
    """Limits of the account that the user configured. None: the limit is learned."""

    in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    per_second: bool = False
    """Whether the provider also counts a sixtieth of both in each second."""

    def divided(self, share: int) -> AccountLimits:
        """The limits of one of `share` limiters that divide the quota, at least 1 each."""
        if share == 1:
            return self

        def part(limit: int | None) -> int | None:
            return None if limit is None else max(1, limit // share)

        rates = part(self.requests_per_minute), part(self.tokens_per_minute)
        return AccountLimits(part(self.in_flight), *rates, self.per_second)

    @property
    def max_tokens_per_request(self) -> float:
        """Maximum of tokens that one request may ever have."""
        return _share(self.tokens_per_minute, 1 if self.per_second else _MINUTE)


class Pacer:
    """Pacer of one account and model: how many requests, and how fast. Times are seconds on the caller's clock."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._concurrency = AdaptiveLimit(INITIAL_IN_FLIGHT, minimum=1, maximum=MAX_IN_FLIGHT)
        self._rates: dict[LimitKind, AdaptiveLimit] = {}
        self._next_start: dict[LimitKind, float] = {}
        """When each learned rate lets the next request start."""
        self._throughput = ThroughputMeter()
        self._billed_ratio = BilledRatio()
        self._transit = TransitSpread()
        self._windows = self._new_windows()
        self._last_start = self._last_decrease = self._last_concurrency_decrease = float("-inf")
        self._rejections = 0
        """Those that changed a limit. A request that was sent before the last change shows nothing new."""
        self._votes = 0
        """Whether the provider limits requests in flight (above 0) or a rate (below 0)."""

    def _new_windows(self) -> dict[int, SlidingWindow]:
        minute = SlidingWindow(_MINUTE, TransitSpread(_MAX_ATTEMPT))
        return {_MINUTE: minute, 1: SlidingWindow(1, self._transit)}

    def learned(self) -> str:
        """The learned limits, for a log line; empty while none is known."""
        limits = [] if self._concurrency.searching else [f"{int(self._concurrency.value)} requests in flight"]
        limits += [f"{rate.value:.3g} {kind} per second" for kind, rate in self._rates.items()]
        return ", ".join(limits)

    def max_in_flight(self, limits: AccountLimits) -> int:
        """Maximum of requests in flight."""
        learned, configured = int(self._concurrency.value), limits.in_flight
        if configured is None:
            return learned
        return configured if self._concurrency.searching else min(configured, learned)

    def delay(self, now: float, limits: AccountLimits, tokens: float) -> float:
        """Seconds until a request of so many estimated tokens may start; infinite if another one must end first."""
        reserved = self._reserved(limits, tokens)
        delays = [apply_test_mode(start - now - _CATCH_UP) for start in self._next_start.values()]
        for seconds in (_MINUTE, 1) if limits.per_second else (_MINUTE,):
            requests = _share(limits.requests_per_minute, seconds) - 1
            available = max(0.0, _share(limits.tokens_per_minute, seconds) - reserved)
            delays.append(self._windows[seconds].delay(now, requests, available))
        return max(delays)

    def start(self, now: float, limits: AccountLimits, tokens: float) -> InFlightRecord:
        """Start a request of so many estimated tokens. The limits that delay requests grow with it."""
        last, self._last_start = self._last_start, now
        used = min(now - last, _MAX_IDLE)
        if self.in_flight >= self.max_in_flight(limits) - 1:
            self._concurrency.grow(used)
        for kind, rate in self._rates.items():
            if self._next_start[kind] > now - 2 * _CATCH_UP:  # it delays requests
                rate.grow(max(used, min(now, self._next_start[kind]) - last))
            seconds = apply_test_mode((tokens if kind == "tokens" else 1.0) / rate.value)
            self._next_start[kind] = max(self._next_start[kind], now - _CATCH_UP) + seconds
        self.in_flight += 1
        record = InFlightRecord(now, self._reserved(limits, tokens), self.in_flight, tokens)
        for window in self._windows.values():
            window.start(record)
        return record

    def finish(self, record: InFlightRecord, now: float) -> None:
        """Note that a request is no longer in flight. A second time does nothing."""
        if record.in_flight:
            record.in_flight = False
            self.in_flight -= 1
            for window in self._windows.values():
                window.finish(record, now)

    def on_success(self, record: InFlightRecord, now: float, billed: int | None) -> None:
        """Record a success, and the tokens that were billed if the provider reports them."""
        if billed is not None:
            for window in self._windows.values():
                window.bill(record, billed)
            record.tokens = billed
            self._billed_ratio.add(billed, record.estimated)
        self._transit.on_success()
        self._throughput.add(now, record)

    def on_rate_limited(
        self, record: InFlightRecord, now: float, reported: LimitKind | None, documented: LimitKind | None, pause: float
    ) -> None:
        """Lower a limit after a rate-limited request.

        `reported` is the limit that the response names, `documented` the one that the provider documents, and `pause`
        the seconds for which the provider asks to wait.
        """
        if record.sent < self._last_decrease:
            return  # sent before the limit was lowered
        if reported != "in_flight":
            self._transit.on_rate_limited(now - record.sent)
        successes = self._throughput.successes
        without_success = not successes or successes[-1][0] < self._last_decrease
        self._last_decrease = now
        self._rejections += 1
        early = len(successes) < _EARLY_SUCCESSES and self._rejections <= _EARLY_REJECTIONS
        if early and not successes and self._is_alone(record):
            return  # before the first success requests go one at a time, which is slow enough
        kind = reported or self._infer_quota(record, now, documented, early=early)
        if kind == "in_flight":
            self._last_concurrency_decrease = now
            level = max(record.concurrency, INITIAL_IN_FLIGHT // 2) if early else record.concurrency
            self._concurrency.decrease(level, pause=pause, recovery=_EARLY_RECOVERY if early else RECOVERY)
            self.restart_search()  # the rates were lowered for something else
            return
        if reported is None and not self._concurrency.searching:
            self._concurrency.restart_search()
        if kind in self._rates and early:
            large = without_success and self._rejections > _MAX_EARLY_SMALL_DECREASES
            self._rates[kind].restart_search(_EARLY_DECREASE_WITHOUT_SUCCESS if large else _EARLY_DECREASE)
        else:
            self._lower_rate(kind, record, now, pause, early=early)

    def restart_search(self) -> None:
        """Search the learned rates again. After an outage, or a rejection for another reason, they are too low."""
        for rate in self._rates.values():
            rate.restart_search()

    def allow_for(self, delay: float) -> None:
        """Allow for permits that travel up to `delay` seconds to the process that sends the request."""
        self._transit.allow_for(delay)

    def adopt(self, sent: float, tokens: float) -> InFlightRecord:
        """Count a request in flight that another process has admitted."""
        self.in_flight += 1
        record = InFlightRecord(sent, tokens, self.in_flight, tokens)
        for window in self._windows.values():
            window.start(record)
        return record

    def add_past(self, sent: float, ended: float, tokens: float) -> None:
        """Count a request that another process has admitted, and that ended before now."""
        record = InFlightRecord(sent, tokens, 1, tokens, in_flight=False)
        for window in self._windows.values():
            window.add_past(record, ended)

    def replace_past(self, past: Iterable[tuple[float, float, float]], in_flight: Iterable[InFlightRecord]) -> None:
        """Count these requests in the last minute, as `add_past` takes them, instead of those that were admitted here.

        Those in flight still count.
        """
        self._windows = self._new_windows()
        for record in sorted((each for each in in_flight if each.in_flight), key=attrgetter("sent")):
            for window in self._windows.values():
                window.start(record)
        for request in past:
            self.add_past(*request)

    def export_state(self, now: float) -> dict[str, Any]:
        """What it has learned, for another process."""
        was_early = len(self._throughput.successes) < _EARLY_SUCCESSES
        return {
            "concurrency": self._concurrency.export_state(),
            "rates": {kind: rate.export_state() for kind, rate in self._rates.items()},
            "billed_ratio": self._billed_ratio.export_state(),
            "transit": self._transit.export_state(),
            "throughput": self._throughput.export_state(now),
            "votes": self._votes,
            "rejections": self._rejections if was_early else max(self._rejections, _EARLY_REJECTIONS + 1),
        }

    def import_state(self, now: float, state: Mapping[str, Any], share: int = 1, rank: int = 0) -> None:
        """Continue from what another process exported.

        Args:
            now: the time.
            state: as `export_state` returns it.
            share: the number of processes that divide the learned limits.
            rank: of this one among them. They start one after another.
        """
        self._concurrency.import_state(state["concurrency"])
        self._concurrency.divide(share)
        self._rates = {}
        for kind, learned in state["rates"].items():
            rate = self._rates[kind] = AdaptiveLimit(0.0, minimum=_MIN_RATE, maximum=float("inf"), target=_RATE_TARGET)
            rate.import_state(learned)
            rate.divide(share)
        self._next_start = {kind: now + (rank / share) / rate.value for kind, rate in self._rates.items()}
        self._last_start = now
        self._billed_ratio.import_state(state["billed_ratio"])
        self._transit.import_state(state["transit"])
        if share == 1:
            self._throughput.import_state(now, state["throughput"])
        self._votes, self._rejections = int(state["votes"]), int(state["rejections"])
        self._last_decrease = self._last_concurrency_decrease = float("-inf")

    def _lower_rate(self, kind: LimitKind, record: InFlightRecord, now: float, pause: float, *, early: bool) -> None:
        """Lower a learned rate, or begin to learn it from the recent throughput."""
        throughput = self._throughput.rate(now, kind)
        rate = self._rates.get(kind)
        if rate is None:
            minimum = _EARLY_MIN_RATE * (record.tokens if kind == "tokens" else 1.0) if early else 0.0
            start = max(throughput, minimum)
            rate = AdaptiveLimit(start, minimum=_MIN_RATE, maximum=float("inf"), target=_RATE_TARGET)
            self._rates[kind], self._next_start[kind] = rate, now
            rate.decrease(start, pause=pause)
            rate.restart_search()
        elif rate.searching:  # few successes do not more than halve it
            minimum = rate.value / 2.0 if self._throughput.holds_few(now) else _MIN_RATE
            rate.decrease(max(throughput, minimum), throughput, pause)
        else:
            rate.decrease(rate.value, throughput, pause)

    def _reserved(self, limits: AccountLimits, tokens: float) -> float:
        """Tokens to count before the bill. Most requests of a second have none: 10 % too many leave 10 % unused."""
        return float(round(tokens * self._billed_ratio.value)) if limits.per_second else tokens

    def _is_alone(self, record: InFlightRecord) -> bool:
        return record.concurrency == 1 == self.in_flight

    def _infer_quota(
        self, record: InFlightRecord, now: float, documented: LimitKind | None, *, early: bool
    ) -> LimitKind:
        """Infer whether the provider limits requests in flight or a rate.

        A limit of requests in flight rejects only more than were allowed recently; a rate rejects any number. So each
        rejection is a vote, and the documents have two. One request alone is not too many in flight. Early rejections
        do not vote for a rate. Nor do those at the recent number soon after it was lowered: it has just grown back.
        """
        allowed = self._throughput.max_concurrency(now - _RECENT)
        grown_back = now - self._last_concurrency_decrease <= 2.0 * _RECENT
        if self._is_alone(record):
            vote = -_MAX_VOTES
        elif record.concurrency > allowed:
            vote = 1
        else:
            vote = 0 if early or (grown_back and record.concurrency > _SAME_CONCURRENCY * allowed) else -1
        self._votes = max(-_MAX_VOTES, min(_MAX_VOTES, self._votes + vote))
        return "in_flight" if self._votes + _VOTES_OF_DOCUMENTS[documented] > 0 else "requests"


def _share(per_minute: int | None, seconds: int) -> float:
    return float("inf") if per_minute is None else max(1, per_minute * seconds // _MINUTE)
