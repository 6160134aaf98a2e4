"""The mixture of encoder and decoder against BLIP of transformers: comparing, matching, captions, answers to questions; sharing, decoding with a cache, published counts and weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipForQuestionAnswering

from sightline.errors import Refused
from sightline.lineage import write_json
from sightline.model.batch import Features, SideTexts
from sightline.model.text_kinds.med import MedText
from sightline.model.text_kinds.med_modules import Med
from sightline.model.tiling import Grid

C, W, E, V = 24, 32, 16, 90
TEXT = {
    "vocab_size": V,
    "hidden_size": W,
    "encoder_hidden_size": C,
    "intermediate_size": 64,
    "projection_dim": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "initializer_range": 0.1,
    "bos_token_id": 7,
    "eos_token_id": 4,
    "sep_token_id": 4,
    "pad_token_id": 0,
    "is_decoder": True,
}
VISION = {
    "hidden_size": C,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "initializer_range": 0.2,
}
BERT_BASE = {
    "model_type": "blip_text_model",
    "vocab_size": 30524,
    "hidden_size": 768,
    "encoder_hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
}
IDS = {"[CLS]": 3, "[ENC]": 6, "[DEC]": 7}


def med(seed: int = 0, channels: int | None = C, **said: Any) -> Med:
    torch.manual_seed(seed)
    return MedText(config={"model_type": "blip_text_model", **TEXT}, joint=E, ids=IDS, **said).build(channels).eval()


def reference_of(kind: Any, channels: int = C) -> Any:
    config = BlipConfig(text_config=TEXT, vision_config={**VISION, "hidden_size": channels}, image_text_hidden_size=E)
    torch.manual_seed(9)
    return stirred(kind(config))


def stirred(model: Any, seed: int = 5) -> Any:
    """Weights that are no longer zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def take(module: Med, reference: Any) -> None:
    """Copy weights by equal names."""
    given = reference.state_dict()
    module.load_state_dict({name: tensor if name == "scale" else given[name] for name, tensor in module.state_dict().items()})


def apart(found: Tensor, wanted: Tensor) -> float:
    """max|a - b| / max|b|."""
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


def same_gradients(module: Med, reference: Any) -> int:
    """Every gradient of the module against the reference's of that name; how many were compared. Keys' biases move nothing: softmax takes them out."""
    wanted = dict(reference.named_parameters())
    compared = 0
    for name, parameter in module.named_parameters():
        if parameter.grad is None:
            assert name == "scale" or wanted[name].grad is None, name
            continue
        given = wanted[name].grad
        if name.endswith("key.bias"):
            assert parameter.grad.abs().max() < 1e-4 and given.abs().max() < 1e-4, name
            continue
        assert apart(parameter.grad, given) <= 1e-5, name
        compared += 1
    return compared


def pixels() -> Tensor:
    return torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(3))


def seen(reference: Any) -> Features:
    tokens = reference.vision_model(pixels()).last_hidden_state
    return Features(values=tokens.flatten(0, 1), grids=(Grid(columns=2, rows=2, lead=1),) * len(tokens), crops=tuple(range(len(tokens))))


def features(*counts: int, channels: int = C, seed: int = 1) -> Features:
    values = torch.randn(sum(counts), channels, generator=torch.Generator().manual_seed(seed))
    return Features(values=values, grids=tuple(Grid(columns=count - 1, rows=1, lead=1) for count in counts), crops=tuple(range(len(counts))))


def texts() -> SideTexts:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(8, V, (3, 6), generator=generator)
    ids[:, 0] = IDS["[CLS]"]
    lengths = torch.tensor([6, 3, 5])
    ids[torch.arange(6) >= lengths[:, None]] = 0
    return SideTexts(ids=ids, lengths=lengths, picture_of=torch.tensor([2, 0, 1]))


def valid(side: SideTexts) -> Tensor:
    return torch.arange(side.ids.shape[1]) < side.lengths[:, None]


def first(ids: Tensor, token: int) -> Tensor:
    return torch.cat([torch.full_like(ids[:, :1], token), ids[:, 1:]], 1)


