"""Our learner, on forests of the calls and on their rows. Runs as a `Worker`."""

from __future__ import annotations

import resource
from functools import cache
from itertools import groupby
from pathlib import Path

import torch
from answering import Stopwatch, serve
from learner_work import MODEL, VOCABULARY, samples
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agentlightning.engine import LossSpec, OptimizerConfig
from agentlightning.pipeline import merge_calls
from agentlightning.types import TokenForest, TokenRecord, Transition
from lightning_plugin_torch._attention import ATTENTION, register_attention
from lightning_plugin_torch._model import LoadedModel
from lightning_plugin_torch._options import TorchOptions
from lightning_plugin_torch._trainer import Trainer

LOSS = LossSpec(name="policy_gradient", target="contender_learner:policy_gradient")
OPTIMIZER = OptimizerConfig(learning_rate=0.0)


class Unsampled:
    """Stands where a sampler would: nothing is sampled here."""

    version = 0

    def weights_changed(self) -> None:
        """Nothing to forget."""


def policy_gradient(
    logprobs_T: torch.Tensor, **columns: torch.Tensor
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """As the opponents compute it: the ratio to itself."""
    ratio_T = (logprobs_T - logprobs_T.detach()).exp()
    return -(ratio_T * columns["advantages_T"] * columns["weights_T"]).sum(), {}


def forest(*, work: str) -> dict[str, float]:
    """Each token once."""
    return _step(work, _trainer(rows=False))


def rows(*, work: str) -> dict[str, float]:
    """Each call by itself."""
    return _step(work, _trainer(rows=True))


def _step(work: str, trainer: Trainer) -> dict[str, float]:
    batch = _forest(work)
    watch = Stopwatch()
    trainer.forward_backward(batch, LOSS)
    metrics = trainer.optim_step(OPTIMIZER)
    taken = watch.per(1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**taken, "grad_norm": metrics["grad_norm"], "peak_bytes": peak, "unique_tokens": batch.size}


@cache
def _forest(work: str) -> TokenForest:
    calls = list(enumerate(samples(work)))
    merged = merge_calls(
        (
            f"group-{group}",
            [
                Transition(
                    id=str(index),
                    rollout_id=str(sample.rollout),
                    index=index,
                    tokens=TokenRecord.pack(
                        sample.prompt, sample.answer, [-1.0] * len(sample.answer), version=0
                    ),
                )
                for index, sample in members
            ],
        )
        for group, members in groupby(calls, key=lambda call: call[1].group)
    )
    trained = sum(len(sample.answer) for _, sample in calls)
    return merged.assign(
        advantages={str(index): sample.advantage for index, sample in calls},
        weights={str(index): 1 / trained for index, _ in calls},
    )


@cache
def _trainer(*, rows: bool) -> Trainer:
    register_attention()
    torch.manual_seed(0)
    create = LlamaForCausalLM._from_config
    module = create(LlamaConfig(**MODEL), attn_implementation=ATTENTION).eval()
    names = {str(token): token for token in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(names, unk_token="0")), eos_token="1"
    )
    model = LoadedModel(module=module, tokenizer=tokenizer, context=4096, device=torch.device("cpu"))
    options = TorchOptions(model="made here", rows=rows)
    return Trainer(model, Unsampled(), options=options, directory=Path.cwd(), checked=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"forest": forest, "rows": rows})
