"""What was said, from any official GenAI instrumentation: a plugin in OpenTelemetry's own group of completion hooks.

`OTEL_INSTRUMENTATION_GENAI_COMPLETION_HOOK=agl` switches it on. It is called after each model call, with content that
the instrumentation itself may keep out of its spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from opentelemetry import trace

from agentlightning import semconv
from agentlightning.capture.content import recorded, to_text

__all__ = ["CompletionHook"]

_MISSING: Final = "the completion hook could not read what was said"


class CompletionHook:
    """Writes messages, system instructions and tools of a call on its span, where that has none of its own.

    Its caller swallows exceptions, so what cannot be read marks the span incomplete.
    """

    def on_completion(
        self,
        *,
        inputs: Sequence[object] = (),
        outputs: Sequence[object] = (),
        system_instruction: Sequence[object] = (),
        tool_definitions: Sequence[object] | None = None,
        span: trace.Span | None = None,
        **_: object,
    ) -> None:
        """Takes a call that has just ended, before its span does.

        Args:
            inputs: Messages of the request, as the instrumentation's dataclasses.
            outputs: Messages of the answer.
            system_instruction: Parts of the instruction beside the messages.
            tool_definitions: Tools that were offered.
            span: The call's; None is the current one.
        """
        found = span or trace.get_current_span()
        if not found.is_recording() or not recorded():
            return
        said = {
            semconv.INPUT_MESSAGES: inputs,
            semconv.OUTPUT_MESSAGES: outputs,
            semconv.SYSTEM_INSTRUCTIONS: system_instruction,
            semconv.TOOL_DEFINITIONS: tool_definitions,
        }
        known = getattr(found, "attributes", None) or {}
        for name, value in said.items():
            if value and name not in known:
                try:
                    found.set_attribute(name, to_text(value))
                except (TypeError, ValueError, RecursionError):
                    found.set_attribute(semconv.INCOMPLETE, _MISSING)
