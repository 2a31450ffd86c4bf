"""Contract of what the server mounts: ASGI applications over the server's store."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Protocol

import msgspec

from agentlightning.credentials import KeyRing
from agentlightning.store import Store
from agentlightning.types import Json

__all__ = ["AppContext", "AppFactory", "AsgiApp", "Message", "Receive", "Send"]

Message = MutableMapping[str, object]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[MutableMapping[str, object], Receive, Send], Awaitable[None]]


class AppContext(msgspec.Struct, frozen=True, kw_only=True):
    """What the server hands to an app.

    Attributes:
        store: The server's store, open.
        keys: Issues and verifies the server's keys.
        options: Settings of this app, as the server's command line gave them.
    """

    store: Store
    keys: KeyRing
    options: Mapping[str, Json] = {}


class AppFactory(Protocol):
    """Target of an `AppSpec` with a `mount`.

    If the app has an async method `aclose`, it is called once, when the server stops; if it has a method `metrics`, the
    text that it returns, in Prometheus' format, is a part of the server's `/metrics`.

    The app is called with its prefix in `scope["root_path"]`, the rest in `scope["path"]`, and the caller's
    `credentials.Credential` (None where it is public) in `scope["agl.credential"]`.
    """

    def __call__(self, context: AppContext) -> AsgiApp:
        """Builds the app, in the event loop that it will run in."""
        ...
