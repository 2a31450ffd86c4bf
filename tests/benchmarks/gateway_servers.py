"""Gateways under load, each before the same upstream: ours, a hand-written one, and those that others use."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from http_load import HOST, exchange_all, request
from opponents import AL03, AL10, FLOOR, Missing
from workers import SERVER_CORE, Program, Worker
from workload import task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

HERE: Final = Path(__file__).parent
CHAT: Final = "/v1/chat/completions"
_START_TIMEOUT_S: Final = 90.0


@dataclass(frozen=True)
class Opened:
    """Where calls go.

    Attributes:
        targets: Paths, with the key that goes with each.
    """

    port: int
    targets: list[tuple[str, str]]


@dataclass(frozen=True)
class Kept:
    """What became of calls.

    Attributes:
        recorded: Calls that were recorded.
        complete: Those with all token ids and log-probabilities.
    """

    recorded: int
    complete: int


class GatewayServer(ABC):
    """A gateway in processes of its own, pinned to a core.

    Attributes:
        records: It keeps what passes through.
        streams: It answers with a stream when it is asked for one.
        exact: Its streams have the log-probabilities that the upstream gave.
        records_streams: It keeps what was streamed, parsed.
    """

    records: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    exact: ClassVar[bool] = True
    records_streams: ClassVar[bool] = True
    program: Program

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.program = self.started()

    def __enter__(self) -> Self:
        """Itself, when it answers."""
        try:
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        self.program.rest()
        return self

    def __exit__(self, *exc: object) -> None:
        """Ends it."""
        self.program.__exit__(*exc)

    def turn(self) -> AbstractContextManager[None]:
        """Lets it run."""
        return self.program.turn()

    @abstractmethod
    def started(self) -> Program:
        """Starts it."""

    @abstractmethod
    def wait_ready(self) -> None:
        """Returns when it takes calls. Raises `Missing` if it never will."""

    @abstractmethod
    def open(self, attempts: int) -> Opened:
        """Begins so many attempts."""

    @abstractmethod
    def close(self, *, tokens: int, count: int) -> Kept:
        """Ends them: what became of `count` calls with so many tokens each."""


class _OnWorker(GatewayServer):
    """A gateway that is started, and asked, by a program of its own."""

    program: Worker

    def wait_ready(self) -> None:
        self.program.wait_ready()

    def open(self, attempts: int) -> Opened:
        told = self.program.ask("open", attempts=attempts)
        return Opened(told["port"], [(path, key) for path, key in told["targets"]])


class OurGateway(_OnWorker):
    """Ours, recording durably."""

    def started(self) -> Worker:
        command = [sys.executable, str(HERE / "contender_gateway.py"), str(self.upstream)]
        return Worker(command, cores=SERVER_CORE)

    def close(self, *, tokens: int, count: int) -> Kept:
        return Kept(**self.program.ask("close", tokens=tokens))


class AgentLightning03(_OnWorker):
    """The proxy of 0.3, which is LiteLLM's with a recorder, and its store in memory."""

    exact = False
    records_streams = False  # from time to time

    def started(self) -> Worker:
        command = [str(AL03.bin / "python"), str(HERE / "opponent_al03_gateway.py"), str(self.upstream)]
        return Worker(command, environment=AL03.environment, cores=SERVER_CORE)

    def close(self, *, tokens: int, count: int) -> Kept:
        return Kept(**self.program.ask("close", tokens=tokens, count=count))


class _OnPort(GatewayServer):
    """A gateway that is a command."""

    ready_path: ClassVar[str]

    def __init__(self, upstream: int) -> None:
        self.port = free_port()
        super().__init__(upstream)

    def wait_ready(self) -> None:
        wait_for_answer(self.program, self.port, self.ready_path)

    def open(self, attempts: int) -> Opened:
        return Opened(self.port, [(CHAT, "")])

    def _ask(self, requests: Iterable[bytes]) -> list[Any]:
        with self.turn():
            replies = asyncio.run(exchange_all(self.port, list(requests), clients=1))
        return [json.loads(reply.body) for reply in replies]


