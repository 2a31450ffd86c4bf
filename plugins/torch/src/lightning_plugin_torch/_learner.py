"""The learner as others see it: every call is a job on the thread that also samples."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from agentlightning.engine import LossSpec, OptimizerConfig, Tokenized
from agentlightning.errors import ConfigError
from agentlightning.types import Json, TokenForest
from lightning_plugin_torch._messages import as_messages, as_tools
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._trainer import Trainer
from lightning_plugin_torch._value_trainer import ValueTrainer
from lightning_plugin_torch._worker import Worker

if TYPE_CHECKING:
    from lightning_plugin_torch._engine import TorchEngine

Result = TypeVar("Result")


class TorchLearner:
    """Trains the weights that the engine samples from."""

    def __init__(self, engine: TorchEngine, worker: Worker) -> None:
        self._engine = engine
        self._worker = worker

    async def tokenize(
        self, messages: Sequence[Mapping[str, Json]], *, tools: Sequence[Mapping[str, Json]] = ()
    ) -> Tokenized:
        """Renders a whole conversation; each answer has the tokens that sampling it would give."""
        read = as_messages([dict(message) for message in messages])
        return self._engine.codec.tokenize(read, as_tools([dict(tool) for tool in tools]))

    async def forward_backward(self, forest: TokenForest, loss: LossSpec) -> dict[str, float]:
        """Adds the gradients of a loss over every node of non-zero weight.

        Returns:
            `loss` (the sum), `tokens` (nodes trained), and the loss's metrics as means over those nodes.

        Raises:
            NumericalError: The loss or a gradient is not finite; the gradients are discarded, the batch is on disk.
        """
        return await self._run(lambda trainer: trainer.forward_backward(forest, loss))

    async def logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Log-probabilities of each tree's nodes under the current weights; 0 for first tokens."""
        return await self._run(lambda trainer: trainer.logprobs(forest))

    async def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        """Applies and clears the gradients, and raises the version; returns `grad_norm` and `learning_rate`."""
        return await self._run(lambda trainer: trainer.optim_step(config))

    async def publish(self) -> int:
        """The version that is sampled from: sampler and learner share the weights, so nothing is copied."""
        return await self._run(lambda trainer: trainer.publish())

    async def save_state(self, directory: Path) -> None:
        """Writes weights, optimiser and version."""
        await self._run(lambda trainer: trainer.save_state(directory))

    async def load_state(self, directory: Path) -> None:
        """Puts weights, optimiser and version back, bit by bit. Raises `EngineError` if something is missing."""
        await self._run(lambda trainer: trainer.load_state(directory))

    async def save_model(self, directory: Path) -> None:
        """Writes a Hugging Face model directory; adapters are merged into the weights."""
        await self._run(lambda trainer: trainer.save_model(directory))

    async def save_adapter(self, directory: Path) -> None:
        """Writes the adapters by themselves, as PEFT does. Raises `EngineError` if whole weights are trained."""
        await self._run(lambda trainer: trainer.save_adapter(directory))

    async def _run(self, job: Callable[[Trainer], Result]) -> Result:
        trainer = self._engine.trainer

        def run() -> Result:
            result = job(trainer)
            self._engine.version = trainer.version
            return result

        return await asyncio.wrap_future(self._worker.submit(run))


class TorchReferenceLearner(TorchLearner):
    """One that keeps the weights which the run began with."""

    async def reference_logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Log-probabilities of each tree's nodes under those weights; 0 for first tokens."""
        return await self._run(lambda trainer: trainer.reference_logprobs(forest))


class TorchValueLearner(TorchLearner):
    """One with a value head."""

    async def values(self, forest: TokenForest) -> list[list[float]]:
        """Return that the head expects before each response token; 0 for all other nodes."""
        return await self._run(lambda trainer: _with_head(trainer).values(forest))


class TorchReferenceValueLearner(TorchReferenceLearner, TorchValueLearner):
    """One with both."""


KINDS: Final = {
    (False, False): TorchLearner,
    (True, False): TorchReferenceLearner,
    (False, True): TorchValueLearner,
    (True, True): TorchReferenceValueLearner,
}
"""By whether there is a reference and a value head: what a learner cannot do is not there."""


def create_learner(options: TorchOptions, engine: TorchEngine, *, worker: Worker) -> TorchLearner:
    """The learner that the options ask for."""
    return KINDS[options.keeps_reference, options.value_head is not None](engine, worker)


def _with_head(trainer: Trainer) -> ValueTrainer:
    if isinstance(trainer, ValueTrainer):
        return trainer
    raise ConfigError("this learner has no value head; set value_head = {} of engine 'torch'")
