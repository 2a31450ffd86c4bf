"""The span of a call."""

from __future__ import annotations

import math
import re
import secrets
import struct
from hashlib import blake2b
from typing import Annotated

import msgspec

from agentlightning import semconv
from agentlightning.gateway import AttemptGrant
from agentlightning.types import Json, Span, SpanSource, SpanStatus, TokenRecord, pack_ints
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.upstreams._slim import Logprobs

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
_CANCELLED = "the client left before the end of the answer"
_LONGEST_ERROR = 2000
_ID_BYTES = 4
_MOST_RUN = 2**24
_Run = tuple[Annotated[int, msgspec.Meta(ge=-1, lt=2**31)], Annotated[int, msgspec.Meta(ge=0, le=_MOST_RUN)]]
_Runs = Annotated[list[_Run], msgspec.Meta(max_length=4096)]


class CallRecord:
    """What is known of a call so far; `span` writes it down.

    Attributes:
        span_id: Id of the span, also sent to the client as `x-request-id`.
        wire: Name of the wire that the client speaks.
        asked: The client's request.
        chat: What it asks, as a chat completion request; empty if that cannot be said.
        digest: Of the request's bytes.
        model: Name of the model that was asked for.
        provider: Who serves it.
        response_id: Id of the answer as the client sees it; empty for the completion's.
        no_ids: Why no token ids were asked for; empty if they were.
    """

    def __init__(self, grant: AttemptGrant, *, traceparent: str, start_ns: int) -> None:
        parent = _TRACEPARENT.fullmatch(traceparent)
        self._grant = grant
        self._start_ns = start_ns
        self._trace_id = (
            parent[1] if parent else blake2b(grant.attempt_id.encode(), digest_size=16).hexdigest()
        )
        self._parent_id = parent[2] if parent else None
        self.span_id = secrets.token_hex(8)
        self.wire = "chat"
        self.asked: Body = {}
        self.chat: Body = {}
        self.digest = ""
        self.model = ""
        self.provider = ""
        self.response_id = ""
        self.no_ids = ""

    def span(
        self,
        completion: Body,
        *,
        version: int,
        end_ns: int,
        error: ApiError | None = None,
        cancelled: bool = False,
    ) -> Span:
        """The span of a call that has ended.

        Args:
            completion: The answer, or as much of it as there is.
            version: Policy version that served it; -1 if unknown.
            end_ns: Now.
            error: How it failed, if it did.
            cancelled: The client left.
        """
        broken = _CANCELLED if cancelled else error.message if error else ""
        tokens = self._tokens(completion, version=version, broken=broken)
        attributes = self._attributes(completion)
        attributes[semconv.POLICY_VERSION] = version
        incomplete = next(
            (record.incomplete for record in tokens if record.incomplete), "" if tokens else broken
        )
        if incomplete:
            attributes[semconv.INCOMPLETE] = incomplete
        if cancelled:
            attributes[semconv.CANCELLED] = True
        if error:
            attributes[semconv.ERROR_TYPE] = error.fault
        return Span(
            rollout_id=self._grant.rollout_id,
            attempt_id=self._grant.attempt_id,
            span_id=self.span_id,
            trace_id=self._trace_id,
            parent_id=self._parent_id,
            name=f"{self._operation} {self.model}".rstrip(),
            operation=self._operation,
            source=SpanSource.GATEWAY,
            start_ns=self._start_ns,
            end_ns=max(end_ns, self._start_ns),
            status=SpanStatus.ERROR if error else SpanStatus.UNSET if cancelled else SpanStatus.OK,
            error=error.message[:_LONGEST_ERROR] if error else None,
            attributes=attributes,
            tokens=tokens,
        )

    def mark(self, *, now_ns: int) -> Span:
        """Says that the call has begun; stage `join` takes it for an incomplete call if its span never came."""
        return Span(
            rollout_id=self._grant.rollout_id,
            attempt_id=self._grant.attempt_id,
            span_id=secrets.token_hex(8),
            trace_id=self._trace_id,
            parent_id=self._parent_id,
            name=f"begun {self.model}".rstrip(),
            operation=semconv.OPERATION_BEGUN,
            source=SpanSource.GATEWAY,
            start_ns=self._start_ns,
            end_ns=max(now_ns, self._start_ns),
            status=SpanStatus.OK,
            attributes={semconv.BEGUN_CALL: self.span_id, semconv.REQUEST_MODEL: self.model},
        )

    @property
    def _operation(self) -> str:
        return self.wire if self.wire == "embeddings" else semconv.OPERATION_CHAT

    def _attributes(self, completion: Body) -> dict[str, Json]:
        choices = _choices(completion)
        usage = completion.get("usage")
        counts = usage if isinstance(usage, dict) else {}
        found: dict[str, Json] = {
            semconv.PROVIDER: self.provider,
            semconv.REQUEST_MODEL: self.model,
            semconv.REQUEST_TEMPERATURE: self.chat.get("temperature"),
            semconv.REQUEST_MAX_TOKENS: self.chat.get("max_completion_tokens") or self.chat.get("max_tokens"),
            semconv.REQUEST_STREAM: bool(self.asked.get("stream")),
            semconv.INPUT_MESSAGES: self.chat.get("messages"),
            semconv.TOOL_DEFINITIONS: self.chat.get("tools"),
            semconv.RESPONSE_ID: self.response_id or completion.get("id"),
            # as the client wrote it, where that is not a chat completion
            semconv.NATIVE_REQUEST: self.asked if self.wire != "chat" else None,
            semconv.REQUEST_DIGEST: self.digest,
            semconv.RESPONSE_MODEL: completion.get("model"),
            semconv.FINISH_REASONS: [choice.get("finish_reason") for choice in choices] or None,
            semconv.OUTPUT_MESSAGES: [choice.get("message") for choice in choices] or None,
            semconv.INPUT_TOKENS: counts.get("prompt_tokens"),
            semconv.OUTPUT_TOKENS: counts.get("completion_tokens"),
        }
        return {name: value for name, value in found.items() if value not in (None, "")}

    def _tokens(self, completion: Body, *, version: int, broken: str) -> tuple[TokenRecord, ...]:
        prompt = completion.get("prompt_token_ids")
        records = []
        for choice in _choices(completion):
            finish = str(choice.get("finish_reason") or "")
            if self.no_ids:
                reason = broken or self.no_ids
                records.append(TokenRecord(version=version, incomplete=reason, finish_reason=finish))
                continue
            own = choice.get("prompt_token_ids", prompt)
            record = token_record(own, choice, version=version, finish_reason=finish)
            if broken:
                record = msgspec.structs.replace(record, incomplete=broken)
            records.append(record)
        return tuple(records)


