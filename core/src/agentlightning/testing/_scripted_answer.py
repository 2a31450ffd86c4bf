"""What a scripted model answers: texts, tool calls, token ids, log-probabilities, and everything that can go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from agentlightning.types import Json

END_OF_TURN = 256
_ROLE_IDS = {"system": 257, "user": 258, "assistant": 259, "tool": 260}
_OTHER_ROLE_ID = 261


class ScriptedToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of an answer.

    Attributes:
        arguments: As a mapping, or as the exact text that the model wrote.
        id: Empty for `call_` and the call's place in the answer.
    """

    name: str
    arguments: dict[str, Json] | str = {}
    id: str = ""

    @property
    def text(self) -> str:
        """The arguments as the model wrote them."""
        if isinstance(self.arguments, str):
            return self.arguments
        return msgspec.json.encode(self.arguments).decode()


class ScriptedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a scripted model, and how it travels.

    Ids are the answer's UTF-8 bytes and an end-of-turn token unless given; prompts are rendered the same way, so each
    turn's prompt starts with the turn before it.

    Attributes:
        text: Content of the message.
        tool_calls: Tool calls; a message with tool calls and no text has content null.
        reasoning: `reasoning_content` of the message.
        finish_reason: Empty for `tool_calls` with tool calls and `stop` without.
        token_ids: Sampled ids; an empty tuple leaves the field out.
        prompt_token_ids: Prompt ids; an empty tuple leaves the field out.
        logprobs: Log-probability of each id; an empty tuple leaves the field out. None is -0.25 for each id.
        usage: Whether usage is reported.
        policy_version: Reported at the top level; None leaves it out.
        chunk_chars: Characters of content or arguments per stream chunk.
        done: Whether a stream ends with `[DONE]`.
        newline: Line ending of stream events.
        preamble: Raw text before the first stream event, such as a comment.
        error_event: Message of an error event sent inside the stream in place of its last chunk.
        hold_after: Stream events (0 for JSON and for before the first) after which it waits for `let_go`.
        write_size: Bytes per write to the socket; 0 writes an event or a body at once.
        cut_at: Bytes of the body after which the answer is cut; None sends all.
        cut: How it is cut: a proper end of the response, a connection reset, or silence until the client leaves.
    """

    text: str = ""
    tool_calls: tuple[ScriptedToolCall, ...] = ()
    reasoning: str = ""
    finish_reason: str = ""
    token_ids: tuple[int, ...] | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    usage: bool = True
    policy_version: int | None = None
    chunk_chars: int = 4
    done: bool = True
    newline: str = "\n"
    preamble: str = ""
    error_event: str = ""
    hold_after: int | None = None
    write_size: int = 0
    cut_at: int | None = None
    cut: Literal["end", "reset", "stall"] = "end"

    @property
    def finish(self) -> str:
        """The finish reason that is reported."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    @property
    def ids(self) -> list[int]:
        """Sampled ids."""
        if self.token_ids is not None:
            return list(self.token_ids)
        written = self.reasoning + self.text + "".join(call.name + call.text for call in self.tool_calls)
        stop = [] if self.finish == "length" else [END_OF_TURN]
        return [*written.encode(), *stop]

    @property
    def ids_logprobs(self) -> list[float]:
        """Log-probability of each sampled id."""
        return [-0.25] * len(self.ids) if self.logprobs is None else list(self.logprobs)

    def prompt_ids(self, messages: Sequence[Mapping[str, Json]]) -> list[int]:
        """Ids of the prompt that these messages make."""
        if self.prompt_token_ids is not None:
            return list(self.prompt_token_ids)
        return render(messages)


class ScriptedFault(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that is no completion.

    Attributes:
        status: HTTP status; 0 closes the connection without a word.
        message: Message of an error in OpenAI's form.
        body: Sent instead of that error, as it is.
        content_type: Type of the body.
        retry_after: `Retry-After` header; empty for none.
        location: `Location` header; empty for none.
    """

    status: int = 503
    message: str = "scripted fault"
    body: str = ""
    content_type: str = "application/json"
    retry_after: str = ""
    location: str = ""


ScriptedReply = ScriptedAnswer | ScriptedFault


def render(messages: Sequence[Mapping[str, Json]]) -> list[int]:
    """Prompt ids of messages: a role token, UTF-8 bytes and an end-of-turn token each, then the assistant's token."""
    ids: list[int] = []
    for message in messages:
        ids.append(_ROLE_IDS.get(str(message.get("role")), _OTHER_ROLE_ID))
        ids.extend(_written(message).encode())
        ids.append(END_OF_TURN)
    return [*ids, _ROLE_IDS["assistant"]]


def _written(message: Mapping[str, Json]) -> str:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        text += f"{call['function']['name']}{call['function']['arguments']}"
    return text
