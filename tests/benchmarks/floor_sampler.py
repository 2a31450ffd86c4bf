"""`generate` of transformers in this process, on whole batches: `floor_sampler.py MODEL`. Runs as a `Worker`."""

from __future__ import annotations

import sys

import torch
from answering import Stopwatch, serve
from chats import ANSWER, text
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(model: str) -> None:
    """Serves until there are no more questions."""
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(model).eval()

    def generate(first: int, batch: int, batches: int) -> dict[str, float]:
        sampled = 0
        watch = Stopwatch()
        for number in range(batches):
            turns = [
                [{"role": "user", "content": text(first + number * batch + row)}] for row in range(batch)
            ]
            prompt = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True
            )
            with torch.inference_mode():
                answer = policy.generate(
                    input_ids=prompt["input_ids"],
                    attention_mask=prompt["attention_mask"],
                    max_new_tokens=ANSWER,
                    min_new_tokens=ANSWER,
                    do_sample=True,
                    top_k=0,
                    output_logits=True,
                    return_dict_in_generate=True,
                    pad_token_id=0,
                )
            ids = answer.sequences[:, -ANSWER:]
            logprobs = torch.log_softmax(torch.stack(answer.logits, 1), -1).gather(2, ids[..., None])
            assert logprobs.isfinite().all()
            sampled += ids.numel()
        return {"tokens": sampled, **watch.per(1)}

    serve({"generate": generate})


if __name__ == "__main__":
    main(sys.argv[1])