class Floor(_OnPort):
    """A recording pass-through as one would write it by hand, in memory."""

    ready_path = "/recorded"
    records_streams = False

    def started(self) -> Program:
        command = [
            str(FLOOR.bin / "python"),
            str(HERE / "floor_gateway.py"),
            str(self.port),
            str(self.upstream),
        ]
        return Program(command, cores=SERVER_CORE)

    def close(self, *, tokens: int, count: int) -> Kept:
        (told,) = self._ask([request("GET", "/recorded")])
        return Kept(told["calls"], sum(number == tokens for number in told["tokens"]))


class LiteLLM(_OnPort):
    """LiteLLM's proxy, of the release that Agent Lightning 0.3 builds on. It records nothing."""

    ready_path = "/health/liveliness"
    records = False
    records_streams = False
    exact = False

    def started(self) -> Program:
        model = {
            "model": "hosted_vllm/stub-model", "api_base": f"http://{HOST}:{self.upstream}/v1", "api_key": "none",
        }  # fmt: skip
        config = {"model_list": [{"model_name": "stub-model", "litellm_params": model}]}
        shell = 'printf %s "$1" > config.json && exec "$2" --config config.json --host "$3" --port "$4"'
        arguments = [json.dumps(config), str(AL03.bin / "litellm"), HOST, str(self.port)]
        return Program(["sh", "-c", shell, "sh", *arguments], environment=AL03.environment, cores=SERVER_CORE)

    def close(self, *, tokens: int, count: int) -> Kept:
        return Kept(0, 0)


class AgentLightning10(_OnPort):
    """`agl-server` of 1.0, in memory. It refuses streams."""

    ready_path = "/healthz"
    streams = False

    def __init__(self, upstream: int) -> None:
        super().__init__(upstream)
        self._rollouts: list[str] = []

    def started(self) -> Program:
        command = [
            str(AL10.bin / "agl-server"), f"host={HOST}", f"port={self.port}",
            "default_proxy.model_name=stub-model", "hydra.run.dir=hydra",
        ]  # fmt: skip
        return Program(command, cores=SERVER_CORE)

    def wait_ready(self) -> None:
        super().wait_ready()
        endpoint = f"http://{HOST}:{self.upstream}/v1"
        model = [{"model": "stub-model", "endpoint": endpoint, "version": 0}]
        self._ask([request("POST", "/api/models", json.dumps(model).encode())])

    def open(self, attempts: int) -> Opened:
        wishes = json.dumps([{"input": task(index)} for index in range(attempts)]).encode()
        (begun,) = self._ask([request("POST", "/api/rollouts", wishes)])
        self._rollouts = [one["rollout_id"] for one in begun]
        paths = [f"/proxy/rollout/{one}/attempt/0/mode/train/openai{CHAT}" for one in self._rollouts]
        return Opened(self.port, [(path, "") for path in paths])

    def close(self, *, tokens: int, count: int) -> Kept:
        recorded = complete = 0
        for one in self._rollouts:
            (events,) = self._ask([request("GET", f"/api/rollouts/{one}/events?event_type=model_request")])
            recorded += len(events)
            complete += sum(_complete10(event["data"]["response"], tokens) for event in events)
        return Kept(recorded, complete)


GATEWAYS: Final[dict[str, Callable[[int], GatewayServer]]] = {
    "ours": OurGateway,
    "floor": Floor,
    "al10": AgentLightning10,
    "litellm": LiteLLM,
    "al03": AgentLightning03,
}


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for_answer(program: Program, port: int, path: str) -> None:
    """Returns when a server answers. Raises `Missing` if it never will."""
    until = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            asyncio.run(exchange_all(port, [request("GET", path)], clients=1))
        except (OSError, AssertionError) as error:
            if program.process.poll() is not None or time.monotonic() > until:
                raise Missing(f"nothing answers at port {port}: {program.said()}") from error
            time.sleep(0.1)
        else:
            return


def _complete10(response: dict[str, Any], tokens: int) -> bool:
    (choice,) = response["choices"]
    whole = len(choice["token_ids"]) == len(choice["logprobs"]["content"]) == tokens
    return whole and bool(response["prompt_token_ids"])
