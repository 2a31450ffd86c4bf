"""What LightningRL computes on the batch, through the functions that training uses."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.metadata import version

import batch
import torch

from agentlightning.engine import LossSpec
from lightning_algorithm_lightningrl._advantage import Estimates, Rule, batch_advantages
from lightning_algorithm_lightningrl._rollouts import Played, Sampled
from lightning_algorithm_lightningrl.advantages import (
    Estimator,
    TokenGae,
    gdpo_advantages,
    group_advantages,
)
from lightning_algorithm_lightningrl.aggregation import Aggregation, SequenceSumNorm, token_weights
from lightning_algorithm_lightningrl.correction import (
    Correction,
    Geometric,
    IcePop,
    Level,
    Masked,
    Truncated,
    factors,
)
from lightning_algorithm_lightningrl.loss_settings import (
    Cispo,
    CispoCap,
    DppoKl,
    DppoTv,
    Drift,
    Gmpo,
    Gspo,
    Kl,
    Loss,
    PpoClip,
    Sapo,
    Unit,
    loss_spec,
)
from lightning_algorithm_lightningrl.losses import kl_divergence, value_loss
from lightning_algorithm_lightningrl.returns import discounted_returns, gae, whiten

Numbers = dict[str, list[float]]
ROLLOUT = Unit.ROLLOUT
TOKEN_MEAN, ROLLOUT_MEAN = Aggregation.TOKEN_MEAN, Aggregation.ROLLOUT_MEAN


def numbers() -> tuple[dict[str, str], Numbers]:
    """Versions, and the numbers of each case."""
    cases = {**LOSSES, **VALUES, **ADVANTAGES, **DIVERGENCES, **CORRECTIONS}
    versions = {"lightning-algorithm-lightningrl": version("lightning-algorithm-lightningrl")}
    return versions, {name: case() for name, case in cases.items()}


def places(mask: batch.Matrix) -> list[list[list[tuple[int, int]]]]:
    """Where the sampled tokens are, `[rollouts][calls][tokens]`: what stands between tool outputs is a call."""
    found: list[list[list[tuple[int, int]]]] = []
    for row, marks in enumerate(mask):
        calls: list[list[tuple[int, int]]] = []
        for place, mark in enumerate(marks):
            if mark and (place == 0 or not marks[place - 1]):
                calls.append([])
            if mark:
                calls[-1].append((row, place))
        found.append(calls)
    return found


def flat(matrix: batch.Matrix, made: batch.Rows) -> torch.Tensor:
    """The numbers of the sampled tokens, `[T]`."""
    chosen = [matrix[row][place] for rollout in places(made.mask) for call in rollout for row, place in call]
    return torch.tensor(chosen, dtype=torch.float64)


def loss(
    settings: Loss,
    aggregation: Aggregation | SequenceSumNorm = TOKEN_MEAN,
    *,
    spread: float = 0.3,
    kl: Kl | None = None,
    drift: Drift | None = None,
) -> Callable[[], list[float]]:
    """The loss, and the product of its gradient with a direction."""

    def run() -> list[float]:
        made = batch.rows(spread=spread)
        new = flat(made.new, made).requires_grad_()
        value = called(loss_spec(settings, kl=kl, drift=drift), new, made=made, aggregation=aggregation)
        (gradient,) = torch.autograd.grad(value, new)
        return [value.item(), (gradient * flat(made.direction, made)).sum().item()]

    return run


def called(
    spec: LossSpec, new: torch.Tensor, *, made: batch.Rows, aggregation: Aggregation | SequenceSumNorm
) -> torch.Tensor:
    """The loss of the whole batch, called as a learner calls it."""
    spread_out = places(made.mask)
    rows = torch.tensor([row for rollout in spread_out for call in rollout for row, _ in call])
    numbered = [call for rollout in spread_out for call in rollout]
    offered = {
        "calls": {"calls_T": torch.tensor([number for number, call in enumerate(numbered) for _ in call])},
        "rollouts": {"rollouts_T": rows},
        "reference": {"reference_logprobs_T": flat(made.reference, made)},
        "sampler": {"sampler_logprobs_T": flat(made.sampler, made)},
    }
    module, _, name = spec.target.partition(":")
    inputs = {key: value for wanted in spec.inputs for key, value in offered[wanted.value].items()}
    value, _ = getattr(importlib.import_module(module), name)(
        new,
        old_logprobs_T=flat(made.old, made),
        advantages_T=torch.tensor(made.advantages, dtype=torch.float64)[rows],
        weights_T=weighed(made, aggregation),
        **inputs,
        **spec.params,
    )
    assert isinstance(value, torch.Tensor)
    return value


def weighed(made: batch.Rows, aggregation: Aggregation | SequenceSumNorm) -> torch.Tensor:
    """Weight of each sampled token, `[T]`."""
    tokens = [[len(call) for call in rollout] for rollout in places(made.mask)]
    shares = token_weights(tokens, aggregation=aggregation)
    weights = [
        share
        for counts, own in zip(tokens, shares, strict=True)
        for count, share in zip(counts, own, strict=True)
        for _ in range(count)
    ]
    return torch.tensor(weights, dtype=torch.float64)


DAPO = PpoClip(clip_low=0.2, clip_high=0.28)
WIDE_GSPO = {"clip_low": 3e-2, "clip_high": 4e-2}
LOSSES = {
    "ppo_clip/token_mean": loss(DAPO),
    "ppo_clip/rollout_mean": loss(DAPO, ROLLOUT_MEAN),
    "ppo_clip/sequence_sum_norm": loss(DAPO, SequenceSumNorm(length=batch.WIDTH)),
    "ppo_clip/large ratios": loss(DAPO, spread=3.0),
    "ppo_clip/dual_clip": loss(PpoClip(dual_clip=3.0), spread=3.0),
    "ppo_clip/max_ratio": loss(PpoClip(max_ratio=4.0), spread=3.0),
    "ppo_clip+kl": loss(DAPO, kl=Kl(coefficient=0.1)),
    "ppo_clip+kl corrected": loss(DAPO, kl=Kl(coefficient=0.1, corrected=True)),
    "ppo_clip+opsm": loss(DAPO, drift=Drift(delta=0.02, unit=ROLLOUT)),
    "gspo/token": loss(Gspo(token=True, unit=ROLLOUT, **WIDE_GSPO), ROLLOUT_MEAN),
    "gspo/sequence": loss(Gspo(unit=ROLLOUT, **WIDE_GSPO), ROLLOUT_MEAN),
    "gmpo": loss(Gmpo(unit=ROLLOUT), ROLLOUT_MEAN),
    "cispo": loss(Cispo()),
    "cispo_cap": loss(CispoCap(cap=1.2)),
    "sapo": loss(Sapo(), ROLLOUT_MEAN),
    "dppo_tv": loss(DppoTv(band_low=0.1, band_high=0.1)),
    "dppo_kl": loss(DppoKl(band_low=0.01, band_high=0.01)),
}


def value(clip: float, aggregation: Aggregation | SequenceSumNorm = TOKEN_MEAN) -> Callable[[], list[float]]:
    """The loss of the values, and the product of its gradient with a direction."""

    def run() -> list[float]:
        made = batch.rows()
        predicted = flat(made.predicted, made).requires_grad_()
        old, targets = flat(made.values, made), flat(made.targets, made)
        losses, _ = value_loss(predicted, old_values_T=old, returns_T=targets, clip=clip)
        total = (weighed(made, aggregation) * losses).sum()
        (gradient,) = torch.autograd.grad(total, predicted)
        return [total.item(), (gradient * flat(made.direction, made)).sum().item()]

    return run


VALUES = {
    "value_loss": value(0.2),
    "value_loss/rollout_mean": value(0.2, ROLLOUT_MEAN),
    "value_loss/unclipped": value(0.0),
}


def in_place(values: Sequence[Sequence[float]], mask: batch.Matrix) -> list[float]:
    """Numbers of rows, or of their sampled tokens, as padded rows, one after the other; 0 at the holes."""
    found: list[float] = []
    for marks, own in zip(mask, values, strict=True):
        each = iter(own if len(own) > 1 else list(own) * len(marks))
        found += [next(each) if mark else 0.0 for mark in marks]
    return found


def compared(estimator: Estimator, *, whitened: bool = False) -> Callable[[], list[float]]:
    """Advantages of each row within its group; over all sampled tokens if they are whitened."""

    def run() -> list[float]:
        made = batch.rows()
        lengths = [int(sum(row)) for row in made.mask]
        found: list[float] = []
        for start in range(0, batch.ROWS, batch.GROUP):
            members = slice(start, start + batch.GROUP)
            credits_ = [[value] for value in made.rewards[members]]
            own = group_advantages(credits_, estimator=estimator, tokens=lengths[members])
            found += [value for (value,) in own]
        if whitened:
            found = whiten(found, counts=lengths)
        return in_place([[value] for value in found], made.mask)

    return run


def along(
    function: Callable[[list[float], list[float], list[bool]], list[float]],
) -> Callable[[], list[float]]:
    """Advantages along each row, with the reward at its last sampled token, whitened over all sampled tokens."""

    def run() -> list[float]:
        made = batch.rows()
        found: list[list[float]] = []
        for row, marks in enumerate(made.mask):
            chosen = [bool(mark) for mark in marks]
            rewards = [0.0] * batch.WIDTH
            rewards[max(place for place, mark in enumerate(chosen) if mark)] = made.rewards[row]
            values = function(rewards, made.values[row], chosen)
            found.append([value for value, mark in zip(values, chosen, strict=True) if mark])
        all_tokens = [value for row in found for value in row]
        whitened = iter(whiten(all_tokens, counts=[1.0] * len(all_tokens)))
        return in_place([[next(whitened) for _ in row] for row in found], made.mask)

    return run


def gdpo() -> list[float]:
    """Two dimensions of the outcome, the second with half the weight; whitened over sampled tokens, as verl does."""
    made = batch.rows()
    lengths = [sum(row) for row in made.mask]
    both = [{"first": one, "second": two} for one, two in zip(made.rewards, made.second, strict=True)]
    starts = range(0, batch.ROWS, batch.GROUP)
    found = gdpo_advantages(
        [both[start : start + batch.GROUP] for start in starts],
        weights={"second": 0.5},
        counts=[lengths[start : start + batch.GROUP] for start in starts],
    )
    return in_place([[value] for group in found for value in group], made.mask)


def by_token(column: Callable[[Estimates], Numbers]) -> Callable[[], list[float]]:
    """Numbers by a value head, of rollouts whose calls are what stands between tool outputs."""

    def run() -> list[float]:
        made = batch.rows()
        rollouts = []
        for row, calls in enumerate(places(made.mask)):
            sampled = [
                Sampled(
                    id=f"{row}/{turn}",
                    agent="",
                    turn=turn,
                    credit=made.rewards[row],
                    value=None,
                    tokens=len(call),
                    staleness=0,
                    values=tuple(made.values[row][place] for row, place in call),
                )
                for turn, call in enumerate(calls)
            ]
            rollouts.append(Played(outcome=made.rewards[row], outcomes={}, calls=tuple(sampled)))
        rule = Rule(choice=TokenGae(gamma=0.9, lam=0.8))
        found = column(batch_advantages([rollouts], rule=rule, baselines={}))
        return in_place(
            [[value for call in rollout.calls for value in found[call.id]] for rollout in rollouts], made.mask
        )

    return run


ADVANTAGES = {
    "gdpo": gdpo,
    "token_gae": by_token(lambda found: found.advantages),
    "token_gae/returns": by_token(lambda found: found.returns),
    "grpo": compared(Estimator.GRPO),
    "dr_grpo": compared(Estimator.DR_GRPO),
    "rloo": compared(Estimator.RLOO),
    "opo": compared(Estimator.OPO),
    "reinforce_pp_baseline": compared(Estimator.REINFORCE_PP_BASELINE, whitened=True),
    "reinforce_pp": along(lambda rewards, _, mask: discounted_returns(rewards, gamma=0.9, mask=mask)),
    "gae": along(lambda rewards, values, mask: gae(rewards, values=values, gamma=0.9, lam=0.8, mask=mask)),
}


def divergence(estimator: str) -> Callable[[], list[float]]:
    def run() -> list[float]:
        made = batch.rows()
        new = flat(made.new, made).requires_grad_()
        mean = kl_divergence(new, reference_logprobs_T=flat(made.reference, made), estimator=estimator).mean()
        (gradient,) = torch.autograd.grad(mean, new)
        return [mean.item(), (gradient * flat(made.direction, made)).sum().item()]

    return run


DIVERGENCES = {f"kl/{name}": divergence(name) for name in ("k1", "k2", "k3", "k1+", "k3+")}


def corrected(correction: Correction) -> Callable[[], list[float]]:
    """The factor on each token's weight."""

    def run() -> list[float]:
        made = batch.rows(spread=1.0)
        found = []
        for rollout in places(made.mask):
            ratios = [
                [made.old[row][place] - made.sampler[row][place] for row, place in call] for call in rollout
            ]
            found.append([factor for call in factors(ratios, correction=correction) for factor in call])
        return in_place(found, made.mask)

    return run


CORRECTIONS = {
    "tis/token": corrected(Truncated(cap=1.2)),
    "tis/rollout": corrected(Truncated(cap=1.2, level=Level.ROLLOUT)),
    "icepop": corrected(IcePop(low=0.5, high=1.5)),
    "mis/rollout": corrected(Masked(low=0.2, high=3.0)),
    "geometric/rollout": corrected(Geometric(low=0.9, high=1 / 0.9)),
}
