from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from lightning_algorithm_lightningrl.losses import ppo_clip, regularised, value_loss  # noqa: E402

NUMBER = st.floats(-3, 3, allow_nan=False)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("value", "loss", "held", "gradient"),
    [
        (0.1, 0.5 * 0.9**2, 0.0, -0.9),  # inside the clip: the squared error
        (0.5, 0.5 * 0.8**2, 1.0, 0.0),  # too far towards the return: held where the clip ends
        (
            2.5,
            0.5 * 1.5**2,
            0.0,
            1.5,
        ),  # past the return by more than the clip allows: the larger error counts
        (-0.5, 0.5 * 1.5**2, 0.0, -1.5),  # too far away from the return: called back
    ],
)
def test_a_value_moves_towards_its_return_no_further_than_the_clip(
    value: float, loss: float, held: float, gradient: float
) -> None:
    values_T = tensor(value).requires_grad_()
    losses_T, held_T = value_loss(values_T, old_values_T=tensor(0.0), returns_T=tensor(1.0), clip=0.2)
    losses_T.sum().backward()
    assert losses_T.item() == pytest.approx(loss)
    assert held_T.item() == held
    assert values_T.grad is not None
    assert values_T.grad.item() == pytest.approx(gradient)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER), min_size=1, max_size=5), st.floats(0.01, 1))
def test_a_clip_never_makes_the_loss_smaller(rows: list[tuple[float, float, float]], clip: float) -> None:
    values, old, returns = (tensor(*column) for column in zip(*rows, strict=True))
    free, _ = value_loss(values, old_values_T=old, returns_T=returns)
    held, share = value_loss(values, old_values_T=old, returns_T=returns, clip=clip)
    assert (held >= free).all()
    assert torch.equal(share > 0, held > free)
    assert torch.equal(free, 0.5 * (values - returns) ** 2)


def test_values_stand_beside_the_policy_with_the_weights_of_its_tokens() -> None:
    policy = {
        "old_logprobs_T": tensor(-1.0, -2.0),
        "advantages_T": tensor(0.5, -0.5),
        "weights_T": tensor(0.25, 0.75),
    }
    logprobs_T, values_T = tensor(-1.1, -1.9).requires_grad_(), tensor(0.1, 0.4).requires_grad_()
    loss, metrics = regularised(
        logprobs_T,
        policy="ppo_clip",
        values_T=values_T,
        old_values_T=tensor(0.0, 0.0),
        returns_T=tensor(1.0, 1.0),
        value_coefficient=0.1,
        value_clip=0.2,
        **policy,
    )
    alone, expected = ppo_clip(logprobs_T, **policy)
    errors = [0.5 * 0.9**2, 0.5 * 0.8**2]
    assert loss.item() == pytest.approx(alone.item() + 0.1 * (0.25 * errors[0] + 0.75 * errors[1]))
    assert metrics["critic/vf_loss"].tolist() == pytest.approx(errors)
    assert metrics["critic/vf_clipfrac"].tolist() == [0.0, 1.0]
    assert metrics["critic/vpred_mean"].tolist() == [0.1, 0.4]
    assert expected.keys() < metrics.keys()
    assert not any(metric.requires_grad for metric in metrics.values())
    (gradient,) = torch.autograd.grad(loss, values_T)
    assert gradient.tolist() == pytest.approx([-0.1 * 0.25 * 0.9, 0.0])
