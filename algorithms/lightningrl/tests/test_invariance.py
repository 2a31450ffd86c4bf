"""Loss and gradient do not depend on micro-batches, order or the rows that a rollout is spread over."""

from __future__ import annotations

import importlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from lightning_algorithm_lightningrl.correction import (  # noqa: E402
    Correction,
    Geometric,
    IcePop,
    Level,
    Masked,
    Truncated,
    combined,
)
from lightning_algorithm_lightningrl.loss_settings import (  # noqa: E402
    Cispo,
    CispoCap,
    DppoKl,
    DppoTv,
    Drift,
    Gmpo,
    Gspo,
    Kl,
    KlEstimator,
    Loss,
    PpoClip,
    Reinforce,
    Sapo,
    Unit,
    loss_spec,
)
from lightning_algorithm_lightningrl.losses import kl_divergence, regularised  # noqa: E402

Row = tuple[float, float, float, float, float, float]
NUMBER = st.floats(-3, -0.01, allow_nan=False)
TOKEN = st.tuples(NUMBER, NUMBER, NUMBER, NUMBER, st.floats(-2, 2), st.floats(0.01, 1))
ROLLOUTS = st.lists(st.lists(TOKEN, min_size=1, max_size=5), min_size=1, max_size=5)
LOSSES: list[Loss] = [
    PpoClip(dual_clip=3.0),
    Reinforce(),
    Cispo(),
    CispoCap(),
    Sapo(),
    DppoTv(),
    DppoKl(),
    Gspo(),
    Gspo(token=True, unit=Unit.ROLLOUT),
    Gmpo(),
]


def learned(loss: Loss, tokens: list[tuple[int, Row]], *, company: bool) -> tuple[float, list[float]]:
    """The loss of some tokens, each with its rollout, and the gradient of each."""
    unit = loss.unit if isinstance(loss, Gspo | Gmpo) else Unit.CALL
    kl = Kl(coefficient=0.1) if company else None
    drift = Drift(delta=0.05, unit=unit) if company else None
    spec = loss_spec(loss, kl=kl, entropy=0.01 if company else 0.0, drift=drift)
    columns = [torch.tensor([row[column] for _, row in tokens], dtype=torch.float64) for column in range(6)]
    new, old, sampler, reference, advantages, weights = columns
    sequences_T = torch.tensor([sequence for sequence, _ in tokens])
    offered = {
        "calls": {"calls_T": sequences_T},
        "rollouts": {"rollouts_T": sequences_T},
        "reference": {"reference_logprobs_T": reference},
        "sampler": {"sampler_logprobs_T": sampler},
    }
    module, _, name = spec.target.partition(":")
    inputs = {key: value for wanted in spec.inputs for key, value in offered[wanted.value].items()}
    new.requires_grad_()
    value, metrics = getattr(importlib.import_module(module), name)(
        new, old_logprobs_T=old, advantages_T=advantages, weights_T=weights, **inputs, **spec.params
    )
    value.backward()
    assert all(metric.shape == new.shape and not metric.requires_grad for metric in metrics.values())
    assert new.grad is not None
    return value.item(), new.grad.tolist()


