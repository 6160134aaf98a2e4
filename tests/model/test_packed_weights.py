"""Packed weights and what writes over its own intermediate values give what the layers give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightline.model.language import LanguageModelConfig
from sightline.model.packed_weights import PackedWeights

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 50,
    "head_dim": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {"model_type": "qwen2", "hidden_act": "silu"},
    "gemma": {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh"},
    "phi": {"model_type": "phi"},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_computes_the_same(family: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = LanguageModelConfig(config={**SIZES, **FAMILIES[family], "initializer_range": 0.2}).build().eval()
    x, positions = torch.randn(1, 7, 32), torch.arange(7)[None]
    pattern = torch.ones(7, 7, dtype=torch.bool).tril()[None]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        plain = model.hidden(x, positions, pattern)
        packed = PackedWeights(model, dtype)
        before = x.clone()
        with packed.used():
            found = model.hidden(x, positions, pattern)
            whole = [name for name, module in model.named_modules() if name.endswith("mlp") and "forward" in module.__dict__]
    assert len(whole) == (0 if family == "phi" or not len(packed) else 2)
    assert torch.equal(x, before)
    torch.testing.assert_close(found, plain, rtol=1e-4 if dtype == torch.float32 else 0.1, atol=1e-5 if dtype == torch.float32 else 0.1)
    assert not [name for name, module in model.named_modules() if name.endswith("mlp") and "forward" in module.__dict__]


def test_a_layer_that_does_more_keeps_its_own_code() -> None:
    class Scaled(nn.Module):
        """A gated layer that halves what comes out."""

        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj, self.act_fn = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8), nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) / 2

    torch.manual_seed(0)
    layer, x = Scaled(), torch.randn(3, 8)
    with torch.no_grad(), PackedWeights(layer, torch.float32).used():
        assert "forward" not in layer.__dict__
        torch.testing.assert_close(layer(x), Scaled.forward(layer, x))
        found = layer(x)
    torch.testing.assert_close(found, layer(x).detach())
