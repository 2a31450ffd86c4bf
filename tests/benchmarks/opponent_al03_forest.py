"""Agent Lightning 0.3's triplets, of spans as it captures them. Runs in that environment, as a `Worker`."""

from __future__ import annotations

import logging

from answering import Stopwatch, serve
from turns import rollout

import agentlightning as agl
from agentlightning.types import Span

TRACE = f"{1:032x}"
ROOT = f"{1:016x}"


def spans(*, turns: int, rollouts: int) -> dict[str, float]:
    """Makes triplets of rollouts."""
    recorded = [_spans(turns, seed) for seed in range(rollouts)]
    adapter = agl.TracerTraceToTriplet()
    watch = Stopwatch()
    found = [adapter.adapt(one) for one in recorded]
    taken = watch.per(rollouts)
    if any(len(one) != turns or one[-1].reward != 1.0 for one in found):
        raise AssertionError(f"{[len(one) for one in found]} triplets were made of {turns} turns")
    return taken


def _spans(turns: int, seed: int) -> list[Span]:
    made = [_span(0, "rollout.session", {"agentops.span.kind": "session"}, times=(0.0, turns + 2.0))]
    messages = [("system", "s" * 500), ("user", "q" * 300)]
    for index, turn in enumerate(rollout(turns, seed=seed)):
        attributes: dict[str, object] = {
            "gen_ai.request.type": "chat",
            "gen_ai.system": "OpenAI",
            "gen_ai.request.model": "m",
            "gen_ai.response.id": f"c{index}",
            "gen_ai.response.model": "m",
            "gen_ai.usage.prompt_tokens": len(turn.prompt),
            "gen_ai.usage.completion_tokens": len(turn.answer),
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": "a" * 250,
            "prompt_token_ids": turn.prompt,
            "response_token_ids": turn.answer,
        }
        for place, (role, content) in enumerate(messages):
            attributes[f"gen_ai.prompt.{place}.role"] = role
            attributes[f"gen_ai.prompt.{place}.content"] = content
        made.append(_span(index + 1, "openai.chat.completion", attributes, times=(1.0 + index, 1.5 + index)))
        messages += [("assistant", "a" * 250), ("user", "o" * 160)]
    reward = {"agentlightning.reward.0.name": "primary", "agentlightning.reward.0.value": 1.0}
    made.append(_span(turns + 1, "agentlightning.annotation", reward, times=(turns + 1.0, turns + 1.0)))
    return made


def _span(index: int, name: str, attributes: dict[str, object], *, times: tuple[float, float]) -> Span:
    return Span.from_attributes(
        attributes=attributes,
        rollout_id="r",
        attempt_id="a",
        sequence_id=index,
        name=name,
        trace_id=TRACE,
        span_id=f"{index + 1:016x}",
        parent_id=ROOT if index else None,
        start_time=times[0],
        end_time=times[1],
    )


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    serve({"spans": spans})