def loss(found: Tensor) -> Tensor:
    return (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(4))).sum()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_compares_as_blip_does(attention: Any) -> None:
    reference = reference_of(BlipForImageTextRetrieval)
    module = med(modes=("embed", "match"), attention=attention)
    take(module, reference)
    side = texts()
    pictures = module.embed_pictures(seen(reference))
    assert pictures.shape == (3, 1, E)
    found = pictures[:, 0] @ module.embed_texts(side).T
    wanted = reference(input_ids=side.ids, pixel_values=pixels(), attention_mask=valid(side).long(), use_itm_head=False).itm_score
    assert apart(found, wanted) <= 1e-5
    loss(found).backward()
    vision = {name: parameter.grad for name, parameter in reference.vision_model.named_parameters()}
    reference.zero_grad()
    loss(wanted).backward()
    assert same_gradients(module, reference) > 45
    for name, parameter in reference.vision_model.named_parameters():
        assert name.endswith("key.bias") or apart(vision[name], parameter.grad) <= 1e-5, name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_matches_as_blip_does(attention: Any) -> None:
    reference = reference_of(BlipForImageTextRetrieval)
    module = med(modes=("embed", "match"), attention=attention)
    take(module, reference)
    side, pairs = texts(), torch.tensor([[0, 1], [2, 0], [1, 0], [1, 2]])
    found = module.match(seen(reference), side, pairs)
    wanted = reference(
        input_ids=first(side.ids, IDS["[ENC]"])[pairs[:, 1]], pixel_values=pixels()[pairs[:, 0]], attention_mask=valid(side)[pairs[:, 1]].long()
    ).itm_score
    assert found.shape == (4, 2) and apart(found, wanted) <= 1e-5
    loss(found).backward()
    reference.zero_grad()
    loss(wanted).backward()
    assert same_gradients(module, reference) > 75


def caption(module: Med, reference: Any, side: SideTexts) -> tuple[Tensor, Tensor]:
    """Logits of both at every place of a text: as a language model with memory, and by the class."""
    ids, memory = first(side.ids, IDS["[DEC]"]), seen(reference).values.view(3, 5, C)[side.picture_of]
    pattern = torch.ones(6, 6, dtype=torch.bool).tril()[None] & valid(side)[:, None]
    hidden = module.hidden(module.embed(ids), torch.arange(6).expand(3, 6), pattern, memory=memory, memory_pattern=torch.ones(3, 6, 5, dtype=torch.bool))
    wanted = reference(pixel_values=pixels()[side.picture_of], input_ids=ids, attention_mask=valid(side).long()).logits
    return module.logits(hidden.flatten(0, 1)).view(3, 6, V), wanted


def test_it_writes_captions_as_blip_does() -> None:
    reference = reference_of(BlipForConditionalGeneration)
    module = med(modes=("tell",))
    take(module, reference)
    side = texts()
    found, wanted = (logits[valid(side)] for logits in caption(module, reference, side))
    assert apart(found, wanted) <= 1e-5
    loss(found).backward()
    reference.zero_grad()
    loss(wanted).backward()
    assert same_gradients(module, reference) > 80


def test_it_tells_texts_as_blip_learns_them() -> None:
    reference = reference_of(BlipForConditionalGeneration)
    module = med(modes=("tell",))
    take(module, reference)
    side = texts()
    told = module.tell(seen(reference), side)
    smooth = -(0.9 * told.logp + 0.1 * told.mean_logp).mean()
    logits = reference(pixel_values=pixels()[side.picture_of], input_ids=first(side.ids, IDS["[DEC]"]), attention_mask=valid(side).long()).logits
    targets = side.ids[:, 1:].masked_fill(~valid(side)[:, 1:], -100)
    wanted = cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), label_smoothing=0.1)
    assert told.owners.tolist() == [0] * 5 + [1] * 2 + [2] * 4
    assert apart(smooth, wanted) <= 1e-5
    smooth.backward()
    reference.zero_grad()
    wanted.backward()
    assert same_gradients(module, reference) > 80


def answered(module: Med, memory: Tensor, questions: Tensor, answers: Tensor) -> Tensor:
    """Logits of answers: [picture; question] is encoded, the answer reads what comes out at the question."""
    count, told = memory.shape[1], questions.shape[1]
    stream = torch.cat([memory, module._encoder.embeddings.word_embeddings(questions)], 1)
    pictures = (torch.arange(count + told) < count).expand(len(stream), -1)
    encoded = module.encode(stream, torch.ones(len(stream), count + told, count + told, dtype=torch.bool), pictures)
    length = answers.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril().expand(len(answers), -1, -1)
    reads = ~pictures[:, None].expand(-1, length, -1)
    hidden = module.hidden(module.embed(answers), torch.arange(length).expand_as(answers), causal, memory=encoded, memory_pattern=reads)
    return module.logits(hidden.flatten(0, 1)).view(*answers.shape, V)


