"""How an answer ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires._failures import told
from lightning_plugin_gateway.wires._narrow import as_object, as_text
from lightning_plugin_gateway.wires._wire import Body

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}
_BROKEN = ("abort", "error")
_STATUS_OF_CODE = {"rate_limit_exceeded": 429, "invalid_prompt": 400}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The end of an answer.

    Attributes:
        status: Of the answer.
        cut: Why it is incomplete; empty unless it is.
        failure: Why it failed; empty unless it did.
    """

    status: Literal["completed", "incomplete", "failed"] = "completed"
    cut: str = ""
    failure: str = ""

    @classmethod
    def of(cls, finish_reason: Json) -> Outcome:
        """The outcome that a finish reason tells; an unknown one, or none, is that of a complete answer."""
        reason = as_text(finish_reason)
        if reason in _CUT:
            return cls(status="incomplete", cut=_CUT[reason])
        if reason in _BROKEN:
            return cls(status="failed", failure=f"the model's server ended the answer early ({reason})")
        return cls()

    def item_status(self, *, last: bool) -> str:
        """Status of an item that is complete unless it is the last of an answer that is not."""
        return "completed" if self.status == "completed" or not last else "incomplete"

    @property
    def fields(self) -> Body:
        """Fields of the answer."""
        return {
            "status": self.status,
            "incomplete_details": {"reason": self.cut} if self.cut else None,
            "error": {"code": "server_error", "message": self.failure} if self.failure else None,
        }


def finish_reason(answer: Body, *, called: bool) -> str:
    """Finish reason of the chat completion that says what an answer says.

    Args:
        called: There is a tool call in it.

    Raises:
        ApiError: It failed, or is not complete yet.
    """
    status = answer.get("status", "completed")
    if status == "incomplete":
        reason = as_object(answer.get("incomplete_details")).get("reason")
        return "content_filter" if reason == "content_filter" else "length"
    if status != "completed":
        raise failure(answer.get("error"), found=f"the answer's status is {status!r:.40}")
    return "tool_calls" if called else "stop"


def failure(error: Json, *, found: str) -> ApiError:
    """The failure that an upstream tells of.

    Args:
        error: Its `code` and `message`.
        found: What is said if it has none.
    """
    return told(error, kind="code", statuses=_STATUS_OF_CODE, found=found)
