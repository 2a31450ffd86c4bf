"""The checks of `agl doctor`, each of which never raises."""

from __future__ import annotations

import asyncio
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from agentlightning import semconv
from agentlightning._requirements import unmet
from agentlightning.cli._stores import store_at
from agentlightning.config import EffectiveConfig, load_config
from agentlightning.errors import AglError, PluginError
from agentlightning.plugins import Plugins, PluginState, load_plugins
from agentlightning.store import RolloutQuery, SpanQuery

_SLOW_S: Final = 0.5
"""A plugin that takes longer to load makes every command slow, in seconds."""
_LITTLE_SPACE: Final = 2**30
_OLDEST: Final = (3, 11)
_RECENT: Final = 100
_OPTIONAL: Final = ("torch", "transformers", "openai", "aiohttp", "uvicorn")


class Health(StrEnum):
    """What a check found."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        remedy: What mends it; empty if nothing needs mending.
    """

    name: str
    health: Health
    found: str
    remedy: str = ""


def all_checks(store: str | None) -> list[Check]:
    """Looks at everything, in the order in which things would go wrong."""
    checks = [_python(), *_versions()]
    plugins, found = _plugins()
    checks += [*found, _accelerator()]
    config, found = _configuration()
    checks += found
    port = config.config.gateway.port if config else 0
    checks.append(_loopback(port))
    if config is not None and plugins is not None:
        checks += _store(store or config.config.store, plugins)
    return checks


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < _OLDEST:
        return Check(name="python", health=Health.BROKEN, found=found, remedy="install Python 3.11 or newer")
    return Check(name="python", health=Health.OK, found=found)


def _versions() -> Iterator[Check]:
    for name in ("agentlightning-core", *_OPTIONAL):
        try:
            yield Check(name=name, health=Health.OK, found=version(name))
        except PackageNotFoundError:
            yield Check(name=name, health=Health.OK, found="not installed")


def _plugins() -> tuple[Plugins | None, list[Check]]:
    try:
        plugins = load_plugins()
    except PluginError as error:
        remedy = "mend the plugin, or leave it out with AGL_DISABLE"
        return None, [Check(name="plugins", health=Health.BROKEN, found=str(error), remedy=remedy)]
    states = [status.status for status in plugins.status()]
    found = f"{states.count(PluginState.LOADED)} loaded, {states.count(PluginState.DISABLED)} disabled"
    checks = [Check(name="plugins", health=Health.OK, found=found)]
    return plugins, [*checks, *_single_plugins(plugins), *_requirements(plugins)]


def _single_plugins(plugins: Plugins) -> Iterator[Check]:
    for status in plugins.status():
        name = f"plugin {status.name}"
        if status.status is PluginState.FAILED:
            remedy = f"reinstall {status.distribution}, or set AGL_DISABLE={status.name}"
            yield Check(name=name, health=Health.WARNING, found=status.reason, remedy=remedy)
        elif status.seconds > _SLOW_S:
            remedy = "its hooks import something heavy; tell its authors to import it in the target instead"
            yield Check(
                name=name, health=Health.WARNING, found=f"loads in {status.seconds:.1f} s", remedy=remedy
            )


def _requirements(plugins: Plugins) -> Iterator[Check]:
    for specs in (plugins.engines(), plugins.algorithms(), plugins.apps(), plugins.stores()):
        for spec in specs.values():
            try:
                missing = [text for text in map(unmet, spec.requires) if text]
            except ValueError as error:
                missing = [str(error)]
            if missing:
                remedy = f"to use it run: pip install {spec.extra or ' '.join(spec.requires)}"
                found = f"needs {', '.join(missing)}"
                yield Check(name=spec.name, health=Health.WARNING, found=found, remedy=remedy)


def _accelerator() -> Check:
    """Asks the driver, not torch: importing that takes seconds."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Check(name="GPU", health=Health.OK, found="none; training runs on the CPU")
    arguments = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return Check(
            name="GPU",
            health=Health.WARNING,
            found=str(error),
            remedy="check the NVIDIA driver with nvidia-smi",
        )
    found = "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip())
    try:
        cpu_only = "+cpu" in version("torch")
    except PackageNotFoundError:
        cpu_only = False
    if cpu_only:
        remedy = "this torch is built for the CPU; install a CUDA build to use the GPU"
        return Check(name="GPU", health=Health.WARNING, found=found, remedy=remedy)
    return Check(name="GPU", health=Health.OK, found=found or "none")


def _configuration() -> tuple[EffectiveConfig | None, list[Check]]:
    try:
        config = load_config()
    except AglError as error:
        check = Check(
            name="configuration",
            health=Health.BROKEN,
            found=str(error),
            remedy="mend it; `agl config` shows it all",
        )
        return None, [check]
    found = str(config.file) if config.file else "defaults and environment"
    return config, [Check(name="configuration", health=Health.OK, found=found)]


def _loopback(port: int) -> Check:
    name = "loopback"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
            listening.bind(("127.0.0.1", port))
            bound = int(listening.getsockname()[1])
    except OSError as error:
        remedy = (
            "choose another port with gateway.port (0 takes a free one)"
            if port
            else "allow binding 127.0.0.1"
        )
        return Check(name=name, health=Health.BROKEN, found=f"port {port}: {error.strerror}", remedy=remedy)
    return Check(name=name, health=Health.OK, found=f"port {bound} can be bound")


def _store(url: str, plugins: Plugins) -> list[Check]:
    name = "store"
    scheme, _, rest = url.partition("://")
    path = Path(rest.removeprefix("/").partition("?")[0])
    if scheme == "sqlite" and not path.exists():
        return [_folder(path.absolute().parent, url)]
    try:
        calls = asyncio.run(_capture(url, plugins))
    except (AglError, OSError) as error:
        remedy = "check the URL, the permissions and the free space; or name another store with --store"
        return [Check(name=name, health=Health.BROKEN, found=f"{url}: {error}", remedy=remedy)]
    checks = [Check(name=name, health=Health.OK, found=f"{url} opens"), calls]
    return [*checks, _folder(path.absolute().parent, url)] if scheme == "sqlite" else checks


def _folder(folder: Path, url: str) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".agl-doctor-"):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        remedy = "make the folder and give this user write permission, or name another store with --store"
        return Check(
            name="store folder",
            health=Health.BROKEN,
            found=f"{url}: {error.strerror or error}",
            remedy=remedy,
        )
    found = f"{folder} is writable, {free / 2**30:.1f} GiB free"
    if free < _LITTLE_SPACE:
        return Check(name="store folder", health=Health.WARNING, found=found, remedy="free some space")
    return Check(name="store folder", health=Health.OK, found=found)


async def _capture(url: str, plugins: Plugins) -> Check:
    """Names the first recent call whose tokens are missing: it cannot be learned from."""
    async with store_at(url, plugins) as store:
        page = await store.rollouts.list(RolloutQuery(newest_first=True), limit=_RECENT)
        ids = tuple(rollout.id for rollout in page.items)
        query = SpanQuery(rollout_ids=ids, operations=(semconv.OPERATION_CHAT,))
        calls = (await store.spans.page(query)).items if ids else ()
    for span in calls:
        for record in span.tokens:
            if record.incomplete:
                return Check(
                    name="capture",
                    health=Health.WARNING,
                    found=f"call {span.span_id} of rollout {span.rollout_id} has no tokens: {record.incomplete}",
                    remedy="to train on its weights, use an engine of ours or an upstream that returns token ids",
                )
    return Check(
        name="capture", health=Health.OK, found=f"{len(calls)} recent calls, none of them incomplete"
    )
