"""One server behind a URL: its connections, and answers of any length read within bounds of time and size."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from lightning_plugin_gateway.upstreams._address import parse_address
from lightning_plugin_gateway.upstreams._faults import answer_fault, broken, late, silent, status_fault
from lightning_plugin_gateway.upstreams._policy import HttpPolicy
from lightning_plugin_gateway.upstreams._watch import Watch

_LARGEST_ANSWER = 128 * 2**20
_LARGEST_ERROR = 2**20
_REST_S = 1.0
_REST_BYTES = 2**16
_KEPT_ALIVE_S = 15.0


class Server:
    """Sends requests to one server. Belongs to one event loop."""

    def __init__(self, url: str, *, key: str, policy: HttpPolicy) -> None:
        """Prepares a server.

        Args:
            url: Base URL.
            key: Cut out of what it says.
            policy: Patience.
        """
        self._address = parse_address(url)
        self._policy = policy
        self._session: aiohttp.ClientSession | None = None
        self._resting: set[asyncio.Task[None]] = set()
        self.secrets = (key, self._address.base, self._address.host)

    async def stop(self) -> None:
        """Closes connections."""
        for task in self._resting:
            task.cancel()
        await asyncio.gather(*self._resting, return_exceptions=True)
        session, self._session = self._session, None
        if session:
            await session.close()

    async def post(self, path: str, payload: bytes, *, headers: Mapping[str, str], deadline: float) -> Answer:
        """The beginning of an answer with status 200. Raises `UpstreamFault`."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        url = self._address.base + path
        try:
            async with asyncio.timeout_at(min(since + self._policy.first_byte_s, deadline)):
                response = await self._opened().post(
                    url, data=payload, headers=headers, allow_redirects=False
                )
        except aiohttp.ServerTimeoutError as error:
            raise broken(error) from error
        except TimeoutError:
            raise (late() if loop.time() >= deadline else silent(self._policy.first_byte_s)) from None
        except aiohttp.ClientError as error:
            raise broken(error) from error
        watch = Watch(response, policy=self._policy, since=since, deadline=deadline)
        answer = Answer(self, response, watch)
        if response.status == 200:
            return answer
        try:
            raw = await answer.read(most=_LARGEST_ERROR)
        finally:
            answer.close()
        raise status_fault(response.status, response.headers, raw, secrets=self.secrets)

    def rest(self, response: aiohttp.ClientResponse) -> None:
        """Reads what comes after the end that its wire knows, so that the connection can be used again."""
        task = asyncio.create_task(_read_rest(response))
        self._resting.add(task)
        task.add_done_callback(self._resting.discard)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            socket = self._address.socket
            self._session = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=socket, limit=0, keepalive_timeout=_KEPT_ALIVE_S)
                if socket
                else aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "Content-Type": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "agentlightning",
                },
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._policy.connect_s),
                read_bufsize=2**18,
            )
        return self._session


class Answer:
    """An answer that has begun. Close it: that ends what is still being generated.

    Attributes:
        secrets: Cut out of what clients are told of it.
    """

    def __init__(self, server: Server, response: aiohttp.ClientResponse, watch: Watch) -> None:
        self.secrets = server.secrets
        self._server = server
        self._response = response
        self._watch = watch

    @property
    def is_events(self) -> bool:
        """Whether it may be a stream of events: servers that name the wrong type do send some, but none as JSON."""
        return self._response.content_type != "application/json"

    async def part(self) -> bytes:
        """What has come of it since the last; nothing at its end. Raises `UpstreamFault`."""
        watch = self._watch
        watch.begin()
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise watch.fault or broken(error) from error
        finally:
            watch.heard()

    async def read(self, *, most: int = _LARGEST_ANSWER) -> bytes:
        """All of it. Raises `UpstreamFault`."""
        parts: list[bytes] = []
        size = 0
        while part := await self.part():
            size += len(part)
            if size > most:
                raise answer_fault(part, secrets=self.secrets)
            parts.append(part)
        return b"".join(parts)

    def finish(self) -> None:
        """Closes it after the end that its wire knows: the connection is used again, if its body ends too."""
        self._watch.stop()
        if not self._response.content.at_eof():
            self._server.rest(self._response)

    def close(self) -> None:
        """Ends it, wherever it is."""
        self._watch.stop()
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


async def _read_rest(response: aiohttp.ClientResponse) -> None:
    size = 0
    try:
        async with asyncio.timeout(_REST_S):
            while size <= _REST_BYTES and (part := await response.content.readany()):
                size += len(part)
    except (aiohttp.ClientError, TimeoutError):
        pass  # it is of no use any more
    finally:
        if response.content.at_eof():
            response.release()
        else:
            response.close()
