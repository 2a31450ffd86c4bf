"""How a call goes out: by which wire, as which requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._request import Body, Changes, permitted, upstream_request
from lightning_plugin_gateway._wires import CHAT, WIRES
from lightning_plugin_gateway.upstreams import Model
from lightning_plugin_gateway.wires._wire import Wire
from lightning_plugin_gateway.wires.completions import Completions

_OTHER_WIRES = ("responses", "messages", "completions", "embeddings")
_WITH_IDS = frozenset({"chat", "completions"})

Seeds = Callable[[Body], int | None]
"""The seed of a request, by what it asks; None leaves it unseeded."""


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent.

    Attributes:
        wire: By which wire.
        requests: One, unless several prompts are asked of a model that answers one at a time.
        native: The client's own wire: the answer is passed on as it is.
        chat: What is asked, as a chat completion request; empty if that cannot be said.
        no_ids: Why the answer brings no token ids; empty if they are asked for.
        slim: Nobody reads more of the answer's log-probabilities than their numbers; they may be passed on.
    """

    wire: Wire
    requests: Sequence[Body]
    native: bool
    chat: Body
    no_ids: str
    slim: bool


def outgoing(
    asked: Body, *, wire: Wire, model: Model, changes: Changes, before: Sequence[Body], seeds: Seeds
) -> Outgoing:
    """Decides how a call goes out.

    A request goes out by the wire that it came by, if the model speaks that; unless token ids are only to be had by
    another, which can ask the same.

    Args:
        asked: The client's request, which stays as it is.
        before: Messages that come first, of the answer that `previous_response_id` names.

    Raises:
        ApiError: 400, no wire that the model speaks can ask that.
    """
    request = permitted(asked)
    spoken = wire.name in model.wires
    if not spoken or (wire.name not in _WITH_IDS and model.token_ids and "chat" in model.wires):
        try:
            return _translated(request, wire=wire, model=model, changes=changes, before=before, seeds=seeds)
        except ApiError as error:
            if not spoken or error.status != 400:
                raise
    sent = upstream_request(
        request, changes, wire=wire.name, seed=seeds(request) if wire.name in _WITH_IDS else None
    )
    return Outgoing(
        wire=wire,
        requests=[sent],
        native=wire is not CHAT,
        chat=sent if wire is CHAT else _told(request, wire),
        no_ids=_no_ids(model, wire),
        slim=True,
    )


def _translated(
    request: Body, *, wire: Wire, model: Model, changes: Changes, before: Sequence[Body], seeds: Seeds
) -> Outgoing:
    chats = []
    slim = True
    for part in Completions.split(request) if wire.name == Completions.name else [request]:
        chat = dict(wire.to_chat(part, before=before))
        if request.get("stream"):
            chat["stream"] = True
        slim = slim and not chat.get("logprobs")
        chats.append(upstream_request(chat, changes, wire=CHAT.name, seed=seeds(chat)))
    out = (
        CHAT
        if CHAT.name in model.wires
        else WIRES[next(name for name in _OTHER_WIRES if name in model.wires)]
    )
    return Outgoing(
        wire=out,
        requests=[out.from_chat(chat) for chat in chats],
        native=False,
        chat=_merged(chats),
        no_ids=_no_ids(model, out),
        slim=slim,
    )


def _told(request: Body, wire: Wire) -> Body:
    try:
        parts = Completions.split(request) if wire.name == Completions.name else [request]
        return _merged([wire.to_chat(part) for part in parts])
    except ApiError:  # hosted tools and such: the native request is kept beside
        return {}


def _merged(chats: Sequence[Body]) -> Body:
    first = chats[0]
    if len(chats) == 1:
        return first
    messages = [one for chat in chats for one in chat["messages"]]  # type: ignore[attr-defined]
    return {**first, "messages": messages}


def _no_ids(model: Model, wire: Wire) -> str:
    if not model.token_ids:
        return "the upstream is not asked for token ids (`token_ids` of its HttpUpstream)"
    if wire.name not in _WITH_IDS:
        return f"the upstream was asked over the wire `{wire.name}`, whose answers bring no token ids"
    return ""
