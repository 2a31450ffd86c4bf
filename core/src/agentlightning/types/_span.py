"""Spans: everything that is observed of an attempt, with token ids and log-probabilities as packed arrays."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

import msgspec

from agentlightning.types._rollout import Json

_Number = TypeVar("_Number", int, float)


class SpanStatus(StrEnum):
    """How the observed operation ended."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


class SpanSource(StrEnum):
    """Who observed it. Token arrays come from the gateway, structure from adapters."""

    GATEWAY = "gateway"
    ADAPTER = "adapter"
    EMIT = "emit"
    RUNNER = "runner"
    OTLP = "otlp"
    STORE = "store"


def pack_ints(values: Iterable[int]) -> bytes:
    """Packs integers as little-endian int32.

    Raises:
        OverflowError: A value does not fit into 32 bits.
    """
    return _little_endian(array("i", values)).tobytes()


def pack_floats(values: Iterable[float]) -> bytes:
    """Packs floats as little-endian float32."""
    return _little_endian(array("f", values)).tobytes()


def unpack_ints(packed: bytes) -> array[int]:
    """The inverse of `pack_ints`: an `array('i')`."""
    values = array("i")
    values.frombytes(packed)
    return _little_endian(values)


def unpack_floats(packed: bytes) -> array[float]:
    """The inverse of `pack_floats`: an `array('f')`."""
    values = array("f")
    values.frombytes(packed)
    return _little_endian(values)


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The exact tokens of one sampled answer to one LLM call.

    Attributes:
        prompt: Prompt ids, packed little-endian int32.
        response: Sampled ids, stop token included, packed little-endian int32.
        logprobs: Natural-log probability of each sampled id under the policy that sampled it, packed float32.
        version: Policy version that served the call, or began to; -1 if unknown.
        incomplete: Why ids or log-probabilities are missing; empty when all are there. Incomplete calls are masked.
        finish_reason: `stop`, `length`, `tool_calls`, or what the upstream said.
        versions: Policy version of each sampled id, packed little-endian int32, where weights changed on the way; empty
            where `version` served them all.
    """

    prompt: bytes = b""
    response: bytes = b""
    logprobs: bytes = b""
    version: int = -1
    incomplete: str = ""
    finish_reason: str = ""
    versions: bytes = b""

    @classmethod
    def pack(
        cls,
        prompt_ids: Sequence[int],
        response_ids: Sequence[int],
        logprobs: Sequence[float],
        *,
        version: int,
        finish_reason: str = "",
    ) -> TokenRecord:
        """Packs one answer; lengths of `response_ids` and `logprobs` that differ mark it incomplete."""
        incomplete = (
            "" if len(response_ids) == len(logprobs) else "ids and log-probabilities differ in length"
        )
        return cls(
            prompt=pack_ints(prompt_ids),
            response=pack_ints(response_ids),
            logprobs=pack_floats(logprobs),
            version=version,
            incomplete=incomplete,
            finish_reason=finish_reason,
        )

    @property
    def prompt_ids(self) -> array[int]:
        """Prompt ids, `[P]`."""
        return unpack_ints(self.prompt)

    @property
    def response_ids(self) -> array[int]:
        """Sampled ids, `[R]`."""
        return unpack_ints(self.response)

    @property
    def response_logprobs(self) -> array[float]:
        """Log-probabilities of the sampled ids, `[R]`."""
        return unpack_floats(self.logprobs)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One observed operation of an attempt.

    Attributes:
        span_id: 16 hex digits, unique within the attempt.
        trace_id: 32 hex digits.
        operation: OTel GenAI operation (`chat`, `execute_tool`, `invoke_agent`, …) or one of ours
            (`agl.rollout`, `agl.state`, `agl.action`, `agl.message`, `agl.object`, `agl.reward`, `agl.operation`,
            `agl.decision`, `agl.truncated`).
        agent: Name of the agent that did it, if known.
        start_ns: Start in nanoseconds since the epoch.
        end_ns: End in nanoseconds since the epoch.
        attributes: OTel attributes; values are JSON.
        tokens: One record per sampled choice of an LLM call, in the order of choices.
        sequence: Gap-free number within the attempt, from 1, assigned by the store; 0 before it is stored.
        late: Arrived after its attempt had ended; kept, never part of experience.
    """

    rollout_id: str
    attempt_id: str
    span_id: str
    trace_id: str
    name: str
    operation: str
    source: SpanSource
    start_ns: int
    end_ns: int
    parent_id: str | None = None
    agent: str | None = None
    status: SpanStatus = SpanStatus.UNSET
    error: str | None = None
    attributes: dict[str, Json] = {}
    tokens: tuple[TokenRecord, ...] = ()
    sequence: int = 0
    late: bool = False


def _little_endian(values: array[_Number]) -> array[_Number]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
