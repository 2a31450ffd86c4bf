"""The chats that samplers answer: each another short text of made-up words."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

ANSWER: Final = 32
"""Most tokens of an answer."""
_WORDS: Final = 12


def text(index: int) -> str:
    """What is asked; about 60 tokens."""
    draw = random.Random(index)
    return " ".join(draw.choice(_LEXICON) for _ in range(_WORDS))


def request_body(index: int) -> dict[str, object]:
    """A chat completion request for an answer of `ANSWER` tokens with all that training needs."""
    return {
        "model": "policy",
        "messages": [{"role": "user", "content": text(index)}],
        "max_tokens": ANSWER,
        "temperature": 1.0,
        "seed": index,
        "logprobs": True,
        "return_token_ids": True,
    }


def write_corpus(path: Path) -> None:
    """Conversations for a tokenizer of about a thousand tokens to learn from."""
    with path.open("w", encoding="utf-8") as file:
        for index in range(400):
            turns = [{"role": role, "content": text(index)} for role in ("user", "assistant")]
            print(json.dumps({"messages": turns}), file=file)


def _lexicon() -> list[str]:
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(draw.choices(letters, k=draw.randint(3, 9))) for _ in range(1500)]


_LEXICON: Final = _lexicon()
