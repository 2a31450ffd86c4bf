"""Reads demonstrations and renders them as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from agentlightning.engine import Learner, Tokenized
from agentlightning.errors import ConfigError
from agentlightning.types import Json


class Demonstration(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded conversation.

    Attributes:
        messages: In the form of OpenAI chat messages, at least one of them by the assistant.
        tools: Tool definitions that the assistant had.
    """

    messages: list[dict[str, Json]]
    tools: list[dict[str, Json]] = []


def read_demonstrations(path: Path) -> list[Demonstration]:
    """Reads a JSONL file.

    Raises:
        ConfigError: It cannot be read, is empty, or a line is no conversation with an assistant's message.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(
            f"demonstrations {str(path)!r} cannot be read: {error.strerror}; give the path of a JSONL file"
        ) from error
    found = [_parse(line, where=f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ConfigError(
            f"demonstrations {str(path)!r} has no lines; each is one JSON object with 'messages'"
        )
    return found


def _parse(line: bytes, *, where: str) -> Demonstration:
    try:
        found = msgspec.json.decode(line, type=Demonstration)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: not a demonstration: {error}") from error
    if not any(message.get("role") == "assistant" for message in found.messages):
        raise ConfigError(
            f"{where}: no message has the role 'assistant', so there is nothing to learn from it"
        )
    return found


async def tokenize(demonstrations: Sequence[Demonstration], learner: Learner) -> list[Tokenized]:
    """Renders each with the model's chat template.

    Raises:
        ConfigError: A conversation has no tokens of the assistant after the template was applied.
    """
    found = []
    for number, demonstration in enumerate(demonstrations, 1):
        tokenized = await learner.tokenize(demonstration.messages, tools=demonstration.tools)
        if not any(tokenized.assistant_mask[1:]):
            raise ConfigError(
                f"demonstration {number}: the model's chat template marks no token as the assistant's; "
                "check its roles and the template"
            )
        found.append(tokenized)
    return found
