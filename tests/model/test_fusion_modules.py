"""Gated cross-attention against transformers' Mllama text stack, and an encoder-decoder against T5: same tensors, same logits, same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightline.errors import Refused
from sightline.model.attention import readable
from sightline.model.fusion import EncoderDecoder, GatedCrossAttention
from sightline.model.fusion_modules import Memory
from sightline.model.language import EncoderDecoderConfig, LanguageModelConfig

TEXT = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
IDS = torch.tensor([[5, 9, 7, 11, 3, 8], [4, 4, 6, 12, 13, 2]])
SEES = torch.tensor([[[0, 0], [0, 3], [0, 3], [0, 7], [3, 7], [3, 7]], [[0, 7]] * 6], dtype=torch.int32)


def worst(found: Tensor, wanted: Tensor) -> float:
    """max |a - b| / max |b|."""
    return ((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12)).item()


def causal(bins: int, length: int) -> Tensor:
    """A causal pattern."""
    return torch.ones(length, length, dtype=torch.bool).tril().expand(bins, -1, -1)


def gated(unattended: Any = "uniform") -> tuple[Any, Any]:
    """Three layers, blocks before the second and the third, gates open."""
    language = LanguageModelConfig(config={"model_type": "llama", **TEXT, "num_hidden_layers": 3}, extra_rows=8, attention="eager")
    torch.manual_seed(1)
    ours, fusion = language.build().eval(), GatedCrossAttention(layers=(1, 2), unattended=unattended).build(language.block())
    fusion.attach(ours)
    with torch.no_grad():
        for name, p in fusion.named_parameters():
            p.fill_(0.7) if "gate" in name and "proj" not in name else p.normal_(0, 0.2)
    return ours, fusion


@pytest.fixture(scope="module")
def mllama() -> tuple[Any, Any, Any]:
    """transformers' text stack of five layers, of which the second and fourth are cross-attention, and ours with the same tensors."""
    from transformers import MllamaTextConfig
    from transformers.models.mllama.modeling_mllama import MllamaForCausalLM

    ours, fusion = gated()
    theirs = MllamaForCausalLM(MllamaTextConfig(**TEXT, num_hidden_layers=5, cross_attention_layers=[1, 3])).eval()
    theirs.set_attn_implementation("eager")
    stack: Any = theirs.model
    with torch.no_grad():
        copied: list[tuple[nn.Module, nn.Module]] = [(stack.embed_tokens, ours.model.model.embed_tokens), (stack.norm, ours.model.model.norm)]
        copied += [(theirs.lm_head, ours.model.lm_head)]
        copied += [(stack.layers[i], ours.model.model.layers[k]) for k, i in enumerate((0, 2, 4))]
        copied += [(stack.layers[i], fusion.layers[k]) for k, i in enumerate((1, 3))]
        for target, source in copied:
            target.load_state_dict(source.state_dict())
    return theirs, ours, fusion


def run_ours(ours: Any, fusion: Any, memory: Tensor, sees: Tensor) -> Tensor:
    """Logits (B, T, V)."""
    positions = torch.arange(IDS.shape[1]).expand(len(IDS), -1)
    h = fusion(ours, ours.embed(IDS), positions, causal(*IDS.shape), Memory(values=memory), readable(sees, memory.shape[1]))
    return ours.logits(h.flatten(0, 1)).view(*IDS.shape, -1)


def run_theirs(theirs: Any, memory: Tensor, sees: Tensor) -> Tensor:
    """Logits of the class itself, with its masks made from what each token sees."""
    reads = readable(sees, memory.shape[1])
    some = reads.any(-1)[:, None, :, None].float()
    mask = torch.zeros(reads.shape).masked_fill(~reads, torch.finfo(torch.float32).min)[:, None] * some
    return theirs(input_ids=IDS, cross_attention_states=memory, cross_attention_mask=mask, full_text_row_masked_out_mask=some, use_cache=False).logits


def test_it_equals_transformers_with_its_leak_of_unattended_rows(mllama: tuple[Any, Any, Any]) -> None:
    theirs, ours, fusion = mllama
    memory = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(2))
    found, wanted = run_ours(ours, fusion, memory, SEES), run_theirs(theirs, memory, SEES)
    assert worst(found, wanted) <= 1e-5
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(3))
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    pairs = [(theirs.model.layers[i], ours.model.model.layers[k]) for k, i in enumerate((0, 2, 4))]
    pairs += [(theirs.model.layers[i], fusion.layers[k]) for k, i in enumerate((1, 3))]
    for target, source in pairs:
        own = dict(source.named_parameters())
        for name, p in target.named_parameters():
            assert worst(own[name].grad, p.grad) <= 1e-5, name


