"""One request until it is answered for good: sent, waited for, sent again, judged hopeless, or to be split."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import orjson

from multiembed.batching.token_count import max_tokens_bound
from multiembed.errors import ConfigurationError, DeadlineExceededError, InputTooLongError, MultiEmbedError
from multiembed.flow.backoff import LONGEST_ASKED, LONGEST_WAIT, backoff_delay, retry_after
from multiembed.flow.context import NOT_SENT, RunInThread, SendRequest, Sleep
from multiembed.flow.isolation import (
    MAX_SEPARATIONS,
    FailureCount,
    is_form_for_good,
    is_this_text,
    is_to_halve,
    is_to_halve_blindly,
    may_be_one_text,
)
from multiembed.observability.log import log_request
from multiembed.providers.types import ApiFailure
from multiembed.responses.interpret import ERROR_POLICIES, build_error, interpret_response
from multiembed.responses.validation import ValidatedVectors
from multiembed.transport.types import HttpRequest, TransportFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from multiembed.config.request_config import RequestConfig
    from multiembed.flow.context import Batch, BatchOutcome, CallContext, Effect, TransportResult
    from multiembed.ratelimit.limiter import Permit
    from multiembed.types import ErrorKind

logger = logging.getLogger("multiembed")
_T = TypeVar("_T")

# A number on the wire takes at most about 25 bytes; four times that for names and escapes, and room for an error page.
_BYTES_PER_NUMBER = 100
_BYTES_ROOM = 1_000_000
_UNKNOWN_DIMENSIONS = 8192
_NAME_SHOWN = 60
_ALONE = "The provider fails at this text, while it embeds others: shorten it, clean it or leave it out."
_SHORT_TIMEOUT = 5.0
"""Seconds: what does not answer within less may be healthy, and only slower than this embedder allows."""
_LONGEST = 1e6
"""Seconds that an attempt may have, whatever was told: no system waits for a socket much longer at once."""
_TOKENS_AROUND_TEXT = 16
"""Tokens that a tokenizer's marks and a prompt of the server's own may add to a text."""


@dataclass(frozen=True, slots=True)
class Split:
    """A refusal that smaller requests may escape."""

    size: int
    """The most texts that the next request should hold."""
    one_culprit: bool
    """It is one text's fault: when one half is well, the other is known to be ill without being sent."""


class ProbeShortest:
    """A refusal that may be one text's fault or the whole call's: the shortest text alone tells."""


@dataclass(frozen=True, slots=True)
class Isolate:
    """A failure that one text of the part may cause: the part is to be halved until that text stands alone."""

    failing: FailureCount
    delay: float = 0.0
    """Seconds to wait before."""
    blindly: bool = False
    """Nothing shows yet whether the provider works."""


@dataclass(frozen=True, slots=True)
class Separate:
    """An answer in which only some texts have no usable vector: they and the others are to be sent apart."""

    rows: tuple[int, ...]
    """Positions of these texts in the part."""
    failing: FailureCount


Result: TypeAlias = "ValidatedVectors | MultiEmbedError | Split | ProbeShortest | Isolate | Separate"
RequestFlow: TypeAlias = "Generator[Effect, Any, Result]"


def request_flow(
    part: Batch, job: CallContext, outcome: BatchOutcome, failing: FailureCount | None = None
) -> RequestFlow:
    """Send a part until it is answered for good.

    Args:
        part: some texts.
        job: what all parts of the call share.
        outcome: where requests and retries are counted.
        failing: how often these texts have failed already, alone or with others.
    """
    ill = failing or FailureCount()
    estimated = part.tokens
    if estimated is None:
        overhead = job.config.prompt_tokens
        estimated = yield from counted(
            job, lambda: sum(map(job.count_tokens, part.texts)) + len(part.texts) * overhead(job.role, job.count_tokens)
        )
    tokens = estimated * job.learned.max_billed_ratio
    over = _over(part, job, tokens, estimated)
    if over is not None:
        return over
    sent = 0
    while True:
        prepared = yield from _prepare(part, job)
        if isinstance(prepared, MultiEmbedError):
            return prepared
        target, request = prepared
        permit = job.limiter.permit(job.account_limits, tokens, job.deadline_at)
        answer = yield SendRequest(request, permit)
        if answer is NOT_SENT:
            return job.fatal_error or _paused(part, job) or job.last_retryable_error or deadline_error(part, job)
        outcome.requests += answer.requests
        outcome.retries += answer.requests - 1 + (ill.failures + ill.inherited > 0)
        if not isinstance(answer, TransportFailure):
            job.learned.record_latency(answer.seconds)
            outcome.seconds.append(answer.seconds)
        judged = _interpret(answer, part, job, target, timeout=request.timeout)
        sent += 1
        fault = judged if isinstance(judged, ApiFailure) else None
        log_request(
            target,
            answer,
            texts=len(part.texts),
            attempt=ill.inherited + sent,
            fault=fault,
            tokens=None if isinstance(judged, ApiFailure) else judged.total_tokens,
            request_id=judged.request_id,
        )
        if isinstance(judged, ValidatedVectors):
            permit.report_success(judged.total_tokens)
            job.learned.record_billing(judged.total_tokens or 0, estimated)
            if judged.dense is not None:
                job.learned.dimensions = judged.dense.shape[1]
            return judged
        if not ERROR_POLICIES[judged.kind].retry:
            return _refused(judged, part, job, target, answer, permit)
        outcome.rate_errors += judged.kind == "rate_limit"
        after = _after_failure(judged, part, job, target, answer, permit, ill)
        if not isinstance(after, float):
            return after
        yield Sleep(after)
        if job.fatal_error is not None:
            return job.fatal_error


