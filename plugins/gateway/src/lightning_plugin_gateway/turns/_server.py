"""A model server behind a URL that renders, decodes and reads answers back, as vLLM does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import aiohttp
import msgspec

from agentlightning.errors import EngineError
from agentlightning.types import Json

_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=2.0)
_ABSENT = frozenset({401, 403, 404, 405, 501})
_REFUSED = frozenset({400, 413, 422})
_LARGEST_ANSWER = 64 * 2**20
_Object = dict[str, Json]


class NotServedError(EngineError):
    """The server does not have that endpoint, or not for us."""


class RefusedError(EngineError):
    """The server has that endpoint, and does not take what it was sent."""


class TokenServer:
    """A `Renderer` by HTTP: `/tokenize` and `/detokenize` beside `/v1`, and the derendering endpoint below it.

    vLLM serves the first two always, and the third if it was started with `--enable-scale-out`; without it, requests
    with tools are sent as ever. For use in one event loop.
    """

    def __init__(self, base_urls: Sequence[str], *, key: str = "") -> None:
        """Prepares a server.

        Args:
            base_urls: Of its replicas, each up to and including `/v1`; the first that can be reached is asked.
            key: Sent as Bearer; empty for none.
        """
        self._urls = [url.rstrip("/") for url in base_urls]
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    async def render(
        self,
        messages: Sequence[Mapping[str, Json]],
        tools: Sequence[Mapping[str, Json]],
        *,
        add_generation_prompt: bool,
    ) -> list[int]:
        """Ids of a conversation by the chat template. Raises `EngineError`."""
        body: _Object = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        tokens = (await self._post("/tokenize", body)).get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise EngineError("the model server's /tokenize answered without ids")
        return tokens

    async def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, with the names of control tokens. Raises `EngineError`."""
        return str((await self._post("/detokenize", {"tokens": list(ids)})).get("prompt"))

    async def read(
        self, request: Mapping[str, Json], *, prompt: Json, choices: Sequence[Mapping[str, Json]]
    ) -> list[_Object]:
        """Choices of a chat completion, with reasoning and tool calls, by the ids that they were sampled as.

        Args:
            request: The chat request.
            prompt: Ids of the prompt.
            choices: Choices that were sampled, each with at least one of `token_ids`, and `finish_reason`.

        Raises:
            EngineError: The server could not.
        """
        generated: list[Json] = [
            {"index": place, "token_ids": choice["token_ids"], "finish_reason": choice.get("finish_reason")}
            for place, choice in enumerate(choices)
        ]
        body: _Object = {
            "generate_response": {"choices": generated},
            "prompt_token_ids": prompt,
            "chat_request": {**request, "stream": False, "stream_options": None},
        }
        read = objects((await self._post("/v1/chat/completions/derender", body)).get("choices"))
        if len(read) != len(choices):
            raise EngineError(f"the model server read {len(read)} choices where {len(choices)} were sampled")
        return read

    async def reads(self) -> bool:
        """Whether `read` is served. Raises `EngineError` if the server does not say."""
        try:
            await self._post("/v1/chat/completions/derender", {})
        except NotServedError:
            return False
        except RefusedError:  # it is, and wants more than nothing
            return True
        return True

    async def close(self) -> None:
        """Closes connections."""
        session, self._session = self._session, None
        if session:
            await session.close()

    async def _post(self, path: str, body: _Object) -> _Object:
        if self._session is None:
            headers = {"Content-Type": "application/json"}
            if self._key:
                headers["Authorization"] = f"Bearer {self._key}"
            self._session = aiohttp.ClientSession(
                headers=headers, timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()
            )
        data = msgspec.json.encode(body)
        failure = "no URL"
        for url in self._urls:
            target = url.removesuffix("/v1") + path
            try:
                async with self._session.post(target, data=data, allow_redirects=False) as response:
                    if response.status in _ABSENT:
                        raise NotServedError(f"the model server does not serve {path}: {response.status}")
                    if response.status in _REFUSED:
                        raise RefusedError(f"the model server answered {path} with {response.status}")
                    if response.status != 200:
                        raise EngineError(f"the model server answered {path} with {response.status}")
                    return msgspec.json.decode(await _whole(response, path), type=_Object)
            except (aiohttp.ClientConnectionError, TimeoutError) as error:
                failure = type(error).__name__
            except (aiohttp.ClientError, msgspec.DecodeError, UnicodeDecodeError) as error:
                raise EngineError(
                    f"the model server's answer to {path} cannot be read: {type(error).__name__}"
                ) from error
        raise EngineError(f"the model server cannot be reached for {path}: {failure}")


async def _whole(response: aiohttp.ClientResponse, path: str) -> bytes:
    body = bytearray()
    async for part in response.content.iter_chunked(2**16):
        body += part
        if len(body) > _LARGEST_ANSWER:
            raise EngineError(f"the model server's answer to {path} has more than {_LARGEST_ANSWER} bytes")
    return bytes(body)


def objects(value: Json) -> list[_Object]:
    """The objects of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
