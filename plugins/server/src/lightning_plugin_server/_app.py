"""The ASGI application: every path is refused unless it is an endpoint, and its caller admitted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import MutableMapping, Sequence
from typing import Final

from agentlightning.apps import Receive, Send
from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.errors import AglError
from agentlightning.store import Store
from lightning_plugin_server._body import ClientGone
from lightning_plugin_server._config import ServerConfig
from lightning_plugin_server._endpoint import Call, Endpoint, ShuttingDown
from lightning_plugin_server._events import events_endpoint
from lightning_plugin_server._keys_api import keys_endpoint
from lightning_plugin_server._metrics import CONTENT_TYPE, Metrics
from lightning_plugin_server._mounts import Mount
from lightning_plugin_server._openapi import openapi
from lightning_plugin_server._refusal import RETRY_SOON, Refusal, refusal_of
from lightning_plugin_server._store_api import store_endpoints

_log = logging.getLogger(__name__)
_EVERYBODY: Final = Credential(scope=Scope.ADMIN, subject="everybody")
_HEALTH_TIMEOUT_S: Final = 5.0


class ServerApp:
    """Dispatches, admits and refuses.

    Attributes:
        config: How it serves.
        endpoints: All there is, besides mounted apps.
        mounts: Mounted apps.
        closing: Set it before the server stops: long polls end at once.
    """

    def __init__(
        self, store: Store, *, keys: KeyRing, config: ServerConfig, mounts: Sequence[Mount] = ()
    ) -> None:
        from lightning_plugin_server.otlp import otlp_endpoints

        self._store = store
        self._keys = keys
        self.config = config
        self._metrics = Metrics()
        self.closing = asyncio.Event()
        self.mounts = tuple(sorted(mounts, key=lambda mount: len(mount.prefix), reverse=True))
        self.endpoints: list[Endpoint] = [
            *store_endpoints(store, config),
            keys_endpoint(store, keys),
            events_endpoint(store),
            *otlp_endpoints(store),
            Endpoint(
                method="GET",
                path="/metrics",
                handle=self._show_metrics,
                scopes=frozenset({Scope.VIEWER, Scope.TRAINER}),
                summary="Metrics in Prometheus' text format.",
            ),
            Endpoint(
                method="GET",
                path="/healthz",
                handle=self._show_health,
                public=True,
                summary="Whether the store answers.",
            ),
            Endpoint(
                method="GET",
                path="/openapi.json",
                handle=self._show_openapi,
                public=True,
                summary="This document.",
            ),
        ]
        self._openapi = openapi(self.endpoints)
        self._table: dict[str, dict[str, Endpoint]] = {}
        for endpoint in self.endpoints:
            self._table.setdefault(endpoint.path, {})[endpoint.method] = endpoint

    @property
    def requests_in_flight(self) -> int:
        """Requests that are being answered."""
        return self._metrics.in_flight

    async def __call__(self, scope: MutableMapping[str, object], receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"the server serves HTTP only, not {scope['type']!r}")
        call = Call(scope, receive, send, config=self.config, closing=self.closing)
        started_at = time.perf_counter()
        self._metrics.in_flight += 1
        path = "other"
        try:
            self._check_host(call)
            if self._metrics.in_flight > self.config.max_requests:
                raise Refusal(
                    429, "the server answers as many requests as it can; try again", headers=RETRY_SOON
                )
            found = self._find(str(scope["path"]), str(scope["method"]))
            path = found.path
            if not found.public:
                call.credential = self._admit(call, found.scopes)
            await found.handle(call)
        except ClientGone:
            call.status = 499
        except ShuttingDown:
            await _refuse(call, Refusal(503, "the server is about to stop; try again", headers=RETRY_SOON))
        except Refusal as refusal:
            await _refuse(call, refusal)
        except Exception as error:  # noqa: BLE001 - the border of the process: whatever it is, the client gets an answer
            await self._failed(call, error)
        finally:
            self._metrics.in_flight -= 1
            self._metrics.observe(path, call.status, time.perf_counter() - started_at)

    async def _failed(self, call: Call, error: Exception) -> None:
        refusal = refusal_of(error)
        if refusal is None:
            kind = type(error).__name__ if isinstance(error, AglError) else ""
            _log.error("a request failed in the server itself", exc_info=error)
            refusal = Refusal(500, "the server failed; its log has the reason", kind=kind)
        await _refuse(call, refusal)

    def _check_host(self, call: Call) -> None:
        """A page of somebody else's must not reach a server on this machine by a name that leads here."""
        hosts = self.config.hosts
        if hosts and _without_port(call.header(b"host")) not in hosts:
            raise Refusal(
                421,
                f"this server does not serve host {call.header(b'host')!r:.200}; it serves {', '.join(hosts)}",
            )

    def _find(self, path: str, method: str) -> Endpoint | Mount:
        methods = self._table.get(path)
        if methods is None:
            for mount in self.mounts:
                if mount.covers(path):
                    return mount
            raise Refusal(404, f"there is nothing at {path!r:.200}; /openapi.json lists what there is")
        endpoint = methods.get(method)
        if endpoint is None:
            allowed = ", ".join(sorted(methods))
            headers = [(b"allow", allowed.encode())]
            raise Refusal(
                405, f"{path!r} takes {allowed}, not {method!r:.50}", kind="ValueError", headers=headers
            )
        return endpoint

    def _admit(self, call: Call, scopes: frozenset[Scope]) -> Credential:
        """The caller's credential: the one place where it is decided who may do what."""
        if self.config.open:
            return _EVERYBODY
        key = _key_of(call)
        if not key:
            raise Refusal(
                401,
                "this needs a key: send `Authorization: Bearer …` or `x-api-key`, or set AGL_KEY for agl",
                headers=((b"www-authenticate", b"Bearer"),),
            )
        credential = self._keys.verify(key)
        if credential.scope is not Scope.ADMIN and credential.scope not in scopes:
            wanted = ", ".join(sorted(scope.value for scope in scopes | {Scope.ADMIN}))
            raise Refusal(
                403, f"a key of scope {credential.scope.value!r} may not do this; it takes {wanted}"
            )
        return credential

    async def _show_metrics(self, call: Call) -> None:
        text = self._metrics.text(await self._store.statistics(), now=time.time())
        told = "".join(mount.metrics() for mount in self.mounts)
        await call.respond(200, text + told.encode(), content_type=CONTENT_TYPE)

    async def _show_health(self, call: Call) -> None:
        try:
            async with asyncio.timeout(_HEALTH_TIMEOUT_S):
                await self._store.runs.list(limit=1)
        except (AglError, TimeoutError):
            raise Refusal(503, "the store does not answer", headers=RETRY_SOON) from None
        await call.respond(200, b"{}")

    async def _show_openapi(self, call: Call) -> None:
        await call.respond(200, self._openapi)


def create_app(
    store: Store, *, keys: KeyRing, config: ServerConfig | None = None, mounts: Sequence[Mount] = ()
) -> ServerApp:
    """Builds the application, in the event loop that it will run in.

    Args:
        store: Open; it stays open for as long as the application serves.
        keys: Verifies the callers' keys.
        config: How it serves.
        mounts: Apps below prefixes of their own.
    """
    return ServerApp(store, keys=keys, config=config or ServerConfig(), mounts=mounts)


async def _refuse(call: Call, refusal: Refusal) -> None:
    if call.status:  # the head is out: all that can be done is to cut the answer short
        return
    await call.respond(refusal.status, refusal.without(_key_of(call)).body, headers=refusal.headers)


def _key_of(call: Call) -> str:
    scheme, _, key = call.header(b"authorization").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return call.header(b"x-api-key").strip()


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() and not host.endswith("]") else host
