"""The entry point: prepares a chat request before it is sent, and labels its span once it is answered."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import msgspec

from agentlightning import semconv
from agentlightning.gateway import HttpUpstream, Upstream
from agentlightning.types import Json, TokenRecord, pack_ints
from lightning_plugin_gateway.turns._conversation import Conversation
from lightning_plugin_gateway.turns._label import TurnLabel
from lightning_plugin_gateway.turns._memory import Turn, TurnMemory, common_ids
from lightning_plugin_gateway.turns._server import objects
from lightning_plugin_gateway.turns._target import ServerTarget, Target, target_of

_ANY = "*"
_ID_BYTES = 4


class PreparedTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A chat request that is ready to be sent, and what its answer will be compared with.

    Attributes:
        wire: By which wire to send it: `chat`, or `completions`.
        request: What to send.
        chat: What is asked, as a chat request.
        model: Name of the model that is asked.
        attempt_id: Who asks.
        conversation: Its messages.
        turn: The turn that it continues; None if none is remembered.
        rewritten: The client has changed an answer since.
        rendered: Ids of plain rendering, packed; empty if nobody rendered.
        verdict: What it is labelled if its prompt does not begin with the turn's ids; None if nobody rendered.
    """

    wire: str = "chat"
    request: dict[str, Json]
    chat: dict[str, Json]
    model: str
    attempt_id: str
    conversation: Conversation
    turn: Turn | None = None
    rewritten: bool = False
    rendered: bytes = b""
    verdict: TurnLabel | None = None


