"""The learner: the torch engine's, whose versions go to the servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from agentlightning.engine import LossSpec, OptimizerConfig, ReferenceLearner, Tokenized, ValueLearner
from agentlightning.types import Json, TokenForest
from lightning_plugin_vllm._engine import VllmEngine
from lightning_plugin_vllm._updates import Updates
from lightning_plugin_vllm._weights import TrainedWeights


class VllmLearner:
    """Trains in this process; see `Learner` for what each method does."""

    def __init__(self, engine: VllmEngine, weights: TrainedWeights, updates: Updates) -> None:
        self._engine = engine
        self._weights = weights
        self._learner = weights.learner
        self._updates = updates
        self._changed = False

    async def tokenize(
        self, messages: Sequence[Mapping[str, Json]], *, tools: Sequence[Mapping[str, Json]] = ()
    ) -> Tokenized:
        """Renders a whole conversation."""
        return await self._learner.tokenize(messages, tools=tools)

    async def forward_backward(self, forest: TokenForest, loss: LossSpec) -> dict[str, float]:
        """Adds the gradients of a loss."""
        return await self._learner.forward_backward(forest, loss)

    async def logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Log-probabilities under the learner's weights, which the servers have after `publish`."""
        return await self._learner.logprobs(forest)

    async def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        """Applies and clears the gradients."""
        self._changed = True
        return await self._learner.optim_step(config)

    async def publish(self) -> int:
        """Gives the servers the current weights, and compares what they compute; nothing new is not sent again.

        Raises:
            EngineError: A server did not take them, or computes something else.
        """
        if self._changed:
            await self._updates.push(self._weights.version)
            await self._weights.check(self._engine)
            self._changed = False
        return self._engine.version

    async def save_state(self, directory: Path) -> None:
        """Writes weights or adapters, optimiser and version."""
        await self._learner.save_state(directory)

    async def load_state(self, directory: Path) -> None:
        """The inverse of `save_state`; the servers get the weights at once, under a version of their own."""
        await self._learner.load_state(directory)
        self._changed = True
        await self.publish()

    async def save_model(self, directory: Path) -> None:
        """Writes a Hugging Face model directory; adapters are merged."""
        await self._learner.save_model(directory)


class VllmReferenceLearner(VllmLearner):
    """One that keeps the weights which the run began with."""

    async def reference_logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Log-probabilities under those weights."""
        return await cast("ReferenceLearner", self._learner).reference_logprobs(forest)


class VllmValueLearner(VllmLearner):
    """One with a value head, of which the servers know nothing."""

    async def values(self, forest: TokenForest) -> list[list[float]]:
        """Return that the head expects before each response token; 0 for all other nodes."""
        return await cast("ValueLearner", self._learner).values(forest)


class VllmReferenceValueLearner(VllmReferenceLearner, VllmValueLearner):
    """One with both."""


KINDS: Final = {
    (False, False): VllmLearner,
    (True, False): VllmReferenceLearner,
    (False, True): VllmValueLearner,
    (True, True): VllmReferenceValueLearner,
}
"""By whether the torch engine's learner has a reference and a value head."""


def create_learner(engine: VllmEngine, weights: TrainedWeights, updates: Updates) -> VllmLearner:
    """The learner that does what the torch engine's does."""
    trained = weights.learner
    kind = KINDS[isinstance(trained, ReferenceLearner), isinstance(trained, ValueLearner)]
    return kind(engine, weights, updates)
