"""Builds a tiny model with a tokenizer of its own, as a Hugging Face directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from agentlightning.errors import ConfigError
from agentlightning.types import Json
from lightning_plugin_torch._compact import CHAT_TEMPLATE, CONTROL_TOKENS, END, PAD, pieces
from lightning_plugin_torch._messages import Message, Tool, as_messages, as_tools
from lightning_plugin_torch._model import silence
from lightning_plugin_torch._options import BuildOptions
from lightning_plugin_torch._writing import writing

PATTERN = r"[0-9]{{1,{digits}}}|[^\W\d]+ ?| ?[^\s\w]+(?: [^\s\w]+)* ?|\s+|\w"
"""Short runs of digits; words, and runs of signs, with the spaces beside them, so that numbers stand alone."""


def build(options: BuildOptions, *, seed: int, directory: Path) -> None:
    """Writes model, config and tokenizer into `directory`; the same seed writes the same files.

    Raises:
        ConfigError: The corpus is not what it should be.
        StoreUnavailable: The files cannot be written.
    """
    conversations = list(_conversations(Path(options.corpus)))
    tokenizer = _tokenizer(options, conversations)
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(_config(options, tokenizer), dtype=torch.float32)
    with writing(directory), silence():
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)


def _conversations(path: Path) -> Iterator[tuple[list[Message], list[Tool]]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record: dict[str, Json] = json.loads(line)
                yield as_messages(record["messages"]), as_tools(record.get("tools"))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ConfigError(
                    f"engine 'torch', build: line {number} of corpus {str(path)!r} is not a conversation ({error!r}); "
                    'write one {"messages": [...], "tools": [...]} per line'
                ) from error


def _tokenizer(
    options: BuildOptions, conversations: list[tuple[list[Message], list[Tool]]]
) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the conversations as they are rendered."""
    texts = [
        piece
        for messages, tools in conversations
        for piece in pieces(messages, tools, generate=False)
        if isinstance(piece, str) and piece not in CONTROL_TOKENS
    ]
    if options.digits == 2:
        texts += [str(number) for number in range(10, 100)] * len(conversations)  # every pair becomes a token
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERN.format(digits=options.digits)), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        special_tokens=list(CONTROL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrap: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerFast = wrap(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, model_max_length=options.context
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _config(options: BuildOptions, tokenizer: PreTrainedTokenizerFast) -> PreTrainedConfig:
    feed_forward = options.feed_forward or 2 * options.width
    ids: dict[str, Any] = {
        "initializer_range": options.init_std,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if options.style == "gpt2":
        return GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=options.width,
            n_inner=feed_forward,
            n_layer=options.layers,
            n_head=options.heads,
            n_positions=options.context,
            tie_word_embeddings=options.tied,
            **ids,
        )
    style = LlamaConfig if options.style == "llama" else Qwen3Config
    return style(
        vocab_size=len(tokenizer),
        hidden_size=options.width,
        intermediate_size=feed_forward,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        head_dim=options.width // options.heads,
        max_position_embeddings=options.context,
        tie_word_embeddings=options.tied,
        **ids,
    )
