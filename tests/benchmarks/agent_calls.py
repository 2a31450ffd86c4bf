"""An agent that calls a model five times through the OpenAI SDK, whatever release of it is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import openai
from workload import prompt

if TYPE_CHECKING:
    from collections.abc import Callable

CALLS: Final = 5
MODEL: Final = "stub-model"
MESSAGES: Final = [
    {"role": "system", "content": prompt(0, 512)},
    {"role": "user", "content": prompt(1, 1536)},
]
TOKENS: Final = 64


def agent(port: int) -> tuple[openai.OpenAI, Callable[[], str]]:
    """The agent's client, and one rollout of it: the last answer's text."""
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)

    def solve() -> str:
        text = ""
        for _ in range(CALLS):
            text = call(client).choices[0].message.content or ""
        return text

    return client, solve


def call(client: openai.OpenAI) -> openai.types.chat.ChatCompletion:
    """One call."""
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=TOKENS)  # type: ignore[arg-type]
