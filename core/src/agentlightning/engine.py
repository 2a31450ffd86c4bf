"""Contracts of what serves and what trains a model: `InferenceEngine` and `Learner`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from agentlightning.types import Json, TokenForest

ChatRequest = Mapping[str, Json]
"""Body of an OpenAI chat completion request. `return_token_ids`, `logprobs` and `seed` are honoured."""

ChatCompletion = dict[str, Json]
"""An OpenAI chat completion, with `prompt_token_ids` and, per choice, `token_ids` and `logprobs` when asked for."""

ChatChunk = dict[str, Json]
"""An OpenAI chat completion chunk; `prompt_token_ids` in the first, `token_ids` per choice in each when asked for."""


class InferenceEngine(Protocol):
    """Serves one model, in this process or behind a URL.

    Attributes:
        model: Name under which it is served.
        version: Policy version that it samples from now. It names one set of weights for ever, whatever process of the
            run serves them: it rises with each publish, and with each state that is loaded; see `versions`.
        endpoints: Base URLs of its OpenAI-compatible servers, each up to and including `/v1`, all of the same weights;
            empty if it is called in process by `chat` and `stream`.
    """

    model: str
    version: int
    endpoints: tuple[str, ...]

    async def start(self) -> None:
        """Loads the model and gets ready. Raises `EngineError`."""
        ...

    async def stop(self) -> None:
        """Frees what it holds; calls in flight are cancelled."""
        ...

    async def chat(self, request: ChatRequest) -> ChatCompletion:
        """Answers one request; safe to call from any thread's event loop. Cancelling the task ends the generation.

        The completion carries `policy_version`, and is the same for the same `seed`, prompt and weights, whatever
        else is being sampled at the time.

        Raises:
            EngineError: Sampling failed.
            ConfigError: The request cannot be honoured (too long a prompt, an unknown option).
        """
        ...

    def stream(self, request: ChatRequest) -> AsyncIterator[ChatChunk]:
        """Like `chat`, in chunks as they are sampled; the last one carries `usage` and `policy_version`."""
        ...


class LossInput(StrEnum):
    """What a loss may ask for beside log-probabilities, old log-probabilities, advantages and weights.

    - `calls`: `calls_T`, integers: which call of the batch a token belongs to; all tokens of a call come together.
    - `rollouts`: `rollouts_T`, integers: which rollout; all tokens of a rollout come together.
    - `reference`: `reference_logprobs_T`, of the tree's `reference_logprobs`.
    - `sampler`: `sampler_logprobs_T`, what the sampler reported, where `old_logprobs_T` is the learner's own.
    - `versions`: `versions_T`, integers: the policy version that sampled the token.
    - `values`: `values_T`, with gradient: the return that the value head expects before the token.
    - `old_values`: `old_values_T`, of the tree's `values`: what it expected when the update began.
    - `returns`: `returns_T`, of the tree's `returns`: what it is to expect.
    """

    CALLS = "calls"
    ROLLOUTS = "rollouts"
    REFERENCE = "reference"
    SAMPLER = "sampler"
    VERSIONS = "versions"
    VALUES = "values"
    OLD_VALUES = "old_values"
    RETURNS = "returns"


class LossSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A loss, by name for engines far away, by import string for those in this process.

    Attributes:
        name: The field's name for it, such as `ppo_clip` or `cross_entropy`.
        target: `module:function` with the signature described in `docs/explanation/learning.md`.
        params: Keyword arguments of the function.
        inputs: What else the function takes; a learner that cannot give one of them refuses the loss.
    """

    name: str
    target: str
    params: dict[str, float | int | str | bool] = {}
    inputs: tuple[LossInput, ...] = ()


class OptimizerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """AdamW settings of one optimiser step.

    Attributes:
        learning_rate: Step size.
        weight_decay: Decoupled weight decay.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Term in the denominator.
        max_grad_norm: Gradients are scaled down to this global norm; 0 is off. That of a value head has a norm of its
            own.
        value_learning_rate: Step size of a value head; None is `learning_rate`.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    value_learning_rate: float | None = None


class Tokenized(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation as token ids.

    Attributes:
        token_ids: `[T]`.
        assistant_mask: `[T]`, true on tokens that the assistant produces, its end-of-turn token included.
    """

    token_ids: list[int]
    assistant_mask: list[bool]


class Learner(Protocol):
    """Trains one model, in the shape of the Tinker API."""

    async def tokenize(
        self, messages: Sequence[Mapping[str, Json]], *, tools: Sequence[Mapping[str, Json]] = ()
    ) -> Tokenized:
        """Renders a whole conversation with the model's chat template."""
        ...

    async def forward_backward(self, forest: TokenForest, loss: LossSpec) -> dict[str, float]:
        """Adds the gradients of a loss over every node of non-zero weight; returns the loss and its metrics.

        Raises:
            NumericalError: The loss or a gradient is not finite; the gradients are discarded.
        """
        ...

    async def logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Log-probabilities of each tree's nodes under the current weights, `[trees][N]`; 0 for first tokens."""
        ...

    async def optim_step(self, config: OptimizerConfig) -> dict[str, float]:
        """Applies and clears the gradients; returns `grad_norm` and such."""
        ...

    async def publish(self) -> int:
        """Makes the current weights what the engine samples from; returns the new policy version."""
        ...

    async def save_state(self, directory: Path) -> None:
        """Writes weights, optimiser and version into an existing directory, as safetensors and JSON."""
        ...

    async def load_state(self, directory: Path) -> None:
        """The inverse of `save_state`, but for the version: what is loaded is served under a higher one.

        Raises:
            EngineError: The directory is incomplete.
        """
        ...

    async def save_model(self, directory: Path) -> None:
        """Writes a Hugging Face model directory: weights, config, tokenizer."""
        ...


@runtime_checkable
class ReferenceLearner(Learner, Protocol):
    """A learner that still knows the weights which its run began with: `isinstance` tells before training begins."""

    async def reference_logprobs(self, forest: TokenForest) -> list[list[float]]:
        """Log-probabilities of each tree's nodes under those weights, `[trees][N]`; 0 for first tokens."""
        ...


@runtime_checkable
class ValueLearner(Learner, Protocol):
    """A learner with a value head, for losses with the input `values`: `isinstance` tells before training begins."""

    async def values(self, forest: TokenForest) -> list[list[float]]:
        """Return that the head expects before each response token, `[trees][N]`; 0 for all other nodes."""
        ...


class Backend(Protocol):
    """What an engine plugin builds: something that serves, and maybe something that trains what it serves."""

    @property
    def engine(self) -> InferenceEngine:
        """What serves."""
        ...

    @property
    def learner(self) -> Learner | None:
        """What trains it; None for an engine that only serves."""
        ...


class BackendFactory(Protocol):
    """Target of an `EngineSpec`."""

    def __call__(self, options: Mapping[str, Json], *, seed: int, directory: Path) -> Backend:
        """Builds a backend.

        Args:
            options: The engine's section of the configuration; unknown keys are a `ConfigError`.
            seed: Seed of everything random in it.
            directory: Where it may keep files for this run.
        """
        ...
