"""The engine's section of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from agentlightning.config import decode_params
from agentlightning.errors import ConfigError
from agentlightning.types import Json

PauseMode = Literal["wait", "abort", "keep"]
"""What happens to answers under way while servers pause: they end first, are cut off, or go on afterwards."""


LARGEST_RANK = 512
"""Largest rank of adapters that a server can be set up for."""


class VllmOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which servers there are, and how they get new weights.

    Attributes:
        model: Hugging Face model directory.
        build: Builds a tiny model instead, see the torch engine's option of that name.
        name: Name under which the model is served.
        servers: Base URLs of running servers, each up to and including `/v1`; empty starts servers here.
        api_key_env: Environment variable with the key of running servers; empty for none.
        replicas: How many servers are started, all of the same weights.
        python: Interpreter that has vLLM installed; empty is this one.
        port: Port of the first server, and those after it of the others; 0 takes free ones.
        dtype: Type of the weights in server and learner; `auto` leaves it to each.
        context: Longest sequence in tokens; 0 is the model's own limit.
        tool_parser: Which of vLLM's parsers reads tool calls; `auto` is the one that the model's chat template tells,
            if it is known, and empty is none: requests that may call tools are refused then.
        exact_turns: Servers are started with what continues conversations with tools by ids (`--enable-scale-out`).
        arguments: Further arguments of `vllm serve`.
        environment: Further environment variables of the servers.
        serve_only: There is no learner, and torch is not needed here.
        learner: Options of the torch engine that learns, such as `lora` and `micro_batch_tokens`.
        update: How servers get whole weights: `in-place`, by a `restart`, or `auto`: in place if they can.
        pause: What happens to answers under way when whole weights are replaced.
        tolerance: Largest difference of a log-probability between server and learner that a new version may show; 0
            is 0.002 for float32 and 0.3 otherwise.
        start_timeout_s: Longest that a server may take to be ready, in seconds.
        update_timeout_s: Longest that a server may take for one step of an update, draining included, in seconds.
        stop_timeout_s: Longest that a server may take to end by itself, in seconds.
    """

    model: str = ""
    build: dict[str, Json] | None = None
    name: str = "policy"
    servers: tuple[str, ...] = ()
    api_key_env: str = ""
    replicas: int = 1
    python: str = ""
    port: int = 0
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    context: int = 0
    tool_parser: str = "auto"
    exact_turns: bool = True
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    serve_only: bool = False
    learner: dict[str, Json] = {}
    update: Literal["auto", "in-place", "restart"] = "auto"
    pause: PauseMode = "wait"
    tolerance: float = 0.0
    start_timeout_s: float = 600.0
    update_timeout_s: float = 600.0
    stop_timeout_s: float = 15.0

    @property
    def lora_rank(self) -> int:
        """Rank of the learner's adapters; 0 if it trains whole weights."""
        lora = self.learner.get("lora")
        return int(str(lora.get("rank", 16))) if isinstance(lora, dict) and not self.serve_only else 0

    @property
    def torch(self) -> dict[str, Json]:
        """Options of the learner's own engine."""
        shared: dict[str, Json] = {"name": self.name, "dtype": self.dtype, "context": self.context}
        source: dict[str, Json] = {"model": self.model} if self.model else {"build": self.build}
        return {**shared, **source, **self.learner}


def decode_options(options: Mapping[str, Json]) -> VllmOptions:
    """Checks the options as far as that needs no server.

    Raises:
        ConfigError: A key is unknown or has a wrong type, or options contradict each other.
    """
    decoded = decode_params(options, VllmOptions, where="engine 'vllm'")
    joins = bool(decoded.servers)
    if decoded.model and decoded.build is not None:
        raise ConfigError(
            f"engine 'vllm' takes one of model and build, found model={decoded.model!r} and a build; drop one"
        )
    if not decoded.model and decoded.build is None and not (joins and decoded.serve_only):
        raise ConfigError(
            "engine 'vllm' needs a model; set model to a Hugging Face directory, or build to a table with a corpus"
        )
    if decoded.build is not None and decoded.serve_only:
        raise ConfigError("engine 'vllm': build is the learner's work; set model, or drop serve_only")
    if decoded.model and not decoded.serve_only and not (Path(decoded.model) / "config.json").is_file():
        raise ConfigError(
            f"engine 'vllm': model {decoded.model!r} has no config.json; give the path of a Hugging Face directory"
        )
    if decoded.replicas < 1:
        raise ConfigError(f"engine 'vllm': replicas is {decoded.replicas!r}; it must be at least 1")
    if joins and decoded.update == "restart":
        raise ConfigError(
            "engine 'vllm': update is 'restart', but the servers were not started here; use 'in-place'"
        )
    if decoded.lora_rank > LARGEST_RANK:
        raise ConfigError(
            f"engine 'vllm', lora: rank is {decoded.lora_rank!r}; servers take {LARGEST_RANK} at most"
        )
    for url in decoded.servers:
        if not url.startswith(("http://", "https://")) or not url.rstrip("/").endswith("/v1"):
            raise ConfigError(
                f"engine 'vllm': server {url!r} is no base URL; write it as http://HOST:PORT/v1"
            )
    own = {"model", "build", "name", "dtype", "context"} & decoded.learner.keys()
    if own:
        raise ConfigError(
            f"engine 'vllm': learner sets {sorted(own)!r}, which server and learner have in common; set it one level up"
        )
    return decoded
