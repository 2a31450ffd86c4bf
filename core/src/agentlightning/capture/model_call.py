"""The span of one model call that an SDK makes, from its request to the end of its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from agentlightning import semconv
from agentlightning.capture.http import tap
from agentlightning.types import Json

__all__ = ["ModelCall", "describe", "ended_by", "failed", "inside_call", "is_cancellation"]

_log = logging.getLogger(__name__)


class ModelCall:
    """A call under way; a context manager around its request, within which its span is the current one.

    Args:
        span: Its span, which it ends; `INVALID_SPAN` records nothing.
        describe_answer: Span attributes of an answer: an object of the SDK, or what `fold` made.
        fold: Puts the bytes of a response together: the answer as far as it came, with the `error` of one that failed,
            and whether it came to its end.
        failure: The SDK's exception for the message of an error that came inside of a response.
    """

    def __init__(
        self,
        span: Span,
        *,
        describe_answer: Callable[[object], Mapping[str, object]],
        fold: Callable[[bytes], tuple[dict[str, Json], bool]],
        failure: Callable[[str], Exception],
    ) -> None:
        self._span = span
        self._describe_answer = describe_answer
        self._fold = fold
        self._failure = failure

    def __enter__(self) -> None:
        if self._span is not trace.INVALID_SPAN:
            self._token = otel_context.attach(trace.set_span_in_context(self._span))

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._span is not trace.INVALID_SPAN:
            otel_context.detach(self._token)
            if error is not None:
                self._end(error)

    def answered(self, result: object) -> None:
        """Records what the method returned: an answer, or a response that is still to be read."""
        if not self._span.is_recording():
            self._span.end()
            return
        response = getattr(result, "response", None) or getattr(result, "http_response", None)
        if response is None:
            self._complete(result)
        elif response.is_closed:
            self._read(response.content, None)
        else:
            tap(response, self._read, failed=lambda data: bool(self._fold(data)[0].get("error")))

    def _read(self, data: bytes, error: BaseException | None) -> None:
        answer, complete = self._fold(data)
        told = answer.get("error")
        message = told.get("message") if isinstance(told, dict) else None
        if message is not None and error is None:
            error = self._failure(str(message))
        if not complete and error is None:
            self._span.set_attribute(semconv.CANCELLED, True)
        self._complete(answer, error)

    def _complete(self, answer: object, error: BaseException | None = None) -> None:
        describe(self._span, lambda: self._describe_answer(answer))
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            failed(self._span, error)
        self._span.end()


def describe(span: Span, attributes: Callable[[], Mapping[str, object]]) -> None:
    """Sets a span's attributes. Capture never breaks a call: what cannot be described is left out, and logged."""
    try:
        span.set_attributes(attributes())  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - a border to whatever objects an agent hands over
        _log.exception("a model call could not be described")


def failed(span: Span, error: BaseException) -> None:
    """Says how what a span is about came to an early end: it was cancelled, or it failed."""
    if is_cancellation(error):
        span.set_attribute(semconv.CANCELLED, True)
    else:
        span.set_attribute(semconv.ERROR_TYPE, type(error).__qualname__)
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))


def is_cancellation(error: BaseException | None) -> bool:
    """Whether an exception says that somebody has lost interest, and not that anything is wrong."""
    return isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt)


@contextmanager
def ended_by(span: Span) -> Iterator[Span]:
    """Ends a span with the block, and says so if that was left by an exception, which goes on. It is not made current.

    So a generator can keep a span open between two steps.
    """
    try:
        yield span
    except BaseException as error:
        failed(span, error)
        raise
    finally:
        span.end()


def inside_call(scope: str) -> bool:
    """Whether the current span is one of a model call, made by an instrumentation scope."""
    span = trace.get_current_span()
    found = getattr(getattr(span, "instrumentation_scope", None), "name", "")
    attributes: Mapping[str, object] = getattr(span, "attributes", None) or {}
    return found == scope and attributes.get(semconv.OPERATION) == semconv.OPERATION_CHAT
