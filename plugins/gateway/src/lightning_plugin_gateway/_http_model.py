"""A model behind an OpenAI-compatible URL: retries, deadlines, and nothing of the client's but the request."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import aiohttp
import msgspec

from agentlightning.errors import ConfigError
from agentlightning.gateway import HttpUpstream
from lightning_plugin_gateway._errors import ApiError
from lightning_plugin_gateway._http_errors import UpstreamFault, answer_fault, broken, status_fault
from lightning_plugin_gateway._request import Body
from lightning_plugin_gateway._sse import EventTooLong, SseParser

_LARGEST_ANSWER = 128 * 2**20
_decoder = msgspec.json.Decoder()
Result = TypeVar("Result")


class HttpPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the gateway is with upstreams behind a URL.

    Attributes:
        tries: Most tries of a call that fails in a way that may pass.
        backoff_s: Longest wait before the second try in seconds; doubles with each, at random from its half up.
        longest_wait_s: A wait longer than this, also one asked for by `Retry-After`, is left to the client.
        connect_s: Longest time to connect in seconds.
        silence_s: Longest time without a byte in seconds.
        total_s: Longest duration of a call, tries included, until it is answered or its stream begins, in seconds.
    """

    tries: int = 4
    backoff_s: float = 0.5
    longest_wait_s: float = 8.0
    connect_s: float = 10.0
    silence_s: float = 300.0
    total_s: float = 900.0


class HttpModel:
    """Calls one upstream."""

    provider = "openai"

    def __init__(self, upstream: HttpUpstream, *, policy: HttpPolicy) -> None:
        self.name = upstream.model
        self.token_ids = upstream.token_ids
        self._url = upstream.base_url.rstrip("/") + "/chat/completions"
        self._policy = policy
        self._key = _key_of(upstream)
        self._random = random.Random()
        self._session: aiohttp.ClientSession | None = None

    @property
    def version(self) -> int:
        """Unknown: such a server does not say, or is not to be believed."""
        return -1

    async def start(self) -> None:
        """Opens the session."""
        policy = self._policy
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=policy.connect_s, sock_read=policy.silence_s)
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "agentlightning",
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=headers,
            timeout=timeout,
            read_bufsize=2**18,
        )

    async def stop(self) -> None:
        """Closes the session."""
        if self._session:
            await self._session.close()

    async def chat(self, request: Body) -> Body:
        """A whole answer."""
        payload = msgspec.json.encode(request)
        return await self._patiently(lambda: self._complete(payload))

    async def stream(self, request: Body) -> AsyncGenerator[Body]:
        """An answer in chunks."""
        payload = msgspec.json.encode(request)
        response = await self._patiently(lambda: self._open(payload))
        try:
            async with aclosing(_events(response)) as events:
                async for event in events:
                    if event == b"[DONE]":
                        return
                    yield _chunk(event)
        except UpstreamFault as fault:
            raise fault.error from fault
        finally:
            response.close()

    async def _complete(self, payload: bytes) -> Body:
        response = await self._open(payload)
        try:
            raw = await _read(response)
        finally:
            response.release()
        completion = _decoded(raw)
        if not isinstance(completion, dict) or not isinstance(completion.get("choices"), list):
            raise answer_fault(raw)
        return completion

    async def _open(self, payload: bytes) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("start() opens the session")
        try:
            response = await self._session.post(self._url, data=payload, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise broken(error) from error
        if response.status == 200:
            return response
        try:
            raw = await _read(response)
        finally:
            response.release()
        raise status_fault(response, raw, key=self._key)

    async def _patiently(self, once: Callable[[], Awaitable[Result]]) -> Result:
        try:
            async with asyncio.timeout(self._policy.total_s):
                return await self._retried(once)
        except TimeoutError:
            message = f"the upstream did not answer within {self._policy.total_s} s"
            raise ApiError(504, message, fault="timeout") from None

    async def _retried(self, once: Callable[[], Awaitable[Result]]) -> Result:
        for failures in range(self._policy.tries):
            try:
                return await once()
            except UpstreamFault as fault:
                wait_s = self._policy.backoff_s * 2**failures * self._random.uniform(0.5, 1.0)
                wait_s = max(wait_s, fault.wait_s)
                last = failures == self._policy.tries - 1
                if last or not fault.transient or wait_s > self._policy.longest_wait_s:
                    raise fault.error from fault
            await asyncio.sleep(wait_s)
        raise ConfigError(f"HttpPolicy.tries is {self._policy.tries}; it must be at least 1")


def _key_of(upstream: HttpUpstream) -> str:
    if not upstream.api_key_env:
        return ""
    key = os.environ.get(upstream.api_key_env, "").strip()
    if not key:
        variable = upstream.api_key_env
        raise ConfigError(
            f"upstream {upstream.base_url!r} takes its key from {variable!r}, which is not set; set it"
        )
    return key


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        async for part in response.content.iter_any():
            size += len(part)
            parts.append(part)
            if size > _LARGEST_ANSWER:
                raise answer_fault(part)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise broken(error) from error
    return b"".join(parts)


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    parser = SseParser()
    try:
        async for part in response.content.iter_any():
            for event in parser.feed(part):
                yield event
    except (aiohttp.ClientError, TimeoutError) as error:
        raise broken(error) from error
    except EventTooLong as error:
        raise answer_fault(str(error).encode()) from error
    last = parser.close()
    if last is not None and _is_whole(last):
        yield last


def _chunk(event: bytes) -> Body:
    chunk = _decoded(event)
    if not isinstance(chunk, dict) or "error" in chunk or not isinstance(chunk.get("choices", []), list):
        raise answer_fault(event)
    return chunk


def _is_whole(event: bytes) -> bool:
    try:
        return event == b"[DONE]" or _decoder.decode(event) is not None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _decoded(raw: bytes) -> object:
    try:
        return _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise answer_fault(raw) from error