def _prepare(
    part: Batch, job: CallContext
) -> Generator[Effect, Any, tuple[RequestConfig, HttpRequest] | MultiEmbedError]:
    """The target with the key of this moment, and the request; or why there is none."""
    try:
        target = job.config
        if target.has_key_function:
            target = yield RunInThread(target.with_current_key)
        request = _write(part, job, target)
    except ConfigurationError as error:  # the api_key function
        job.fatal_error = job.fatal_error or error
        return job.fatal_error
    return deadline_error(part, job) if request is None else (target, request)


def _after_failure(
    fault: ApiFailure,
    part: Batch,
    job: CallContext,
    target: RequestConfig,
    answer: TransportResult,
    permit: Permit,
    ill: FailureCount,
) -> float | MultiEmbedError | Isolate | Separate:
    """What follows from a failure that may be temporary: the seconds to wait before the next attempt, or an end."""
    ill.add(fault, job.clock(), job.limiter)
    several = len(part.texts) > 1
    some_rows = 0 < len(fault.bad_rows) < len(part.texts)
    if some_rows and ill.separations < MAX_SEPARATIONS:
        permit.report_success()
        return Separate(fault.bad_rows, ill)
    if not some_rows and not job.no_time_left():
        if (ill.probing and may_be_one_text(fault)) or (several and is_to_halve(fault, ill, job.limiter)):
            return Isolate(ill)
        if not several and is_this_text(fault, ill, job.limiter, retries=job.asked_retries):
            return _text_error(fault, part, target, answer)
    asked = retry_after(answer.status, answer.headers, job.wall_time())
    delay = _delay(fault, ill, asked, permit, job)
    if _hopeless(fault, ill, delay, job):
        if fault.kind == "timeout" and job.no_time_left(delay):
            return deadline_error(part, job)
        return _give_up(fault, part, job, target, answer=answer, asked=asked)
    job.event("retry", error__type=fault.kind, http__response__status_code=answer.status, multiembed__delay=delay)
    if several and not some_rows and not job.isolating_blindly and not job.isolated_in_vain:
        left = job.max_retries + 1 - ill.failures
        if is_to_halve_blindly(fault, ill, retries_left=left, cold=not job.any_success):
            job.isolating_blindly = True
            return Isolate(ill, delay, blindly=True)
    return delay


def _interpret(
    answer: TransportResult, part: Batch, job: CallContext, target: RequestConfig, *, timeout: float
) -> ValidatedVectors | ApiFailure:
    """What an answer is worth in this call."""
    dimensions = job.config.expected_dimensions or job.learned.dimensions
    judged = interpret_response(answer, target, texts=len(part.texts), dimensions=dimensions)
    if not isinstance(judged, ValidatedVectors):
        short = judged.kind == "timeout" and timeout < _SHORT_TIMEOUT
        return replace(judged, local=True) if short else judged
    first = job.answering_model = job.answering_model or judged.model
    if judged.model is not None and first is not None and judged.model != first:
        reason = (
            f"the model {judged.model[:_NAME_SHOWN]!r} answers, and {first[:_NAME_SHOWN]!r} answered "
            "before: vectors of two models cannot be compared"
        )
        return ApiFailure("malformed", message=reason, format_error=reason)
    return replace(judged, total_tokens=_plausible(judged.total_tokens, part, job))


def _plausible(tokens: int | None, part: Batch, job: CallContext) -> int | None:
    """The tokens billed; None where no tokenizer can make so many of these texts."""
    if tokens is None or tokens <= sum(map(len, part.texts)):
        return tokens
    around = job.config.format_texts([""], job.role)[0] + (job.config.instruct or "")
    bound = sum(max_tokens_bound(text + around) + _TOKENS_AROUND_TEXT for text in part.texts)
    return tokens if tokens <= bound else None


