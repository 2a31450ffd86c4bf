"""The blocks of a streamed answer: one ends before the next begins."""

from __future__ import annotations

from lightning_plugin_gateway.wires._wire import Body
from lightning_plugin_gateway.wires.messages._answer import call_block, text_block
from lightning_plugin_gateway.wires.messages._thinking import signature

_TEXT, _THINKING, _CALL, _OTHER = "text", "thinking", "tool_use", "other"


class Blocks:
    """Events that begin, continue and end blocks.

    Attributes:
        count: How many have begun.
    """

    def __init__(self, *, omitted: bool) -> None:
        """Prepares the blocks of an answer.

        Args:
            omitted: The text of reasoning is not to be told.
        """
        self.count = 0
        self._omitted = omitted
        self._open = ""
        self._thought: list[str] = []
        self._signature = ""

    def text(self, text: str) -> list[Body]:
        """What was said."""
        events = self._begin(_TEXT, text_block(""))
        return [*events, self._delta({"type": "text_delta", "text": text})] if text else events

    def thinking(self, text: str) -> list[Body]:
        """What was thought."""
        events = self._begin(_THINKING, {"type": "thinking", "thinking": "", "signature": ""})
        self._thought.append(text)
        if text and not self._omitted:
            events.append(self._delta({"type": "thinking_delta", "thinking": text}))
        return events

    def signed(self, block: Body) -> list[Body]:
        """The signature of the block of reasoning that is open, or of one that was not told in pieces."""
        events = [] if self._open == _THINKING else self.thinking(str(block["thinking"]))
        self._signature = str(block["signature"])
        return [*events, *self.end()]

    def redacted(self, block: Body) -> list[Body]:
        """Reasoning that only its maker can read."""
        return [*self.end(), *self._begin(_OTHER, block), *self.end()]

    def call(self, name: str, *, ident: str) -> list[Body]:
        """A tool is called."""
        return [*self.end(), *self._begin(_CALL, call_block(name, {}, ident=ident))]

    def arguments(self, text: str) -> Body:
        """What it is called with."""
        return self._delta({"type": "input_json_delta", "partial_json": text})

    def end(self) -> list[Body]:
        """Ends the block that is open, if one is."""
        if not self._open:
            return []
        events: list[Body] = []
        if self._open == _THINKING:
            signed = self._signature or signature("".join(self._thought), omitted=self._omitted)
            events.append(self._delta({"type": "signature_delta", "signature": signed}))
            self._thought, self._signature = [], ""
        self._open = ""
        return [*events, {"type": "content_block_stop", "index": self.count - 1}]

    def _begin(self, kind: str, block: Body) -> list[Body]:
        if self._open == kind:
            return []
        events = self.end()
        self._open = kind
        self.count += 1
        return [*events, {"type": "content_block_start", "index": self.count - 1, "content_block": block}]

    def _delta(self, delta: Body) -> Body:
        return {"type": "content_block_delta", "index": self.count - 1, "delta": delta}
