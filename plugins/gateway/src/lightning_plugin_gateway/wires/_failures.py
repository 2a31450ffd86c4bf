"""Failures of upstreams: told of in an answer, or by an answer that is none."""

from __future__ import annotations

from collections.abc import Mapping

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.wires._narrow import as_object, as_text

_LONGEST = 500


def told(error: Json, *, kind: str, statuses: Mapping[str, int], found: str) -> ApiError:
    """The failure that an upstream tells of.

    Args:
        error: What it says: its kind and its `message`.
        kind: Name of the field with its kind.
        statuses: By kind; 502 for any other.
        found: What is said if it has neither.
    """
    said = as_object(error)
    named = as_text(said.get(kind))
    message = f"the upstream failed: {as_text(said.get('message')) or named or found}"[:_LONGEST]
    return ApiError(statuses.get(named, 502), message, fault="upstream_error")


def unreadable(found: str) -> ApiError:
    """An upstream's answer that is none."""
    return ApiError(502, f"the upstream's answer cannot be read: {found}"[:_LONGEST], fault="invalid_answer")
