"""Apps that plugins bring, below prefixes of their own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from agentlightning.apps import AppContext, AsgiApp
from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.errors import ConfigError
from agentlightning.store import Store

if TYPE_CHECKING:
    from agentlightning.apps import AppFactory
    from agentlightning.plugins import Plugins
    from agentlightning.specs import AppSpec
    from lightning_plugin_server._endpoint import Call

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Mount:
    """An app below a prefix.

    Attributes:
        prefix: Path without a slash at its end; empty mounts at the root, after everything else.
        scopes: Scopes that are admitted; `admin` always is.
        public: Everybody is admitted.
    """

    prefix: str
    app: AsgiApp
    scopes: frozenset[Scope] = frozenset()
    public: bool = False

    def covers(self, path: str) -> bool:
        """Whether a path is the app's."""
        return path == self.prefix or path.startswith(self.prefix + "/")

    async def serve(self, call: Call, credential: Credential | None) -> None:
        """Hands a request on."""
        scope = dict(call.scope)
        scope["root_path"] = self.prefix
        scope["path"] = str(call.scope["path"]).removeprefix(self.prefix) or "/"
        scope["agl.credential"] = credential
        call.status = 200
        await self.app(scope, call.receive, call.send)


def load_mounts(plugins: Plugins, *, store: Store, keys: KeyRing, wanted: Sequence[str] = ()) -> list[Mount]:
    """The apps that installed plugins bring.

    Args:
        wanted: Names of apps that must be there; one of the others that cannot be loaded is logged and left out.

    Raises:
        ConfigError: A wanted app is not there, or two apps want one prefix.
    """
    specs = {name: spec for name, spec in plugins.apps().items() if spec.mount}
    missing = sorted(set(wanted) - specs.keys())
    if missing:
        raise ConfigError(f"no app is called {missing[0]!r}; there are {', '.join(sorted(specs)) or 'none'}")
    mounts: dict[str, Mount] = {}
    for name, spec in specs.items():
        mount = _load(plugins, spec, store=store, keys=keys, required=name in wanted)
        if mount is None:
            continue
        if mount.prefix in mounts:
            raise ConfigError(f"two apps want the prefix {mount.prefix!r}, one of them {name!r}; disable one")
        mounts[mount.prefix] = mount
    return list(mounts.values())


def _load(plugins: Plugins, spec: AppSpec, *, store: Store, keys: KeyRing, required: bool) -> Mount | None:
    try:
        factory = cast("AppFactory", plugins.load(spec))
        app = factory(AppContext(store=store, keys=keys))
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
