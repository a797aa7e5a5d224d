"""Flow of one request, without I/O: sends a part of a batch until it succeeds, fails permanently or must be split.

Transient errors are retried with backoff, or after the pause that Retry-After names. `flow.batch` acts on the result.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import orjson

from multiembed.batching.token_count import max_tokens_bound
from multiembed.errors import ConfigurationError, DeadlineExceededError, InputTooLongError, MultiEmbedError
from multiembed.flow.backoff import MAX_DELAY, MAX_RETRY_AFTER, backoff_delay, retry_after
from multiembed.flow.context import NOT_SENT, RunInThread, SendRequest, Sleep
from multiembed.flow.isolation import MAX_SEPARATIONS, FailureCount, may_be_one_text
from multiembed.observability.log import log_request
from multiembed.providers.types import ApiFailure
from multiembed.responses.error_policy import ERRORS_BY_KIND, FATAL, OF_ONE_TEXT, OF_WHOLE_BATCH, RETRYABLE, build_error
from multiembed.responses.interpret import interpret_response
from multiembed.responses.validation import ValidatedVectors
from multiembed.transport.types import HttpRequest, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from multiembed.flow.context import Batch, BatchOutcome, CallContext, Flow, TransportResult
    from multiembed.ratelimit.limiter import Permit
    from multiembed.types import ErrorKind

logger = logging.getLogger("multiembed")
_T = TypeVar("_T")

_BYTES_PER_NUMBER = 100
"""Response cap: a number takes at most about 25 bytes, four times that leaves space for names and escapes."""
_BYTES_PER_RESPONSE = 1_000_000
"""Response cap: bytes besides the numbers, for instance of an error page."""
_UNKNOWN_DIMENSIONS = 8192
_MAX_MODEL_NAME = 60
"""Characters of a model name in an error."""
_BAD_TEXT = "The provider fails at this text, while it embeds others: shorten it, clean it or leave it out."
_SHORT_TIMEOUT = 5.0
"""Seconds: a server that needs more than a shorter timeout may be healthy."""
_MAX_TIMEOUT = 1e6
"""Seconds: operating systems wait for a socket not much longer at once."""
_TOKENS_AROUND_TEXT = 16
"""Tokens that a tokenizer's marks and a prompt of the server may add to a text."""


@dataclass(frozen=True, slots=True)
class Split:
    """Result that needs smaller requests."""

    parts: Sequence[Batch]
    one_bad_text: bool = False
    """Whether one text is the cause: if all other parts succeed, the last one must fail, and is not sent as a whole."""
    failing: Sequence[FailureCount] = ()
    """Of each part, where the texts have failed before."""


@dataclass(frozen=True, slots=True)
class Isolate:
    """Failure that one text of the part may cause: the part is to be halved until that text is alone."""

    failing: FailureCount
    delay: float = 0.0
    """Seconds to wait before."""
    blindly: bool = False
    """Whether no other request shows yet that the provider works."""


Result: TypeAlias = ValidatedVectors | MultiEmbedError | Split | Isolate


def counted(context: CallContext, function: Callable[..., _T], *args: Any) -> Flow[_T]:
    """Call a function that counts tokens, in a thread where the counter is the user's."""
    if context.counts_in_thread:
        result: _T = yield RunInThread(partial(function, *args))
        return result
    return function(*args)


