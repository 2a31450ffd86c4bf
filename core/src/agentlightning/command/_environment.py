"""The environment of an attempt's command: an allow-list of the runner's, and what binds it to its attempt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

from agentlightning.capture import Endpoint, RolloutContext, environment_carriers

INHERITED: Final = (
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TERM",
    "TZ",
    "USER",
)
"""Variables of the runner that every command gets; `HOME` and `TMPDIR` are directories of the attempt's own."""

_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH(?!OR)", re.IGNORECASE)
_SHORTEST_SECRET: Final = 8
_LOOPBACK: Final = "127.0.0.1,localhost,::1"


def inherited(environ: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """The variables that a command gets of the runner's."""
    return {name: environ[name] for name in (*INHERITED, *names) if name in environ}


def attempt_environment(
    context: RolloutContext, *, environment: Mapping[str, str], telemetry: str | None = None
) -> dict[str, str]:
    """Variables that bind a command to its attempt: where models and traces go, and whose they are.

    Args:
        environment: What they are added to.
        telemetry: URL of the server that takes OTLP; None is the endpoint's, empty exports nothing.
    """
    variables = environment_carriers(context, environment=environment)
    endpoint = context.endpoint
    if endpoint is not None:
        variables |= _models(endpoint)
        if server := endpoint.telemetry if telemetry is None else telemetry:
            variables |= _exporters(server, endpoint.api_key)
    return variables


def secrets_of(environment: Mapping[str, str], *, context: RolloutContext | None) -> list[str]:
    """Values that must not be repeated, longest first: the attempt's key, and what is called like a secret."""
    found = {value for name, value in environment.items() if _SECRET_NAME.search(name)}
    if context is not None and context.endpoint is not None:
        found |= {context.endpoint.api_key, quote(context.endpoint.api_key, safe="")}
    return sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)


def _models(endpoint: Endpoint) -> dict[str, str]:
    """As the SDKs of both wires read them. Anthropic's adds `/v1` itself."""
    base_url = endpoint.base_url.rstrip("/")
    variables = {
        "OPENAI_BASE_URL": base_url,
        "OPENAI_API_BASE": base_url,
        "OPENAI_API_KEY": endpoint.api_key,
        "ANTHROPIC_BASE_URL": base_url.removesuffix("/v1"),
        "ANTHROPIC_API_KEY": endpoint.api_key,
        "ANTHROPIC_AUTH_TOKEN": endpoint.api_key,
        "NO_PROXY": _LOOPBACK,
        "no_proxy": _LOOPBACK,
    }
    if endpoint.model is not None:
        variables |= {"OPENAI_MODEL": endpoint.model, "ANTHROPIC_MODEL": endpoint.model}
    return variables


def _exporters(telemetry: str, key: str) -> dict[str, str]:
    # a Bearer has a space, which is to be encoded, and not every exporter decodes it
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": telemetry.rstrip("/"),
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={quote(key, safe='')}",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
    }
