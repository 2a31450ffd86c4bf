"""`agl serve` and `agl token`."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import click

from agentlightning.cli._options import store_option
from agentlightning.cli._stores import store_at
from agentlightning.config import load_config
from agentlightning.credentials import Credential, KeyRing, Scope
from agentlightning.errors import ConfigError
from agentlightning.plugins import load_plugins
from agentlightning.types import Json
from lightning_plugin_server._gateway import GATEWAY, gateway_options
from lightning_plugin_server._state import key_file, make_key, read_key

DEFAULT_PORT = 4747
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@click.command()
@store_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port; 0 takes a free one.",
)
@click.option("--key-file", metavar="FILE", help="Where the server's key is kept, if AGL_KEY is not set.")
@click.option(
    "--app", "apps", multiple=True, metavar="NAME", help="An app that must be there; else those that can."
)
@click.option(
    "--upstream",
    "upstreams",
    multiple=True,
    metavar="MODEL=URL[,NAME=VALUE…]",
    help="Serve a model too, through the gateway; * is every other one. May be repeated.",
)
@click.option(
    "--gateway",
    "configured",
    is_flag=True,
    help="Serve the models of [gateway.upstreams] in the configuration file too.",
)
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="TOML file; else AGL_CONFIG, else ./agl.toml.",
)
@click.option(
    "--gateway-set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of the gateway, such as max_calls=500 or http.tries=2. May be repeated.",
)
@click.option(
    "--observe",
    is_flag=True,
    help="Record live traffic: calls by the server's key that belong to no attempt.",
)
@click.option("--unsafe-no-auth", is_flag=True, help="Admit everybody. Only where nobody else can connect.")
def serve(
    *,
    store: str | None,
    host: str,
    port: int,
    key_file: str | None,
    apps: tuple[str, ...],
    upstreams: tuple[str, ...],
    configured: bool,
    file: Path | None,
    settings: tuple[str, ...],
    observe: bool,
    unsafe_no_auth: bool,
) -> None:
    """Serve a store over HTTP until Ctrl-C.

    Agents, runners and algorithms on this and other machines meet at its URL: `agl work`, `agl runs` and every other
    command take it as --store. The key comes from AGL_KEY; without it one is made, printed once and kept.

    With --upstream it is also the gateway: agents call models at URL/v1 by the key of their attempt, and every call is
    recorded. What a model needs besides its URL follows it: api_key_env=VARIABLE with its key, model=NAME that it is
    known by there, wires=chat+messages that it speaks, token_ids=false if it returns none, price.prompt= and
    price.response= per million tokens, max_concurrency=N, and URLs of replicas. The same can be written as
    [gateway.upstreams.MODEL] in the configuration file, for --gateway.

    Several such servers may stand in front of one store: give each the same AGL_KEY, and as --store the URL of the
    server that has it.
    """
    effective = load_config(file) if configured or file or not store else None
    gateway = gateway_options(
        upstreams,
        file=effective if configured else None,
        settings=settings,
        observe=observe,
        unsafe=unsafe_no_auth,
    )
    key, made = _key(key_file, host=host, unsafe=unsafe_no_auth)
    url = store or (effective or load_config()).config.store
    raise SystemExit(
        asyncio.run(
            _serve(
                url,
                host=host,
                port=port,
                key=key,
                shown=key if made else None,
                apps=apps,
                gateway=gateway,
                unsafe=unsafe_no_auth,
            )
        )
    )


async def _serve(
    url: str,
    *,
    host: str,
    port: int,
    key: str,
    shown: str | None,
    apps: tuple[str, ...],
    gateway: Mapping[str, Json] | None,
    unsafe: bool,
) -> int:
    from lightning_plugin_server._app import create_app
    from lightning_plugin_server._config import ServerConfig
    from lightning_plugin_server._mounts import load_mounts
    from lightning_plugin_server._server import Serving, listen

    plugins = load_plugins()
    keys = KeyRing(key)
    listener = listen(host, port)
    try:
        async with store_at(url, plugins) as store:
            mounts = load_mounts(
                plugins,
                store=store,
                keys=keys,
                wanted=apps if gateway is None else (*apps, GATEWAY),
                left_out=() if gateway else (GATEWAY,),
                options={} if gateway is None else {GATEWAY: gateway},
            )
            config = ServerConfig(hosts=_hosts(host), open=unsafe)
            serving = Serving(create_app(store, keys=keys, config=config, mounts=mounts))
            serving.stop_on_signals()
            port = listener.getsockname()[1]
            _announce(store.url, host=host, port=port, shown=shown, models=_served(gateway), unsafe=unsafe)
            await serving.serve(sockets=[listener])
            return 130 if serving.signal == signal.SIGINT else 0
    finally:
        listener.close()


def _announce(
    store: str, *, host: str, port: int, shown: str | None, models: Sequence[str], unsafe: bool
) -> None:
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    click.echo(f"serving {store} at {address}")
    if shown:
        click.echo(f"key, shown this once:  export AGL_KEY={shown}")
    if unsafe:
        click.echo("warning: everybody who can connect may do everything (--unsafe-no-auth)", err=True)
    click.echo(f"runners:  agl work TARGET --store {address}", err=True)
    if models:
        click.echo(f"models:   {', '.join(models)} at {address}/v1", err=True)
    click.echo(f"traces:   OTEL_EXPORTER_OTLP_ENDPOINT={address}", err=True)


def _served(gateway: Mapping[str, Json] | None) -> Sequence[str]:
    upstreams = gateway.get("upstreams") if gateway else None
    return list(upstreams) if isinstance(upstreams, dict) else []


def _key(option: str | None, *, host: str, unsafe: bool) -> tuple[str, bool]:
    """The server's key, and whether it was just made."""
    key = os.environ.get("AGL_KEY", "").strip()
    place = key_file(option)
    known = key or (read_key(place) if option or _is_loopback(host) else None)
    if known:
        try:
            KeyRing(known)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return known, False
    if unsafe:  # nobody will be asked for it
        return secrets.token_urlsafe(32), False
    if not _is_loopback(host):
        raise ConfigError(
            f"--host {host} lets other machines connect: set AGL_KEY to a key of your own, or name its file with"
            " --key-file (--unsafe-no-auth admits everybody)"
        )
    return make_key(place), True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _hosts(host: str) -> tuple[str, ...]:
    return ("127.0.0.1", "localhost", "[::1]", "::1", host) if _is_loopback(host) else ()