def token_record(prompt: Json, choice: Body, *, version: int, finish_reason: str) -> TokenRecord:
    """Tokens of one choice; whatever is missing or makes no sense marks it incomplete."""
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, Logprobs):
        values = logprobs.numbers
    else:
        content = logprobs.get("content") if isinstance(logprobs, dict) else None
        entries = content if isinstance(content, list) else []
        values = [entry.get("logprob") if isinstance(entry, dict) else None for entry in entries]
    prompt_bytes, prompt_fault = _ids(prompt, "prompt token ids")
    response_bytes, response_fault = _ids(choice.get("token_ids"), "token ids")
    logprob_bytes, logprob_fault = _floats(values)
    versions, versions_fault = _versions(
        choice.get("policy_versions"), count=len(response_bytes) // _ID_BYTES
    )
    lengths = (
        "" if len(response_bytes) == len(logprob_bytes) else "ids and log-probabilities differ in length"
    )
    return TokenRecord(
        prompt=prompt_bytes,
        response=response_bytes,
        logprobs=logprob_bytes,
        version=version,
        incomplete=prompt_fault or response_fault or logprob_fault or lengths or versions_fault,
        finish_reason=finish_reason,
        versions=versions,
    )


def _versions(runs: Json, *, count: int) -> tuple[bytes, str]:
    """The policy version of each id, packed, from runs of `[version, ids]`; nothing if one served them all."""
    if runs is None:
        return b"", ""
    try:
        found = msgspec.convert(runs, _Runs)
        if sum(length for _, length in found) == count:
            return pack_ints([version for version, length in found for _ in range(length)]), ""
    except (msgspec.ValidationError, OverflowError):
        pass
    return b"", "policy versions do not fit the token ids"


def _ids(values: Json, what: str) -> tuple[bytes, str]:
    if not isinstance(values, list) or not values:
        return b"", f"the upstream returned no {what}"
    try:
        packed = struct.pack(f"<{len(values)}i", *values)
    except struct.error:
        return b"", f"{what} out of range"
    if not packed[_ID_BYTES - 1 :: _ID_BYTES].isascii():  # the highest bit of the highest byte is the sign
        return b"", f"{what} out of range"
    return packed, ""


def _floats(values: list[float | None]) -> tuple[bytes, str]:
    absent = "the upstream returned no log-probabilities"
    if not values:
        return b"", absent
    try:
        packed = struct.pack(f"<{len(values)}f", *values)
    except OverflowError:
        return b"", "log-probabilities are not finite"
    except struct.error:
        return b"", absent if None in values else "log-probabilities are not numbers"
    # numbers of 32 bits have a finite sum in 64, unless one of them is infinite or none at all
    if not math.isfinite(sum(values)):  # type: ignore[arg-type]
        return b"", "log-probabilities are not finite"
    return packed, ""


def _choices(completion: Body) -> list[Body]:
    choices = completion.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