def _delay(fault: ApiFailure, ill: FailureCount, asked: float | None, permit: Permit, job: CallContext) -> float:
    """Tell the account of a failure; the seconds before the next attempt."""
    asks = min(asked or 0.0, LONGEST_ASKED)
    if fault.kind == "rate_limit":  # the account is too fast, which is no fault of this request: it goes again soon
        delay = job.sleep_filter(max(backoff_delay(job.limiter.breaker.rejected_probes + 1, job.random()), asks))
        permit.report_rate_limited(delay, asked=asks > 0.0, quota=fault.limit_kind, usual=job.config.provider.quota)
        return delay
    if fault.local:
        return job.sleep_filter(backoff_delay(ill.failures, job.random()))
    if job.limiter.may_retry():
        wait = backoff_delay(ill.failures, job.random())
    else:  # the account's retry budget is spent: the longest wait, but less where the deadline would pass meanwhile
        left = math.inf if job.deadline_at is None else job.deadline_at - job.clock()
        wait = max(0.0, min(LONGEST_WAIT, left / 2))
    delay = job.sleep_filter(max(wait, asks))
    permit.report_failure(delay, fault.kind)
    return delay


def _refused(
    fault: ApiFailure, part: Batch, job: CallContext, target: RequestConfig, answer: TransportResult, permit: Permit
) -> MultiEmbedError | Split | ProbeShortest:
    """What follows from a refusal that would come again: smaller requests, or an error."""
    meaning = ERROR_POLICIES[fault.kind]
    if not meaning.fatal:
        permit.report_success()
    count = len(part.texts)
    if fault.kind == "too_many_items" and fault.max_items and fault.max_items < count:
        job.learned.learn_max_items(fault.max_items, job.clock())
        logger.info("%s: the server takes %d texts in a request", target.name, fault.max_items)
    if fault.token_limit is not None:
        job.learned.token_limit = fault.token_limit
    if fault.kind == "invalid_or_too_long":
        fault = replace(fault, kind=_what_may_be_too_long(part, job))
        meaning = ERROR_POLICIES[fault.kind]
    if count > 1 and meaning.one_text:
        return Split(count // 2, one_culprit=True)
    if count > 1 and fault.kind == "invalid":
        return Split(count // 2, one_culprit=True) if job.any_success else ProbeShortest()
    if count > 1 and meaning.split:
        return Split(min(fault.max_items or count, (count + 1) // 2), one_culprit=False)
    return _give_up(fault, part, job, target, answer=answer, asked=None)


def _what_may_be_too_long(part: Batch, job: CallContext) -> ErrorKind:
    """What a refusal means that may be for length or for anything: a text, all of them together, or neither."""
    limits = job.config.limits
    most = [max_tokens_bound(text) for text in part.texts]
    if limits.max_tokens_per_item is not None and max(most) > limits.max_tokens_per_item:
        return "too_long"
    if limits.max_tokens_per_request is not None and sum(most) > limits.max_tokens_per_request:
        return "request_too_large"
    return "invalid"


def _hopeless(fault: ApiFailure, ill: FailureCount, delay: float, job: CallContext) -> bool:
    """Whether another attempt is out of the question.

    Beyond its retries, a request waits out an outage of everything, or a rate limit, for a while: but only where the
    account has been seen to work, because a wrong address never heals.
    """
    if job.no_time_left(delay) or is_form_for_good(fault, ill, job.limiter):
        return True
    if ill.failures <= job.max_retries:
        return False
    now = job.clock()
    weather = job.limiter.breaker
    general = fault.kind == "rate_limit" or not weather.is_closed
    return not (general and weather.ever_succeeded and now - (ill.since or now) < job.outage_patience)


def counted(job: CallContext, function: Callable[..., _T], *args: Any) -> Generator[Effect, Any, _T]:
    """Call a function that counts tokens, in a thread where the counter is the user's."""
    if job.counts_in_thread:
        found: _T = yield RunInThread(partial(function, *args))
        return found
    return function(*args)


def _over(part: Batch, job: CallContext, tokens: float, estimated: int) -> MultiEmbedError | Split | None:
    """What becomes of texts that no minute, or second, has room for; None when they may go.

    Several are parted by the dearest bill lately. One alone is refused only by the estimate itself, or by the mean of
    bills where they were lower: the dearest may have been of a few words, where a tokenizer's marks weigh most.
    """
    if tokens <= job.account_limits.max_tokens_per_request:
        return None
    if len(part.texts) > 1:
        return Split((len(part.texts) + 1) // 2, one_culprit=False)
    tokens = estimated * min(1.0, job.learned.billed_ratio or 1.0)
    if tokens <= job.account_limits.max_tokens_per_request:
        return None
    most = int(job.account_limits.max_tokens_per_request)
    each = f"{most:,} a second" if job.account_limits.per_second else f"{most:,} a minute"
    return InputTooLongError(
        f"The text has about {tokens:,.0f} tokens, and "
        f"tokens_per_minute={job.account_limits.tokens_per_minute} allows no "
        f"more than {each}: it could never be sent. Raise tokens_per_minute, or shorten the text or cut it up.",
        **job.details(part),
    )


def _write(part: Batch, job: CallContext, target: RequestConfig) -> HttpRequest | None:
    """The request, or None when the deadline leaves no time for it."""
    timeout = min(job.timeout, _LONGEST)
    if job.deadline_at is not None:
        timeout = min(timeout, job.deadline_at - job.clock())
        if timeout <= 0:
            return None
    dimensions = target.expected_dimensions or job.learned.dimensions or _UNKNOWN_DIMENSIONS
    body = orjson.dumps(target.provider.encode(target.request(part.texts, job.role)))
    numbers = len(part.texts) * dimensions
    if target.output != "dense":
        numbers += len(body)  # a weight for each token, of which no text has more than bytes
    return HttpRequest(
        url=target.request_url,
        headers={**target.headers, **target.authorization(), "Content-Type": "application/json"},
        body=body,
        timeout=timeout,
        max_reply_bytes=_BYTES_ROOM + numbers * _BYTES_PER_NUMBER,
    )


def _text_error(fault: ApiFailure, part: Batch, target: RequestConfig, answer: TransportResult) -> MultiEmbedError:
    """The error of a text that makes requests fail while other texts are embedded."""
    error = build_error(fault, target, answer=answer, indices=part.positions, retry_after=None)
    error.message = f"{_ALONE} {error.message}"
    logger.warning("%s: one text makes requests fail (%s) and is given up", target.name, fault.kind)
    return error


def _give_up(
    fault: ApiFailure,
    part: Batch,
    job: CallContext,
    target: RequestConfig,
    *,
    answer: TransportResult,
    asked: float | None,
) -> MultiEmbedError:
    """The error of a part; when no other part can fare better, the error of the whole call."""
    error = build_error(fault, target, answer=answer, indices=part.positions, retry_after=asked)
    if ERROR_POLICIES[fault.kind].retry:
        job.last_retryable_error = error
        logger.warning("%s: %d texts are given up: %s", target.name, len(part.texts), fault.kind)
    too_long_a_pause = fault.kind == "rate_limit" and asked is not None and job.no_time_left(min(asked, LONGEST_ASKED))
    if ERROR_POLICIES[fault.kind].fatal or too_long_a_pause or _general(fault, part, job):
        job.fatal_error = job.fatal_error or error
    return error


def _general(fault: ApiFailure, part: Batch, job: CallContext) -> bool:
    """Whether a fault that need not be fatal has shown itself to be the whole call's."""
    if fault.kind == "invalid" and not job.any_success:
        job.single_rejections += len(part.texts) == 1
        return job.single_rejections > 1  # two texts, each refused alone
    if fault.format_error is not None and not job.any_success:
        job.malformed += 1
        if job.malformed > 1:
            return True
    weather = job.limiter.breaker
    if ERROR_POLICIES[fault.kind].retry and not weather.is_closed:
        job.lost_batches += 1
        return not weather.ever_succeeded or job.lost_batches > 1  # one batch alone may be what the server cannot bear
    return False


def _paused(part: Batch, job: CallContext) -> MultiEmbedError | None:
    """The error of a part that a pause of the account keeps from being sent before the deadline."""
    weather = job.limiter.breaker
    seconds = weather.open_until - job.clock()
    if seconds <= 0.0:
        return None
    why = "refused a request for being too fast" if weather.reason == "rate_limit" else "failed several times in a row"
    return ERROR_POLICIES[weather.reason].error(
        f"Nothing was sent: the provider {why}, so no request goes out for {seconds:.1f} s. The call's deadline ends "
        "before: call again later, or raise deadline.",
        retry_after=seconds,
        **job.details(part),
    )


def deadline_error(part: Batch, job: CallContext) -> MultiEmbedError:
    """The error of a part for which the call's deadline leaves no time."""
    return DeadlineExceededError(
        "The deadline of the call has passed. Raise deadline, or embed fewer texts in one call.",
        **job.details(part),
    )
