from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from lightning_algorithm_lightningrl.losses import ppo_clip, reinforce  # noqa: E402


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def clipped(ratio: float, advantage: float, **params: float) -> float:
    loss, _ = ppo_clip(
        tensor(math.log(ratio)),
        old_logprobs_T=tensor(0.0),
        advantages_T=tensor(advantage),
        weights_T=tensor(1.0),
        **params,
    )
    return float(loss)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [
        (1.0, 2.0, -2.0),
        (1.1, 2.0, -2.2),
        (1.5, 2.0, -1.28 * 2.0),  # clipped from above
        (0.5, 2.0, -0.5 * 2.0),  # below, and it should rise: not clipped
        (0.5, -2.0, 0.8 * 2.0),  # clipped from below
        (1.5, -2.0, 1.5 * 2.0),  # above, and it should fall: not clipped
    ],
)
def test_the_six_cases_of_the_clipped_ratio(ratio: float, advantage: float, loss: float) -> None:
    assert clipped(ratio, advantage) == pytest.approx(loss)


def test_the_dual_clip_bounds_only_negative_advantages() -> None:
    assert clipped(10.0, -1.0) == pytest.approx(10.0)
    assert clipped(10.0, -1.0, dual_clip=3.0) == pytest.approx(3.0)
    assert clipped(2.0, -1.0, dual_clip=3.0) == pytest.approx(2.0)
    assert clipped(0.01, 1.0, dual_clip=3.0) == pytest.approx(-0.01)


def test_a_clipped_token_has_no_gradient() -> None:
    logprobs_T = tensor(math.log(1.5), math.log(1.1), math.log(0.5)).requires_grad_()
    loss, metrics = ppo_clip(
        logprobs_T,
        old_logprobs_T=tensor(0.0, 0.0, 0.0),
        advantages_T=tensor(1.0, 1.0, -1.0),
        weights_T=tensor(1.0, 1.0, 1.0),
    )
    loss.backward()
    assert logprobs_T.grad is not None
    assert logprobs_T.grad.tolist() == pytest.approx([0.0, -1.1, 0.0])
    assert metrics["clip_ratio/high_mean"].tolist() == [1.0, 0.0, 0.0]
    assert metrics["clip_ratio/low_mean"].tolist() == [0.0, 0.0, 1.0]
    assert metrics["clip_ratio/region_mean"].tolist() == [1.0, 0.0, 1.0]


def test_on_policy_ppo_has_the_gradient_of_reinforce() -> None:
    gradients = []
    for loss_function in (ppo_clip, reinforce):
        logprobs_T = tensor(-0.3, -1.2, -2.0).requires_grad_()
        loss, _ = loss_function(
            logprobs_T,
            old_logprobs_T=logprobs_T.detach().clone(),
            advantages_T=tensor(1.0, -0.5, 0.25),
            weights_T=tensor(0.5, 0.25, 1.0),
        )
        loss.backward()
        gradients.append(logprobs_T.grad)
    assert torch.allclose(*gradients)


def test_metrics_are_ratio_kl_and_surprise() -> None:
    _, metrics = ppo_clip(
        tensor(-1.0), old_logprobs_T=tensor(-1.5), advantages_T=tensor(1.0), weights_T=tensor(1.0)
    )
    assert metrics["ratio"].item() == pytest.approx(math.exp(0.5))
    assert metrics["kl"].item() == pytest.approx(math.exp(0.5) - 1.0 - 0.5)
    assert metrics["entropy"].item() == 1.0
    assert all(metric.shape == (1,) and not metric.requires_grad for metric in metrics.values())


def test_an_absurd_ratio_stays_finite() -> None:
    assert math.isfinite(
        clipped(1.0, 1.0)
        + float(
            ppo_clip(
                tensor(0.0), old_logprobs_T=tensor(-1e4), advantages_T=tensor(-1.0), weights_T=tensor(1.0)
            )[0]
        )
    )


NUMBER = st.floats(-3, 0, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(NUMBER, NUMBER, st.floats(-2, 2), st.floats(0, 1)), min_size=1, max_size=12), st.data()
)
def test_loss_and_gradient_are_the_same_however_tokens_are_split(
    rows: list[tuple[float, float, float, float]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    whole = tensor(*(row[0] for row in rows)).requires_grad_()
    parts = whole.detach().clone().requires_grad_()

    def loss(logprobs_T: torch.Tensor, chosen: slice) -> torch.Tensor:
        old, advantages, weights = (tensor(*(row[column] for row in rows[chosen])) for column in (1, 2, 3))
        return ppo_clip(
            logprobs_T[chosen], old_logprobs_T=old, advantages_T=advantages, weights_T=weights, dual_clip=3.0
        )[0]

    total = loss(whole, slice(None))
    split = loss(parts, slice(cut)) + loss(parts, slice(cut, None))
    total.backward()
    split.backward()
    assert total.item() == pytest.approx(split.item())
    assert whole.grad is not None
    assert parts.grad is not None
    assert torch.allclose(whole.grad, parts.grad)
