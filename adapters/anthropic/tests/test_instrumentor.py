"""The instrumentor by itself, in programs that know nothing of us."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from agentlightning import semconv
from agentlightning.agents import Adapter
from agentlightning.testing import InstrumentorContract, ScriptedReply
from lightning_adapter_anthropic import AnthropicAdapter

PROGRAM = """
import anthropic

client = anthropic.Anthropic(base_url=base_url.removesuffix("/v1"), api_key="k")
client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
"""


class TestAnthropicInstrumentor(InstrumentorContract):
    entry_point: ClassVar[str] = "agl_anthropic"
    dependencies: ClassVar[Sequence[str]] = ("anthropic >= 1, < 3",)
    beside: ClassVar[Sequence[str]] = ()
    program: ClassVar[str] = PROGRAM
    expected: ClassVar[Mapping[str, str]] = {"chat m": semconv.INPUT_MESSAGES}
    replies: ClassVar[Sequence[ScriptedReply]] = ()

    def make_adapter(self) -> Adapter:
        return AnthropicAdapter()
