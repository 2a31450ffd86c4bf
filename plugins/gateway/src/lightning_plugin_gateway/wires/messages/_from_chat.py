"""Chat completion requests as native requests."""

from __future__ import annotations

from typing import Final

from agentlightning.types import Json
from lightning_plugin_gateway.wires._narrow import as_objects, given
from lightning_plugin_gateway.wires._refusals import (
    CHAT_NEUTRAL,
    Neutral,
    check_known,
    malformed,
    not_in_messages,
)
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._asked import native_output, native_tier
from lightning_plugin_gateway.wires.messages._native_turns import native_turns
from lightning_plugin_gateway.wires.messages._to_chat import ALIKE
from lightning_plugin_gateway.wires.messages._tools import native_choice, native_tools

DEFAULT_MAX_TOKENS: Final = 8192
"""Most tokens of an answer where a chat request does not say: Messages want to be told."""
_TRANSLATED = (
    "add_generation_prompt", "continue_final_message", "max_completion_tokens", "max_tokens", "messages",
    "parallel_tool_calls", "reasoning_effort", "response_format", "service_tier", "stop", "tool_choice", "tools",
    "user",
)  # fmt: skip
_DROPPED = (
    "metadata",
    "prompt_cache_key",
    "return_token_ids",
    "safety_identifier",
    "seed",
    "store",
    "stream_options",
)
"""Fields that a model may ignore, or that are about what Messages say anyway."""
_NEUTRAL: Neutral = {
    **CHAT_NEUTRAL,
    "logprobs": (False,),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}
"""Fields that Messages do not have, with the values that ask for nothing."""


def native_request(chat: Body) -> Body:
    """The native request that asks what a chat completion request asks. Raises `ApiError` 400."""
    _check_known(chat)
    request = given(chat, *ALIKE)
    most = [chat[name] for name in ("max_completion_tokens", "max_tokens") if chat.get(name) is not None]
    request["max_tokens"] = most[0] if most else DEFAULT_MAX_TOKENS
    request |= native_turns(chat.get("messages"))
    if chat.get("stop") is not None:
        request["stop_sequences"] = _stops(chat["stop"])
    if chat.get("tools") is not None:
        request["tools"] = native_tools(chat["tools"])
    choice = native_choice(chat.get("tool_choice"), parallel=chat.get("parallel_tool_calls"))
    if choice:
        request["tool_choice"] = choice
    request |= native_output(chat.get("reasoning_effort"), chat.get("response_format"))
    if chat.get("user") is not None:
        request["metadata"] = {"user_id": chat["user"]}
    return request | native_tier(chat.get("service_tier"))


def _check_known(chat: Body) -> None:
    """What the gateway asks for beside token ids, it does without where there are none."""
    known = [*ALIKE, *_TRANSLATED, *_DROPPED]
    if chat.get("return_token_ids"):
        known += ["logprobs", "top_logprobs"]
    check_known(chat, known=known, neutral=_NEUTRAL, refuse=not_in_messages)
    messages = as_objects(chat.get("messages"))
    spoken = bool(messages) and messages[-1].get("role") == "assistant"
    if not spoken and (chat.get("continue_final_message") or chat.get("add_generation_prompt") is False):
        raise not_in_messages("`continue_final_message` of a message that is not the assistant's")


def _stops(stop: Json) -> list[Json]:
    if isinstance(stop, str):
        return [stop]
    if not isinstance(stop, list) or not all(isinstance(one, str) for one in stop):
        raise malformed("`stop` must be a text or a list of texts", stop)
    return stop