def test_a_token_that_sees_nothing_receives_nothing() -> None:
    ours, fusion = gated("nothing")
    memory = torch.randn(2, 7, 48)
    blind = torch.zeros_like(SEES)
    assert torch.equal(run_ours(ours, fusion, memory, blind), run_ours(ours, fusion, 5 * memory, blind))
    leaking, open_ = gated("uniform")
    assert not torch.equal(run_ours(leaking, open_, memory, blind), run_ours(leaking, open_, -memory, blind))


def test_closed_gates_are_the_language_model_alone() -> None:
    ours, fusion = gated("nothing")
    with torch.no_grad():
        for name, p in fusion.named_parameters():
            if "gate" in name and "proj" not in name:
                p.zero_()
    found = run_ours(ours, fusion, torch.randn(2, 7, 48), SEES)
    assert torch.equal(found, ours.model(input_ids=IDS).logits)


def test_kept_keys_decode_like_fresh_ones() -> None:
    ours, fusion = gated("nothing")
    memory = torch.randn(2, 7, 48)
    kept = fusion.remember(ours, memory, None, True)
    positions = torch.arange(6).expand(2, -1)
    fresh = fusion(ours, ours.embed(IDS), positions, causal(2, 6), Memory(values=memory), readable(SEES, 7))
    assert torch.equal(fusion(ours, ours.embed(IDS), positions, causal(2, 6), kept, readable(SEES, 7)), fresh)


def test_blocks_beyond_the_decoder_are_refused() -> None:
    language = LanguageModelConfig(config={"model_type": "llama", **TEXT, "num_hidden_layers": 2})
    with pytest.raises(Refused, match="blocks before layers \\[1, 7\\]"):
        GatedCrossAttention(layers=(1, 7)).build(language.block())


@pytest.mark.parametrize("tied", [True, False])
def test_an_encoder_decoder_equals_t5(tied: bool) -> None:
    block = {
        "model_type": "t5",
        "vocab_size": 99,
        "d_model": 48,
        "d_kv": 12,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": tied,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.0,
    }
    torch.manual_seed(0)
    ours: Any = EncoderDecoderConfig(config=block).build().eval()
    ours.prove_logits()
    fusion: Any = EncoderDecoder().build(block)
    prompt, answer = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[0, 11, 12, 13]])
    memory = Memory(values=ours.encode(ours.embed(prompt), torch.ones(1, 5, 5, dtype=torch.bool), torch.zeros(1, 5, dtype=torch.bool)))
    reads = torch.ones(1, 4, 5, dtype=torch.bool)
    found = ours.logits(fusion(ours, ours.embed(answer), torch.arange(4)[None], causal(1, 4), memory, reads)[0])
    wanted = ours.model(input_ids=prompt, decoder_input_ids=answer, use_cache=False).logits[0]
    assert worst(found, wanted) <= 1e-5
    cache, parts = ours.new_cache(), []
    for start, stop in ((0, 2), (2, 3), (3, 4)):
        pattern = causal(1, stop)[:, start:stop]
        parts.append(fusion(ours, ours.embed(answer[:, start:stop]), torch.arange(start, stop)[None], pattern, memory, reads[:, start:stop], cache))
    assert worst(torch.cat(parts, 1), fusion(ours, ours.embed(answer), torch.arange(4)[None], causal(1, 4), memory, reads)) <= 1e-5


def test_positions_on_a_grid_equal_those_of_the_published_class() -> None:
    from transformers import AutoConfig, AutoModel

    rope = {"rope_type": "default", "rope_theta": 1e4}
    size = {key: value for key, value in TEXT.items() if key != "rope_parameters"} | {"num_hidden_layers": 2, "hidden_size": 64}
    ours: Any = LanguageModelConfig(config={"model_type": "qwen2", **size, "rope_parameters": rope}, sections=(2, 3, 3), attention="eager").build().eval()
    theirs: Any = AutoModel.from_config(AutoConfig.for_model("qwen2_vl_text", **size, rope_parameters={**rope, "mrope_section": [2, 3, 3]})).eval()
    theirs.set_attn_implementation("eager")
    theirs.load_state_dict(ours.model.model.state_dict())
    positions = torch.tensor([[[0, 1, 2, 2, 2, 2, 5]], [[0, 1, 2, 2, 3, 3, 5]], [[0, 1, 2, 3, 2, 3, 5]]])
    x = torch.randn(1, 7, 64, generator=torch.Generator().manual_seed(0))
    wanted = theirs(inputs_embeds=x, position_ids=positions, use_cache=False).last_hidden_state
    assert worst(ours.hidden(x, positions, causal(1, 7)), wanted) <= 1e-5
    line = torch.arange(7)[None]
    assert worst(ours.hidden(x, line, causal(1, 7)), ours.hidden(x, line.expand(3, -1, -1), causal(1, 7))) == 0
    assert worst(ours.hidden(x, positions, causal(1, 7)), ours.hidden(x, line, causal(1, 7))) > 1e-3
