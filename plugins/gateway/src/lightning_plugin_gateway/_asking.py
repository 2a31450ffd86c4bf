"""Asks a model, and reads its answer as a chat completion beside what it said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._outgoing import Outgoing
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway.upstreams import CallRoute, Model


async def answer(model: Model, out: Outgoing, *, route: CallRoute) -> tuple[Body, Body]:
    """The upstream's answer, and the chat completion that says the same. Raises `ApiError`."""
    if len(out.requests) == 1:
        said = await model.call(out.wire.name, out.requests[0], route=route)
        return said, out.wire.completion(said)
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(model.call(out.wire.name, request, route=route)) for request in out.requests
            ]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    whole = _merged([out.wire.completion(task.result()) for task in tasks])
    return whole, whole


async def events(model: Model, out: Outgoing, *, route: CallRoute) -> AsyncGenerator[tuple[Body, list[Body]]]:
    """The upstream's events as they come, each with the chunks that say the same. Raises `ApiError`."""
    first = 0
    for request in out.requests:
        reader = out.wire.chunks()
        most = 0
        async with aclosing(model.stream(out.wire.name, request, route=route)) as stream:
            async for event in stream:
                chunks = reader.add(event)
                if len(out.requests) > 1:
                    chunks = [_moved(chunk, first) for chunk in chunks]
                    most = max(
                        [
                            most,
                            *(_index(choice) + 1 - first for chunk in chunks for choice in _choices(chunk)),
                        ]
                    )
                yield event, chunks
        first += most


def _merged(completions: Sequence[Body]) -> Body:
    """Completions of several prompts as one, each choice with the prompt that it answers."""
    choices: list[Json] = []
    usage: dict[str, int] = {}
    for completion in completions:
        first = len(choices)
        choices += [
            {**_with_prompt(choice, completion), "index": first + _index(choice)}
            for choice in _choices(completion)
        ]
        counts = completion.get("usage")
        for name, count in counts.items() if isinstance(counts, dict) else ():
            if isinstance(count, int):
                usage[name] = usage.get(name, 0) + count
    whole: Body = {
        name: value for name, value in completions[0].items() if name not in ("prompt_token_ids", "usage")
    }
    whole["choices"] = choices
    return {**whole, "usage": usage} if usage else whole


def _moved(chunk: Body, first: int) -> Body:
    choices = [{**_with_prompt(choice, chunk), "index": first + _index(choice)} for choice in _choices(chunk)]
    moved = {name: value for name, value in chunk.items() if name != "prompt_token_ids"}
    return {**moved, "choices": choices}


def _with_prompt(choice: Body, completion: Body) -> Body:
    prompt = completion.get("prompt_token_ids")
    return choice if prompt is None else {"prompt_token_ids": prompt, **choice}


def _index(choice: Body) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _choices(completion: Body) -> list[Body]:
    choices = completion.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def deadline_error(timeout_s: float) -> ApiError:
    """A call that took longer than it may."""
    message = f"the call took longer than {timeout_s} s (`call_timeout_s`)"
    return ApiError(504, message, fault="timeout")
