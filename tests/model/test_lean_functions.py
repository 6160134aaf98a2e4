"""Lean functions give the values and gradients of the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sightline.model.language import LanguageModelConfig
from sightline.model.lean_functions import _RootMeanSquare, lighten_norms, likelihood


@pytest.mark.parametrize("trained", [True, False])
def test_norm(trained: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True), torch.rand(16, dtype=torch.float64, requires_grad=trained)
    inputs = [x, weight] if trained else [x]
    own = _RootMeanSquare.apply(x.float(), weight.float(), 1e-6, torch.float32)
    plain = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight
    torch.testing.assert_close(own.double(), plain, rtol=1e-5, atol=1e-6)
    upstream = torch.randn_like(x)
    for found, expected in zip(torch.autograd.grad((own * upstream).sum(), inputs), torch.autograd.grad((plain * upstream).sum(), inputs)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_only_plain_norms_of_the_width_run_lean() -> None:
    class OddRMSNorm(nn.Module):
        """Adds one to its weight."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.full((32,), 0.5)), 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * (1 + self.weight)

    assert lighten_norms(nn.ModuleList([OddRMSNorm()]), 32) == 0
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8}
    model = LanguageModelConfig(config={"model_type": "qwen3", "vocab_size": 50, **sizes}).build()
    light = [name for name, module in model.named_modules() if "forward" in module.__dict__]
    assert len(light) == 5 and not any("q_norm" in name or "k_norm" in name for name in light)
    assert lighten_norms(model, 32) == 0, "once"


def test_likelihood_whatever_the_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(7, 30, requires_grad=True), torch.randint(30, (7,))
    logp, total = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0], logits.logsumexp(-1)
    a, b = torch.randn(7), torch.randn(7)
    [expected] = torch.autograd.grad((logp * a + total.square() * b).sum(), logits)
    for block in (1, 60, 1 << 19):
        monkeypatch.setattr("sightline.model.lean_functions._BLOCK", block)
        found = likelihood(logits, targets)
        torch.testing.assert_close(found[0], logp)
        torch.testing.assert_close(found[1], total)
        [gradient] = torch.autograd.grad((found[0] * a + found[1].square() * b).sum(), logits)
        torch.testing.assert_close(gradient, expected)
