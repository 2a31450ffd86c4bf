"""What one of the two wires cannot say."""

from __future__ import annotations

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError, bad_request


def not_in_chat(what: str) -> ApiError:
    """A request that chat completions cannot say."""
    return bad_request(
        f"{what} cannot be asked of this model, which speaks chat completions only; leave it out"
    )


def not_in_responses(what: str) -> ApiError:
    """A chat completion request that Responses cannot say."""
    return bad_request(f"{what} cannot be asked of this model, which speaks Responses only; leave it out")


def malformed(what: str, value: Json) -> ApiError:
    """A request with something of the wrong shape in it."""
    return bad_request(f"{what}, not {value!r:.80}")
