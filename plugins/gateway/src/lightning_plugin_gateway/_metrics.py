"""How the models fare, in Prometheus' text format: for `/metrics` of a server that mounts the gateway."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from lightning_plugin_gateway._live import LiveStatus
from lightning_plugin_gateway.upstreams import BreakerState, ModelStatus, ServerStatus

_Samples = Iterable[tuple[Mapping[str, str], int]]


def metrics_text(models: Mapping[str, ModelStatus], *, live: LiveStatus) -> str:
    """All metrics.

    Args:
        models: By the name that clients ask for.
        live: What became of live calls.
    """
    return "".join(f"{line}\n" for line in (*_of_models(models), *_of_servers(models), *_of_live(live)))


def _of_models(models: Mapping[str, ModelStatus]) -> Iterator[str]:
    def of(field: str) -> _Samples:
        return [({"model": name}, getattr(status, field)) for name, status in models.items()]

    yield from _family("calls_total", "Calls.", of("calls"))
    yield from _family("failures_total", "Calls that ended with an error.", of("failures"))
    yield from _family("retries_total", "Tries beyond the first of each call.", of("retries"))
    yield from _family("in_flight", "Calls being answered.", of("in_flight"))
    yield from _family("waiting", "Calls in line for a server.", of("waiting"))


def _of_servers(models: Mapping[str, ModelStatus]) -> Iterator[str]:
    servers = [
        ({"model": name, "server": server.url}, server)
        for name, status in models.items()
        for server in status.servers
    ]

    def of(field: str) -> _Samples:
        return [(labels, getattr(server, field)) for labels, server in servers]

    yield from _family("server_tries_total", "Tries sent to a server.", of("calls"))
    yield from _family("server_failures_total", "Tries that failed by the server's fault.", of("failures"))
    yield from _family("server_in_flight", "Calls that a server answers now.", of("in_flight"))
    told = "1 for the state that a server's breaker is in, 0 for the others."
    yield from _family("server_breaker", told, _breakers(servers))


def _breakers(servers: Iterable[tuple[Mapping[str, str], ServerStatus]]) -> _Samples:
    for labels, server in servers:
        for state in BreakerState:
            yield {**labels, "state": state.value}, int(server.state is state)


def _of_live(live: LiveStatus) -> Iterator[str]:
    yield from _family("live_recorded_total", "Live calls in the store.", [({}, live.recorded)])
    yield from _family("live_waiting", "Live calls that wait for the store.", [({}, live.waiting)])
    yield from _family("live_dropped_total", "Live calls that are lost.", [({}, live.dropped)])


def _family(name: str, told: str, samples: _Samples) -> Iterator[str]:
    full = f"agl_gateway_{name}"
    yield f"# HELP {full} {told}"
    yield f"# TYPE {full} {'counter' if name.endswith('_total') else 'gauge'}"
    for labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"{full}{f'{{{inside}}}' if inside else ''} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