class TurnBuilder:
    """Remembers the turns of attempts. For use in one event loop.

    The gateway builds one of its upstreams, and for each call that goes out as one chat completion request::

        turn = await turns.prepare(request, attempt_id=grant.attempt_id, model=name, wires=model.wires)
        # send turn.request by turn.wire, and read the answer by that wire as a chat completion; unless streamed:
        completion = await turns.read(turn, completion)
        span = record.span(completion, ...)
        labels = turns.observe(turn, completion, tokens=span.tokens)  # attributes of the span

    A call that goes out by another wire is prepared with `wires=()` and sent as it is. `observe` comes before the
    span is appended and the last byte is sent, so that a client's next call finds its turn. Failed and cancelled calls
    are not observed. `forget` an attempt when it is released, and `close` at the end.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], *, max_bytes: int = 256 * 2**20) -> None:
        """Makes a builder that knows no turns.

        Args:
            upstreams: By model name, `*` for every other.
            max_bytes: Most memory of all attempts together; the attempts that were silent longest are forgotten first.
        """
        self._upstreams = dict(upstreams)
        self._targets: dict[str, tuple[tuple[str, ...], Target | None]] = {}
        self._max_bytes = max_bytes
        self._memories: OrderedDict[str, TurnMemory] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """Memory that the turns of all attempts take, in bytes."""
        return self._size

    async def prepare(
        self,
        request: Mapping[str, Json],
        *,
        attempt_id: str,
        model: str,
        wires: Collection[str] = ("chat",),
    ) -> PreparedTurn:
        """Finds the turn that a chat request continues, and builds its prompt if the model takes ids.

        Args:
            request: What would be sent; one that brings `prompt_token_ids` keeps them.
            attempt_id: Who asks.
            model: Name of the model that will be asked, as in the upstreams.
            wires: By which wires it may be sent; if by none that takes ids, its answer is only compared.
        """
        conversation = Conversation.of(request, model=model)
        memory = self._memories.get(attempt_id)
        turn = memory.match(conversation) if memory else None
        prepared = PreparedTurn(
            request=dict(request),
            chat=dict(request),
            model=model,
            attempt_id=attempt_id,
            conversation=conversation,
            turn=turn,
            rewritten=memory is not None
            and memory.is_rewritten(conversation, after=turn.messages if turn else 0),
        )
        target = await self._target(model)
        if turn is None or target is None or target.wire not in wires or not conversation.text:
            return prepared
        found = await target.splice(turn, request)
        if found is None:
            return prepared
        prepared = msgspec.structs.replace(
            prepared,
            rendered=pack_ints(found.rendered),
            verdict=TurnLabel.RETOKENISATION if found.prompt else found.label,
        )
        if not found.prompt:
            return prepared
        return msgspec.structs.replace(
            prepared, wire=target.wire, request=target.request(request, found.prompt)
        )

    async def read(self, prepared: PreparedTurn, completion: dict[str, Json]) -> dict[str, Json]:
        """The chat completion that a whole answer is, once its wire has read it as far as it can.

        Raises:
            ApiError: The upstream could not tell text from tool calls.
        """
        target = await self._target(prepared.model)
        if prepared.wire == "chat" or not isinstance(target, ServerTarget):
            return completion
        return await target.read(prepared.chat, _lifted(completion))

    def observe(
        self, prepared: PreparedTurn, completion: Mapping[str, Json], *, tokens: Sequence[TokenRecord]
    ) -> dict[str, Json]:
        """Remembers an answered call and returns the attributes for its span.

        Args:
            prepared: What `prepare` returned.
            completion: The answer in its chat form, whole.
            tokens: The record of each choice, in order.
        """
        prompt = tokens[0].prompt if tokens else b""
        memory = self._memories.get(prepared.attempt_id) or TurnMemory()
        labels = _labels(prepared, prompt, memory)
        before = memory.size
        choices = completion.get("choices")
        for choice, record in zip(choices if isinstance(choices, list) else (), tokens, strict=False):
            message = choice.get("message") if isinstance(choice, dict) else None
            if isinstance(message, dict) and prepared.conversation.digests and not record.incomplete:
                memory.remember(
                    prepared.conversation,
                    message,
                    prompt=record.prompt,
                    response=record.response,
                    follows=prepared.turn,
                )
        if len(memory):  # attempts of which there is nothing to remember take no room, however many there are
            self._memories[prepared.attempt_id] = memory
            self._memories.move_to_end(prepared.attempt_id)
        self._size += memory.size - before
        while self._size > self._max_bytes:
            self._size -= self._memories.popitem(last=False)[1].size
        return labels

    def forget(self, attempt_id: str) -> None:
        """Frees what is remembered of an attempt."""
        memory = self._memories.pop(attempt_id, None)
        self._size -= memory.size if memory else 0

    async def close(self) -> None:
        """Closes connections."""
        targets = [target for _, target in self._targets.values() if target]
        self._targets.clear()
        for target in targets:
            await target.close()

    async def _target(self, model: str) -> Target | None:
        name = model if model in self._upstreams else _ANY
        upstream = self._upstreams.get(name)
        if upstream is None:
            return None
        endpoints = () if isinstance(upstream, HttpUpstream) else tuple(upstream.endpoints)
        known, target = self._targets.get(name, (None, None))
        if known != endpoints:  # servers that were started anew have other URLs
            before, target = target, target_of(upstream)
            self._targets[name] = endpoints, target
            if before:
                await before.close()
        return target


def _lifted(completion: dict[str, Json]) -> dict[str, Json]:
    """The completion with the ids of its one prompt where a chat completion has them."""
    choices = objects(completion.get("choices"))
    prompt = next((choice["prompt_token_ids"] for choice in choices if "prompt_token_ids" in choice), None)
    if prompt is None:
        return completion
    bare: list[Json] = [
        {name: value for name, value in choice.items() if name != "prompt_token_ids"} for choice in choices
    ]
    return {**completion, "prompt_token_ids": prompt, "choices": bare}


def _labels(prepared: PreparedTurn, prompt: bytes, memory: TurnMemory) -> dict[str, Json]:
    turn = prepared.turn
    if turn is None:
        if not prepared.rewritten:
            return {semconv.TURN: TurnLabel.FIRST.value}
        return {semconv.TURN: TurnLabel.REWRITTEN.value, semconv.TURN_COMMON: memory.common(prompt)}
    if not prompt:
        return {}
    common = common_ids(turn.ids, prompt)
    return {semconv.TURN: _label(prepared, turn, prompt, common=common).value, semconv.TURN_COMMON: common}


def _label(prepared: PreparedTurn, turn: Turn, prompt: bytes, *, common: int) -> TurnLabel:
    matched = _ID_BYTES * common
    if matched == len(turn.ids):
        if prepared.rewritten:
            return TurnLabel.REWRITTEN
        plain = not prepared.rendered or prompt == prepared.rendered
        return TurnLabel.EXACT if plain else TurnLabel.SPLICED
    if prepared.verdict:
        return prepared.verdict
    # Nobody rendered, so there is no text to compare. A template changes the prompt's own ids, or only the end.
    inside = turn.prompt_bytes <= matched < len(turn.ids) - _ID_BYTES
    return TurnLabel.RETOKENISATION if inside else TurnLabel.TEMPLATE
