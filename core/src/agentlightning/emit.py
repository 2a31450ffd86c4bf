"""What an agent can say about itself, from anywhere: states, actions, rewards, messages, operations, decisions.

Inside a rollout each call becomes an OpenTelemetry span, which the process's own exporters see too. Outside of a
rollout nothing is recorded and nothing fails, so agents run unchanged in production.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import ParamSpec, Self, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode

from agentlightning import semconv
from agentlightning.capture import RolloutContext, current_rollout
from agentlightning.capture._plain import to_json
from agentlightning.capture._tracer import own_tracer
from agentlightning.decisions import decide
from agentlightning.errors import NotFound
from agentlightning.types import (
    PromptTemplate,
    Resource,
    RewardSource,
    check_rewards,
    reward_attributes,
)

__all__ = [
    "Operation",
    "decide",
    "emit_action",
    "emit_message",
    "emit_object",
    "emit_reward",
    "emit_state",
    "operation",
    "prompt",
    "resource",
]

_Params = ParamSpec("_Params")
_Result = TypeVar("_Result")
_Attributes = dict[str, str | bool | float]

EVALUATION_EVENT = "gen_ai.evaluation.result"


def emit_state(state: object) -> None:
    """Says what state the agent's program is in: variables, memory, plans.

    Raises:
        TypeError: A part cannot be expressed as JSON; the message has its path.
    """
    _emit("state", semconv.OPERATION_STATE, semconv.STATE, state)


def emit_action(action: object) -> None:
    """Says what the agent decided, where no language model call shows it. Raises as `emit_state`."""
    _emit("action", semconv.OPERATION_ACTION, semconv.ACTION, action)


def emit_object(value: object) -> None:
    """Keeps any value with the attempt, for people and graders. Raises as `emit_state`."""
    _emit("object", semconv.OPERATION_OBJECT, semconv.OBJECT, value)


def emit_message(text: str) -> None:
    """Keeps a line of text with the attempt, like a log line.

    Raises:
        TypeError: `text` is not a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"message is a {type(text).__name__}, not a string; use emit_object for other values")
    if current_rollout() is not None:
        _point("message", {semconv.OPERATION: semconv.OPERATION_MESSAGE, semconv.MESSAGE: text})


def emit_reward(
    value: float | Mapping[str, float],
    *,
    target: Span | Operation | None = None,
    reason: str | None = None,
    source: RewardSource = RewardSource.AGENT,
) -> None:
    """Rewards the attempt, or one span of it.

    Args:
        value: A finite number, or one by dimension: `{"correct": 1.0, "brief": 0.3}`.
        target: The rewarded span or operation; None rewards the whole attempt. A reward of an operation is that of the
            last decision in it.
        reason: Why, for people.
        source: Who gives it.

    Raises:
        InvalidReward: A value is not a finite number, in or out of a rollout.
        TypeError: `target` is neither a span nor an operation.
    """
    rewards = check_rewards(value)
    rewarded = _span_of(target)
    if current_rollout() is None:
        return
    own = rewarded.get_span_context() if rewarded is not None else None
    for dimension, number in rewards.items():
        attributes = cast(
            "_Attributes",
            reward_attributes(
                value=number,
                dimension=dimension,
                target=f"{own.span_id:016x}" if own is not None and own.is_valid else None,
                source=source,
                reason=reason,
            ),
        )
        span = own_tracer().start_span(
            f"reward {dimension}", attributes={semconv.OPERATION: semconv.OPERATION_REWARD, **attributes}
        )
        place = rewarded if rewarded is not None and rewarded.is_recording() else span
        place.add_event(EVALUATION_EVENT, attributes)
        span.end()


def resource(name: str) -> Resource:
    """A resource of the current rollout.

    Raises:
        NotFound: No rollout is running here, or it has no resource of that name.
    """
    found = _rollout(name).resources.get(name)
    if found is None:
        raise NotFound(f"this rollout has no resource {name!r}; it has {_names(_rollout(name).resources)}")
    return found


