"""A toy model: its tokenizer merges greedily, so that what was sampled tokenises otherwise when it is read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st

from agentlightning.types import Json, TokenRecord
from lightning_plugin_gateway.turns import PreparedTurn, TurnBuilder

LETTERS = 'abc {}":,?U\n'
MERGES = ("ab", "bc", "abc", "aa", "bb", ' "', '":', "\n\n", "b\n", "c\n", "a\n", "\nU", "  ")
CONTROLS = ("<user>", "<assistant>", "<system>", "<tool>", "<end>", "<call>")
TOKENS = (*CONTROLS, *LETTERS, *MERGES)
IDS = {token: place for place, token in enumerate(TOKENS)}
END = IDS["<end>"]


@dataclass
class ToyRenderer:
    """Renders and reads as an engine would. `border` ends turns by a control token, else by plain text."""

    border: bool = True
    endpoints: tuple[str, ...] = ()
    strip_reasoning: bool = False
    requests: list[Mapping[str, Json]] = field(default_factory=list)
    broken: Exception | None = None

    async def render(
        self,
        messages: Sequence[Mapping[str, Json]],
        tools: Sequence[Mapping[str, Json]],
        *,
        add_generation_prompt: bool,
    ) -> list[int]:
        if self.broken:
            raise self.broken
        ids: list[int] = [IDS["<system>"], *encode("".join("a" for _ in tools)), END] if tools else []
        plain = ""
        for place, message in enumerate(messages):
            later = place < len(messages) - 1
            written = self._written(message, later=later)
            if not self.border:
                plain += ("U" if message["role"] == "user" else "a:") + "".join(written) + "\n"
                continue
            ids.append(IDS[f"<{message['role']}>"])
            for part in written:
                ids += [IDS[part]] if part in CONTROLS else encode(part)
            ids += [END, *encode("\n")]
        if not self.border:
            return encode(plain + ("a:" if add_generation_prompt else ""))
        return [*ids, IDS["<assistant>"]] if add_generation_prompt else ids

    async def decode(self, ids: Sequence[int]) -> str:
        return text_of(ids)

    def _written(self, message: Mapping[str, Json], *, later: bool) -> list[str]:
        content = message.get("content") or ""
        assert isinstance(content, str)
        if self.strip_reasoning and later and message["role"] == "assistant":
            content = content.rpartition("?")[2]
        calls = message.get("tool_calls")
        written = [content]
        for call in calls if isinstance(calls, list) else ():
            written += ["<call>", call["function"]["name"] + call["function"]["arguments"]]
        return written


def encode(text: str) -> list[int]:
    """Greedy: the longest token at each place."""
    ids = []
    while text:
        token = max((t for t in TOKENS[len(CONTROLS) :] if text.startswith(t)), key=len)
        ids.append(IDS[token])
        text = text[len(token) :]
    return ids


def text_of(ids: Sequence[int]) -> str:
    return "".join(TOKENS[token] for token in ids)


def letters(text: str) -> list[int]:
    """Ids of a text that a model may as well have sampled: one for each letter."""
    return [IDS[letter] for letter in text]


@dataclass
class Conversing:
    """An agent that talks to a toy model through a builder of turns."""

    turns: TurnBuilder
    renderer: ToyRenderer | None
    attempt_id: str = "attempt"
    messages: list[dict[str, Json]] = field(default_factory=list)
    tools: list[dict[str, Json]] = field(default_factory=list)
    wires: Sequence[str] = ("chat",)
    calls: int = 0

    async def ask(
        self, text: str, *, answer: str = "abc", ids: Sequence[int] | None = None, finish: str = "stop"
    ) -> tuple[PreparedTurn, dict[str, Json]]:
        """One more question and its answer, sampled as `ids` and the end of the turn."""
        self.messages.append({"role": "user", "content": text})
        return await self.call({"role": "assistant", "content": answer}, ids=ids, finish=finish)

    async def use(self, *, said: str) -> tuple[PreparedTurn, dict[str, Json]]:
        """A tool call, its arguments spelled as `said`, and the tool's answer."""
        self.calls += 1
        function = {"name": "a", "arguments": said}
        call = {"id": f"call_{self.calls}", "type": "function", "function": function}
        ids = [IDS["<call>"], *letters("a" + said)]
        answer = {"role": "assistant", "content": None, "tool_calls": [call]}
        found = await self.call(answer, ids=ids, finish="tool_calls")
        self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": "b"})
        return found

    async def call(
        self, answer: dict[str, Json], *, ids: Sequence[int] | None, finish: str
    ) -> tuple[PreparedTurn, dict[str, Json]]:
        request: dict[str, Json] = {"model": "toy", "messages": list(self.messages)}
        if self.tools:
            request["tools"] = list(self.tools)
        prepared = await self.turns.prepare(
            request, attempt_id=self.attempt_id, model="toy", wires=self.wires
        )
        prompt = prepared.request.get("prompt_token_ids") or prepared.request.get("prompt")
        if prompt is None:
            renderer = self.renderer or ToyRenderer()
            prompt = await renderer.render(self.messages, self.tools, add_generation_prompt=True)
        sampled = letters(str(answer["content"])) if ids is None else list(ids)
        if finish != "length" and (self.renderer or ToyRenderer()).border:
            sampled.append(END)
        labels = self.turns.observe(
            prepared,
            {"choices": [{"index": 0, "message": answer, "finish_reason": finish}]},
            tokens=[record(prompt, sampled, finish=finish)],
        )
        self.messages.append(answer)
        self.exact = [*prompt, *sampled]
        self.prompt = list(prompt)
        return prepared, labels

    @staticmethod
    def letters(text: str) -> list[int]:
        return letters(text)

    @staticmethod
    def record(prompt: Sequence[int], sampled: Sequence[int]) -> TokenRecord:
        return record(prompt, sampled)

    @staticmethod
    def tokenisations(text: str) -> st.SearchStrategy[list[int]]:
        """Every way to write a text in tokens."""

        @st.composite
        def write(draw: st.DrawFn) -> list[int]:
            ids, place = [], 0
            while place < len(text):
                token = draw(st.sampled_from([t for t in TOKENS if text.startswith(t, place)]))
                ids.append(IDS[token])
                place += len(token)
            return ids

        return write()


def record(prompt: Sequence[int], sampled: Sequence[int], *, finish: str = "stop") -> TokenRecord:
    return TokenRecord.pack(prompt, sampled, [-0.5] * len(sampled), version=0, finish_reason=finish)


@pytest.fixture(scope="session")
def start() -> Callable[..., Conversing]:
    """Starts a conversation with an engine in this process, which renders and takes ids."""

    def start(*, tools: bool = False, **options: Any) -> Conversing:
        renderer = ToyRenderer(**options)
        offered = [{"type": "function", "function": {"name": "a"}}] if tools else []
        return Conversing(TurnBuilder({"toy": renderer}), renderer, tools=offered)

    return start


@pytest.fixture(scope="session")
def watch() -> Callable[[], Conversing]:
    """Starts a conversation with an upstream that neither renders for others nor takes ids."""
    return lambda: Conversing(TurnBuilder({}), None)
