"""The Claude Agent SDK: its agents are a command-line program, which gets the rollout's endpoint in its environment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
import wrapt
from opentelemetry.trace import TracerProvider

from agentlightning.adapters import resource_of
from agentlightning.agents import AgentFunction, Tunable, TunableKind
from agentlightning.capture import RolloutContext, current_rollout
from agentlightning.command import attempt_environment
from agentlightning.errors import AgentError, TargetError
from agentlightning.types import Json, PromptTemplate

if TYPE_CHECKING:
    from claude_agent_sdk import ClaudeAgentOptions, ResultMessage

SYSTEM_PROMPT: Final = "claude.system_prompt"
_TAKEN_BACK: Final = (
    "AGL_KEY",
    "ANTHROPIC_CUSTOM_HEADERS",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_FOUNDRY",
    "CLAUDE_CODE_USE_VERTEX",
)
"""Variables of this process that the program would inherit, and that lead elsewhere or are none of its business."""
_OTHER_MODELS: Final = (
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_SMALL_FAST_MODEL",
    "CLAUDE_CODE_SUBAGENT_MODEL",
)


class ClaudeAgentAdapter:
    """Binds `query` and `ClaudeSDKClient`, and calls `ClaudeAgentOptions` as an agent.

    The program is a black box: its calls are recorded by the gateway, and what it tells by OpenTelemetry is its own.
    """

    name = "claude-agent"
    accepted = ("claude_agent_sdk:ClaudeAgentOptions",)

    def __init__(self) -> None:
        self._patched: tuple[type, Callable[..., Awaitable[None]]] | None = None

    def instrument(self, tracer_provider: TracerProvider) -> None:
        """Binds programs that are started from now on to the rollout that starts them."""
        del tracer_provider
        from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport

        if self._patched is None and not isinstance(SubprocessCLITransport.connect, wrapt.FunctionWrapper):
            self._patched = (SubprocessCLITransport, SubprocessCLITransport.connect)
            wrapper: Any = wrapt.FunctionWrapper(SubprocessCLITransport.connect, _connect)
            SubprocessCLITransport.connect = wrapper  # type: ignore[method-assign]

    def uninstrument(self) -> None:
        """Puts back what this adapter has changed."""
        if self._patched is not None:
            owner, original = self._patched
            owner.connect = original  # type: ignore[attr-defined]
            self._patched = None

    def accepts(self, agent: object) -> bool:
        """Whether it is the SDK's options, which say all that makes an agent of the program."""
        from claude_agent_sdk import ClaudeAgentOptions

        return isinstance(agent, ClaudeAgentOptions)

    def as_function(self, agent: object) -> AgentFunction:
        """Asks the agent once: a text as it is, other tasks as JSON; the output is the result, as data if it has any.

        Raises:
            TargetError: It is no `ClaudeAgentOptions`.
        """
        from claude_agent_sdk import ClaudeAgentOptions

        if not isinstance(agent, ClaudeAgentOptions):
            raise TargetError(
                f"{agent!r} is no agent of the Claude Agent SDK; pass `ClaudeAgentOptions`, or a function that calls "
                "`query` with them"
            )
        options = agent

        async def function(task: Json) -> Json:
            return await _ask(options, task)

        return function

    @contextmanager
    def bind(self, agent: object, context: RolloutContext) -> Iterator[object]:
        """The agent with the rollout's system prompt; its program gets the rest when it is started."""
        prompt = resource_of(context.resources, SYSTEM_PROMPT, PromptTemplate)
        yield _prompted(agent, prompt.template) if prompt and self.accepts(agent) else agent

    def tunables(self, agent: object) -> list[Tunable]:
        """The system prompt, or what is appended to the program's own; empty for objects that are no options."""
        prompt = _prompt_of(agent) if self.accepts(agent) else None
        if prompt is None:
            return []
        place = "ClaudeAgentOptions.system_prompt"
        return [Tunable(name=SYSTEM_PROMPT, kind=TunableKind.SYSTEM_PROMPT, value=prompt, place=place)]


def bound_options(options: ClaudeAgentOptions, context: RolloutContext) -> ClaudeAgentOptions:
    """Options whose program calls the rollout's endpoint with the attempt's key, and carries the attempt's ids."""
    variables = attempt_environment(context, environment=options.env)
    endpoint = context.endpoint
    if endpoint is None:
        return replace(options, env={**options.env, **variables})
    variables |= dict.fromkeys(_TAKEN_BACK, "")
    variables["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    if endpoint.model is None:
        return replace(options, env={**options.env, **variables})
    variables |= dict.fromkeys(_OTHER_MODELS, endpoint.model)
    return replace(options, env={**options.env, **variables}, model=endpoint.model, fallback_model=None)


async def _connect(
    method: Callable[..., Awaitable[None]],
    transport: Any,  # noqa: ANN401 - the SDK does not export its transport
    args: tuple[object, ...],
    kwargs: dict[str, object],
) -> None:
    """Starts the program; here it is known for which rollout."""
    context = current_rollout()
    if context is not None and transport._process is None:
        transport._options = bound_options(transport._options, context)
    await method(*args, **kwargs)


async def _ask(options: ClaudeAgentOptions, task: Json) -> Json:
    from claude_agent_sdk import ResultMessage, query

    prompt = task if isinstance(task, str) else msgspec.json.encode(task).decode()
    result: ResultMessage | None = None
    async for message in query(prompt=prompt, options=options):
        if isinstance(message, ResultMessage):
            result = message
    return _output(result)


def _output(result: ResultMessage | None) -> Json:
    if result is None:
        raise AgentError(
            "the Claude Agent SDK's program ended without a result; set `stderr` in its options to see why"
        )
    if result.is_error or result.subtype != "success":
        told = "; ".join(result.errors or []) or result.result or "it gave no reason"
        raise AgentError(f"the agent ended with {result.subtype!r} after {result.num_turns} turns: {told}")
    return result.result if result.structured_output is None else result.structured_output


def _prompt_of(agent: Any) -> str | None:  # noqa: ANN401 - options, whose prompts have several forms
    prompt = agent.system_prompt
    if isinstance(prompt, Mapping):
        return str(prompt.get("append", "")) if prompt.get("type") == "preset" else None
    return prompt if isinstance(prompt, str) else None


def _prompted(agent: Any, text: str) -> object:  # noqa: ANN401 - as above
    prompt = agent.system_prompt
    preset = isinstance(prompt, Mapping) and prompt.get("type") == "preset"
    return replace(agent, system_prompt={**prompt, "append": text} if preset else text)
