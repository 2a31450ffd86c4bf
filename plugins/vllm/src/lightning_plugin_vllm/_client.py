"""One server by its URL: health, adapters, weights, pauses and sleep, and log-probabilities of given tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from agentlightning.errors import EngineError
from agentlightning.types import Json
from lightning_plugin_vllm._options import PauseMode

HEALTH_S = 5.0
EXCERPT = 500
LARGEST_ANSWER = 128 * 2**20
_READ = "/v1/chat/completions/derender"


class Refused(EngineError):
    """The server answered with an error.

    Attributes:
        status: Status of the answer.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return _refused, (str(self), self.status)


def _refused(message: str, status: int) -> Refused:
    return Refused(message, status=status)


class Unreachable(EngineError):
    """The server cannot be reached, or broke off."""


class ServerClient:
    """Calls one server; usable from any event loop.

    Attributes:
        url: Its base URL, up to and including `/v1`.
    """

    def __init__(self, url: str, *, key: str = "", timeout_s: float) -> None:
        self.url = url.rstrip("/")
        self._root = self.url.removesuffix("/v1")
        self._key = key
        self._timeout_s = timeout_s

    async def healthy(self) -> bool:
        """Whether it takes requests."""
        try:
            await self._get("/health", timeout_s=HEALTH_S)
        except EngineError:
            return False
        return True

    async def version(self) -> str:
        """Version of vLLM."""
        return str(_object(await self._get("/version")).get("version", ""))

    async def models(self) -> list[str]:
        """Names that it serves."""
        listed = _object(await self._get("/v1/models")).get("data")
        return [str(_object(entry).get("id")) for entry in listed] if isinstance(listed, list) else []

    async def load_adapter(self, name: str, directory: Path) -> None:
        """Loads an adapter that the server can read under that path, in place of one of that name."""
        body: dict[str, Json] = {"lora_name": name, "lora_path": str(directory), "load_inplace": True}
        await self._post("/v1/load_lora_adapter", body, about=f"adapter {name!r} from {str(directory)!r}")

    async def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; one that it does not know is fine."""
        try:
            await self._post("/v1/unload_lora_adapter", {"lora_name": name}, about=f"adapter {name!r}")
        except Refused as error:
            if error.status != 404:
                raise

    async def load_weights(self, directory: Path) -> str:
        """Replaces all weights by those of a Hugging Face directory.

        Returns:
            Why it cannot, in which case nothing was changed; empty if it did.
        """
        body: dict[str, Json] = {"method": "agl_load_weights", "kwargs": {"directory": str(directory)}}
        try:
            answer = _object(
                await self._post("/collective_rpc", body, about=f"weights of {str(directory)!r}")
            )
        except Refused as error:
            if "agl_load_weights" in str(error):
                return "it was started without the worker of this package (--worker-extension-cls)"
            raise
        results = answer.get("results")
        refusals = [_object(result).get("refused") for result in results] if isinstance(results, list) else []
        return "; ".join(str(refusal) for refusal in refusals if refusal)

    async def forget_prefixes(self) -> None:
        """Forgets what was computed with other weights."""
        await self._post("/reset_prefix_cache", about="the prefix cache")

    async def pause(self, mode: PauseMode) -> None:
        """Holds new requests; see `PauseMode` for those under way. Returns once nothing runs."""
        await self._post(f"/pause?mode={mode}", about="a pause")

    async def resume(self) -> None:
        """Lets requests go on."""
        await self._post("/resume", about="going on")

    async def sleep(self, level: int) -> None:
        """Frees the memory of its cache (1), or of its weights too (2)."""
        await self._post(f"/sleep?level={level}", about=f"sleep at level {level}")

    async def wake_up(self) -> None:
        """Takes the memory back."""
        await self._post("/wake_up", about="waking up")

    async def prompt_logprobs(self, model: str, token_ids: Sequence[int]) -> list[float]:
        """Log-probabilities of all tokens but the first, each given those before it."""
        body: dict[str, Json] = {
            "model": model,
            "prompt": list(token_ids),
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": 0,
        }
        answer = _object(await self._post("/v1/completions", body, about="log-probabilities of a prompt"))
        try:
            choices: Any = answer["choices"]
            places = choices[0]["prompt_logprobs"]
            return [
                float(place[str(token)]["logprob"])
                for place, token in zip(places, token_ids, strict=True)
                if place
            ]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineError(
                f"vLLM at {self.url} answered without the log-probabilities of its prompt ({error!r})"
            ) from error

    async def chat(self, body: Mapping[str, Json]) -> dict[str, Json]:
        """A chat completion. Raises `Refused` and `Unreachable`."""
        return _object(
            await self._post("/v1/chat/completions", body, about="a chat completion", timeout_s=None)
        )

    async def complete(self, body: Mapping[str, Json]) -> dict[str, Json]:
        """A completion. Raises `Refused` and `Unreachable`."""
        return _object(await self._post("/v1/completions", body, about="a completion", timeout_s=None))

    async def tokenize(
        self,
        model: str,
        messages: Sequence[Mapping[str, Json]],
        *,
        tools: Sequence[Mapping[str, Json]],
        add_generation_prompt: bool,
    ) -> list[int]:
        """Ids of a conversation by the chat template."""
        body: dict[str, Json] = {
            "model": model,
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": add_generation_prompt,
        }
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        return _ids(_object(await self._post("/tokenize", body, about="the ids of a conversation")), self.url)

    async def detokenize(self, model: str, token_ids: Sequence[int]) -> str:
        """Text of ids, with the names of control tokens."""
        body: dict[str, Json] = {"model": model, "tokens": list(token_ids)}
        return str(_object(await self._post("/detokenize", body, about="the text of ids")).get("prompt"))

    async def reads(self) -> bool:
        """Whether it reads ids as chat: it was started with `--enable-scale-out`."""
        try:
            await self._post(_READ, {}, about="reading nothing")
        except Refused as error:
            return error.status in (400, 422)
        return True

    async def read(
        self, request: Mapping[str, Json], choices: Sequence[Mapping[str, Json]], *, prompt: Sequence[int]
    ) -> list[dict[str, Json]]:
        """Choices with reasoning and tool calls, by the ids that they were sampled as.

        Args:
            request: The chat request.
            choices: Each with at least one of `token_ids`, and `finish_reason`.
            prompt: Ids of the prompt.

        Raises:
            EngineError: It could not.
        """
        generated: list[Json] = [
            {"index": place, "token_ids": choice["token_ids"], "finish_reason": choice.get("finish_reason")}
            for place, choice in enumerate(choices)
        ]
        body: dict[str, Json] = {
            "generate_response": {"choices": generated},
            "prompt_token_ids": list(prompt),
            "chat_request": {**request, "stream": False, "stream_options": None},
        }
        read = _object(await self._post(_READ, body, about="reading an answer")).get("choices")
        found = [_object(choice) for choice in read] if isinstance(read, list) else []
        if len(found) != len(choices):
            raise EngineError(
                f"vLLM at {self.url} read {len(found)} answers where {len(choices)} were sampled"
            )
        return found

    async def stream(
        self, body: Mapping[str, Json], *, path: str = "/v1/chat/completions"
    ) -> AsyncIterator[dict[str, Json]]:
        """The chunks of a chat completion, or of what else is at `path`. Raises `Refused` and `Unreachable`."""
        async with self._response("POST", path, body, about="a stream", timeout_s=None) as response:
            async for data in _events(response):
                if data == b"[DONE]":
                    return
                chunk = _object(_decoded(data))
                if "error" in chunk:
                    raise EngineError(f"vLLM at {self.url} broke a stream off: {_told(data)}")
                yield chunk
        raise Unreachable(f"vLLM at {self.url} broke a stream off before its end")

    async def _get(self, path: str, *, timeout_s: float | None = None) -> Json:
        async with self._response(
            "GET", path, about=path, timeout_s=timeout_s or self._timeout_s
        ) as response:
            return _decoded(await response.read())

    async def _post(
        self, path: str, body: Mapping[str, Json] | None = None, *, about: str, timeout_s: float | None = -1.0
    ) -> Json:
        limit_s = self._timeout_s if timeout_s is not None and timeout_s < 0 else timeout_s
        async with self._response("POST", path, body, about=about, timeout_s=limit_s) as response:
            return _decoded(await response.read())

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        body: Mapping[str, Json] | None = None,
        *,
        about: str,
        timeout_s: float | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with status 200; leaving the block ends the call.

        A session belongs to an event loop, and calls come from several: each call has its own.
        """
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = aiohttp.ClientTimeout(total=timeout_s, sock_connect=HEALTH_S)
        payload = msgspec.json.encode(body if body is not None else {})
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=limits, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
                ) as session,
                session.request(
                    method,
                    self._root + path,
                    data=payload if method == "POST" else None,
                    allow_redirects=False,
                ) as response,
            ):
                if response.status != 200:
                    raise self._refusal(response.status, await response.read(), path=path, about=about)
                yield response
        except TimeoutError as error:
            raise Unreachable(
                f"vLLM at {self.url} did not answer within {timeout_s} s, asked for {about}"
            ) from error
        except aiohttp.ClientError as error:
            raise Unreachable(
                f"vLLM at {self.url} cannot be reached ({type(error).__name__}: {error})"
            ) from error

    def _refusal(self, status: int, raw: bytes, *, path: str, about: str) -> Refused:
        told = _told(raw)
        if self._key:
            told = told.replace(self._key, "***")
        path = path.partition("?")[0]
        hint = ""
        if status in (401, 403):
            hint = "; set api_key_env to the variable that holds its key"
        elif status in (404, 405) and path in ("/pause", "/resume", "/sleep", "/wake_up", "/collective_rpc"):
            hint = "; start it with VLLM_SERVER_DEV_MODE=1"
        elif status in (404, 405) and "lora" in path and "adapter" not in told:
            hint = "; start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
        elif status == 400 and "--tool-call-parser" in told:
            hint = "; set tool_parser in the engine's section to one of vLLM's, which the model's template did not tell"
        return Refused(f"vLLM at {self.url} refused {about} with {status}: {told}{hint}", status=status)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The data of server-sent events as vLLM writes them: one `data:` line each."""
    rest = b""
    async for part in response.content.iter_any():
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > LARGEST_ANSWER:
            raise EngineError(f"an event of {len(rest)} bytes is longer than {LARGEST_ANSWER} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:").strip()


def _decoded(raw: bytes) -> Json:
    try:
        decoded: Json = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # some endpoints answer with plain text, or nothing
    return decoded


def _object(value: Json) -> dict[str, Json]:
    return value if isinstance(value, dict) else {}


def _ids(answer: Mapping[str, Json], url: str) -> list[int]:
    tokens = answer.get("tokens")
    if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
        raise EngineError(f"vLLM at {url} answered /tokenize without ids")
    return tokens


def _told(raw: bytes) -> str:
    """The message of an error in OpenAI's form, or as it is."""
    body = _object(_decoded(raw))
    error = body.get("error", body.get("detail", body))
    message = error.get("message") if isinstance(error, dict) else error
    return str(message if isinstance(message, str) else raw[:EXCERPT].decode("utf-8", "replace"))[:EXCERPT]
