"""Language models: `logits` of single rows is the head of the class, with its scale or soft cap, and a class that does otherwise is refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models as tiny
import torch

from sightline.errors import Refused
from sightline.model.language import LanguageModelConfig
from sightline.model.language_modules import CausalLanguageModel

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "gemma2": {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8, "pad_token_id": 0},
    "granite": {"logits_scaling": 3.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "cohere": {"logit_scale": 0.25, "pad_token_id": 0},
}


def model(name: str, **changes: Any) -> CausalLanguageModel:
    torch.manual_seed(0)
    return tiny.language(name, "eager", **(FAMILIES[name] | changes)).build().eval()


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_rows_get_the_logits_of_the_class(name: str) -> None:
    language_model = model(name)
    language_model.prove_logits()
    ids = torch.arange(3, 15)[None]
    expected = language_model.model(input_ids=ids, use_cache=False).logits[0]
    causal = torch.ones(1, 12, 12, dtype=torch.bool).tril()
    rows = language_model.hidden(language_model.embed(ids), torch.arange(12)[None], causal)[0]
    found = language_model.logits(rows)
    assert found.dtype == torch.float32 and found.shape == (12, 400)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize(("name", "setting"), [("gemma2", "final_logit_softcapping"), ("granite", "logits_scaling"), ("cohere", "logit_scale")])
def test_the_scale_of_a_family_matters(name: str, setting: str) -> None:
    language_model = model(name)
    rows = torch.randn(3, 32, generator=torch.Generator().manual_seed(1)) * 10
    scaled = language_model.logits(rows)
    setattr(language_model.model.config, setting, 1.0)
    assert (scaled - language_model.logits(rows)).abs().max() > 1e-2


def test_a_class_with_other_logits_is_refused() -> None:
    language_model = model("llama").train()
    language_model.prove_logits()
    assert language_model.training  # the proof leaves the mode as it was
    head = language_model.model.get_output_embeddings()
    language_model.model.lm_head = torch.nn.Sequential(head, torch.nn.Hardtanh(-1e-3, 1e-3))
    language_model.model.get_output_embeddings = lambda: head
    with pytest.raises(Refused, match=r"model/logits-differ at language_model\n  found:   LlamaForCausalLM: logits of its forward differ by [\d.]+"):
        language_model.prove_logits()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_backends_agree_under_the_same_pattern(attention: Any) -> None:
    torch.manual_seed(0)
    eager = tiny.language("qwen2", "eager").build().eval()
    torch.manual_seed(0)
    other = tiny.language("qwen2", attention).build().eval()
    x = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(2))
    positions = torch.arange(6).expand(2, -1)
    pattern = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    pattern[0, 3:, :3] = False
    torch.testing.assert_close(other.hidden(x, positions, pattern), eager.hidden(x, positions, pattern), rtol=0, atol=1e-5)
    # what is not allowed is not read
    changed = x.clone()
    changed[0, :3] += 1
    torch.testing.assert_close(other.hidden(changed, positions, pattern)[0, 3:], other.hidden(x, positions, pattern)[0, 3:], rtol=0, atol=1e-6)


def test_blocks_are_the_decoder_layers_in_order() -> None:
    language_model = model("llama")
    assert [id(block) for block in language_model.blocks] == [id(layer) for layer in language_model.model.model.layers]


def test_the_vocabulary_of_a_trained_tokenizer_goes_into_the_config() -> None:
    config = tiny.language("llama", eos_token_id=2, bos_token_id=1)
    resolved = config.resolve(77)
    assert resolved.block()["vocab_size"] == 77 and resolved.block()["eos_token_id"] is None and resolved.block()["bos_token_id"] is None
    assert config.resolve().block()["vocab_size"] == 400
    assert resolved.width() == 32


def test_a_config_that_transformers_does_not_build_is_refused_with_its_reason() -> None:
    with pytest.raises(Refused, match=r"model/config-not-accepted at language_model\n  found:   ValueError: .*no-such-model"):
        LanguageModelConfig(config={"model_type": "no-such-model"}).build()
    with pytest.raises(Refused, match=r"model/no-model-type at language_model\n  found:   keys \['hidden_size'\]"):
        LanguageModelConfig(config={"hidden_size": 4}).build()
    with pytest.raises(Refused, match=r"model/no-checkpoint at language_model\n  found:   neither checkpoint nor config"):
        LanguageModelConfig().width()
