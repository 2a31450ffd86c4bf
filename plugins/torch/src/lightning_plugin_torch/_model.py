"""The Hugging Face model, loaded, with the few calls that sampler and learner make."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from agentlightning.errors import ConfigError, EngineError
from lightning_plugin_torch._attention import ATTENTION, register_attention
from lightning_plugin_torch._cache import Page, Recorder
from lightning_plugin_torch._last import LastLayer
from lightning_plugin_torch._lora import merged_weights
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._writing import writing

SMALL = 20_000_000
"""Models with fewer parameters run fastest on one thread, and afford many rows in a step."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A causal LM with its tokenizer.

    Attributes:
        module: The `transformers` model; dropout is off, gradients are on.
        tokenizer: Its tokenizer.
        context: Longest sequence in tokens.
        device: Where the weights are.
        sparse: Whether a forest's attention is FlexAttention.
        checkpointing: Whether layers of a forest are computed again for their gradients.
        last_layer: What is known of its last layer.
    """

    module: torch.nn.Module
    tokenizer: PreTrainedTokenizerFast
    context: int
    device: torch.device
    sparse: bool = False
    checkpointing: bool = False
    last_layer: LastLayer = field(default_factory=LastLayer)

    @property
    def vocabulary(self) -> int:
        """Width of the logits."""
        module: Any = self.module
        return int(module.get_output_embeddings().weight.shape[0])

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer, as far as the model's own files say."""
        module: Any = self.module
        ends = module.generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        return frozenset(end for end in (*listed, self.tokenizer.eos_token_id) if end is not None)

    def save(self, directory: Path) -> None:
        """Writes weights, config and tokenizer as a Hugging Face directory; adapters are merged into the weights."""
        module: Any = self.module
        with writing(directory), silence():
            module.save_pretrained(directory, state_dict=merged_weights(module))
            self.tokenizer.save_pretrained(directory)

    @property
    def small(self) -> bool:
        """Whether per-call overhead outweighs arithmetic."""
        return sum(p.numel() for p in self.module.parameters()) < SMALL

    def prefill(self, prompt: tuple[int, ...], recorder: Recorder) -> torch.Tensor:
        """Logits `[1, V]` after a prompt; its keys and values are left in `recorder`."""
        ids_1_T = torch.tensor([prompt], device=self.device)
        position_1_T = torch.arange(len(prompt), device=self.device)[None]
        visible_T_T = position_1_T <= position_1_T[0, :, None]
        return self._logits(ids_1_T, recorder, positions=position_1_T, visible=visible_T_T[None, None])

    def decode(self, page: Page) -> torch.Tensor:
        """Logits `[S, V]` after the last token of each row of a page."""
        ids_S_1, position_S_1, visible_S_1_1_C = page.feed()
        return self._logits(ids_S_1, page, positions=position_S_1, visible=visible_S_1_1_C)

    def head(self, hidden_K_D: torch.Tensor) -> torch.Tensor:
        """Logits `[K, V]` in float32."""
        module: Any = self.module
        logits_K_V: torch.Tensor = module.get_output_embeddings()(hidden_K_D)
        return logits_K_V.float()

    def _logits(
        self,
        ids: torch.Tensor,
        cache: Page | Recorder,
        *,
        positions: torch.Tensor,
        visible: torch.Tensor,
    ) -> torch.Tensor:
        output = self.module(
            input_ids=ids,
            position_ids=positions,
            attention_mask=visible,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_S_V: torch.Tensor = output.logits[:, -1].float()
        return logits_S_V


def load(path: Path, options: TorchOptions) -> LoadedModel:
    """Loads a Hugging Face directory; nothing is fetched from anywhere.

    Raises:
        ConfigError: The device or the context is not available.
        EngineError: The directory cannot be loaded.
    """
    device = _device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    if options.dtype != "auto":
        dtype = torch.float32 if options.dtype == "float32" else torch.bfloat16
    register_attention()
    module: Any
    tokenizer: Any
    try:
        with silence():
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            module = AutoModelForCausalLM.from_pretrained(
                path, local_files_only=True, dtype=dtype, attn_implementation=ATTENTION
            )
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"cannot load the model in {str(path)!r}: {error}") from error
    module.to(device).eval()
    limit = _longest(module.config)
    if options.context > limit:
        raise ConfigError(
            f"engine 'torch': context {options.context!r} is more than the model's {limit}; lower it or set it to 0"
        )
    if options.attention == "flex" and device.type != "cuda":
        raise ConfigError(
            f"engine 'torch': attention 'flex' was asked for, but FlexAttention has no gradients on {device.type!r}; "
            "use 'auto', or a GPU"
        )
    if options.checkpointing and not layers_of(module):
        raise ConfigError(
            f"engine 'torch': checkpointing was asked for, but {type(module).__name__} has no layers that are known to "
            "bear it; leave it off, or choose another architecture"
        )
    return LoadedModel(
        module=module,
        tokenizer=tokenizer,
        context=options.context or limit,
        device=device,
        sparse=options.attention == "flex" or (options.attention == "auto" and device.type == "cuda"),
        checkpointing=options.checkpointing,
    )


def layers_of(module: torch.nn.Module) -> list[Any]:
    """The decoder's layers."""
    return [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]


@contextmanager
def silence() -> Iterator[None]:
    """Keeps the progress bars of `transformers` off the terminal meanwhile."""
    bars: Any = logging
    enabled = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            bars.enable_progress_bar()


def _longest(config: PreTrainedConfig) -> int:
    """Longest sequence in which every token sees all before it: a sliding window is never left."""
    longest = int(getattr(config, "max_position_embeddings", 0))
    if not longest:
        raise EngineError(
            f"{type(config).__name__} has no max_position_embeddings; choose another architecture"
        )
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True):
        return min(longest, int(window))
    return longest


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"engine 'torch': device {name!r} was asked for, but torch finds no GPU; use 'cpu' or 'auto'"
        )
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"  # torchrun gives each process a GPU of its own
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"engine 'torch': device {name!r} is unknown; use 'auto', 'cpu' or 'cuda'"
        ) from error
