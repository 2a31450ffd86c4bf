"""Which of vLLM's parsers reads the tool calls of a model, by the marks in its chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

_MARKS: Final = (
    ("tool▁calls▁begin", "deepseek_v3"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<|channel|>", "openai"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("<arg_key>", "glm45"),
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
)
"""What templates write around calls, the most particular first."""


def tool_parser(model: Path) -> str:
    """Name of the parser for the model in a directory; empty if its template has no marks that are known."""
    template = _template(model)
    return next((name for mark, name in _MARKS if mark in template), "")


def _template(model: Path) -> str:
    """All of the model's chat templates as one text; empty if there is none that can be read."""
    texts = []
    for path in (
        model / "chat_template.jinja",
        model / "chat_template.json",
        model / "tokenizer_config.json",
    ):
        try:
            text = path.read_text(encoding="utf-8")
            texts.append(text if path.suffix == ".jinja" else str(json.loads(text).get("chat_template", "")))
        except (OSError, ValueError, AttributeError):
            continue
    return "\n".join(texts)
