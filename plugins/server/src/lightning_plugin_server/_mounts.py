"""Apps that plugins bring, below prefixes of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, cast

from agentlightning.apps import AppContext, AsgiApp, Message, Receive, Send
from agentlightning.credentials import KeyRing, Scope
from agentlightning.errors import ConfigError
from agentlightning.store import Store
from agentlightning.types import Json
from lightning_plugin_server._refusal import Refusal

if TYPE_CHECKING:
    from agentlightning.apps import AppFactory
    from agentlightning.plugins import Plugins
    from agentlightning.specs import AppSpec
    from lightning_plugin_server._endpoint import Call

_log = logging.getLogger(__name__)
_NO_OPTIONS: Final[Mapping[str, Mapping[str, Json]]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Mount:
    """An app below a prefix.

    Attributes:
        prefix: Path without a slash at its end; empty mounts at the root. Endpoints of the server come first.
        scopes: Scopes that are admitted; `admin` always is.
        public: Everybody is admitted.
    """

    prefix: str
    app: AsgiApp
    scopes: frozenset[Scope] = frozenset()
    public: bool = False

    @property
    def path(self) -> str:
        """What its requests are counted as."""
        return f"{self.prefix}/*"

    def covers(self, path: str) -> bool:
        """Whether a path is the app's."""
        return path == self.prefix or path.startswith(self.prefix + "/")

    async def handle(self, call: Call) -> None:
        """Hands a request on, with what every answer has and no larger a body than any other."""
        scope = dict(call.scope)
        scope["root_path"] = self.prefix
        scope["path"] = str(call.scope["path"]).removeprefix(self.prefix) or "/"
        scope["agl.credential"] = call.credential
        await self.app(scope, _limited(call), _watched(call))

    def metrics(self) -> str:
        """What the app tells of itself in Prometheus' text format, by its `metrics()`; empty if it has none."""
        tell = getattr(self.app, "metrics", None)
        try:
            text = str(tell()) if tell is not None else ""
        except Exception:  # noqa: BLE001 - the border to a plugin: one that is broken does not hide what others tell
            _log.exception("the app at %r does not tell its metrics", self.prefix or "/")
            return ""
        return f"{text}\n" if text and not text.endswith("\n") else text

    async def aclose(self) -> None:
        """Lets the app end what it has begun, if it has an `aclose`; called once, when the server stops."""
        close = getattr(self.app, "aclose", None)
        if close is not None:
            await close()


def _limited(call: Call) -> Receive:
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await call.receive()
        part = message.get("body")
        received += len(part) if isinstance(part, bytes) else 0
        if received > call.config.max_body_bytes:
            raise Refusal(
                413, f"the body has more than {call.config.max_body_bytes} bytes; send less at once"
            )
        return message

    return receive


def _watched(call: Call) -> Send:
    async def send(message: Message) -> None:
        status, headers = message.get("status"), message.get("headers")
        if isinstance(status, int):
            named = list(headers) if isinstance(headers, Iterable) else []
            await call.start(status, named)
        else:
            await call.send(message)

    return send


def load_mounts(
    plugins: Plugins,
    *,
    store: Store,
    keys: KeyRing,
    wanted: Sequence[str] = (),
    left_out: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Json]] = _NO_OPTIONS,
) -> list[Mount]:
    """The apps that installed plugins bring.

    Args:
        wanted: Names of apps that must be there; one of the others that cannot be loaded is logged and left out.
        left_out: Names of apps that are not to be there, unless they are wanted.
        options: Settings by name of the app.

    Raises:
        ConfigError: A wanted app is not there, or two apps want one prefix.
    """
    unwanted = set(left_out) - set(wanted)
    specs = {name: spec for name, spec in plugins.apps().items() if spec.mount and name not in unwanted}
    missing = sorted(set(wanted) - specs.keys())
    if missing:
        raise ConfigError(f"no app is called {missing[0]!r}; there are {', '.join(sorted(specs)) or 'none'}")
    mounts: dict[str, Mount] = {}
    for name, spec in specs.items():
        context = AppContext(store=store, keys=keys, options=options.get(name, {}))
        mount = _load(plugins, spec, context, required=name in wanted)
        if mount is None:
            continue
        if mount.prefix in mounts:
            raise ConfigError(f"two apps want the prefix {mount.prefix!r}, one of them {name!r}; disable one")
        mounts[mount.prefix] = mount
    return list(mounts.values())


def _load(plugins: Plugins, spec: AppSpec, context: AppContext, *, required: bool) -> Mount | None:
    try:
        factory = cast("AppFactory", plugins.load(spec))
        app = factory(context)
    except Exception as error:  # the border to a plugin: one that is broken does not take the server down
        if required:
            raise
        _log.warning("app %r is left out: %s", spec.name, error)
        return None
    return Mount(
        prefix=spec.mount.rstrip("/"),
        app=app,
        scopes=frozenset(Scope(name) for name in spec.scopes),
        public=spec.public,
    )