@click.command()
@click.option(
    "--scope",
    type=click.Choice([scope.value for scope in Scope if scope not in {Scope.ADMIN, Scope.AGENT}]),
    required=True,
    help="What it is for.",
)
@click.option("--ttl", default="24h", show_default=True, help="How long it lives, such as 30m, 24h, 7d.")
@click.option("--subject", default="", help="Who it is for, for the server's log.")
@click.option("--key-file", metavar="FILE", help="Where the server's key is kept, if AGL_KEY is not set.")
def token(scope: str, ttl: str, subject: str, key_file: str | None) -> None:
    """Make a key of limited scope for a server.

    It is signed with the server's key (AGL_KEY, or the file where `agl serve` keeps it), so the server need not run.
    """
    secret = os.environ.get("AGL_KEY", "").strip() or read_key(_place(key_file))
    if not secret:
        raise ConfigError("there is no server key: set AGL_KEY, or start `agl serve` once on this machine")
    credential = Credential(scope=Scope(scope), subject=subject, expires_at=time.time() + _seconds(ttl))
    click.echo(KeyRing(secret).issue(credential))


def _place(option: str | None) -> Path:
    return key_file(option)


def _seconds(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isdecimal() or int(number) == 0:
        raise ConfigError(f"a lifetime is a number and one of {', '.join(_UNITS)}, such as 24h; got {text!r}")
    return timedelta(**{_UNITS[unit]: int(number)}).total_seconds()
