"""Attributes that carry what a `Span` has and OTLP has no field for.

Whoever is not trusted (an agent) cannot set them: they are taken off its spans. The ids of rollout and attempt and
the names of semantic conventions are in `agentlightning.semconv`.
"""

from __future__ import annotations

from typing import Final

SPAN_ID: Final = "agl.span.id"
"""Id of a span that is not 16 hex digits; the OTLP field has a digest of it."""
TRACE_ID: Final = "agl.trace.id"
"""Id of a trace that is not 32 hex digits; the OTLP field has a digest of it."""
PARENT_ID: Final = "agl.span.parent_id"
"""Id of a parent that is not 16 hex digits; the OTLP field has a digest of it."""
SOURCE: Final = "agl.span.source"
"""Who observed the span: `gateway`, `adapter`, `emit`, `runner`, `otlp` or `store`."""
AGENT: Final = "agl.span.agent"
"""Name of the agent, where `gen_ai.agent.name` does not say the same; no value for none."""
ERROR: Final = "agl.span.error"
"""What went wrong, where status and `error.type` do not say the same; no value for nothing."""
START_NS: Final = "agl.span.start_ns"
"""Start in nanoseconds, where OTLP cannot express it."""
END_NS: Final = "agl.span.end_ns"
"""End in nanoseconds, where OTLP cannot express it, or it is before the start."""
SEQUENCE: Final = "agl.span.sequence"
"""Number of the span within its attempt, from 1."""
LATE: Final = "agl.span.late"
"""The span arrived after its attempt had ended."""

PROMPT_IDS: Final = "agl.tokens.prompt"
"""Prompt ids: for each choice bytes (little-endian int32) or a list of integers. One choice needs no list around it,
and one prompt is that of every choice. The same goes for all of `agl.tokens.*` and `agl.logprobs`."""
RESPONSE_IDS: Final = "agl.tokens.response"
"""Sampled ids, stop token included: bytes (little-endian int32) or integers."""
LOGPROBS: Final = "agl.logprobs"
"""Natural-log probability of each sampled id: bytes (little-endian float32) or numbers."""
VERSIONS: Final = "agl.tokens.version"
"""Policy version that served the call; without it `agl.policy.version` counts."""
INCOMPLETE: Final = "agl.tokens.incomplete"
"""Why ids or log-probabilities are missing; empty when all are there."""
FINISH_REASONS: Final = "agl.tokens.finish_reason"
"""Why generation ended; without it `gen_ai.response.finish_reasons` counts."""

JSON_KEYS: Final = "agl.json"
"""Names of attributes whose value is JSON text, because OTLP cannot express it (depth, integers beyond 64 bits)."""
ESCAPE: Final = "agl.attribute."
"""Prefix of an attribute whose own name is one of those that stand for something else here."""

NOTES: Final = "agl.notes"
"""What was changed of a span on its way in: clamped, cut or dropped."""
LOG_SEVERITY: Final = "agl.log.severity"
"""Severity of the log record that a span was made of."""

OWN: Final = frozenset(
    {
        AGENT,
        END_NS,
        ERROR,
        FINISH_REASONS,
        INCOMPLETE,
        JSON_KEYS,
        LATE,
        LOGPROBS,
        PARENT_ID,
        PROMPT_IDS,
        RESPONSE_IDS,
        SEQUENCE,
        SOURCE,
        SPAN_ID,
        START_NS,
        TRACE_ID,
        VERSIONS,
    }
)
"""Attributes that become fields of a span, never attributes."""
