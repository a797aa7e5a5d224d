"""A limit that nobody tells, learned from the provider's refusals: it falls a little at each and grows back. Pure."""

from __future__ import annotations

from collections import deque

_FALLS = (0.95, 0.88, 0.75, 0.5)
"""What is left after a refusal: little is taken at first, more when the next one follows at once."""
_BELIEVED = (0.95, 0.95, 0.8, 0.8)
"""What is left at least of what was seen to pass. Some of that passed before the quota fell, if refusals do not end."""
_AT_ONCE = 1.0
"""Seconds of use after a fall within which another refusal means that it was too small."""
BACK = 2.0
"""Seconds of use from a fall until the limit is again where it was refused."""
_MOST_BACK = 8.0
"""The most of them: they double with each refusal at the same place."""
_BEYOND = 4.0
"""Seconds of use from there until the limit is a twentieth higher, at most."""
_FAR = 1.25
"""The ratio to the refused value from which that is not the limit, and a search begins: the cubic curve alone takes 43
seconds of use from 0.2 requests a second to 100."""
_SAME = 0.15
"""The share by which two refusals may lie apart and still be at the same place."""
_PAUSES = 20.0
"""An asked-for pause may cost a twentieth of the time: so many times its length passes before the next trial."""
_DOUBLES = 1.0
"""Seconds of use in which a limit doubles while none is known."""


class AdaptiveLimit:
    """A limit on its way to where the provider's lies.

    Until the first refusal it doubles with each second of use. After one it follows a cubic curve, as TCP CUBIC and the
    adaptive retry mode of the AWS SDKs do: steep at first, flat near the value that was refused, and steep again beyond
    it, where a higher quota would be found. Well above that value it doubles again. Only time in which the limit holds
    somebody up counts as use, so an idle account learns nothing.

    Args:
        start: the first value.
        least: it never falls below this.
        most: no more is tried while none is known.
        rests: where it rests, as a share of what was refused last.
    """

    def __init__(self, start: float, *, least: float, most: float, rests: float = 1.0) -> None:
        self.value = start
        self.searching = True
        self._least = least
        self._rests = rests
        self._most = most
        self._low = self._peak = start
        self._age = 0.0
        self._back = BACK
        self._falls = 0

    def grow(self, seconds: float) -> None:
        """So many seconds passed in which it held somebody up."""
        self._age += seconds
        if self.searching:
            self.value = max(self.value, min(self.value * 2.0 ** (seconds / _DOUBLES), self._most))
        else:
            span, past, over = (1.0 - _FALLS[0]) * self._peak, self._age - self._back, min(self._back, _BEYOND)
            if past < 0.0:
                span, over = max(self._peak - self._low, span), self._back
            self.value = max(self.value, self._peak + span * (past / over) ** 3)
            if self.value > _FAR * self._peak:
                self.searching = True

    def decrease(self, at: float, passed: float = 0.0, pause: float = 0.0, back: float = BACK) -> None:
        """The provider refused at this value.

        Args:
            at: where the refusal was met. Once a limit is known, at most its present value counts.
            passed: what is known to have passed lately; it does not fall much below.
            pause: seconds for which the provider wants to be left alone.
            back: seconds of use until the limit is again here, where no refusal at the same place came before.
        """
        again = not self.searching and self._age < _AT_ONCE
        self._falls = min(self._falls + 1, len(_FALLS) - 1) if again else 0
        before = self._peak
        reached = at if self.searching else min(self.value, at)
        self._peak = max(self._rests * reached, self._least)
        known = not self.searching and not again and abs(self._peak - before) <= _SAME * before
        back = min(self._back * 2.0, _MOST_BACK) if known else back
        believed = min(passed, self._peak) * _BELIEVED[self._falls]
        self._low = max(reached * _FALLS[self._falls], believed, self._least)
        if again:  # the limit lies well below what was refused
            self._peak = max((self._peak + self._low) / 2.0, self._least)
        self._age = 0.0
        self._back = max(back, pause * _PAUSES)
        self.searching = False
        self.value = self._low

    def restart_search(self, start: float) -> None:
        """Nothing is known any more: look for the limit anew from here."""
        self.searching = True
        self.value = min(max(start, self._least), self._most)
        self._age = 0.0


class ThroughputMeter:
    """How much came through lately, for instance requests a second."""

    _WINDOW = 10.0
    _FEW = 10
    _KEPT = 4096

    def __init__(self) -> None:
        self._passed: deque[tuple[float, float]] = deque(maxlen=self._KEPT)

    def add(self, now: float, amount: float) -> None:
        """So much came through now."""
        self._passed.append((now, amount))

    def holds_few(self, now: float) -> bool:
        """Whether less came through in ten seconds than a rate can be inferred from."""
        return len(self._passed) < self._FEW or now - self._passed[-self._FEW][0] > self._WINDOW

    def rate(self, now: float) -> float:
        """A second's amount: of the last second, or of up to ten where that holds too little to tell."""
        amount, span = 0.0, 0.0
        for count, (when, its) in enumerate(reversed(self._passed)):
            if now - when > self._WINDOW or (now - when > 1.0 and count >= self._FEW):
                break
            amount += its
            span = now - when
        return amount / max(span, 1.0)
