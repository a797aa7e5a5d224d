"""What an account has sent within a second or a minute, counted so that the server never counts more. Pure."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

_ROUNDING = 1e-6


@dataclass(slots=True, eq=False)
class Ticket:
    """One request that was let go."""

    sent: float
    tokens: float
    """Reserved by estimate, then as billed."""
    level: int
    """Requests in flight when it went, itself among them."""


class Window:
    """What went within a span of time, as the server may count it.

    A request reaches the server at some time between our sending and its answer. Counting it until the span has passed
    since its answer, no span of the server's own clock can hold more than was allowed here.

    Args:
        span: seconds.
        on_the_way: seconds after which a request has reached the server, answered or not.
    """

    def __init__(self, span: float, on_the_way: float) -> None:
        self._span = span
        self._on_the_way = on_the_way
        self._unanswered: dict[Ticket, None] = {}
        self._leaving: list[tuple[float, Ticket]] = []
        """By the time at which they no longer count."""
        self._inside: set[Ticket] = set()
        self._tokens = 0.0

    def sent(self, ticket: Ticket, now: float) -> None:
        """It went."""
        self._let_go(now)
        self._unanswered[ticket] = None
        self._inside.add(ticket)
        self._tokens += ticket.tokens

    def answered(self, ticket: Ticket, now: float) -> None:
        """Nothing more is awaited of it, so that it has reached the server."""
        if ticket in self._unanswered:
            self._leave(ticket, min(now, ticket.sent + self._on_the_way))

    def billed(self, ticket: Ticket, tokens: float) -> None:
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
        if self._on_the_way < self._span:
            for ticket in self._unanswered:
                excess -= 1
                held -= ticket.tokens
                if excess <= 0 and held <= _ROUNDING:
                    return ticket.sent + self._on_the_way + self._span - now
        return float("inf")

    def _let_go(self, now: float) -> None:
        while self._unanswered and (first := next(iter(self._unanswered))).sent + self._on_the_way <= now:
            self._leave(first, first.sent + self._on_the_way)
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

    def _leave(self, ticket: Ticket, arrived: float) -> None:
        del self._unanswered[ticket]
        insort(self._leaving, (arrived + self._span, ticket), key=_first)


def _first(pair: tuple[float, Ticket]) -> float:
    return pair[0]
