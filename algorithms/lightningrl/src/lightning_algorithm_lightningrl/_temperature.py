"""At which temperature the trained calls were sampled: the learner knows one policy, that of temperature 1."""

from __future__ import annotations

from agentlightning import semconv
from agentlightning.types import Experience


def temperatures(experience: Experience) -> list[float]:
    """Of each trained call that says it, in the order of the spans; those that say nothing had the model's own."""
    trained = {
        one.id
        for trajectory in experience.trajectories
        for one in trajectory.transitions
        if one.tokens is not None
    }
    calls = (
        (f"{span.attempt_id}/{span.span_id}", span.attributes.get(semconv.REQUEST_TEMPERATURE))
        for episode in experience.episodes
        for span in episode.spans
        if span.tokens
    )
    return [
        float(value)
        for name, value in calls
        if isinstance(value, int | float) and not trained.isdisjoint((name, f"{name}:0"))
    ]


def temperature_metrics(found: list[float]) -> dict[str, float]:
    """The least and greatest; nothing where no call says its own."""
    if not found:
        return {}
    return {"sampling/temperature/min": min(found), "sampling/temperature/max": max(found)}


def off_policy(found: list[float]) -> str:
    """What to say of calls whose policy is not the one that is trained; empty if there are none."""
    other = [value for value in found if value != 1.0]
    if not other:
        return ""
    low, high = min(other), max(other)
    at = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    alike = "; at 0 the rollouts of a task are alike, and nothing can be compared" if low == 0 else ""
    return (
        f"{len(other)} of {len(found)} trained calls that name their temperature were sampled at {at}, and the learner "
        f"trains the policy of temperature 1: ratios begin away from 1, and clip{alike}. Sample at 1 in training: "
        "sampling={Mode.TRAIN: Sampling(temperature=1.0)}, or temperature = 1.0 under [sampling.train]"
    )
