"""One request under way: what all its answers have in common, and what each of them says so far."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from lightning_plugin_torch._answer import Answer
from lightning_plugin_torch._codec import Codec
from lightning_plugin_torch._format import Delta
from lightning_plugin_torch._messages import Call, Message
from lightning_plugin_torch._request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What all answers to one request have in common.

    Attributes:
        id: Id of the completion; the ids of its tool calls derive from it.
        created: Seconds since the epoch.
        model: Name under which the model is served.
        prompt: Prompt ids.
    """

    id: str
    created: int
    model: str
    request: Request
    prompt: list[int]
    codec: Codec
    tokenizer: Tokenizer

    def call_id(self, choice: int, call: int) -> str:
        """Id of a tool call."""
        return f"call_{self.id.removeprefix('chatcmpl-')}_{choice}_{call}"


class Choice:
    """One answer as it is read."""

    def __init__(self, exchange: Exchange, answer: Answer) -> None:
        self.answer = answer
        self._exchange = exchange
        self._reader = exchange.codec.reader(exchange.request.stop)
        self._text = ""
        self._calls: list[Call] = []

    @property
    def index(self) -> int:
        """Its place among the choices."""
        return self.answer.params.choice

    @property
    def message(self) -> Message:
        """What it says so far."""
        return Message(role="assistant", content=self._text, calls=tuple(self._calls))

    @property
    def finish_reason(self) -> str:
        """Why it ended, in the words of the wire."""
        return "tool_calls" if self._calls and self.answer.finished == "stop" else self.answer.finished

    def push(self, token: int) -> list[Delta]:
        """What a token adds."""
        return self._note(self._reader.push(token))

    def finish(self) -> list[Delta]:
        """What was held back. The exact tokens are kept for the next turn, unless a stop string cut the text."""
        deltas = self._note(self._reader.finish())
        if not self._reader.stopped:
            request = self._exchange.request
            ids = [*self._exchange.prompt, *(token.id for token in self.answer.tokens)]
            self._exchange.codec.remember((*request.messages, self.message), request.tools, ids=ids)
        return deltas

    def _note(self, deltas: list[Delta]) -> list[Delta]:
        for delta in deltas:
            self._text += delta.text
            if delta.call >= len(self._calls):
                call_id = self._exchange.call_id(self.index, delta.call)
                self._calls.append(Call(call_id, delta.name, delta.arguments))
            elif delta.call >= 0:
                call = self._calls[delta.call]
                self._calls[delta.call] = Call(call.id, call.name, call.arguments + delta.arguments)
        return deltas
