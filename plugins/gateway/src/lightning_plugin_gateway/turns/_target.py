"""How exact ids reach a model: in a chat request, or over the wire of completions."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence

from agentlightning.engine import InferenceEngine
from agentlightning.errors import AglError, EngineError
from agentlightning.gateway import HttpUpstream, Upstream
from agentlightning.types import Json
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway.turns._completions import completions_request
from lightning_plugin_gateway.turns._memory import Turn
from lightning_plugin_gateway.turns._renderer import Renderer
from lightning_plugin_gateway.turns._server import NotServedError, TokenServer, objects
from lightning_plugin_gateway.turns._splice import Splice, Splicer

_log = logging.getLogger(__name__)
_QUIET_S = 10.0
_UNIX = "http+unix:"
"""Behind such a URL only calls are asked."""
_Object = dict[str, Json]


class EngineTarget:
    """An engine in this process that renders, and takes `prompt_token_ids` in chat requests."""

    wire = "chat"

    def __init__(self, renderer: Renderer) -> None:
        self._splicer = Splicer(renderer)

    async def splice(self, turn: Turn, request: Mapping[str, Json]) -> Splice | None:
        """The prompt that continues a turn; None if the engine cannot tell."""
        try:
            return await _splice(self._splicer, turn, request)
        except AglError:  # what is wrong with the request, the engine says in its answer
            return None
        except Exception as error:  # noqa: BLE001 - the border of an engine
            _log.error("a turn could not be rendered; the engine renders it itself", exc_info=error)
            return None

    @staticmethod
    def request(request: Mapping[str, Json], prompt: Sequence[int]) -> _Object:
        """What to send."""
        return {**request, "prompt_token_ids": list(prompt)}

    async def close(self) -> None:
        """Nothing to close."""


class ServerTarget:
    """A server that takes ids as the prompt of a completion, if it is found to render too."""

    wire = "completions"

    def __init__(self, server: TokenServer) -> None:
        self._server = server
        self._splicer = Splicer(server)
        self._absent = False
        self._reads: bool | None = None
        self._quiet_until = 0.0

    async def splice(self, turn: Turn, request: Mapping[str, Json]) -> Splice | None:
        """The prompt that continues a turn; None if a completion cannot ask the same, or the server cannot tell."""
        if self._absent or time.monotonic() < self._quiet_until:
            return None
        try:
            if self._reads is None:
                self._reads = await self._server.reads()
            if completions_request(request, (), parsed=self._reads) is None:
                return None
            return await _splice(self._splicer, turn, request)
        except NotServedError as error:
            self._absent = True
            _log.info("turns are compared, not continued by ids: %s", error)
        except EngineError as error:
            self._quiet_until = time.monotonic() + _QUIET_S
            _log.warning("turns are compared, not continued by ids, for %s s: %s", _QUIET_S, error)
        return None

    def request(self, request: Mapping[str, Json], prompt: Sequence[int]) -> _Object:
        """What to send."""
        return completions_request(request, prompt, parsed=bool(self._reads)) or dict(request)

    async def read(self, request: Mapping[str, Json], completion: _Object) -> _Object:
        """The answer with its text read as chat: reasoning and tool calls.

        Raises:
            ApiError: The server could not read it.
        """
        choices = objects(completion.get("choices"))
        spoken = [_spoken(choice) for choice in choices]
        said = [choice for choice in spoken if choice["token_ids"]]
        if not said or not (self._reads or _offered(request)):
            return completion
        prompt = completion.get("prompt_token_ids")
        try:
            read = iter(await self._server.read(request, prompt=prompt, choices=said))
        except EngineError as error:
            if isinstance(error, NotServedError):  # it was started anew without: ask it again before the next
                self._reads = None
            message = f"the upstream could not read its own answer: {error}"
            raise ApiError(502, message, fault="upstream_error") from error
        found: list[Json] = [
            _read(choice, next(read)) if one["token_ids"] else choice
            for choice, one in zip(choices, spoken, strict=True)
        ]
        return {**completion, "choices": found}

    async def close(self) -> None:
        """Closes connections."""
        await self._server.close()


Target = EngineTarget | ServerTarget


def target_of(upstream: Upstream) -> Target | None:
    """How exact ids reach an upstream that has been started; None if they cannot."""
    if isinstance(upstream, HttpUpstream):
        if not upstream.token_ids or not {"chat", "completions"} <= set(upstream.wires):
            return None
        if upstream.base_url.startswith(_UNIX):
            return None
        key = os.environ.get(upstream.api_key_env, "").strip() if upstream.api_key_env else ""
        return ServerTarget(TokenServer([upstream.base_url, *upstream.replicas], key=key))
    return _of_engine(upstream)


def _of_engine(engine: InferenceEngine) -> Target | None:
    if engine.endpoints:
        return ServerTarget(TokenServer(engine.endpoints))
    return EngineTarget(engine) if isinstance(engine, Renderer) else None


def _spoken(choice: _Object) -> _Object:
    """A choice without the token that ended it, which is no part of the message."""
    ids = choice.get("token_ids")
    sampled = ids if isinstance(ids, list) else []
    return {**choice, "token_ids": sampled[:-1] if choice.get("finish_reason") == "stop" else sampled}


def _read(choice: _Object, read: _Object) -> _Object:
    message = read.get("message")
    called = isinstance(message, dict) and message.get("tool_calls") and choice.get("finish_reason") == "stop"
    return {
        **choice,
        "message": message,
        "finish_reason": "tool_calls" if called else choice.get("finish_reason"),
    }


def _offered(request: Mapping[str, Json]) -> Json:
    """Tools that may be called."""
    return [] if request.get("tool_choice") == "none" else request.get("tools")


async def _splice(splicer: Splicer, turn: Turn, request: Mapping[str, Json]) -> Splice:
    tools = objects(_offered(request))
    return await splicer.splice(turn, messages=objects(request.get("messages")), tools=tools)
