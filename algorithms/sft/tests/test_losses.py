from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lightning_algorithm_sft.losses import cross_entropy  # noqa: E402


def test_cross_entropy_by_hand() -> None:
    logprobs_T = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    nothing_T = torch.zeros(3)
    loss, metrics = cross_entropy(
        logprobs_T, old_logprobs_T=nothing_T, advantages_T=nothing_T, weights_T=torch.tensor([0.5, 0.5, 0.0])
    )
    loss.backward()
    assert loss.item() == pytest.approx(1.5)
    assert logprobs_T.grad is not None
    assert logprobs_T.grad.tolist() == [-0.5, -0.5, 0.0]
    assert metrics["entropy"].tolist() == [1.0, 2.0, 3.0]


def test_it_equals_torch_s_mean_cross_entropy() -> None:
    logits_T_V = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    targets_T = torch.tensor([0, 6, 3, 3, 1])
    logprobs_T = logits_T_V.log_softmax(-1).gather(1, targets_T[:, None]).squeeze(1)
    nothing_T = torch.zeros(5)
    loss, _ = cross_entropy(
        logprobs_T, old_logprobs_T=nothing_T, advantages_T=nothing_T, weights_T=torch.full((5,), 0.2)
    )
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(logits_T_V, targets_T).item())
