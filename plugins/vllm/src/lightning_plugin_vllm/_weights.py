"""Where weights come from: a directory that stays as it is, or the torch engine's learner."""

from __future__ import annotations

import logging
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from agentlightning.engine import Backend, Learner
from agentlightning.errors import ConfigError, EngineError, MissingExtra
from agentlightning.types import TokenForest, TokenTree
from agentlightning.versions import Versions
from lightning_plugin_vllm._files import written_whole
from lightning_plugin_vllm._options import VllmOptions

if TYPE_CHECKING:
    from lightning_plugin_vllm._engine import VllmEngine

_log = logging.getLogger(__name__)
FINE_TOLERANCE, COARSE_TOLERANCE = 0.002, 0.3
PROBE = (
    {"role": "user", "content": "Which weights are these? 0123456789"},
    {"role": "assistant", "content": "The newest ones."},
)


class TorchLearner(Learner, Protocol):
    """The torch engine's learner."""

    async def save_adapter(self, directory: Path) -> None:
        """Writes the adapters by themselves, as PEFT does."""
        ...


class GivenWeights:
    """Weights that nobody trains."""

    version = 0

    def __init__(self, options: VllmOptions) -> None:
        self._options = options

    async def start(self) -> str:
        """The directory that was given."""
        return self._options.model

    async def check(self, engine: VllmEngine) -> None:
        """There is nothing to compare with."""

    async def stop(self) -> None:
        """Nothing is held."""


class TrainedWeights:
    """Weights of a learner in this process.

    Attributes:
        learner: It; its engine's sampler is not used.
    """

    def __init__(self, options: VllmOptions, *, seed: int, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._learner_directory = directory / "learner"
        self._backend = _torch_backend(options, seed=seed, directory=self._learner_directory)
        self.learner = cast("TorchLearner", self._backend.learner)

    @property
    def version(self) -> int:
        """Policy version of the learner's weights."""
        return self._backend.engine.version

    async def start(self) -> str:
        """Loads the model; one that is built here is written for the servers."""
        Versions(self._learner_directory).skip(Versions(self._directory).newest)
        await self._backend.engine.start()
        if self._options.model:
            return self._options.model
        async with written_whole(self._directory / "weights", version=self.version) as place:
            await self.learner.save_model(place.part)
        return str(place.final)

    async def stop(self) -> None:
        """Frees the model."""
        await self._backend.engine.stop()

    async def check(self, engine: VllmEngine) -> None:
        """Compares log-probabilities of a short conversation between learner and servers.

        Raises:
            EngineError: They differ by more than the tolerance: the servers compute with other weights.
        """
        try:
            tokenized = await self.learner.tokenize([dict(message) for message in PROBE])
        except ConfigError:
            return  # a template that cannot render it says nothing about weights
        ids = tokenized.token_ids
        mine = (await self.learner.logprobs(_chain(ids)))[0][1:]
        tolerance = self._options.tolerance or (
            FINE_TOLERANCE if self._options.dtype == "float32" else COARSE_TOLERANCE
        )
        for replica, theirs in zip(engine.replicas, await engine.logprobs(ids), strict=True):
            worst = max(abs(one - other) for one, other in zip(mine, theirs, strict=True))
            _log.info(
                "version %d at %s: log-probabilities differ by %.2g",
                engine.version,
                replica.client.url,
                worst,
            )
            if not worst <= tolerance:
                raise EngineError(
                    f"vLLM at {replica.client.url} serves {engine.serving.name!r} as version {engine.version}, but its "
                    f"log-probabilities differ from the learner's by {worst:.3g}, more than {tolerance:g}: it computes "
                    "with other weights or another precision; set dtype, try update='restart', or raise tolerance"
                )


def _torch_backend(options: VllmOptions, *, seed: int, directory: Path) -> Backend:
    try:
        from lightning_plugin_torch import create_backend
    except ImportError as error:
        raise MissingExtra(
            f"engine 'vllm': its learner is the torch engine's, which cannot be imported ({error}); install it with: "
            "pip install 'lightning-plugin-vllm[learner]', or set serve_only"
        ) from error
    return create_backend(options.torch, seed=seed, directory=directory)


def _chain(ids: list[int]) -> TokenForest:
    size = len(ids)
    zeros = array("f", bytes(4 * size))
    tree = TokenTree(
        group="",
        token_ids=array("i", ids),
        parents=array("i", range(-1, size - 1)),
        positions=array("i", range(size)),
        logprobs=zeros,
        versions=array("i", [-1] * size),
        advantages=zeros,
        weights=zeros,
        calls=(),
    )
    return TokenForest(trees=(tree,))
