"""What every instrumented agent does with the plain OpenAI SDK: a tool loop, a stream, an error, an embedding."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import openai

MODEL = "gpt-4o-mini"
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
                "required": ["a", "b"],
            },
        },
    }
]


def add(a: float, b: float) -> str:
    """The tool."""
    return f"{a + b:g}"


def use_tool(client: openai.OpenAI, *, tool: Callable[..., str] = add) -> None:
    """Two calls with a tool between them."""
    messages: Any = [
        {"role": "system", "content": "Calculate with the tool."},
        {"role": "user", "content": "What is 2 + 3?"},
    ]
    for _ in range(2):
        answer = client.chat.completions.create(
            model=MODEL, messages=messages, tools=TOOLS, temperature=0.5, max_tokens=50
        )
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls or ():
            result = tool(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def stream(client: openai.OpenAI) -> None:
    """One streamed answer."""
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Count to three."}],
        stream=True,
        stream_options={"include_usage": True},
    )
    for _ in chunks:
        pass


def fail(client: openai.OpenAI) -> None:
    """A call that is refused."""
    with contextlib.suppress(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Fail."}])


def embed(client: openai.OpenAI) -> None:
    """One embedding."""
    client.embeddings.create(model="text-embedding-3-small", input="two words", encoding_format="float")


def respond(client: openai.OpenAI) -> None:
    """One answer of the Responses API."""
    client.responses.create(model=MODEL, instructions="Be brief.", input="Name a colour.")


def everything(client: openai.OpenAI, *, tool: Callable[..., str] = add) -> None:
    """All of it, in the order of the script that answers."""
    use_tool(client, tool=tool)
    stream(client)
    fail(client)
    embed(client)
    respond(client)
