"""Why an answer ended, in the words of both wires."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires._narrow import as_text
from lightning_plugin_gateway.wires._wire import Body

_CUT = {"length": "max_tokens", "content_filter": "refusal"}
_BROKEN = ("abort", "error")
_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}


def stop_fields(choice: Body, request: Body, *, called: bool, refused: bool) -> Body:
    """`stop_reason` and `stop_sequence` of the answer that says what a choice says.

    A reason that is unknown, or missing, is that of a complete answer.

    Args:
        choice: Its `finish_reason`, and the `stop_reason` by which some servers tell what was matched.
        request: The native request.
        called: There is a tool call in the answer.
        refused: There is a refusal in the answer.

    Raises:
        ApiError: 502, the model's server gave up.
    """
    check_complete(choice)
    finish, matched = as_text(choice.get("finish_reason")), choice.get("stop_reason")
    if refused:
        return {"stop_reason": "refusal", "stop_sequence": None}
    if finish in _CUT:
        return {"stop_reason": _CUT[finish], "stop_sequence": None}
    asked = request.get("stop_sequences")
    if finish == "stop" and isinstance(matched, str) and isinstance(asked, list) and matched in asked:
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    return {"stop_reason": "tool_use" if called else "end_turn", "stop_sequence": None}


def check_complete(choice: Body) -> None:
    """Raises `ApiError` 502 if the model's server gave up: Messages have no word for that in an answer."""
    finish = choice.get("finish_reason")
    if finish in _BROKEN:
        message = f"the model's server ended the answer early ({finish})"
        raise ApiError(502, message, fault="upstream_error")


def finish_fields(stop: Body, *, called: bool) -> Body:
    """`finish_reason` of a choice, and what was matched, if anything.

    Args:
        stop: A native answer, or the delta that ends one.
        called: There is a tool call in the answer.
    """
    reason = stop.get("stop_reason")
    finish = _REASONS.get(reason) if isinstance(reason, str) else None
    if reason == "stop_sequence":
        matched: Json = stop.get("stop_sequence")
        return {"finish_reason": "stop", **({"stop_reason": matched} if isinstance(matched, str) else {})}
    return {"finish_reason": finish or ("tool_calls" if called else "stop")}
