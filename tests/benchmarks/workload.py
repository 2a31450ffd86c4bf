"""What all contenders work on, of the standard library alone: opponents import it in environments of their own."""

from __future__ import annotations

import random
from typing import Final

TEXT_BYTES: Final = 2048
"""Of the messages of one LLM call together."""
SPANS_OF: Final = 8
"""Attempts that spans are spread over."""
_MODEL: Final = "stub-model"


def task(index: int) -> dict[str, str]:
    """The input of one rollout, about 200 bytes."""
    return {"question": f"{index:08d} " + "q" * 180}


def llm_attributes(index: int) -> dict[str, object]:
    """Attributes of one chat completion: about 20, with messages of 2 KB; the same for the same index."""
    draw = random.Random(index)
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.system": "openai",
        "gen_ai.request.model": _MODEL,
        "gen_ai.request.temperature": 0.7,
        "gen_ai.request.max_tokens": 512,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.stream": False,
        "gen_ai.response.id": f"chatcmpl-{index:024d}",
        "gen_ai.response.model": _MODEL,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 400,
        "gen_ai.usage.output_tokens": 64,
        "gen_ai.prompt.0.role": "system",
        "gen_ai.prompt.0.content": _text(TEXT_BYTES // 4, draw),
        "gen_ai.prompt.1.role": "user",
        "gen_ai.prompt.1.content": _text(TEXT_BYTES // 2, draw),
        "gen_ai.completion.0.role": "assistant",
        "gen_ai.completion.0.content": _text(TEXT_BYTES // 4, draw),
        "server.address": "127.0.0.1",
        "server.port": 8000,
    }


def prompt(index: int, size: int) -> str:
    """Words of so many bytes together; the same for the same index."""
    return _text(size, random.Random(index))


def _text(size: int, draw: random.Random) -> str:
    words: list[str] = []
    length = 0
    while length < size:
        words.append("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))))
        length += len(words[-1]) + 1
    return " ".join(words)[:size]
