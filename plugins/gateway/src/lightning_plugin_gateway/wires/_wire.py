"""What a wire is: one protocol between a client and a model, translated to and from chat completions.

Chat completions are the form in which a call is recorded, whatever wire it came over and went out by. A request that
goes out by the wire that it came by is passed on as it is, not translated there and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError

__all__ = ["Body", "ChunkReader", "EventWriter", "Wire"]

Body = dict[str, Json]
"""A JSON object of a wire: a request, an answer, or the data of one server-sent event."""


class EventWriter(Protocol):
    """Turns the chunks of one streamed chat completion into the bytes of a wire's server-sent events."""

    def add(self, chunk: Body) -> bytes:
        """Events for one chunk, maybe none. What tells that the answer is complete is left to `end`.

        Raises:
            ApiError: 502, the chunk tells that the model's server gave up, and the wire has no other way to say so.
        """
        ...

    def end(self) -> bytes:
        """The events that complete the answer; called once, after the call was recorded. Raises nothing."""
        ...


class ChunkReader(Protocol):
    """Turns the server-sent events of a wire into chat completion chunks, the inverse of `EventWriter`."""

    def add(self, event: Body) -> list[Body]:
        """Chunks for the data of one event, maybe none.

        Raises:
            ApiError: The event tells of an error (its status, else 502), or cannot be one of this wire (502).
        """
        ...


class Wire(Protocol):
    """One protocol. Stateless: what belongs to a call is in the objects that it makes. Arguments stay as they are.

    Attributes:
        name: `chat`, `completions`, `embeddings`, `responses` or `messages`.
        path: Path below an upstream's base URL, such as `/chat/completions`.
    """

    name: str
    path: str

    def parse(self, raw: bytes) -> Body:
        """The native request of a body, checked once and then trusted. Raises `ApiError` 400 with the reason."""
        ...

    def to_chat(self, request: Body, *, before: Sequence[Body] = ()) -> Body:
        """The chat completion request that asks the same.

        Args:
            request: A native request.
            before: Chat messages that come first, of the answer that `previous_response_id` names.

        Raises:
            ApiError: 400, chat completions cannot ask that; the message names the field.
        """
        ...

    def from_chat(self, request: Body) -> Body:
        """The native request that asks what a chat completion request asks. Raises `ApiError` 400 as `to_chat`."""
        ...

    def answer(self, completion: Body, *, request: Body) -> Body:
        """The native answer that says what a chat completion says, to a native request.

        Raises:
            ApiError: 502, the completion has no choice, or tells that the model's server gave up, and the wire has no
                other way to say so.
        """
        ...

    def completion(self, answer: Body) -> Body:
        """The chat completion that says what a native answer says.

        Raises:
            ApiError: The answer tells of an error (its status, else 502), or is none of this wire (502).
        """
        ...

    def events(self, request: Body) -> EventWriter:
        """A writer of the events of one answer to a native request.

        Raises:
            ApiError: 400, answers of this wire are not streamed.
        """
        ...

    def chunks(self) -> ChunkReader:
        """A reader of the events of one native answer.

        Raises:
            ApiError: 400, answers of this wire are not streamed.
        """
        ...

    def error(self, error: ApiError) -> bytes:
        """The body of a failed answer, in the form that this wire's SDKs read."""
        ...

    def error_event(self, error: ApiError) -> bytes:
        """The events that end a stream that has failed after its status was sent."""
        ...
