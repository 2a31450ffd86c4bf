"""TRL's GRPO update of ready rows: its own loss, backward pass, clipping and optimiser. A `Worker`."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", CUDA_VISIBLE_DEVICES="")

import torch
from answering import Stopwatch, serve
from datasets import Dataset
from learner_work import MODEL, VOCABULARY, Sample, samples
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

ROWS = 32
"""Rows of one forward and backward pass: what the equal shapes have."""


class ReadyTrainer(GRPOTrainer):
    """Trains what it is given instead of generating it."""

    def _prepare_inputs(self, generation_batch: dict[str, Any]) -> dict[str, Any]:
        return generation_batch


def rows(*, work: str) -> dict[str, float]:
    """One update."""
    made = samples(work)
    trained = sum(len(sample.answer) for sample in made)
    batches = [_batch(made[start : start + ROWS], trained) for start in range(0, len(made), ROWS)]
    watch = Stopwatch()
    for batch in batches:
        TRAINER.training_step(TRAINER.model, batch, trained)
    norm = TRAINER.accelerator.clip_grad_norm_(TRAINER.model.parameters(), 1.0)
    TRAINER.optimizer.step()
    TRAINER.model.zero_grad()
    taken = watch.per(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**taken, "grad_norm": float(norm), "peak_bytes": peak}


def _batch(made: list[Sample], trained: int) -> dict[str, Any]:
    """Rows padded as TRL pads them: prompts to the left, answers to the right."""
    before = max(len(sample.prompt) for sample in made)
    after = max(len(sample.answer) for sample in made)
    prompts = [[0] * (before - len(one.prompt)) + one.prompt for one in made]
    answers = [one.answer + [0] * (after - len(one.answer)) for one in made]
    return {
        "prompt_ids": torch.tensor(prompts),
        "prompt_mask": torch.tensor(
            [[0] * (before - len(one.prompt)) + [1] * len(one.prompt) for one in made]
        ),
        "completion_ids": torch.tensor(answers),
        "completion_mask": torch.tensor(
            [[1] * len(one.answer) + [0] * (after - len(one.answer)) for one in made]
        ),
        "advantages": torch.tensor([one.advantage for one in made]),
        "num_items_in_batch": torch.tensor(trained),
    }


def _trainer() -> ReadyTrainer:
    names = {str(token): token for token in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(names, unk_token="0")),
        pad_token="0",
        eos_token="1",
        padding_side="left",
    )
    torch.manual_seed(0)
    arguments = GRPOConfig(
        output_dir=str(Path.cwd() / "trl"),
        per_device_train_batch_size=ROWS,
        num_generations=8,
        learning_rate=0.0,
        report_to=[],
        use_cpu=True,
        bf16=False,
        fp16=False,
        save_strategy="no",
        disable_tqdm=True,
        beta=0.0,
        loss_type="dapo",
        gradient_checkpointing=False,
    )
    trainer = ReadyTrainer(
        model=LlamaForCausalLM(LlamaConfig(**MODEL)),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": ["1 2 3"] * 64}),
        processing_class=tokenizer,
    )
    trainer.create_optimizer_and_scheduler(num_training_steps=10**6)
    trainer.model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1
    return trainer


if __name__ == "__main__":
    print(sys.version, file=sys.stderr)
    torch.set_num_threads(1)
    TRAINER = _trainer()
    serve({"rows": rows})
