"""Store servers under load: ours behind `agl serve`, and those of Agent Lightning 0.3 and 1.0."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import msgspec
from contender_store import llm_span
from http_load import HOST, Reply, exchange_all, request
from opponents import AL03, AL10, Missing
from workers import CLIENT_CORE, SERVER_CORE, Program
from workload import SPANS_OF, llm_attributes, task

from agentlightning.store import AppendResult
from agentlightning.store.wire import MSGPACK
from agentlightning.types import Attempt, Heartbeat, Lease, Rollout, RolloutRequest, RolloutStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

START_TIMEOUT_S: Final = 90.0
BATCH: Final = 32
"""Spans of one call, where spans can be batched."""


@dataclass(frozen=True)
class Cost:
    """What one operation took.

    Attributes:
        cpu_ms: CPU of the server.
        per_s: Operations per second.
    """

    cpu_ms: float
    per_s: float
    p50_ms: float
    p99_ms: float


class StoreServer(ABC):
    """A server on a port, pinned to a core; the load comes from another one."""

    ready_path: ClassVar[str]

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port = int(probe.getsockname()[1])
        self.serial = 0
        self._program = Program(self.command(), environment=environment, cores=SERVER_CORE)

    def __enter__(self) -> Self:
        """Itself, when it answers."""
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends it."""
        self._program.__exit__(*exc)

    def costs(self, clients: int, count: int) -> dict[str, Cost]:
        """Puts `count` of each operation on it, by so many clients at once."""
        os.sched_setaffinity(0, CLIENT_CORE)
        with self._program.turn():
            return self.load(clients, count)

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it on the port."""

    @abstractmethod
    def load(self, clients: int, count: int) -> dict[str, Cost]:
        """Costs by operation; what is answered is checked."""

    def exchange(self, requests: list[bytes], clients: int, *, per: int = 1) -> tuple[Cost, list[Reply]]:
        """Sends requests, and says what one operation took, of which there are `per` in one request."""
        cpu_s, started = self._program.cpu_s, time.perf_counter()
        replies = asyncio.run(exchange_all(self.port, requests, clients=clients))
        wall_s, cpu_s = time.perf_counter() - started, self._program.cpu_s - cpu_s
        operations = len(requests) * per
        latencies_ms = sorted(reply.latency_s * 1e3 for reply in replies)
        p50_ms, p99_ms = (latencies_ms[int(part * len(latencies_ms))] for part in (0.5, 0.99))
        cost = Cost(cpu_s / operations * 1e3, operations / wall_s, p50_ms, p99_ms)
        return cost, replies

    def names(self, count: int) -> list[int]:
        """Numbers that did not come before."""
        self.serial += count
        return list(range(self.serial - count, self.serial))

    def _wait_ready(self) -> None:
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                asyncio.run(exchange_all(self.port, [request("GET", self.ready_path)], clients=1))
            except (OSError, AssertionError) as error:
                ended = self._program.process.poll() is not None
                if ended or time.monotonic() > until:
                    raise Missing(f"{type(self).__name__} does not answer: {self._program.said()}") from error
                time.sleep(0.1)
            else:
                self._program.rest()
                return


class OurServer(StoreServer):
    """`agl serve` on a SQLite file, with a key, as it runs in earnest."""

    ready_path = "/healthz"

    def __init__(self) -> None:
        self._key = secrets.token_urlsafe(32)
        super().__init__({"AGL_KEY": self._key})
        self._attempts: Sequence[Attempt] = ()

    def command(self) -> list[str]:
        """What starts it on the port."""
        agl = Path(sys.executable).with_name("agl")
        return [str(agl), "serve", "--store", "sqlite:///store.db", "--port", str(self.port)]

    def load(self, clients: int, count: int) -> dict[str, Cost]:
        """Costs by operation."""
        if not self._attempts:
            self._attempts = self._open_attempts()
        costs: dict[str, Cost] = {}
        costs["enqueue"], replies = self._post(
            "rollouts/enqueue",
            [
                {"requests": [RolloutRequest(task=task(n))], "idempotency_key": f"e{n}"}
                for n in self.names(count)
            ],
            clients,
        )
        rollouts = [_decoded(reply, list[Rollout])[0] for reply in replies]
        costs["lease"], replies = self._post(
            "rollouts/lease",
            [{"worker": "w", "ttl_s": 600.0, "idempotency_key": f"l{n}"} for n in self.names(count)],
            clients,
        )
        leases = [_decoded(reply, list[Lease])[0] for reply in replies]
        assert {one.id for one in rollouts} == {one.rollout.id for one in leases}
        attempts = [{"attempt_id": one.attempt.id, "token": one.attempt.token} for one in leases]
        costs["heartbeat"], replies = self._post("rollouts/heartbeat", attempts, clients)
        assert not any(_decoded(reply, Heartbeat).cancelled for reply in replies)
        costs["finish"], replies = self._post("rollouts/finish", attempts, clients)
        assert all(_decoded(reply, Rollout).status is RolloutStatus.SUCCEEDED for reply in replies)
        costs["span"] = self._append(1, count, clients)
        costs["spans in batches"] = self._append(BATCH, 4 * count, clients)
        return costs

    def _append(self, batch: int, count: int, clients: int) -> Cost:
        attributes = [llm_attributes(index) for index in range(64)]
        calls = []
        for index in range(count // batch):
            attempt = self._attempts[index % SPANS_OF]
            spans = [llm_span(n, attempt, attributes[n % 64]) for n in self.names(batch)]
            calls.append({"spans": spans, "token": attempt.token})
        cost, replies = self._post("spans/append", calls, clients, per=batch)
        assert sum(_decoded(reply, AppendResult).stored for reply in replies) == len(calls) * batch
        return cost

    def _post(
        self, path: str, calls: Sequence[object], clients: int, *, per: int = 1
    ) -> tuple[Cost, list[Reply]]:
        requests = [
            request("POST", f"/api/{path}", msgspec.msgpack.encode(call), content_type=MSGPACK, key=self._key)
            for call in calls
        ]
        return self.exchange(requests, clients, per=per)

    def _open_attempts(self) -> Sequence[Attempt]:
        requests = [RolloutRequest(task=task(index)) for index in range(SPANS_OF)]
        self._post("rollouts/enqueue", [{"requests": requests}], 1)
        _, (reply,) = self._post("rollouts/lease", [{"worker": "w", "limit": SPANS_OF, "ttl_s": 36_000.0}], 1)
        return [one.attempt for one in _decoded(reply, list[Lease])]


class AgentLightning03(StoreServer):
    """`agl store` of 0.3, in memory; its spans come one by one."""

    ready_path = "/v1/agl/health"

    def __init__(self) -> None:
        super().__init__(AL03.environment)

    def command(self) -> list[str]:
        """What starts it on the port."""
        return [
            str(AL03.bin / "agl"), "store", "--host", HOST, "--port", str(self.port), "--log-level", "ERROR",
        ]  # fmt: skip

    def load(self, clients: int, count: int) -> dict[str, Cost]:
        """Costs by operation."""
        costs: dict[str, Cost] = {}
        costs["enqueue"], replies = self._post(
            "/queues/rollouts/enqueue",
            [{"rollouts": [{"input": task(n), "mode": "train"}]} for n in self.names(count)],
            clients,
        )
        queued = {json.loads(reply.body)[0]["rollout_id"] for reply in replies}
        costs["lease"], replies = self._post(
            "/queues/rollouts/dequeue", [{"limit": 1, "worker_id": "w"}] * count, clients
        )
        leased = [json.loads(reply.body)[0] for reply in replies]
        assert {one["rollout_id"] for one in leased} == queued
        costs["heartbeat"], _ = self._post(
            "/workers/w", [{"heartbeat_stats": {"alive": True}}] * count, clients
        )
        calls = [f"/rollouts/{one['rollout_id']}/attempts/{one['attempt']['attempt_id']}" for one in leased]
        costs["finish"], replies = self.exchange(
            [self._request(path, {"status": "succeeded"}) for path in calls], clients
        )
        assert all(json.loads(reply.body)["status"] == "succeeded" for reply in replies)
        costs["span"], replies = self._post(
            "/spans", [_span03(n, leased[n % SPANS_OF]) for n in self.names(count)], clients
        )
        assert all(json.loads(reply.body) for reply in replies)
        costs["spans in batches"] = costs["span"]
        return costs

    def _post(self, path: str, calls: Sequence[object], clients: int) -> tuple[Cost, list[Reply]]:
        return self.exchange([self._request(path, call) for call in calls], clients)

    @staticmethod
    def _request(path: str, call: object) -> bytes:
        return request("POST", f"/v1/agl{path}", json.dumps(call).encode())


class AgentLightning10(StoreServer):
    """`agl-server` of 1.0, in memory; a client claims what it enqueued, and its events come one by one."""

    ready_path = "/healthz"

    def command(self) -> list[str]:
        """What starts it on the port."""
        return [
            str(AL10.bin / "agl-server"), f"host={HOST}", f"port={self.port}",
            "default_proxy.model_name=stub-model", "hydra.run.dir=hydra",
        ]  # fmt: skip

    def load(self, clients: int, count: int) -> dict[str, Cost]:
        """Costs by operation."""
        costs: dict[str, Cost] = {}
        costs["enqueue"], replies = self.exchange(
            [_request10("POST", "", [{"input": task(n)}]) for n in self.names(count)], clients
        )
        ids = [json.loads(reply.body)[0]["rollout_id"] for reply in replies]
        for name, state in (("lease", "running"), ("finish", "succeeded")):
            costs[name], replies = self.exchange(
                [_request10("PATCH", f"/{one}", {"status": {"state": state}}) for one in ids], clients
            )
            assert all(json.loads(reply.body)["status"]["state"] == state for reply in replies)
        events = [
            _request10(
                "POST",
                f"/{ids[n % SPANS_OF]}/attempt/0/events",
                {"event_type": "span", "data": {"attributes": llm_attributes(n % 64)}},
            )
            for n in self.names(count)
        ]
        costs["span"], _ = self.exchange(events, clients)
        costs["spans in batches"] = costs["span"]
        return costs


SERVERS: Final[dict[str, Callable[[], StoreServer]]] = {
    "ours": OurServer,
    "al03": AgentLightning03,
    "al10": AgentLightning10,
}


def _decoded(reply: Reply, kind: Any) -> Any:
    return msgspec.msgpack.decode(reply.body, type=kind)


def _request10(method: str, path: str, call: object) -> bytes:
    return request(method, f"/api/rollouts{path}", json.dumps(call).encode())


def _span03(number: int, leased: dict[str, Any]) -> dict[str, object]:
    return {
        "rollout_id": leased["rollout_id"],
        "attempt_id": leased["attempt"]["attempt_id"],
        "sequence_id": number,
        "trace_id": f"{number % SPANS_OF:032x}",
        "span_id": f"{number:016x}",
        "parent_id": None,
        "name": "chat stub-model",
        "status": {"status_code": "OK"},
        "attributes": llm_attributes(number % 64),
        "events": [],
        "links": [],
        "start_time": 1.0,
        "end_time": 1.5,
        "context": None,
        "parent": None,
        "resource": {"attributes": {}, "schema_url": ""},
    }
