"""An endpoint, and one call of it: what a handler reads from and answers with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from agentlightning.apps import Message, Receive, Send
from agentlightning.credentials import Credential, Scope
from lightning_plugin_server._body import ClientGone, read_body

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from lightning_plugin_server._config import ServerConfig

Header = tuple[bytes, bytes]
Result = TypeVar("Result")
_SAFE: Final[Sequence[Header]] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)


class ShuttingDown(Exception):
    """The server is about to stop; the client is told to try again."""


class Call:
    """One request and its answer.

    Attributes:
        credential: Who calls; an `admin` where everybody is admitted, None on public endpoints.
        status: Of the answer, once it was sent.
        closing: Set when the server is about to stop.
    """

    def __init__(
        self,
        scope: MutableMapping[str, object],
        receive: Receive,
        send: Send,
        *,
        config: ServerConfig,
        closing: asyncio.Event,
    ) -> None:
        headers = scope["headers"]
        self.scope = scope
        self.config = config
        self.closing = closing
        self.credential: Credential | None = None
        self.status = 0
        self.receive = receive
        self.send = send
        self._headers: dict[bytes, bytes] = dict(headers) if isinstance(headers, list) else {}

    def header(self, name: bytes) -> str:
        """A request header by its lower-case name; empty if it is missing."""
        return self._headers.get(name, b"").decode("latin-1")

    @property
    def query(self) -> bytes:
        """The undecoded query string."""
        query = self.scope.get("query_string", b"")
        return query if isinstance(query, bytes) else b""

    @property
    def content_type(self) -> str:
        """Media type of the body, without parameters, in lower case."""
        return self.header(b"content-type").partition(";")[0].strip().lower()

    async def body(self) -> bytes:
        """The whole body, decompressed.

        Raises:
            Refusal: It is too large, or not compressed as it says.
            ClientGone: The client left.
        """
        return await read_body(
            self.receive,
            encoding=self.header(b"content-encoding"),
            length=self.header(b"content-length"),
            limit=self.config.max_body_bytes,
        )

    async def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: bytes = b"application/json",
        headers: Sequence[Header] = (),
    ) -> None:
        """Sends a whole answer."""
        self.status = status
        own = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers, *_SAFE]
        await self.send({"type": "http.response.start", "status": status, "headers": own})
        await self.send({"type": "http.response.body", "body": body})

    async def start(self, status: int, headers: Sequence[Header]) -> None:
        """Sends the head of an answer, with the headers that every answer has unless it says otherwise."""
        self.status = status
        names = {name for name, _ in headers}
        safe = [header for header in _SAFE if header[0] not in names]
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, *safe]})

    async def stream(self, data: bytes, *, last: bool = False) -> None:
        """Sends a part of an answer whose head was sent."""
        message: Message = {"type": "http.response.body", "body": data, "more_body": not last}
        await self.send(message)

    async def unless_gone(self, work: Coroutine[object, object, Result]) -> Result:
        """Runs work that may take long, and cancels it when the client leaves or the server stops.

        Raises:
            ClientGone: The client left.
            ShuttingDown: The server stops.
        """
        working = asyncio.create_task(work)
        leaving = asyncio.create_task(self._left())
        closing = asyncio.create_task(self.closing.wait())
        tasks: tuple[asyncio.Task[object], ...] = (working, leaving, closing)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            raise ClientGone if leaving.done() else ShuttingDown
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _left(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


Handler = Callable[[Call], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What answers at one path.

    Attributes:
        method: `GET` or `POST`.
        path: Exact path; nothing else is served.
        handle: Answers a call whose caller is admitted.
        scopes: Scopes that are admitted; `admin` always is.
        public: Everybody is admitted: for what shows no data.
        summary: One line for the OpenAPI document.
    """

    method: str
    path: str
    handle: Handler
    scopes: frozenset[Scope] = frozenset()
    public: bool = False
    summary: str = ""