class RequestFlow:
    """Sends a part of a batch until its result is final, and counts requests and retries in the outcome."""

    def __init__(self, part: Batch, context: CallContext, outcome: BatchOutcome, failing: FailureCount | None) -> None:
        self._part = part
        self._texts = len(part.texts)
        self._context = context
        self._outcome = outcome
        self._failing = failing or FailureCount()
        self._attempts = self._failing.inherited
        self._config = context.config
        """With the API key of the last request, which its error must not repeat."""
        self._response: TransportResult = NOT_SENT

    def run(self) -> Flow[Result]:
        """Run the flow."""
        estimated = self._part.tokens
        if estimated is None:
            estimated = yield from counted(self._context, self._estimate_tokens)
        tokens = estimated * self._context.learned.max_billed_ratio
        result = self._check_quota(tokens, estimated) or (yield from self._attempt(tokens, estimated))
        while isinstance(result, float):
            yield Sleep(result)
            result = self._context.state.fatal_error or (yield from self._attempt(tokens, estimated))
        return result

    def _attempt(self, tokens: float, estimated: int) -> Flow[Result | float]:
        """Send one request. Returns: the seconds before the next attempt, or a final result."""
        context, outcome, failing = self._context, self._outcome, self._failing
        try:
            request = yield from self._build_request()
        except ConfigurationError as error:  # of the API key function
            return context.state.fail_call(error)
        if request is None:
            return self._deadline_error()
        permit = context.limiter.permit(context.account_limits, tokens, context.deadline_at)
        self._response = response = yield SendRequest(request, permit)
        if response is NOT_SENT:
            return self._not_sent_error()
        self._attempts += 1
        outcome.requests += response.requests
        outcome.retries += response.requests - 1 + (failing.failures + failing.inherited > 0)
        if not isinstance(response, TransportFailure):
            context.learned.record_latency(response.seconds)
            outcome.seconds.append(response.seconds)
        result = self._interpret(request.timeout)
        logged = result if isinstance(result, ApiFailure) else result.total_tokens
        log_request(self._config, response, logged, result.request_id, texts=self._texts, attempt=self._attempts)
        if isinstance(result, ValidatedVectors):
            permit.report_success(result.total_tokens)
            context.learned.record_billing(result.total_tokens or 0, estimated)
            if result.dense is not None:
                context.learned.dimensions = result.dense.shape[1]
            return result
        return (self._on_retryable if result.kind in RETRYABLE else self._on_rejected)(result, permit)

    def _estimate_tokens(self) -> int:
        context = self._context
        prompt = self._config.prompt_tokens(context.role, context.count_tokens)
        return sum(map(context.count_tokens, self._part.texts)) + self._texts * prompt

    def _check_quota(self, tokens: float, estimated: int) -> MultiEmbedError | Split | None:
        """Check that the token quota of a minute, or second, allows the request at all.

        Several texts are split by the maximum of recent bills. One text is rejected only by the estimate, or by the
        mean of bills where that is lower: the maximum may be of a few words, where the tokenizer's marks weigh most.
        """
        limits = self._context.account_limits
        if self._texts == 1:
            tokens = estimated * min(1.0, self._context.learned.billed_ratio or 1.0)
        if tokens <= limits.max_tokens_per_request:
            return None
        if self._texts > 1:
            return Split(self._part.pieces((self._texts + 1) // 2))
        maximum = f"{int(limits.max_tokens_per_request):,} a {'second' if limits.per_second else 'minute'}"
        return InputTooLongError(
            f"The text has about {tokens:,.0f} tokens, and tokens_per_minute={limits.tokens_per_minute} allows no more "
            f"than {maximum}: it could never be sent. Raise tokens_per_minute, or shorten the text or cut it up.",
            **self._context.error_details(self._part),
        )

    def _build_request(self) -> Flow[HttpRequest | None]:
        """Build the request with the current API key. Returns: None if the deadline leaves no time for it."""
        context, config = self._context, self._context.config
        if config.has_key_function:
            config = self._config = yield RunInThread(config.with_current_key)
        timeout = min(context.timeout, _MAX_TIMEOUT, context.time_left())
        if timeout <= 0:
            return None
        body = orjson.dumps(config.provider.encode(config.request(self._part.texts, context.role)))
        dimensions = config.expected_dimensions or context.learned.dimensions or _UNKNOWN_DIMENSIONS
        # Sparse output has a weight for each token, of which no text has more than bytes.
        numbers = self._texts * dimensions + (len(body) if config.output != "dense" else 0)
        return HttpRequest(
            url=config.request_url,
            headers={**config.headers, **config.authorization(), "Content-Type": "application/json"},
            body=body,
            timeout=timeout,
            max_reply_bytes=_BYTES_PER_RESPONSE + numbers * _BYTES_PER_NUMBER,
        )

    def _interpret(self, timeout: float) -> ValidatedVectors | ApiFailure:
        """Interpret the response by what the call knows already: dimensions, model, plausible token counts."""
        context = self._context
        dimensions = context.config.expected_dimensions or context.learned.dimensions
        result = interpret_response(self._response, self._config, texts=self._texts, dimensions=dimensions)
        if isinstance(result, ApiFailure):
            return replace(result, local=True) if result.kind == "timeout" and timeout < _SHORT_TIMEOUT else result
        first = context.state.response_model = context.state.response_model or result.model
        if result.model is not None and first is not None and result.model != first:
            reason = (
                f"the response names the model {result.model[:_MAX_MODEL_NAME]!r}, and an earlier one named "
                f"{first[:_MAX_MODEL_NAME]!r}: vectors of two models cannot be compared"
            )
            return ApiFailure("malformed", message=reason, format_error=reason)
        tokens, texts = result.total_tokens, self._part.texts
        if tokens is not None and tokens > sum(map(len, texts)):  # or else no tokenizer needs to be asked
            prompt = context.config.format_texts([""], context.role)[0] + (context.config.instruct or "")
            if tokens > sum(max_tokens_bound(text + prompt) + _TOKENS_AROUND_TEXT for text in texts):
                return replace(result, total_tokens=None)
        return result

    def _on_rejected(self, failure: ApiFailure, permit: Permit) -> MultiEmbedError | Split:
        """Decide after a rejection that would come again: smaller requests, or an error."""
        context, part, texts = self._context, self._part, self._texts
        if failure.kind not in FATAL:
            permit.report_success()
        if failure.kind == "too_many_items" and failure.max_items and failure.max_items < texts:
            context.learned.learn_max_items(failure.max_items, context.environment.clock())
            logger.info("%s: the server takes %d texts in a request", self._config.name, failure.max_items)
        if failure.token_limit is not None:
            context.learned.token_limit = failure.token_limit
        if failure.kind == "invalid_or_too_long":
            failure = replace(failure, kind=self._kind_by_length())
        if texts > 1:
            if failure.kind in OF_ONE_TEXT or (failure.kind == "invalid" and context.state.any_success):
                return Split(part.split_at(texts // 2), one_bad_text=True)
            if failure.kind == "invalid":  # one bad text, or a request that is wrong for all: the shortest alone tells
                return Split(part.around_shortest(), one_bad_text=True)
            if failure.kind in OF_WHOLE_BATCH:
                return Split(part.pieces(min(failure.max_items or texts, (texts + 1) // 2)))
        return self._to_error(failure)

    def _kind_by_length(self) -> ErrorKind:
        """Decide what a rejection means that may be for length or not: one text, all of them together, or neither."""
        limits = self._context.config.limits
        tokens = [max_tokens_bound(text) for text in self._part.texts]
        if limits.max_tokens_per_item is not None and max(tokens) > limits.max_tokens_per_item:
            return "too_long"
        if limits.max_tokens_per_request is not None and sum(tokens) > limits.max_tokens_per_request:
            return "request_too_large"
        return "invalid"

    def _on_retryable(self, failure: ApiFailure, permit: Permit) -> float | Result:
        """Decide after a failure that may be temporary: the seconds before the next attempt, or a final result."""
        context, failing, response = self._context, self._failing, self._response
        self._outcome.rate_errors += failure.kind == "rate_limit"
        failing.add(failure, context.environment.clock(), context.limiter)
        result = self._suspect_texts(failure, permit)
        if result is not None:
            return result
        pause = retry_after(response.status, response.headers, context.environment.wall_time())
        delay = self._backoff(failure, pause, permit)
        if self._should_give_up(failure, delay):
            late = failure.kind == "timeout" and context.is_past_deadline(delay)
            return self._deadline_error() if late else self._to_error(failure, pause)
        context.event(
            "retry", error__type=failure.kind, http__response__status_code=response.status, multiembed__delay=delay
        )
        several = self._texts > 1 and not self._some_rows(failure)
        may_halve = several and failing.may_halve_blindly(failure, context.max_retries)
        if may_halve and context.state.blind_isolation == "allowed":
            context.state.blind_isolation = "running"
            return Isolate(failing, delay, blindly=True)
        return delay

    def _some_rows(self, failure: ApiFailure) -> bool:
        return 0 < len(failure.bad_rows) < self._texts

    def _suspect_texts(self, failure: ApiFailure, permit: Permit) -> Isolate | Split | MultiEmbedError | None:
        """Decide whether some of several texts cause the failure, or whether a single text certainly does."""
        context, failing = self._context, self._failing
        if self._some_rows(failure):
            if failing.separations >= MAX_SEPARATIONS:
                return None
            permit.report_success()
            others = self._part.select(row for row in range(self._texts) if row not in failure.bad_rows)
            counts = FailureCount(separations=failing.separations + 1), failing.divided(probing=False)
            return Split([others, self._part.select(failure.bad_rows)], failing=counts)
        if context.is_past_deadline():
            return None
        halve = self._texts > 1 and failing.must_halve(failure, context.limiter)
        if halve or (failing.probing and may_be_one_text(failure)):
            return Isolate(failing)
        if self._texts > 1 or not failing.is_bad_text(failure, context.limiter, retries=context.configured_retries):
            return None
        logger.warning("%s: one text makes requests fail (%s) and is given up", self._config.name, failure.kind)
        error = build_error(failure, self._config, self._response, self._part.positions, retry_after=None)
        error.message = f"{_BAD_TEXT} {error.message}"
        return error

    def _backoff(self, failure: ApiFailure, retry_after: float | None, permit: Permit) -> float:
        """Report a failure to the rate limiter. Returns: seconds before the next attempt."""
        context, limiter = self._context, self._context.limiter
        pause = min(retry_after or 0.0, MAX_RETRY_AFTER)
        if failure.kind == "rate_limit":  # the account is too fast, so this request alone need not wait long
            attempt = limiter.breaker.rejected_probes + 1
            delay = context.environment.sleep_filter(max(backoff_delay(attempt, context.environment.random()), pause))
            usual = context.config.provider.quota
            permit.report_rate_limited(delay, asked=pause > 0.0, reported=failure.limit_kind, documented=usual)
            return delay
        if failure.local:
            return context.environment.sleep_filter(backoff_delay(self._failing.failures, context.environment.random()))
        if limiter.spend_retry():
            delay = backoff_delay(self._failing.failures, context.environment.random())
        else:  # the retry budget is spent: the longest backoff, but one attempt before the deadline
            delay = max(0.0, min(MAX_DELAY, context.time_left() / 2))
        delay = context.environment.sleep_filter(max(delay, pause))
        permit.report_failure(delay, failure.kind)
        return delay

    def _should_give_up(self, failure: ApiFailure, delay: float) -> bool:
        """Whether no further attempt is made.

        Beyond its retries, a request waits out an outage or a rate limit for a while, but only where the account has
        worked before: a wrong address never recovers.
        """
        context, failing, breaker = self._context, self._failing, self._context.limiter.breaker
        if context.is_past_deadline(delay) or failing.is_permanent_format(failure, context.limiter):
            return True
        if failing.failures <= context.max_retries:
            return False
        affects_account = failure.kind == "rate_limit" or not breaker.is_closed
        waited = context.environment.clock() - (failing.started or 0.0)
        return not (affects_account and breaker.ever_succeeded and waited < context.outage_patience)

    def _to_error(self, failure: ApiFailure, retry_after: float | None = None) -> MultiEmbedError:
        """Build the error of the part; it is the error of the whole call where no other part can succeed."""
        context = self._context
        error = build_error(failure, self._config, self._response, self._part.positions, retry_after)
        if failure.kind in RETRYABLE:
            context.state.last_retryable_error = error
            logger.warning("%s: %d texts are given up: %s", self._config.name, self._texts, failure.kind)
        pause = min(retry_after or 0.0, MAX_RETRY_AFTER)
        too_long_a_pause = failure.kind == "rate_limit" and retry_after is not None and context.is_past_deadline(pause)
        if failure.kind in FATAL or too_long_a_pause or self._affects_whole_call(failure):
            context.state.fail_call(error)
        return error

    def _affects_whole_call(self, failure: ApiFailure) -> bool:
        """Whether the failures of the call show that no other text can succeed."""
        state, breaker = self._context.state, self._context.limiter.breaker
        if not state.any_success and (failure.kind == "invalid" or failure.format_error is not None):
            state.early_failures[failure.kind] += 1
            if state.early_failures[failure.kind] > 1:
                return True
        if failure.kind in RETRYABLE and not breaker.is_closed:
            state.lost_batches += 1
            return not breaker.ever_succeeded or state.lost_batches > 1  # one batch may be what the server cannot do
        return False

    def _not_sent_error(self) -> MultiEmbedError:
        """Build the error of a part without a permit: the call failed, or no request may start before the deadline."""
        context, breaker = self._context, self._context.limiter.breaker
        if context.state.fatal_error is not None:
            return context.state.fatal_error
        seconds = breaker.open_until - context.environment.clock()
        if seconds <= 0.0:
            return context.state.last_retryable_error or self._deadline_error()
        rate_limited = breaker.reason == "rate_limit"
        reason = "refused a request for being too fast" if rate_limited else "failed several times in a row"
        return ERRORS_BY_KIND[breaker.reason][0](
            f"Nothing was sent: the provider {reason}, so no request goes out for {seconds:.1f} s. The call's deadline "
            "ends before: call again later, or raise deadline.",
            retry_after=seconds,
            **context.error_details(self._part),
        )

    def _deadline_error(self) -> MultiEmbedError:
        return DeadlineExceededError(
            "The deadline of the call has passed. Raise deadline, or embed fewer texts in one call.",
            **self._context.error_details(self._part),
        )
