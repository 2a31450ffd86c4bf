"""The engine's section of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from agentlightning.config import decode_params
from agentlightning.errors import ConfigError
from agentlightning.types import Json


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A tiny model with random weights and a tokenizer of its own.

    Attributes:
        corpus: JSON Lines of conversations, each with `messages` and maybe `tools`, that the tokenizer learns from.
        style: Architecture.
        layers: Transformer layers.
        width: Hidden size.
        heads: Attention heads; divides `width` into an even size per head.
        feed_forward: Size of the feed-forward layer; 0 is twice the width.
        vocabulary: Most tokens in the vocabulary, at least 263: every byte and the control tokens.
        context: Longest sequence in tokens.
        digits: Most digits in one token.
        init_std: Standard deviation of the random weights; small models learn faster from larger ones.
        tied: Input and output embeddings are one matrix.
    """

    corpus: str
    style: Literal["llama", "qwen3", "gpt2"] = "llama"
    layers: int = 4
    width: int = 128
    heads: int = 4
    feed_forward: int = 0
    vocabulary: int = 448
    context: int = 256
    digits: Literal[1, 2] = 1
    init_std: float = 0.02
    tied: bool = True


class LoraOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Low-rank adapters that are trained instead of the weights (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    Attributes:
        rank: Rank of each adapter.
        alpha: An adapter's product is scaled by `alpha / rank`.
        dropout: Always 0: what is trained has to be what was sampled from.
        targets: Names of the layers that get adapters, such as `q_proj`; empty is every linear layer but the output.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


class ValueHeadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """A value head: a linear layer on the last hidden states of the model, for losses that ask for values.

    Attributes:
        attached: Whether its gradients go on into the model. Otherwise they end at the head, and the policy learns from
            its own loss alone.
    """

    attached: bool = False


class TorchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the engine loads, samples and learns.

    Attributes:
        model: Hugging Face model directory.
        build: Builds a tiny model instead; see `BuildOptions`.
        name: Name under which the model is served.
        device: `cpu`, `cuda`, or `auto`: a GPU if there is one.
        dtype: Type of the weights; `auto` is bfloat16 on a GPU and float32 elsewhere.
        context: Longest sequence in tokens; 0 is the model's own limit.
        batch: Most rows of one decoding step; 0 chooses by model size. A run keeps it: it may change the last bits.
        max_active: Most sequences sampled at a time; more wait.
        max_waiting: Most sequences that wait; requests beyond are refused.
        prefix_cache_mib: Most memory for the keys and values of earlier prompts; 0 keeps none.
        in_flight: What becomes of keys and values of answers under way when weights change: they are kept, or computed
            anew. Training waits for such answers unless it is told not to, so that there are none.
        micro_batch_tokens: Most unique tokens in one forward and backward pass of the learner; larger trees are cut,
            but never a path.
        rows: Trains each call as a row of its own instead of as part of its tree.
        attention: How the learner attends: `blocks` gathers rows and uses torch's own attention, `flex` is
            FlexAttention, and `auto` that on a GPU.
        checkpointing: Keeps of each layer only its input until its gradient is computed, and computes the rest again:
            less memory, about a third more work.
        reference: Keeps a copy of the weights that the run began with, for losses with a reference policy. With
            adapters it costs next to nothing and is always kept.
        ranks: Processes that share the learner's work, each with a part of the weights (FSDP2); more than one are
            started by `torchrun --nproc-per-node N -m lightning_plugin_torch train …`.
        lora: Trains low-rank adapters and leaves the weights as they are; see `LoraOptions`.
        value_head: Adds a value head; see `ValueHeadOptions`.
        threads: CPU threads; 0 is one for models under 20 million parameters, else torch's default.
    """

    model: str = ""
    build: dict[str, Json] | None = None
    name: str = "policy"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    context: int = 0
    batch: int = 0
    max_active: int = 256
    max_waiting: int = 4096
    prefix_cache_mib: int = 256
    in_flight: Literal["keep", "recompute"] = "keep"
    micro_batch_tokens: int = 4096
    rows: bool = False
    attention: Literal["auto", "blocks", "flex"] = "auto"
    checkpointing: bool = False
    reference: bool = False
    ranks: int = 1
    lora: dict[str, Json] | None = None
    value_head: dict[str, Json] | None = None
    threads: int = 0

    @property
    def keeps_reference(self) -> bool:
        """Whether log-probabilities under the first weights can be computed."""
        return self.reference or self.lora is not None


def decode_options(options: Mapping[str, Json]) -> TorchOptions:
    """Checks the options as far as that needs no torch.

    Raises:
        ConfigError: A key is unknown or has a wrong type, or it is unclear which model is meant.
    """
    decoded = decode_params(options, TorchOptions, where="engine 'torch'")
    if bool(decoded.model) == (decoded.build is not None):
        raise ConfigError(
            f"engine 'torch' needs one of model and build, found model={decoded.model!r} and build={decoded.build!r}; "
            "set model to a Hugging Face directory, or build to a table with a corpus"
        )
    if decoded.model and not (Path(decoded.model) / "config.json").is_file():
        raise ConfigError(
            f"engine 'torch': model {decoded.model!r} has no config.json; give the path of a Hugging Face directory"
        )
    if decoded.micro_batch_tokens < 1:
        raise ConfigError(
            f"engine 'torch': micro_batch_tokens is {decoded.micro_batch_tokens!r}; it must be above 0"
        )
    if decoded.ranks < 1:
        raise ConfigError(f"engine 'torch': ranks is {decoded.ranks!r}; it must be above 0")
    if decoded.build is not None:
        decode_build(decoded.build)
    if decoded.lora is not None:
        decode_lora(decoded.lora)
    if decoded.value_head is not None:
        decode_value_head(decoded.value_head)
    return decoded


def decode_lora(options: Mapping[str, Json]) -> LoraOptions:
    """Checks the options of adapters.

    Raises:
        ConfigError: A key is unknown, or a value is out of range.
    """
    lora = decode_params(options, LoraOptions, where="engine 'torch', lora")
    if lora.rank < 1 or lora.alpha <= 0:
        raise ConfigError(
            f"engine 'torch', lora: rank is {lora.rank!r} and alpha {lora.alpha!r}; both must be above 0"
        )
    if lora.dropout:
        raise ConfigError(
            f"engine 'torch', lora: dropout is {lora.dropout!r}, but only 0 trains the policy that was sampled from"
        )
    return lora


def decode_value_head(options: Mapping[str, Json]) -> ValueHeadOptions:
    """Checks the options of a value head.

    Raises:
        ConfigError: A key is unknown.
    """
    return decode_params(options, ValueHeadOptions, where="engine 'torch', value_head")


def decode_build(options: Mapping[str, Json]) -> BuildOptions:
    """Checks the options of a model to build.

    Raises:
        ConfigError: A key is unknown, or the sizes do not fit together.
    """
    build = decode_params(options, BuildOptions, where="engine 'torch', build")
    if build.width % (2 * build.heads):
        raise ConfigError(
            f"engine 'torch', build: width {build.width!r} with {build.heads!r} heads leaves no even size per head; "
            "choose a width that is a multiple of twice the heads"
        )
    if not Path(build.corpus).is_file():
        raise ConfigError(
            f"engine 'torch', build: corpus {build.corpus!r} is not a file; "
            "give a JSON Lines file of conversations with `messages` and `tools`"
        )
    return build