@pytest.mark.parametrize("company", [False, True], ids=["alone", "in company"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@settings(max_examples=6, deadline=None)
@given(rollouts=ROLLOUTS, data=st.data())
def test_a_batch_is_the_sum_of_its_parts_in_any_order(
    loss: Loss, company: bool, rollouts: list[list[Row]], data: st.DataObject
) -> None:
    tokens = [(number, row) for number, rollout in enumerate(rollouts) for row in rollout]
    whole, gradients = learned(loss, tokens, company=company)
    order = data.draw(st.permutations(range(len(rollouts))))
    cut = data.draw(st.integers(0, len(rollouts)))
    total, found = 0.0, {}
    for part in (order[:cut], order[cut:]):
        places = [place for number in part for place, (own, _) in enumerate(tokens) if own == number]
        places = data.draw(st.permutations(places))
        if places:
            value, own = learned(loss, [tokens[place] for place in places], company=company)
            total += value
            found |= dict(zip(places, own, strict=True))
    assert total == pytest.approx(whole, abs=1e-9)
    assert [found[place] for place in range(len(tokens))] == pytest.approx(gradients, abs=1e-9)


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_at_the_old_policy_every_loss_has_the_gradient_of_the_policy_gradient(loss: Loss) -> None:
    rows: list[Row] = [(-0.5, -0.5, -0.5, -0.5, 0.7, 0.25), (-2.0, -2.0, -2.0, -2.0, 0.7, 0.25)]
    _, gradients = learned(loss, [(0, row) for row in rows], company=False)
    assert gradients == pytest.approx([-0.7 * 0.25] * 2)


@settings(max_examples=40, deadline=None)
@given(st.lists(TOKEN, min_size=1, max_size=6))
def test_both_forms_of_gspo_are_one_where_a_sequence_has_one_advantage(rows: list[Row]) -> None:
    tokens = [(0, (*row[:4], 0.5, 0.1)) for row in rows]
    value, gradients = learned(Gspo(), tokens, company=False)
    other, others = learned(Gspo(token=True), tokens, company=False)
    assert value == pytest.approx(other)
    assert gradients == pytest.approx(others, abs=1e-9)


def test_the_gradient_of_k3_with_a_plus_is_that_of_k2() -> None:
    def gradient(estimator: KlEstimator) -> float:
        logprob = torch.tensor([-1.0], requires_grad=True)
        kl_divergence(
            logprob, reference_logprobs_T=torch.tensor([-2.0]), estimator=estimator
        ).sum().backward()
        assert logprob.grad is not None
        return logprob.grad.item()

    assert (
        gradient(KlEstimator.K2)
        == gradient(KlEstimator.K3_STRAIGHT)
        == gradient(KlEstimator.K1_STRAIGHT)
        == 1.0
    )
    assert gradient(KlEstimator.K3) == pytest.approx(1.0 - math.exp(-1.0))
    with pytest.raises(ValueError, match="'k4'; take k1"):
        kl_divergence(torch.zeros(1), reference_logprobs_T=torch.zeros(1), estimator="k4")


def test_the_entropy_bonus_has_the_gradient_of_entropy_on_average() -> None:
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    probabilities = logits.softmax(0)
    (exact,) = torch.autograd.grad(-(probabilities * probabilities.log()).sum(), logits)
    logprobs_T = logits.log_softmax(0)
    nothing = torch.zeros(3, dtype=torch.float64)
    # each token as often as the policy samples it
    loss, _ = regularised(
        logprobs_T,
        old_logprobs_T=logprobs_T.detach(),
        advantages_T=nothing,
        weights_T=probabilities.detach(),
        policy="reinforce",
        entropy_coefficient=1.0,
    )
    (estimate,) = torch.autograd.grad(-loss, logits)
    assert torch.allclose(estimate, exact)


def test_only_bad_sequences_that_drifted_off_lose_their_policy_loss() -> None:
    rows: list[Row] = [(-2.0, -2.0, -1.0, -2.0, advantage, 1.0) for advantage in (1.0, -1.0)]
    near: Row = (-2.0, -2.0, -2.0, -2.0, -1.0, 1.0)
    spec = loss_spec(Reinforce(), drift=Drift(delta=0.5))
    assert spec.name == "reinforce+opsm"
    columns = torch.tensor([*rows, near], dtype=torch.float64)
    _, metrics = regularised(
        columns[:, 0],
        old_logprobs_T=columns[:, 1],
        sampler_logprobs_T=columns[:, 2],
        advantages_T=columns[:, 4],
        weights_T=columns[:, 5],
        calls_T=torch.arange(3),
        **spec.params,
    )
    assert metrics["drift/masked"].tolist() == [0.0, 1.0, 0.0]


def test_decoupled_ppo_is_a_clip_with_uncapped_weights() -> None:
    new, old, sampler, advantage = -0.9, -1.0, -1.4, -1.5
    ((factor,),) = combined([[old - sampler]], corrections=[Truncated(cap=1e9)])
    value, _ = learned(
        PpoClip(clip_low=0.2, clip_high=0.2),
        [(0, (new, old, sampler, 0.0, advantage, factor))],
        company=False,
    )
    u = math.exp(new - old)
    formula = -math.exp(old - sampler) * min(u * advantage, min(max(u, 0.8), 1.2) * advantage)
    assert value == pytest.approx(formula)


CORRECTIONS: list[Correction] = [
    Truncated(level=Level.ROLLOUT),
    Masked(low=0.5, high=2.0),
    IcePop(),
    Geometric(low=0.8, high=1.2),
]


@pytest.mark.parametrize("correction", CORRECTIONS, ids=str)
@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=6), st.data())
def test_factors_of_a_rollout_do_not_depend_on_how_it_is_split_into_calls(
    correction: Correction, log_ratios: list[float], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(log_ratios)))
    (whole,) = combined([log_ratios], corrections=[correction])
    parts = combined([log_ratios[:cut], log_ratios[cut:]], corrections=[correction])
    assert [value for part in parts for value in part] == pytest.approx(whole)


def test_corrections_multiply() -> None:
    log_ratios = [[math.log(3.0), 0.0], [math.log(0.1)]]
    found = combined(log_ratios, corrections=[Truncated(cap=2.0), IcePop(low=0.5, high=5.0)])
    assert found == [[pytest.approx(6.0), 1.0], [0.0]]
