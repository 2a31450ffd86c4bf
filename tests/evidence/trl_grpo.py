"""The same agent trained by TRL's GRPO on flattened rows: each of its calls is a row with its rollout's advantage.

Sampling, loss, clipping, optimiser and loop are TRL's and Transformers' own; what is ours is the agent's program, as it
has to be written for a batch, and that the rows of an update are as many as there were calls.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", CUDA_VISIBLE_DEVICES="")


import torch
from curves import Curve, Stopwatch
from datasets import Dataset
from demo_agent import MAX_CALLS, MAX_TOKENS, use
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from agentlightning.demo import tasks
from agentlightning.demo.calculator import SYSTEM, TOOLS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CALL: Final = "<|call|>"
MICRO_BATCHES: Final = 4
"""Of an update; padding costs more in larger ones."""


@dataclass
class Play:
    """One rollout: its conversation, and a row for each call."""

    task: dict[str, str]
    messages: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[list[int], list[int]]] = field(default_factory=list)
    output: str | None = None


class FlattenedRows(GRPOTrainer):  # type: ignore[misc]  # without type information
    """GRPO whose completions are those of an agent that calls several times."""

    def __init__(self, *args: Any, group_size: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.group_size = group_size
        self.curve = Curve()
        self.watch = Stopwatch()
        tokenizer = cast("Any", self.processing_class)
        self._sampling = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_k=0,
            max_new_tokens=MAX_TOKENS,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    def training_step(self, *args: Any, **options: Any) -> torch.Tensor:
        """TRL's own; the time up to the end of an update is that update's."""
        self.watch.go()
        return cast("torch.Tensor", super().training_step(*args, **options))

    def updated(self) -> None:
        """Notes what the update took."""
        cpu_s, wall_s = self.watch.read()
        self.curve.cpu_s.append(cpu_s)
        self.curve.wall_s.append(wall_s)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        plays = [Play(task={"question": one["question"], "answer": one["answer"]}) for one in inputs]
        for play in plays:
            play.messages = [
                {"role": "system", "content": SYSTEM},
                {"role": "user", "content": play.task["question"]},
            ]
        for _ in range(MAX_CALLS):
            if active := [play for play in plays if play.output is None]:
                self._turn(active)
        rewards_B = torch.tensor([tasks.grade(play.task, play.output or "") for play in plays])
        rewards_G = rewards_B.view(-1, self.group_size)
        advantages_G = (rewards_G - rewards_G.mean(1, keepdim=True)) / (rewards_G.std(1, keepdim=True) + 1e-4)
        self.curve.success.append(rewards_B.mean().item())
        self.curve.rollouts.append(len(self.curve.success) * len(plays))
        return self._rows(plays, advantages_G.view(-1).tolist())

    @torch.no_grad()
    def _turn(self, plays: Sequence[Play]) -> None:
        """One call of each, sampled in one batch."""
        tokenizer = cast("Any", self.processing_class)
        texts = tokenizer.apply_chat_template(
            [play.messages for play in plays], tools=TOOLS, add_generation_prompt=True, tokenize=False
        )
        asked = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        answered = cast("Any", self.model).generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            generation_config=self._sampling,
        )
        for play, prompt, mask, row in zip(
            plays, asked["input_ids"], asked["attention_mask"], answered, strict=True
        ):
            completion = row[len(prompt) :].tolist()
            if tokenizer.eos_token_id in completion:
                completion = completion[: completion.index(tokenizer.eos_token_id) + 1]
            play.rows.append((prompt[mask.bool()].tolist(), completion))
            _continue(play, tokenizer.decode(completion, skip_special_tokens=False))

    def _rows(self, plays: Sequence[Play], advantages: Sequence[float]) -> dict[str, Any]:
        """What TRL's loss takes; rows without a token fill the last micro-batch."""
        pad = cast("Any", self.processing_class).pad_token_id
        rows = [(*row, value) for play, value in zip(plays, advantages, strict=True) for row in play.rows]
        rows += [([pad], [], 0.0)] * (-len(rows) % MICRO_BATCHES)
        before = max(len(prompt) for prompt, _, _ in rows)
        after = max(len(completion) for _, completion, _ in rows)
        made = {
            "prompt_ids": [[pad] * (before - len(prompt)) + prompt for prompt, _, _ in rows],
            "prompt_mask": [[0] * (before - len(prompt)) + [1] * len(prompt) for prompt, _, _ in rows],
            "completion_ids": [answer + [pad] * (after - len(answer)) for _, answer, _ in rows],
            "completion_mask": [[1] * len(answer) + [0] * (after - len(answer)) for _, answer, _ in rows],
            "advantages": [value for _, _, value in rows],
        }
        tensors = {name: torch.tensor(values) for name, values in made.items()}
        return tensors | {"num_items_in_batch": tensors["completion_mask"].sum()}


def _continue(play: Play, answer: str) -> None:
    """What the agent does with an answer: as `agentlightning.demo.agent`."""
    content, *calls = answer.removesuffix("<|end|>").split(CALL)
    if not calls:
        play.output = content
        return
    named = [call.partition(" ")[::2] for call in calls]
    play.messages.append(
        {
            "role": "assistant",
            "content": content,
            "tool_calls": [
                {"type": "function", "function": {"name": name, "arguments": arguments}}
                for name, arguments in named
            ],
        }
    )
    play.messages += [{"role": "tool", "content": use(name, arguments)} for name, arguments in named]


class _Noting(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: FlattenedRows) -> None:
        self._trainer = trainer

    def on_step_end(self, *_: object, **__: object) -> None:
        self._trainer.updated()


def train(
    model: Path,
    *,
    seed: int,
    updates: int,
    tasks_per_update: int,
    group_size: int,
    learning_rate: float,
    folder: Path,
) -> Curve:
    """Trains, and writes the model into `folder / "trained"`."""
    torch.set_num_threads(1)
    auto: Any = AutoModelForCausalLM
    tokenizer: Any = AutoTokenizer
    rollouts = tasks_per_update * group_size
    asked = [{**one, "prompt": one["question"]} for one in tasks.training_tasks(seed, 2_000)]
    arguments = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=rollouts // MICRO_BATCHES,
        gradient_accumulation_steps=MICRO_BATCHES,
        num_generations=group_size,
        max_steps=updates,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        beta=0.0,
        seed=seed,
        report_to=[],
        use_cpu=True,
        bf16=False,
        fp16=False,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    trainer = FlattenedRows(
        model=auto.from_pretrained(model, dtype=torch.float32),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list(asked),
        processing_class=tokenizer.from_pretrained(model, padding_side="left"),
        group_size=group_size,
    )
    trainer.add_callback(_Noting(trainer))
    trainer.train()
    trainer.save_model(str(folder / "trained"))
    return trainer.curve
