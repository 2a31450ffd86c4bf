"""Native requests as chat completion requests."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_object, as_objects, given
from lightning_plugin_gateway.wires._refusals import (
    Neutral,
    check_known,
    known_fields,
    malformed,
    not_in_chat,
)
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._asked import chat_output, chat_thinking, chat_tier
from lightning_plugin_gateway.wires.messages._tools import chat_choice, chat_tools
from lightning_plugin_gateway.wires.messages._turns import chat_messages, chat_system

ALIKE = ("model", "stream", "temperature", "top_k", "top_p")
"""Fields that mean the same on both wires."""
_SAMPLING = (
    "frequency_penalty", "ignore_eos", "logit_bias", "min_p", "min_tokens", "presence_penalty", "repetition_penalty",
    "seed", "stop_token_ids",
)  # fmt: skip
"""Fields of chat completions that the API does not have but its clients may send beside it."""
_TRANSLATED = (
    "context_management", "max_tokens", "messages", "metadata", "output_config", "output_format", "service_tier",
    "stop_sequences", "system", "thinking", "tool_choice", "tools",
)  # fmt: skip
_NOTHING_TO_SAY = (
    "betas", "cache_control", "diagnostics", "inference_geo", "stream_options", "user_profile_id", "workspace_id",
)  # fmt: skip
"""Fields that ask nothing of a model: they are about caches, accounts and places."""
_NEUTRAL: Neutral = {"mcp_servers": ([],), "speed": ("standard",)}


def chat_request(request: Body, *, before: Sequence[Body] = ()) -> Body:
    """The chat request that asks the same: the system prompt, then what comes before, then the messages.

    Raises:
        ApiError: 400, chat completions cannot ask that.
    """
    _check_known(request)
    chat = given(request, *ALIKE, *_SAMPLING)
    said = chat_messages(request.get("messages"))
    chat["messages"] = [*chat_system(request.get("system")), *before, *said]
    if said[-1]["role"] == "assistant":  # what it said is to be continued, not answered
        chat |= {"add_generation_prompt": False, "continue_final_message": True}
    if request.get("max_tokens") is not None:
        chat["max_completion_tokens"] = request["max_tokens"]
    if request.get("stop_sequences") is not None:
        chat["stop"] = _stops(request["stop_sequences"])
    if request.get("tools") is not None:
        chat["tools"] = chat_tools(request["tools"])
    if request.get("tool_choice") is not None:
        chat |= chat_choice(request["tool_choice"])
    chat |= chat_thinking(request.get("thinking"))
    chat |= chat_output(request.get("output_config"), older=request.get("output_format"))
    return chat | chat_tier(request.get("service_tier")) | _user(request.get("metadata"))


def _check_known(request: Body) -> None:
    known = (*ALIKE, *_SAMPLING, *_TRANSLATED, *_NOTHING_TO_SAY)
    check_known(request, known=known, neutral=_NEUTRAL, refuse=not_in_chat)
    _check_edits(request.get("context_management"))


def _check_edits(management: Json) -> None:
    """Old reasoning may be cleared: whether a model sees it is for its chat template to say anyway."""
    asked = known_fields(management, "context_management", ("edits",))
    for edit in as_objects(asked.get("edits")):
        kind = edit.get("type")
        if not isinstance(kind, str) or not kind.startswith("clear_thinking"):
            raise not_in_chat(f"`context_management` with {kind!r:.60}")


def _stops(sequences: Json) -> list[Json]:
    if not isinstance(sequences, list) or not all(isinstance(stop, str) for stop in sequences):
        raise malformed("`stop_sequences` must be a list of texts", sequences)
    return sequences


def _user(metadata: Json) -> Body:
    user = as_object(known_fields(metadata, "metadata", ("user_id",))).get("user_id")
    if not isinstance(user, str | None):
        raise malformed("`metadata.user_id` must be a text", user)
    return {} if user is None else {"user": user}