def prompt(name: str) -> PromptTemplate:
    """A prompt of the current rollout.

    Raises:
        NotFound: No rollout is running here, or it has no prompt of that name.
    """
    resources = _rollout(name).resources
    found = resources.get(name)
    if not isinstance(found, PromptTemplate):
        prompts = {key: value for key, value in resources.items() if isinstance(value, PromptTemplate)}
        what = "no resource" if found is None else f"a resource of kind {found.kind!r}, but no prompt"
        raise NotFound(f"this rollout has {what} {name!r}; its prompts are {_names(prompts)}")
    return found


class Operation:
    """A named part of the agent's program, as a span: a context manager and a decorator.

    As a decorator it takes sync and async functions; each call is an operation of its own.
    """

    def __init__(self, name: str, *, agent: str | None = None) -> None:
        self.name = name
        self.agent = agent
        self.span: Span = trace.INVALID_SPAN
        self._token: object = None

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError(f"operation {self.name!r} is open already; make one for each block")
        if current_rollout() is not None:
            self.span = own_tracer().start_span(self.name, attributes=self._attributes())
            self._token = otel_context.attach(trace.set_span_in_context(self.span))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is None:
            return
        otel_context.detach(self._token)  # type: ignore[arg-type]
        self._token = None
        if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
            self.span.set_attribute(semconv.CANCELLED, True)
        elif error is not None:
            self.span.set_attribute(semconv.ERROR_TYPE, type(error).__qualname__)
            self.span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        self.span.end()

    def __call__(self, function: Callable[_Params, _Result]) -> Callable[_Params, _Result]:
        """The function, each call of which is an operation of its own."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator; use `with operation(...)` inside of it")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaiting(*args: _Params.args, **kwargs: _Params.kwargs) -> object:
                with Operation(self.name, agent=self.agent):
                    return await function(*args, **kwargs)

            return cast("Callable[_Params, _Result]", awaiting)

        @functools.wraps(function)
        def calling(*args: _Params.args, **kwargs: _Params.kwargs) -> _Result:
            with Operation(self.name, agent=self.agent):
                return function(*args, **kwargs)

        return calling

    def _attributes(self) -> _Attributes:
        if self.agent is None:
            return {semconv.OPERATION: semconv.OPERATION_OTHER, semconv.LOCATION: self.name}
        return {
            semconv.OPERATION: semconv.OPERATION_AGENT,
            semconv.LOCATION: self.name,
            semconv.AGENT_NAME: self.agent,
        }


def operation(name: str, *, agent: str | None = None) -> Operation:
    """Marks a part of the agent's program: `with agl.operation("plan"):` or `@agl.operation("plan")`.

    Args:
        name: What is done there, the `location` of the decisions inside.
        agent: Name of the agent that does it, in programs of several.
    """
    return Operation(name, agent=agent)


def _emit(name: str, kind: str, key: str, value: object) -> None:
    if current_rollout() is not None:
        _point(name, {semconv.OPERATION: kind, key: to_json(value, path=name)})


def _point(name: str, attributes: _Attributes) -> None:
    """A span without extent."""
    own_tracer().start_span(name, attributes=attributes).end()


def _span_of(target: Span | Operation | None) -> Span | None:
    if target is None or isinstance(target, Span):
        return target
    if isinstance(target, Operation):
        return target.span
    raise TypeError(f"target is a {type(target).__name__}; give the span or operation that is rewarded")


def _rollout(name: str) -> RolloutContext:
    context = current_rollout()
    if context is None:
        raise NotFound(f"resource {name!r} was asked for outside of a rollout; run the agent with `agl run`")
    return context


def _names(resources: Mapping[str, Resource]) -> str:
    return ", ".join(repr(name) for name in sorted(resources)) or "none"
