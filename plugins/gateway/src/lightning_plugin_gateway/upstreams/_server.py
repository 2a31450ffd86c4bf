"""One server behind a URL: its connections, and answers of any length read within bounds of time and size."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from lightning_plugin_gateway._alarms import Alarms
from lightning_plugin_gateway.upstreams._address import parse_address
from lightning_plugin_gateway.upstreams._connection import ConnectionBroken, Connections, Response
from lightning_plugin_gateway.upstreams._faults import answer_fault, broken, late, silent, status_fault
from lightning_plugin_gateway.upstreams._policy import HttpPolicy
from lightning_plugin_gateway.upstreams._watch import Watch

_LARGEST_ANSWER = 128 * 2**20
_LARGEST_ERROR = 2**20
_REST_S = 1.0
_REST_BYTES = 2**16


class Server:
    """Sends requests to one server. Belongs to one event loop."""

    def __init__(self, url: str, *, key: str, policy: HttpPolicy, alarms: Alarms) -> None:
        """Prepares a server.

        Args:
            url: Base URL.
            key: Cut out of what it says.
            policy: Patience.
            alarms: Ends it.
        """
        self._address = parse_address(url)
        self._policy = policy
        self._alarms = alarms
        self._connections = Connections(self._address, connect_s=policy.connect_s)
        self._resting: set[asyncio.Task[None]] = set()
        self.secrets = (key, self._address.base, self._address.host)

    async def stop(self) -> None:
        """Closes connections."""
        for task in self._resting:
            task.cancel()
        await asyncio.gather(*self._resting, return_exceptions=True)
        await self._connections.close()

    async def post(self, path: str, payload: bytes, *, headers: Mapping[str, str], deadline: float) -> Answer:
        """The beginning of an answer with status 200. Raises `UpstreamFault`."""
        loop = self._alarms.loop
        since = loop.time()
        try:
            with self._alarms.timeout(min(since + self._policy.first_byte_s, deadline)):
                response = await self._connections.post(path, payload, headers=headers)
        except TimeoutError:
            raise (late() if loop.time() >= deadline else silent(self._policy.first_byte_s)) from None
        except ConnectionBroken as error:
            raise broken(error) from error
        if response.headers.get("content-encoding", "identity") != "identity":
            response.close()
            raise answer_fault(b"a compressed body, though none was asked for")
        watch = Watch(response, policy=self._policy, since=since, deadline=deadline, alarms=self._alarms)
        answer = Answer(self, response, watch)
        if response.status == 200:
            return answer
        try:
            raw = await answer.read(most=_LARGEST_ERROR)
        finally:
            answer.close()
        raise status_fault(response.status, response.headers, raw, secrets=self.secrets)

    def rest(self, response: Response) -> None:
        """Reads what comes after the end that its wire knows, so that the connection can be used again."""
        task = asyncio.create_task(_read_rest(response))
        self._resting.add(task)
        task.add_done_callback(self._resting.discard)


class Answer:
    """An answer that has begun. Close it: that ends what is still being generated.

    Attributes:
        secrets: Cut out of what clients are told of it.
    """

    def __init__(self, server: Server, response: Response, watch: Watch) -> None:
        self.secrets = server.secrets
        self._server = server
        self._response = response
        self._watch = watch
        self._size = 0

    @property
    def is_events(self) -> bool:
        """Whether it may be a stream of events: servers that name the wrong type do send some, but none as JSON."""
        return self._response.content_type != "application/json"

    async def part(self) -> bytes:
        """What has come of it since the last; nothing at its end. Raises `UpstreamFault`."""
        watch = self._watch
        if not self._response.waits:
            watch.heard()
            return self._counted(self._response.take_all())
        watch.begin()
        try:
            part = await self._response.readany()
        except ConnectionBroken as error:
            raise watch.fault or broken(error) from error
        finally:
            watch.heard()
        return self._counted(part)

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

    def _counted(self, part: bytes) -> bytes:
        self._size += len(part)
        if self._size > _LARGEST_ANSWER:
            raise answer_fault(f"more than {_LARGEST_ANSWER} bytes".encode(), secrets=self.secrets)
        return part

    def finish(self) -> None:
        """Closes it after the end that its wire knows: the connection is used again, if its body ends too."""
        self._watch.stop()
        if self._response.at_eof:
            self._response.release()
        else:
            self._server.rest(self._response)

    def close(self) -> None:
        """Ends it, wherever it is."""
        self._watch.stop()
        if self._response.at_eof:
            self._response.release()
        else:
            self._response.close()


async def _read_rest(response: Response) -> None:
    size = 0
    try:
        async with asyncio.timeout(_REST_S):
            while size <= _REST_BYTES and (part := await response.readany()):
                size += len(part)
    except (ConnectionBroken, TimeoutError):
        pass  # it is of no use any more
    finally:
        if response.at_eof:
            response.release()
        else:
            response.close()
