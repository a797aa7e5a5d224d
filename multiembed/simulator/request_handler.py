"""What becomes of one request: it is noted, counted against the quotas, and answered well, refused or let fail."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from multiembed.simulator.api_format import texts_of
from multiembed.simulator.request_log import Arrival
from multiembed.simulator.responder import form_at, over_quota
from multiembed.simulator.tokenizer import count_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.simulator.api_format import Form
    from multiembed.simulator.connection import Connection
    from multiembed.simulator.fault_injection.schedule import Schedule
    from multiembed.simulator.messages import Request
    from multiembed.simulator.quotas import Excess, Quotas
    from multiembed.simulator.recorder import Recorder
    from multiembed.simulator.request_log import Arrivals
    from multiembed.simulator.responder import Answerer

_T = TypeVar("_T")

# Above this many bytes of request, texts are counted and embedded in another thread and the loop stays free.
_HEAVY = 64 * 1024
# Gateways refuse what is over a quota before any model sees it: this share of a good answer's latency passes.
_REFUSED_AFTER = 0.1


class AccountBehaviour:
    """The server's behaviour towards the one account that it knows.

    Args:
        answer: makes the good answer.
        latency: seconds before it is sent.
        recorder: told of each request.
        arrivals: told of those that count for the quotas.
        quotas: asked whether a request is within them.
        schedule: asked which fault to make.
    """

    def __init__(
        self,
        answer: Answerer,
        latency: float,
        *,
        recorder: Recorder,
        arrivals: Arrivals,
        quotas: Quotas,
        schedule: Schedule,
    ) -> None:
        self._answer = answer
        self._latency = latency
        self._recorder = recorder
        self._arrivals = arrivals
        self._quotas = quotas
        self._schedule = schedule

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer."""
        form = form_at(request.path)
        number = self._recorder.arrived(request, form.provider if form else None)
        with ExitStack() as until_answered:
            excess = None
            if form is not None and request.method == "POST":
                until_answered.enter_context(self._recorder.in_flight())
                if self._answer.turns_away(request) is None:
                    excess = await self._counted(request, form)
                    if excess is None:
                        until_answered.callback(self._quotas.leave, form)
            if form is not None and excess is not None:
                await asyncio.sleep(self._latency * _REFUSED_AFTER)
                answer = over_quota(form, excess, request)
                self._recorder.answered(number, answer.status)
            else:
                answer = await self._aside(request, self._answer)
                made = self._schedule.choose(request, form, answer, reused=connection.reused)
                if self._latency:
                    await asyncio.sleep(self._latency)
                if made is not None:
                    answer = made.fault.alter(made.occasion)
                # Noted before it is sent, so that a client which has its answer finds it noted.
                name, told = (None, True) if made is None else (made.fault.name, made.fault.tells_status)
                self._recorder.answered(number, answer.status if told else None, name)
                if made is not None and made.fault.act is not None:
                    await made.fault.act(connection, answer, made.occasion.settings)
                    return
        # No longer counted, for a client which has its answer may ask again at once.
        await connection.send(answer)

    async def _counted(self, request: Request, form: Form) -> Excess | None:
        """Count a request against the quotas; what it is refused for, if it is."""
        tokens = await self._aside(request, _tokens)
        now = time.monotonic()
        excess = self._quotas.enter(form, tokens, now)
        self._arrivals.note(Arrival(now, excess is None, tokens, form.provider))
        return excess

    async def _aside(self, request: Request, function: Callable[[Request], _T]) -> _T:
        if len(request.raw) < _HEAVY:
            return function(request)
        return await asyncio.get_running_loop().run_in_executor(None, function, request)


def _tokens(request: Request) -> int:
    return sum(map(count_tokens, texts_of(request.body)))
