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

    async def stream(self, body: Mapping[str, Json]) -> AsyncIterator[dict[str, Json]]:
        """The chunks of a chat completion. Raises `Refused` and `Unreachable`."""
        async with self._response(
            "POST", "/v1/chat/completions", body, about="a stream", timeout_s=None
        ) as response:
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


def _told(raw: bytes) -> str:
    """The message of an error in OpenAI's form, or as it is."""
    body = _object(_decoded(raw))
    error = body.get("error", body.get("detail", body))
    message = error.get("message") if isinstance(error, dict) else error
    return str(message if isinstance(message, str) else raw[:EXCERPT].decode("utf-8", "replace"))[:EXCERPT]
