"""What an account has sent within a second or a minute, counted so that the server never counts more. Pure."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from operator import itemgetter

_ROUNDING = 1e-6
_MOST_SPREAD = 0.5
_LEAST_SPREAD = 0.02
"""Seconds by which ways to the server differ, at first and at least. The least costs 2 % of a quota of one second."""
_KEPT_AT_FIRST = 0.8
"""What a success leaves of the first spread: 14 successes, until the connections are set up, bring it to the least."""
_KEPT_LATER = 0.5 ** (1 / 250)
"""What a success leaves of a spread that a refusal has widened: at most one in 250 requests is refused for it."""
_ENOUGH_BILLS = 4
_PART_OF_ONE_BILL = 1 / 16


@dataclass(slots=True, eq=False)
class InFlightRecord:
    """One request that was let go."""

    sent: float
    tokens: float
    """Reserved by estimate, then as billed."""
    concurrency: int
    """Requests in flight when it went, itself among them."""
    estimated: float = 0.0
    """Tokens that the caller estimated."""


class Transit:
    """By how many seconds two requests may differ in their time on the way to the server: a bound that is learned.

    Only this difference matters: where all requests take equally long to arrive, they arrive as far apart as they went,
    however long the way is and the server works. It cannot be read from round trips, in which the server's work differs
    more than the network. So it is 0.5 s at first, while connections are set up, and shrinks with each success. A
    refusal means that it was too small, and doubles it, up to the round trip of the refusal, on which the server does
    no work. With DashScope's 600 requests a minute told, and 0.1, 0.3 and 0.6 s of latency, 98, 98 and 97 % are used in
    the first minute and none is refused; with a constant half second it was 90, 77 and 67 % (2026-11-28).
    """

    def __init__(self) -> None:
        self.spread = _MOST_SPREAD
        self._kept = _KEPT_AT_FIRST

    def answered(self) -> float:
        """Take in a success.

        Returns:
            The bound from now on, in seconds.
        """
        self.spread = max(self.spread * self._kept, _LEAST_SPREAD)
        return self.spread

    def refused(self, round_trip: float) -> float:
        """Take in the refusal of a request for its rate.

        Args:
            round_trip: seconds from its sending to the refusal.

        Returns:
            The bound from now on, in seconds.
        """
        widest = min(max(round_trip, _LEAST_SPREAD), _MOST_SPREAD)
        if self.spread < widest:
            self.spread = min(2.0 * self.spread, widest)
            self._kept = _KEPT_LATER
        return self.spread


class BilledShare:
    """Tokens billed for each estimated one: the running mean and mean deviation added, as TCP estimates round trips.

    A second's window holds some ten requests without a bill, whose sum deviates less than that.
    """

    def __init__(self) -> None:
        self.value = 1.0
        self._mean = self._deviation = 0.0
        self._bills = 0

    def add(self, billed: float, estimated: float) -> None:
        """Compare a bill with its estimate."""
        if estimated <= 0.0:
            return
        share = billed / estimated
        self._bills += 1
        part = max(1.0 / self._bills, _PART_OF_ONE_BILL)
        self._deviation += part * (abs(share - self._mean) - self._deviation) if self._bills > 1 else 0.0
        self._mean += part * (share - self._mean)
        if self._bills >= _ENOUGH_BILLS:
            self.value = min(1.0, self._mean + self._deviation)


class SlidingWindow:
    """What went within a span of time, as the server may count it.

    A request reaches the server at some time between our sending and its answer. Counting it until the span has passed
    since its answer, no span of the server's own clock can hold more than was allowed here. A short span has no time
    for that: there it counts from `on_the_way` seconds after its sending, if that is sooner.

    Args:
        span: seconds.
        on_the_way: by how much the times from sending to arrival differ at most; may be changed.
    """

    def __init__(self, span: float, on_the_way: float) -> None:
        self._span = span
        self.on_the_way = on_the_way
        self._unanswered: dict[InFlightRecord, None] = {}
        self._leaving: list[tuple[float, InFlightRecord]] = []
        """By the time at which they no longer count."""
        self._inside: set[InFlightRecord] = set()
        self._tokens = 0.0

    def sent(self, ticket: InFlightRecord, now: float) -> None:
        """It went."""
        self._let_go(now)
        self._unanswered[ticket] = None
        self._inside.add(ticket)
        self._tokens += ticket.tokens

    def answered(self, ticket: InFlightRecord, now: float) -> None:
        """Nothing more is awaited of it, so that it has reached the server."""
        if ticket in self._unanswered:
            self._leave(ticket, min(now, ticket.sent + self.on_the_way))

    def billed(self, ticket: InFlightRecord, tokens: float) -> None:
        """It had so many tokens. To be told before the ticket itself is."""
        if ticket in self._inside:
            self._tokens += tokens - ticket.tokens

    def wait(self, now: float, requests: float, tokens: float) -> float:
        """Seconds until it holds no more than these; infinite when somebody must be answered first."""
        self._let_go(now)
        excess, held = len(self._inside) - requests, self._tokens - tokens
        if excess <= 0 and held <= _ROUNDING:
            return 0.0
        for when, ticket in self._leaving:
            excess -= 1
            held -= ticket.tokens
            if excess <= 0 and held <= _ROUNDING:
                return when - now
        if self.on_the_way < self._span:
            for ticket in self._unanswered:
                excess -= 1
                held -= ticket.tokens
                if excess <= 0 and held <= _ROUNDING:
                    return ticket.sent + self.on_the_way + self._span - now
        return float("inf")

    def _let_go(self, now: float) -> None:
        while self._unanswered and (first := next(iter(self._unanswered))).sent + self.on_the_way <= now:
            self._leave(first, first.sent + self.on_the_way)
        over = 0
        for when, ticket in self._leaving:
            if when > now:
                break
            over += 1
            self._inside.discard(ticket)
            self._tokens -= ticket.tokens
        del self._leaving[:over]
        if not self._inside:
            self._tokens = 0.0  # what rounding has left, which a bill out of all reason makes large

    def _leave(self, ticket: InFlightRecord, arrived: float) -> None:
        del self._unanswered[ticket]
        insort(self._leaving, (arrived + self._span, ticket), key=itemgetter(0))
