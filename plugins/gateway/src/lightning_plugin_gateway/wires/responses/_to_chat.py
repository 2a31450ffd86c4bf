"""Native requests as chat completion requests."""

from __future__ import annotations

from collections.abc import Sequence

from agentlightning.types import Json
from lightning_plugin_gateway._errors import bad_request
from lightning_plugin_gateway.wires._narrow import as_list, given
from lightning_plugin_gateway.wires._refusals import (
    Neutral,
    check_known,
    known_fields,
    malformed,
    not_in_chat,
)
from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.responses._formats import chat_format
from lightning_plugin_gateway.wires.responses._input import chat_messages
from lightning_plugin_gateway.wires.responses._tools import chat_choice, chat_tools

LOGPROBS = "message.output_text.logprobs"
"""Value of `include` that asks for log-probabilities."""
ALIKE = (
    "metadata", "model", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "service_tier", "store", "stream", "temperature", "top_p", "user",
)  # fmt: skip
"""Fields that mean the same on both wires."""
_SAMPLING = (
    "frequency_penalty", "ignore_eos", "logit_bias", "min_p", "min_tokens", "presence_penalty", "repetition_penalty",
    "seed", "stop", "stop_token_ids", "top_k",
)  # fmt: skip
"""Fields of chat completions that the API does not have but its clients may send beside it."""
_TRANSLATED = (
    "include", "input", "instructions", "max_output_tokens", "reasoning", "text", "tool_choice", "tools",
    "top_logprobs",
)  # fmt: skip
_NOTHING_TO_SAY = ("client_metadata", "max_tool_calls", "previous_response_id", "stream_options")
"""Fields that ask nothing of a model: they are about hosted tools, or what the gateway does itself."""
_NEUTRAL: Neutral = {"background": (False,), "truncation": ("disabled",), "n": (1,)}


def chat_request(request: Body, *, before: Sequence[Body] = ()) -> Body:
    """The chat request that asks the same: instructions, then what comes before, then the input.

    Raises:
        ApiError: 400, chat completions cannot ask that.
    """
    _check_known(request)
    chat = given(request, *ALIKE, *_SAMPLING)
    said = [*before, *chat_messages(request.get("input"))]
    if not said:
        raise bad_request("`input` has nothing to answer; send a text or at least one item")
    chat["messages"] = [*instructed(request), *said]
    if request.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = request["max_output_tokens"]
    if wants_logprobs(request):
        chat |= {"logprobs": True, **given(request, "top_logprobs")}
    if request.get("tools") is not None:
        chat["tools"] = chat_tools(request["tools"])
    if request.get("tool_choice") is not None:
        chat["tool_choice"] = chat_choice(request["tool_choice"])
    return chat | _text(request.get("text")) | _reasoning(request.get("reasoning"))


def instructed(request: Body) -> list[Body]:
    """The messages that a request's `instructions` make. Raises `ApiError` 400."""
    instructions = request.get("instructions")
    if not isinstance(instructions, str | None):
        raise malformed("`instructions` must be a text", instructions)
    return [{"role": "system", "content": instructions}] if instructions else []


def wants_logprobs(request: Body) -> bool:
    """Whether a request asks for log-probabilities."""
    return bool(request.get("top_logprobs")) or LOGPROBS in as_list(request.get("include"))


def _check_known(request: Body) -> None:
    known = (*ALIKE, *_SAMPLING, *_TRANSLATED, *_NOTHING_TO_SAY)
    check_known(request, known=known, neutral=_NEUTRAL, refuse=not_in_chat)


def _text(text: Json) -> Body:
    asked = known_fields(text, "text", ("format", "verbosity"))
    chat = given(asked, "verbosity")
    if asked.get("format") is not None:
        chat["response_format"] = chat_format(asked["format"])
    return chat


def _reasoning(reasoning: Json) -> Body:
    """No summary can be asked for: what the model thinks is given whole."""
    asked = known_fields(reasoning, "reasoning", ("effort", "summary", "generate_summary"))
    return {"reasoning_effort": asked["effort"]} if asked.get("effort") is not None else {}
