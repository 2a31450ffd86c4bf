"""Reads a chat completion request: what is honoured, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agentlightning.engine import ChatRequest
from agentlightning.errors import ConfigError
from agentlightning.types import Json
from lightning_plugin_torch._messages import Message, Tool, as_messages, as_tools

NEUTRAL: Mapping[str, tuple[Json, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "logit_bias": ({},),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (True,),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "structured_outputs": (),
}
"""Sampling knobs that are not honoured, with the values that ask for nothing."""


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that are honoured, as they stand on the wire."""

    messages: Json
    tools: Json = None
    tool_choice: Json = None
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    return_token_ids: bool | None = None
    prompt_token_ids: list[int] | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its defaults filled in.

    Attributes:
        max_tokens: Most tokens per answer; None is as many as fit.
        seed: None leaves it to the engine.
        token_ids: Ids of prompt and answers are wanted.
        prompt: Ids to sample after, in place of those that the messages render to; None renders them.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    temperature: float
    top_p: float
    max_tokens: int | None
    stop: tuple[str, ...]
    seed: int | None
    n: int
    logprobs: bool
    top_logprobs: int
    token_ids: bool
    prompt: tuple[int, ...] | None = None


def read_request(body: ChatRequest) -> Request:
    """Checks a request.

    Raises:
        ConfigError: A value has a wrong type or range, or asks for what this engine cannot do.
    """
    for name, neutral in NEUTRAL.items():
        value = body.get(name)
        if value is not None and value not in neutral:
            raise ConfigError(
                f"the torch engine cannot honour {name}={value!r}; leave {name} out of the request"
            )
    try:
        fields = msgspec.convert(dict(body), type=_Body)
    except msgspec.ValidationError as error:
        raise ConfigError(f"chat completion request: {error}") from error
    request = Request(
        messages=tuple(as_messages(fields.messages)),
        tools=() if fields.tool_choice == "none" else tuple(as_tools(fields.tools)),
        temperature=1.0 if fields.temperature is None else fields.temperature,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        max_tokens=fields.max_tokens
        if fields.max_completion_tokens is None
        else fields.max_completion_tokens,
        stop=(fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ()),
        seed=fields.seed,
        n=1 if fields.n is None else fields.n,
        logprobs=bool(fields.logprobs),
        top_logprobs=fields.top_logprobs or 0,
        token_ids=bool(fields.return_token_ids),
        prompt=None if fields.prompt_token_ids is None else tuple(fields.prompt_token_ids),
    )
    _check_ranges(request)
    return request


def _check_ranges(request: Request) -> None:
    """Refuses values out of range; not-a-number fails every comparison, so it is refused too."""
    checks = (
        (0 <= request.temperature <= 100, "temperature", request.temperature, "0 to 100"),
        (0 < request.top_p <= 1, "top_p", request.top_p, "more than 0, at most 1"),
        (
            request.max_tokens is None or request.max_tokens > 0,
            "max_tokens",
            request.max_tokens,
            "at least 1",
        ),
        (1 <= request.n <= 128, "n", request.n, "1 to 128"),
        (0 <= request.top_logprobs <= 20, "top_logprobs", request.top_logprobs, "0 to 20"),
        (all(request.stop), "stop", request.stop, "strings that are not empty"),
        (request.prompt is None or request.prompt, "prompt_token_ids", request.prompt, "at least one id"),
    )
    for good, name, value, allowed in checks:
        if not good:
            raise ConfigError(f"{name} is {value!r}; allowed: {allowed}")