def test_it_answers_questions_as_blip_does() -> None:
    reference = reference_of(BlipForQuestionAnswering, W)
    torch.manual_seed(1)
    module = MedText(config={"model_type": "blip_text_model", **TEXT}, ids=IDS, modes=("question", "tell"), share="none").build(W).eval()
    take(module, reference)
    generator = torch.Generator().manual_seed(8)
    questions, answers = torch.randint(8, V, (3, 5), generator=generator), torch.randint(8, V, (3, 4), generator=generator)
    found = answered(module, seen(reference).values.view(3, 5, W), questions, answers)
    wanted = {}
    reference.text_decoder.register_forward_hook(lambda _module, _args, output: wanted.update(logits=output.logits))
    reference(input_ids=questions, pixel_values=pixels(), decoder_input_ids=answers, attention_mask=torch.ones_like(questions))
    assert apart(found, wanted["logits"]) <= 1e-5
    loss(found).backward()
    reference.zero_grad()
    loss(wanted["logits"]).backward()
    assert same_gradients(module, reference) > 150


@torch.no_grad()
def test_questions_of_one_bin_do_not_meet() -> None:
    torch.manual_seed(1)
    module = stirred(MedText(config={"model_type": "blip_text_model", **TEXT}, ids=IDS, modes=("question", "tell")).build(W))
    m = torch.randn(1, 9, W, generator=torch.Generator().manual_seed(1))
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2, 2]])
    pictures = torch.tensor([[True, True, False, False, True, False, True, False, False]])
    packed = module.encode(m, segments[:, :, None] == segments[:, None], pictures)
    for number in (1, 2):
        own = segments[0] == number
        alone = module.encode(m[:, own], torch.ones(1, int(own.sum()), int(own.sum()), dtype=torch.bool), pictures[:, own])
        text = ~pictures[0, own]
        torch.testing.assert_close(packed[0, own][text], alone[0][text], rtol=0, atol=1e-5)
    blind = module.encode(m, segments[:, :, None] == segments[:, None], torch.zeros_like(pictures))
    assert not torch.allclose(blind[0, 2], packed[0, 2], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("share", ["all-but-self-attention", "none"])
def test_encoder_and_decoder_share_what_the_recipe_says(share: Any) -> None:
    module = stirred(med(share=share))
    side, crops = texts(), features(5, 4, 6)
    pairs = torch.tensor([[0, 0], [1, 2]])

    def state() -> list[Tensor]:
        return [module.embed_texts(side), module.match(crops, side, pairs), module.tell(crops, side).logp]

    def moved(name: str) -> list[bool]:
        before = state()
        parameter = module.get_parameter(name)
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        return [not torch.allclose(a, b, atol=1e-4) for a, b in zip(before, state())]

    encoder = "text_encoder.encoder.layer.1."
    if share == "none":
        assert moved(f"{encoder}output.dense.weight") == [True, True, False]
        assert moved("text_decoder.bert.encoder.layer.1.attention.self.value.weight") == [False, False, True]
        assert len(module.blocks) == 6
        return
    assert moved(f"{encoder}attention.self.value.weight") == [True, True, False]
    assert moved(f"{encoder}decoder_attention.self.value.weight") == [False, False, True]
    assert moved(f"{encoder}crossattention.self.value.weight") == [False, True, True]
    assert moved(f"{encoder}output.dense.weight") == [True, True, True]
    assert moved("text_encoder.embeddings.word_embeddings.weight") == [True, True, True]
    assert len(module.blocks) == 3


@torch.no_grad()
def test_a_text_and_a_picture_depend_on_no_other() -> None:
    module = stirred(med())
    side, crops = texts(), features(5, 2, 6)
    embedded, told = module.embed_texts(side), module.tell(crops, side)
    pictures, matched = module.embed_pictures(crops), module.match(crops, side, torch.tensor([[2, 0], [0, 1], [1, 2]]))
    for text, length in enumerate(side.lengths.tolist()):
        picture = int(side.picture_of[text])
        mine = SideTexts(ids=side.ids[text : text + 1, :length], lengths=side.lengths[text : text + 1], picture_of=torch.zeros(1, dtype=torch.int64))
        own = Features(values=crops.split()[picture], grids=(crops.grids[picture],), crops=(0,))
        torch.testing.assert_close(embedded[text], module.embed_texts(mine)[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(pictures[picture], module.embed_pictures(own)[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(matched[text], module.match(own, mine, torch.zeros(1, 2, dtype=torch.int64))[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(told.logp[told.owners == text], module.tell(own, mine).logp, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_decoding_step_by_step_is_one_pass(attention: Any) -> None:
    module = stirred(med(modes=("tell",), attention=attention))
    ids, memory = torch.randint(8, V, (2, 5), generator=torch.Generator().manual_seed(1)), features(4, 4).values.view(2, 4, C)
    positions, reads = torch.arange(5).expand(2, 5), torch.ones(2, 5, 4, dtype=torch.bool)
    reads[1, :, 3] = False
    causal = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, -1, -1)
    whole = module.hidden(module.embed(ids), positions, causal, memory=memory, memory_pattern=reads)
    cache, steps = module.new_cache(), []
    for start, end in ((0, 2), (2, 3), (3, 5)):
        steps.append(
            module.hidden(
                module.embed(ids[:, start:end]), positions[:, start:end], causal[:, start:end, :end], cache, memory=memory, memory_pattern=reads[:, start:end]
            )
        )
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_memory_may_grow_while_decoding_and_bins_may_be_taken_apart() -> None:
    module = stirred(med(modes=("tell",)))
    ids, memory = torch.randint(8, V, (2, 3), generator=torch.Generator().manual_seed(1)), features(4, 4).values.view(2, 4, C)
    cache, one = module.new_cache(), torch.ones(2, 1, 1, dtype=torch.bool)
    place = torch.zeros(2, 1, dtype=torch.int64)
    module.hidden(module.embed(ids[:, :1]), place, one, cache, memory=memory[:, :2], memory_pattern=one.expand(2, 1, 2))
    cache.reorder_cache(torch.tensor([1]))
    grown = module.hidden(
        module.embed(ids[1:, 1:2]), place[1:] + 1, torch.ones(1, 1, 2, dtype=torch.bool), cache, memory=memory[1:], memory_pattern=one[1:].expand(1, 1, 4)
    )
    reads = torch.ones(1, 2, 4, dtype=torch.bool)
    reads[0, 0, 2:] = False
    causal = torch.ones(1, 2, 2, dtype=torch.bool).tril()
    whole = module.hidden(module.embed(ids[1:, :2]), torch.arange(2)[None], causal, memory=memory[1:], memory_pattern=reads)
    torch.testing.assert_close(grown[0, 0], whole[0, 1], rtol=0, atol=1e-5)


def test_a_token_that_sees_nothing_receives_exactly_nothing() -> None:
    module = stirred(med(modes=("tell",)))
    ids = torch.tensor([[7, 9, 11]])
    causal = torch.ones(1, 3, 3, dtype=torch.bool).tril()
    reads = torch.zeros(1, 3, 4, dtype=torch.bool)
    memory = features(4).values[None].requires_grad_()
    found = module.hidden(module.embed(ids), torch.arange(3)[None], causal, memory=memory, memory_pattern=reads)
    assert torch.equal(found, module.hidden(module.embed(ids), torch.arange(3)[None], causal))
    reads[0, 2, :2] = True
    some = module.hidden(module.embed(ids), torch.arange(3)[None], causal, memory=memory, memory_pattern=reads)
    assert torch.equal(some[:, :2], found[:, :2]) and not torch.allclose(some[:, 2], found[:, 2], atol=1e-3)
    some.sum().backward()
    assert memory.grad is not None and memory.grad[0, :2].any() and not memory.grad[0, 2:].any()


def test_a_dropped_class_token_is_refused() -> None:
    crops = Features(values=torch.randn(4, C), grids=(Grid(columns=2, rows=2),), crops=(0,))
    with pytest.raises(Refused, match="model/no-class-token at text_encoder\n  found:   picture tokens without a class token"):
        med().embed_pictures(crops)


def total(config: MedText) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.build().parameters())


def test_published_sizes() -> None:
    vision, captioner = 86_090_496, 223_971_644
    assert total(MedText(config=BERT_BASE, modes=("tell",))) == captioner - vision
    assert total(MedText(config=BERT_BASE | {"encoder_hidden_size": 1024}, modes=("tell",))) == 446_290_492 - 303_690_752
    layers = 137_258_496
    assert total(MedText(config=BERT_BASE, modes=("embed", "match"))) == layers + 2 * (768 * 256 + 256) + (768 * 2 + 2) + 1
    attention = 12 * (4 * (768 * 768 + 768) + 2 * 768)
    head = captioner - vision - layers
    assert total(MedText(config=BERT_BASE)) == layers + attention + head + 2 * (768 * 256 + 256) + (768 * 2 + 2) + 1
    assert total(MedText(config=BERT_BASE, modes=("question", "tell"), share="none")) == 2 * layers + head


def saved(reference: Any, folder: Path) -> str:
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "blip", "text_config": {"model_type": "blip_text_model", **TEXT}})
    tensors = {name: tensor.contiguous() for name, tensor in reference.state_dict().items() if ".predictions.decoder." not in name}
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


def test_published_weights_fit_by_name(tmp_path: Path) -> None:
    reference = reference_of(BlipForImageTextRetrieval)
    module = MedText(checkpoint=saved(reference, tmp_path / "matcher"), joint=E, modes=("embed", "match"), ids=IDS).resolve().build()
    given = reference.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in module.state_dict().items() if name != "scale")
    writer = reference_of(BlipForConditionalGeneration)
    whole = MedText(checkpoint=saved(writer, tmp_path / "writer"), joint=E, ids=IDS).build()
    own, given = whole.state_dict(), writer.state_dict()
    assert torch.equal(
        own["text_encoder.encoder.layer.2.decoder_attention.self.key.weight"], given["text_decoder.bert.encoder.layer.2.attention.self.key.weight"]
    )
    assert torch.equal(own["text_encoder.encoder.layer.2.attention.self.key.weight"], given["text_decoder.bert.encoder.layer.2.attention.self.key.weight"])
    assert torch.equal(own["text_decoder.cls.predictions.bias"], given["text_decoder.cls.predictions.bias"])


def test_weights_that_do_not_fit_are_refused_together(tmp_path: Path) -> None:
    folder = saved(reference_of(BlipForImageTextRetrieval), tmp_path / "matcher")
    with pytest.raises(Refused) as refused:
        MedText(checkpoint=folder, joint=12, ids=IDS).build()
    said = str(refused.value)
    assert "shape (16, 24) in the checkpoint" in said and "shape (12, 24) by the config" in said
    assert "tensors are not in the checkpoint: text_decoder.cls.predictions" in said


def test_the_config_says_what_it_is_and_can_do() -> None:
    config = MedText(config=BERT_BASE)
    assert (config.abilities, config.controls, config.width(), config.start_id) == (("embed", "match", "tell"), ("[CLS]", "[ENC]", "[DEC]"), 768, None)
    resolved = config.resolve(640, {"[CLS]": 4, "[ENC]": 5, "[DEC]": 6}.__getitem__)
    assert resolved.start_id == 6 and resolved.config is not None and resolved.config["vocab_size"] == 640
    assert MedText(config=BERT_BASE, modes=("tell", "question")).abilities == ("tell",)
    with pytest.raises(Refused, match=r"model/unknown-text-side at med\.config\n  found:   'bert'"):
        MedText(config={"model_type": "bert"}).resolve()
    with pytest.raises(ValidationError, match="a question is read by the decoder: add tell"):
        MedText(config=BERT_BASE, modes=("question",))
    with pytest.raises(ValidationError, match="at least one of embed, match, tell, question, each once"):
        MedText(config=BERT_BASE, modes=("tell", "tell"))
    with pytest.raises(Refused, match=r"model/too-few-positions at med\.max_tokens\n  found:   texts of 513 tokens"):
        MedText(config=BERT_BASE, max_tokens=513).resolve()


def test_the_twin_runs() -> None:
    module = MedText(config=BERT_BASE, ids=IDS).twin().build()
    crops = features(5, 5, channels=32)
    side = texts()
    side = SideTexts(ids=side.ids, lengths=side.lengths, picture_of=torch.tensor([1, 0, 1]))
    told = module.tell(crops, side)
    (told.logp.sum() + module.embed_pictures(crops).sum() + module.embed_texts(side).sum() + module.match(crops, side, torch.tensor([[0, 1]])).sum()).backward()
    assert module.embed(side.ids).shape == (3, 6, 64)
    assert [name for name, parameter in module.named_parameters() if parameter.grad is None] == ["scale"]
