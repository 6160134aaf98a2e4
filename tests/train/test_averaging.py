"""The average of the weights: its recursion against one in float64, its warm-up, and how it takes over."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.train.averaging import Average


def walk(steps: int) -> tuple[dict[str, nn.Parameter], list[dict[str, torch.Tensor]]]:
    """Weights at random, and what they become step by step."""
    torch.manual_seed(0)
    trained = {"a": nn.Parameter(torch.randn(3, 4)), "b": nn.Parameter(torch.randn(5))}
    return trained, [{name: torch.randn_like(p) for name, p in trained.items()} for _ in range(steps)]


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.9999])
def test_the_recursion(decay: float) -> None:
    trained, path = walk(60)
    average = Average(trained, decay)
    expected = {name: p.detach().double().clone() for name, p in trained.items()}
    for step, weights in enumerate(path):
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(weights[name])
        average.follow(step)
        kept = min(decay, (1 + (step + 1)) / (10 + (step + 1)))  # Tan and Le: min(decay, (1 + updates) / (10 + updates))
        for name, own in expected.items():
            own.mul_(kept).add_(weights[name].double(), alpha=1 - kept)
            assert torch.allclose(average.tensors[name].double(), own, atol=1e-6), (step, name)


def test_the_start_is_soon_forgotten() -> None:
    trained, _ = walk(0)
    with torch.no_grad():
        for p in trained.values():
            p.fill_(1.0)
    average = Average(trained, 0.9999)
    with torch.no_grad():
        for p in trained.values():
            p.zero_()
    left = []
    for step in range(20):
        average.follow(step)
        left.append(average.tensors["a"][0, 0].item())
    assert left[0] == pytest.approx(2 / 11) and left[19] < 1e-5, "a fixed decay would keep 0.998 of the start"


def test_it_follows_and_never_leads() -> None:
    trained, path = walk(3)
    before = {name: p.detach().clone() for name, p in trained.items()}
    average = Average(trained, 0.9)
    for step in range(3):
        average.follow(step)
    for name, p in trained.items():
        assert torch.equal(p, before[name]), "the weights are not touched"
        assert torch.allclose(average.tensors[name], before[name], atol=1e-6), "an average of equals is equal"
        assert average.tensors[name].data_ptr() != p.data_ptr() and not average.tensors[name].requires_grad
    with torch.no_grad():
        trained["a"].copy_(path[0]["a"])
    average.follow(3)
    expected = average.tensors["a"].clone()
    kept_b = average.tensors["b"].clone()
    average.take_over()
    assert torch.equal(trained["a"], expected) and torch.equal(trained["b"], kept_b)
    assert trained["a"].requires_grad and isinstance(trained["a"], nn.Parameter)
    with torch.no_grad():
        trained["a"].zero_()
    assert torch.equal(average.tensors["a"], expected), "a copy took over, not the average itself"
