"""Chat requests with exact ids for servers that take ids over the wire of completions only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentlightning.types import Json

_ALIKE = (
    "allowed_token_ids", "bad_words", "frequency_penalty", "ignore_eos", "logit_bias", "min_p", "min_tokens", "model",
    "n", "presence_penalty", "priority", "repetition_penalty", "return_token_ids", "seed", "stop", "stop_token_ids",
    "stream", "stream_options", "temperature", "top_k", "top_p", "user",
)  # fmt: skip
"""Fields that mean the same in both."""

_ABOUT_CHAT = (
    "add_generation_prompt", "chat_template", "continue_final_message", "max_completion_tokens", "max_tokens",
    "messages", "metadata", "parallel_tool_calls", "store", "tool_choice", "tools",
)  # fmt: skip
"""Fields that are said otherwise, by the prompt, or to nobody."""

_NEUTRAL: Mapping[str, tuple[Json, ...]] = {
    "add_generation_prompt": (None, True),
    "chat_template": (None,),
    "continue_final_message": (None, False),
    "logprobs": (None, False, True),
    "top_logprobs": (None, 0),
    "response_format": (None, {"type": "text"}),
    "tool_choice": (None, "auto", "none"),
}
"""Values that a completion can honour too."""


def completions_request(
    request: Mapping[str, Json], prompt: Sequence[int], *, parsed: bool
) -> dict[str, Json] | None:
    """The completion request that samples what a chat request would after this prompt.

    Args:
        request: The chat request.
        prompt: Ids that its messages are to be.
        parsed: The ids of the answer will be read as chat; if not, there must be no tools.

    Returns:
        None if a completion cannot ask the same: it has tools that nobody reads, or is a stream of them, has stop
        strings, which only text is cut at, asks for more log-probabilities, or has fields that are not known here.
    """
    known = {*_ALIKE, *_ABOUT_CHAT, *_NEUTRAL}
    if any(name not in known and value is not None for name, value in request.items()):
        return None
    if any(name in request and request[name] not in neutral for name, neutral in _NEUTRAL.items()):
        return None
    with_tools = bool(request.get("tools")) and request.get("tool_choice") != "none"
    if with_tools and (not parsed or request.get("stream")):
        return None
    if parsed and request.get("stop") and not request.get("stream"):
        return None
    most = request.get("max_completion_tokens")
    sent = {name: request[name] for name in _ALIKE if request.get(name) is not None}
    sent["prompt"] = list(prompt)
    # a completion that does not say how long it may be is short; null is as long as a chat completion's
    sent["max_tokens"] = request.get("max_tokens") if most is None else most
    if request.get("logprobs"):
        sent["logprobs"] = 0
    return sent
