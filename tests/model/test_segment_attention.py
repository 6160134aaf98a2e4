"""Attention by segments is attention under the mask of the segments, for all tokens and for those that are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sightline.model.attention import allowed
from sightline.model.batch import Run, Stream
from sightline.model.language import LanguageModelConfig
from sightline.model.segment_attention import SegmentPattern, _varlen, by_segment

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {**SIZES, "initializer_range": 0.2},
    "llama": {**SIZES, "initializer_range": 0.2},
    "mistral": {**SIZES, "initializer_range": 0.2, "sliding_window": None},
    "qwen3": {**SIZES, "initializer_range": 0.2, "head_dim": 8},
    "phi": {**SIZES, "initializer_range": 0.2},
    "opt": {**SIZES, "init_std": 0.2, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 32, "dropout": 0.0},
}


def stream() -> Stream:
    """Two bins of 9: a segment of 4 and one of 5 with two branches; a segment of 6 and padding."""
    segments = torch.tensor([[1] * 4 + [2] * 5, [1] * 6 + [0] * 3], dtype=torch.int32)
    branches = torch.tensor([[0] * 4 + [0, 1, 1, 2, 2], [0] * 9], dtype=torch.int32)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 1, 2], [0, 1, 2, 3, 4, 5, 0, 0, 0]])
    runs = (Run(length=4, says="causal"), Run(length=5, says="branches"), Run(length=6, says="causal"), Run(length=3, says="padding"))
    none = torch.zeros(0, dtype=torch.int64)
    ids = torch.arange(18).view(2, 9) % 50
    return Stream(ids=ids, positions=positions, segments=segments, branches=branches, slots=none, sources=none, runs=runs)


@pytest.mark.parametrize("key_heads", [4, 2])
def test_it_is_attention_under_the_mask(key_heads: int) -> None:
    torch.manual_seed(0)
    packed = stream()
    q, k, v = (torch.randn(2, heads, 9, 8, requires_grad=True) for heads in (4, key_heads, key_heads))
    found = by_segment(q, k, v, SegmentPattern.of(packed))
    expected = scaled_dot_product_attention(q, k, v, attn_mask=allowed(packed)[:, None], enable_gqa=True).transpose(1, 2)
    real = packed.segments > 0
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-6)
    assert not found[~real].any()
    weight = torch.randn(9, 4, 8)
    ours, theirs = (torch.autograd.grad((one * weight)[real].sum(), (q, k, v), retain_graph=True) for one in (found, expected))
    for own, other in zip(ours, theirs):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_says_the_same_by_segments_and_for_asked_rows(family: str) -> None:
    torch.manual_seed(0)
    model: Any = LanguageModelConfig(config={"model_type": family, **FAMILIES[family]}).build().eval()
    assert model.segments
    packed = stream()
    x = model.embed(packed.ids).detach().requires_grad_()
    places = torch.tensor([1, 3, 5, 5, 8, 9, 14])
    dense = model.hidden(x, packed.positions, allowed(packed)).flatten(0, 1)[places]
    pattern = SegmentPattern.of(packed)
    by_runs = model.hidden(x, packed.positions, pattern).flatten(0, 1)[places]
    asked = model.asked_rows(x, packed.positions, pattern, places)
    assert dense.std() > 0.1
    torch.testing.assert_close(by_runs, dense, rtol=0, atol=1e-5)
    torch.testing.assert_close(asked, dense, rtol=0, atol=1e-5)
    weight = torch.randn_like(dense)
    parameters = [x, *(p for p in model.model.base_model.parameters() if p.requires_grad)]
    ours, theirs = (torch.autograd.grad((one * weight).sum(), parameters, allow_unused=True) for one in (asked, dense))
    for own, other in zip(ours, theirs):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * float(other.abs().max().clamp(min=1)))


def test_the_last_layer_runs_for_asked_rows_alone() -> None:
    model: Any = LanguageModelConfig(config={"model_type": "qwen2", **FAMILIES["qwen2"]}).build().eval()
    packed, seen = stream(), []
    for layer in model.blocks:
        layer.mlp.register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    model.asked_rows(model.embed(packed.ids), packed.positions, SegmentPattern.of(packed), torch.tensor([3, 8]))
    assert seen == [9, 9, 2]
    assert not model.blocks[-1]._forward_pre_hooks


def test_runs_that_do_not_cover_the_stream_are_a_bug() -> None:
    packed = stream()
    with pytest.raises(AssertionError, match="cover"):
        SegmentPattern.of(replace(packed, runs=packed.runs[:-1]))


@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_kernel_for_several_lengths_is_told_the_segments(key_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel itself runs on GPUs alone; what it is told is checked by a slow one with its signature."""
    from torch.nn.attention import varlen

    def slow(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_q: torch.Tensor, cu_k: torch.Tensor, max_q: int, max_k: int, **said: Any) -> torch.Tensor:
        assert said["window_size"] == (-1, 0) and max_q == max_k == max(cu_q.diff()) and torch.equal(cu_q, cu_k) and cu_q.dtype == torch.int32
        lengths = cu_q.diff().tolist()
        parts = [[part.transpose(0, 1)[None] for part in own] for own in zip(q.split(lengths), k.split(lengths), v.split(lengths))]
        return torch.cat([scaled_dot_product_attention(*own, is_causal=True, scale=said["scale"])[0].transpose(0, 1) for own in parts])

    monkeypatch.setattr(varlen, "varlen_attn", slow)
    q, k, v = (torch.randn(9, heads, 8) for heads in (4, key_heads, key_heads))
    runs = (Run(length=4, says="causal"), Run(length=5, says="causal"))
    expected = by_segment(*(one.transpose(0, 1)[None] for one in (q, k, v)), SegmentPattern(runs=runs, masks=(None, None)), 0.3)
    torch.testing.assert_close(_varlen(q, k, v, [4, 5], 0.3)[None], expected)
