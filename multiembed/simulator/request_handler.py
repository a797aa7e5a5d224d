"""Request handler of the simulated account: records a request, counts it against the quotas, and responds to it."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from multiembed.simulator.api_format import texts_of
from multiembed.simulator.request_log import Arrival
from multiembed.simulator.responder import Responder, format_at, over_quota
from multiembed.simulator.tokenizer import count_tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiembed.simulator.account import AccountState
    from multiembed.simulator.api_format import ApiFormat
    from multiembed.simulator.connection import Connection
    from multiembed.simulator.messages import Request
    from multiembed.simulator.quotas import Excess

_T = TypeVar("_T")

# Above this many bytes of request, texts are counted and embedded in another thread, and the loop stays free.
_LARGE = 64 * 1024
# Gateways refuse what is over a quota before any model sees it: after this share of a good response's latency.
_REFUSAL_LATENCY = 0.1


class RequestHandler:
    """Handles requests to the one account of the server.

    Args:
        account: its recorder, log, quotas and faults.
        api_key: the key that is accepted.
        latency: seconds before a response is sent.
    """

    def __init__(self, account: AccountState, api_key: str, latency: float) -> None:
        self._account = account
        self._respond = Responder(api_key)
        self._latency = latency

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Handle one request."""
        account = self._account
        api_format = format_at(request.path)
        number = account.recorder.arrived(request, api_format.provider if api_format else None)
        with ExitStack() as until_sent:
            excess = None
            if api_format is not None and request.method == "POST":
                until_sent.enter_context(account.recorder.in_flight())
                if self._respond.precheck(request) is None:
                    excess = await self._count(request, api_format)
                    if excess is None:
                        until_sent.callback(account.quotas.leave, api_format)
            if api_format is not None and excess is not None:
                await asyncio.sleep(self._latency * _REFUSAL_LATENCY)
                answer = over_quota(api_format, excess, request)
                account.recorder.answered(number, answer.status)
            else:
                answer = await self._in_thread_if_large(request, self._respond)
                injected = account.schedule.choose(request, api_format, answer, reused=connection.reused)
                if self._latency:
                    await asyncio.sleep(self._latency)
                if injected is None:
                    account.recorder.answered(number, answer.status)
                else:
                    fault, occasion = injected
                    answer = fault.alter(occasion)
                    # Recorded before it is sent, so that a client which has its response finds it recorded.
                    account.recorder.answered(number, answer.status if fault.sends_status else None, fault.name)
                    if fault.send is not None:
                        await fault.send(connection, answer, occasion.settings)
                        return
        # No longer counted, because a client which has its response may send again at once.
        await connection.send(answer)

    async def _count(self, request: Request, api_format: ApiFormat) -> Excess | None:
        """Count a request against the quotas. Returns the quota that it exceeds."""
        tokens = await self._in_thread_if_large(request, lambda request: sum(map(count_tokens, texts_of(request.body))))
        now = time.monotonic()
        excess = self._account.quotas.enter(api_format, tokens, now)
        self._account.log.add(Arrival(now, excess is None, tokens, api_format.provider))
        return excess

    async def _in_thread_if_large(self, request: Request, function: Callable[[Request], _T]) -> _T:
        if len(request.raw) < _LARGE:
            return function(request)
        return await asyncio.get_running_loop().run_in_executor(None, function, request)
