"""The Q-Former against transformers: as a connector, beside instructions, and as the text encoder of stage 1; crops that do not touch each other; published counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval, InstructBlipConfig, InstructBlipForConditionalGeneration

from sightline.errors import Refused
from sightline.model.batch import Features, Pictures, SideTexts
from sightline.model.connector_kinds.query_transformer import QueryTransformerConnector
from sightline.model.connector_kinds.query_transformer_modules import QueryTransformer
from sightline.model.tiling import Grid

C, D, Q, E = 24, 48, 5, 16
BLOCK = {
    "vocab_size": 90,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "cross_attention_frequency": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
    "encoder_hidden_size": C,
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
OPT = {
    "model_type": "opt",
    "vocab_size": 128,
    "hidden_size": D,
    "ffn_dim": 96,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": D,
}
BERT_BASE = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "cross_attention_frequency": 2,
}
DEC = 7


def connector(model_type: str = "blip_2_qformer", seed: int = 0, width: int = D, **said: Any) -> QueryTransformer:
    torch.manual_seed(seed)
    config = QueryTransformerConnector(config={"model_type": model_type, **BLOCK}, queries=Q, joint=E, ids={"[DEC]": DEC, "[CLS]": 3}, **said)
    return config.build(C, width).eval()


def stirred(model: Any) -> Any:
    """Weights that are no longer zeros and ones."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def take(module: nn.Module, reference: nn.Module, fresh: tuple[str, ...] = ()) -> None:
    """Copy weights by equal names; only what begins with `fresh` may be left over."""
    given = reference.state_dict()
    own = module.state_dict()
    assert all(name in given or name.startswith(fresh) for name in own), sorted(own.keys() - given.keys())
    module.load_state_dict({name: given.get(name, tensor) for name, tensor in own.items()})


def apart(found: Tensor, wanted: Tensor) -> float:
    """max|a - b| / max|b|."""
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


def same_gradients(module: nn.Module, reference: nn.Module) -> int:
    """Every gradient of the module against the reference's of that name; how many were compared. Keys' biases move nothing: softmax takes them out."""
    wanted = dict(reference.named_parameters())
    compared = 0
    for name, parameter in module.named_parameters():
        if parameter.grad is None:
            continue
        given = wanted[name].grad
        assert given is not None, name
        if name.endswith("key.bias") or not given.any():
            assert parameter.grad.abs().max() < 1e-4 and given.abs().max() < 1e-4, name
            continue
        assert apart(parameter.grad, given) <= 1e-5, name
        compared += 1
    return compared


def features(*counts: int, seed: int = 1) -> Features:
    values = torch.randn(sum(counts), C, generator=torch.Generator().manual_seed(seed))
    return Features(values=values, grids=tuple(Grid(columns=count, rows=1) for count in counts), crops=tuple(range(len(counts))))


def of_pixels(reference: Any, pixels: Tensor) -> Features:
    tokens = reference.vision_model(pixels).last_hidden_state
    return Features(values=tokens.flatten(0, 1), grids=(Grid(columns=2, rows=2, lead=1),) * len(tokens), crops=tuple(range(len(tokens))))


def texts(seed: int = 2) -> SideTexts:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, 90, (3, 6), generator=generator)
    ids[:, 0] = 3
    lengths = torch.tensor([6, 3, 5])
    ids[torch.arange(6) >= lengths[:, None]] = 0
    return SideTexts(ids=ids, lengths=lengths, picture_of=torch.tensor([2, 0, 1]))


def valid(side: SideTexts) -> Tensor:
    return torch.arange(side.ids.shape[1]) < side.lengths[:, None]


def pixels() -> Tensor:
    return torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(3))


def loss(found: Tensor) -> Tensor:
    return (found * torch.randn(found.shape, generator=torch.Generator().manual_seed(4))).sum()


def test_the_connector_is_that_of_blip_2() -> None:
    reference = stirred(Blip2ForConditionalGeneration(Blip2Config(vision_config=VISION, qformer_config=BLOCK, text_config=OPT, num_query_tokens=Q)))
    module = connector()
    take(module, reference)
    found = module(of_pixels(reference, pixels()))
    wanted = reference.get_image_features(pixels()).pooler_output
    assert found.grids == (Grid(columns=0, rows=0, lead=Q),) * 3 and found.crops == (0, 1, 2)
    assert apart(found.values, wanted.flatten(0, 1)) <= 1e-5
    loss(found.values).backward()
    vision = {name: parameter.grad for name, parameter in reference.vision_model.named_parameters()}
    reference.zero_grad()
    loss(wanted.flatten(0, 1)).backward()
    assert same_gradients(module, reference) > 60
    for name, parameter in reference.vision_model.named_parameters():
        assert apart(vision[name], parameter.grad) <= 1e-5, name


@pytest.mark.parametrize("seen", ["by crop", "by picture"])
def test_instructions_stand_among_the_queries_of_instructblip(seen: str) -> None:
    reference = stirred(
        InstructBlipForConditionalGeneration(InstructBlipConfig(vision_config=VISION, qformer_config=BLOCK, text_config=OPT, num_query_tokens=Q))
    )
    module = connector("instructblip_qformer", reads_text=True)
    take(module, reference)
    side, order = texts(), torch.tensor([1, 2, 0])  # text of picture 0, 1, 2
    pictures = Pictures(tilings=(), picture_of=torch.arange(3)) if seen == "by picture" else None
    found = module(of_pixels(reference, pixels()), side, pictures).values
    given = reference.get_image_features(pixels(), qformer_input_ids=side.ids[order], qformer_attention_mask=valid(side)[order].long())
    wanted = given.pooler_output.flatten(0, 1)
    assert apart(found, wanted) <= 1e-5
    loss(found).backward()
    loss(wanted).backward()
    assert same_gradients(module, reference) > 80
    unmoved = [name for name, parameter in module.named_parameters() if parameter.grad is not None and not parameter.grad.any()]
    assert unmoved == module.spare, "the last layer's text is computed and not read"


def test_blip_2_without_its_class_reads_text_as_instructblip_does() -> None:
    one, other = stirred(connector("instructblip_qformer", reads_text=True)), connector("blip_2_qformer", reads_text=True)
    names = {"qformer.embeddings.layernorm": "qformer.layernorm", "qformer.embeddings.": "embeddings."}
    renamed = {}
    for name, tensor in one.state_dict().items():
        for old, new in names.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    other.load_state_dict(renamed)
    crops = features(4, 7, 2)
    torch.testing.assert_close(one(crops, texts()).values, other(crops, texts()).values)


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=4), reads=st.booleans())
def test_a_crop_depends_on_no_other_crop(counts: list[int], reads: bool) -> None:
    module = stirred(connector(reads_text=reads))
    side = texts()
    whole = features(*counts)
    # crops 0 and 3 show picture 0, crop 1 shows picture 1, which has a text of another length; picture 3 has none
    pictures = Pictures(tilings=(), picture_of=torch.tensor([0, 1, 3, 0]))
    found = module(whole, side, pictures).values.view(len(counts), Q, D)
    for crop, tokens in enumerate(whole.split()):
        own = side.picture_of == pictures.picture_of[crop]
        ids = side.ids[own, : int(side.lengths[own][0])] if own.any() else side.ids[:0]
        mine = SideTexts(ids=ids, lengths=side.lengths[own], picture_of=side.picture_of[own]) if own.any() else None
        alone = module(Features(values=tokens, grids=(whole.grids[crop],), crops=(crop,)), mine, pictures).values
        torch.testing.assert_close(found[crop], alone, rtol=0, atol=1e-5)
    if reads and len(counts) > 1:
        assert not torch.allclose(found[1], module(whole, None, pictures).values.view(-1, Q, D)[1], atol=1e-3), "the text changes what is seen"


def test_one_picture_is_read_with_one_text() -> None:
    side = texts()
    twice = SideTexts(ids=side.ids, lengths=side.lengths, picture_of=torch.tensor([0, 0, 1]))
    with pytest.raises(AssertionError, match="a picture is read with one text"):
        connector(reads_text=True)(features(2, 2), twice)


def retrieval() -> tuple[Any, QueryTransformer]:
    config = Blip2Config(
        vision_config=VISION, qformer_config={**BLOCK, "use_qformer_text_input": True}, text_config=OPT, num_query_tokens=Q, image_text_hidden_size=E
    )
    reference = stirred(Blip2ForImageTextRetrieval(config))
    module = connector(text=True, width=0)
    take(module, reference, ("cls.", "scale"))
    return reference, module


def test_it_compares_as_blip_2_does() -> None:
    reference, module = retrieval()
    side = texts()
    found = torch.einsum("pqe,xe->pxq", module.embed_pictures(of_pixels(reference, pixels())), module.embed_texts(side)).amax(-1)
    wanted = reference(pixel_values=pixels(), input_ids=side.ids, attention_mask=valid(side).long()).logits_per_image
    assert apart(found, wanted) <= 1e-5
    loss(found).backward()
    loss(wanted).backward()
    assert same_gradients(module, reference) > 90


def test_it_matches_as_blip_2_does() -> None:
    reference, module = retrieval()
    side = texts()
    pairs = torch.tensor([[0, 1], [2, 0], [1, 0], [1, 2]])
    found = module.match(of_pixels(reference, pixels()), side, pairs)
    wanted = reference(
        pixel_values=pixels()[pairs[:, 0]],
        input_ids=side.ids[pairs[:, 1]],
        attention_mask=valid(side)[pairs[:, 1]].long(),
        use_image_text_matching_head=True,
    ).logits_per_image
    assert found.shape == (4, 2) and apart(found, wanted) <= 1e-5
    loss(found).backward()
    loss(wanted).backward()
    assert same_gradients(module, reference) > 90


def told_one_by_one(module: QueryTransformer, tokens: Tensor, ids: list[int]) -> list[tuple[float, float]]:
    """Log-probability and mean log-probability of each token, by growing the text and masking row by row."""
    found = []
    for end in range(1, len(ids)):
        given = torch.tensor([[DEC, *ids[1:end]]])
        length = Q + end
        mask = torch.full((length, length), -torch.inf)
        for row in range(length):
            mask[row, : Q if row < Q else row + 1] = 0.0
        x = torch.cat([module.query_tokens, module.embeddings.word_embeddings(given) + module.embeddings.position_embeddings(torch.arange(end))], 1)
        hidden = module.qformer(query_embeds=x, query_length=Q, attention_mask=mask[None, None], encoder_hidden_states=tokens[None]).last_hidden_state
        last = module.cls.predictions.transform(hidden[0, -1])
        logp = linear(last, module.embeddings.word_embeddings.weight, module.cls.predictions.bias).log_softmax(-1)
        found.append((float(logp[ids[end]]), float(logp.mean())))
    return found


@torch.no_grad()
def test_it_tells_a_text_token_by_token_behind_its_queries() -> None:
    module = stirred(connector(text=True, width=0))
    side, seen = texts(), features(4, 7, 2)
    told = module.tell(seen, side)
    wanted = [
        one
        for ids, length, picture in zip(side.ids.tolist(), side.lengths.tolist(), side.picture_of.tolist())
        for one in told_one_by_one(module, seen.split()[picture], ids[:length])
    ]
    assert told.owners.tolist() == [0] * 5 + [1] * 2 + [2] * 4
    torch.testing.assert_close(told.logp, torch.tensor([logp for logp, _ in wanted]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(told.mean_logp, torch.tensor([mean for _, mean in wanted]), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_is_told_depends_on_the_picture_and_on_no_later_token() -> None:
    module = stirred(connector(text=True, width=0))
    side, seen = texts(), features(4, 7, 2)
    told = module.tell(seen, side).logp
    changed = side.ids.clone()
    changed[0, 5], changed[:, 0] = 50, 11  # the last token of text 0, and first tokens, which are replaced
    later = module.tell(seen, SideTexts(ids=changed, lengths=side.lengths, picture_of=side.picture_of)).logp
    torch.testing.assert_close(told[:4], later[:4])
    assert (told[4] - later[4]).abs() > 1e-4
    torch.testing.assert_close(told[5:], later[5:])
    elsewhere = module.tell(seen, SideTexts(ids=side.ids, lengths=side.lengths, picture_of=torch.tensor([1, 0, 1]))).logp
    assert (told[:5] - elsewhere[:5]).abs().min() > 1e-5
    torch.testing.assert_close(told[5:], elsewhere[5:])


def test_words_stand_at_both_ends_of_the_teller() -> None:
    module = connector(text=True, width=0)
    module.tell(features(4, 7, 2), texts()).logp.sum().backward()
    read = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert "embeddings.word_embeddings.weight" in read and "cls.predictions.bias" in read
    assert not any("decoder" in name for name in module.state_dict()), "the head's weights are the words"


@pytest.mark.parametrize(
    ("model_type", "said", "vocabulary", "wanted"),
    [
        ("blip_2_qformer", {}, 30522, 105_137_664),
        ("instructblip_qformer", {"reads_text": True}, 30523, 185_660_160),
    ],
)
def test_published_sizes(model_type: str, said: dict[str, Any], vocabulary: int, wanted: int) -> None:
    config = QueryTransformerConnector(config={"model_type": model_type, **BERT_BASE, "vocab_size": vocabulary}, **said)
    with torch.device("meta"):
        module = config.build(1408, 2560)
    total = sum(parameter.numel() for parameter in module.parameters())
    assert total == wanted + 32 * 768 + (768 * 2560 + 2560)


def test_stage_1_adds_projections_and_heads_to_the_text_size() -> None:
    with torch.device("meta"):
        module = QueryTransformerConnector(config={"model_type": "blip_2_qformer", **BERT_BASE, "vocab_size": 30523}, text=True).build(1408, 0)
    heads = 2 * (768 * 256 + 256) + (768 * 2 + 2) + (768 * 768 + 768 + 2 * 768 + 30523) + 1
    assert sum(parameter.numel() for parameter in module.parameters()) == 185_660_160 + 32 * 768 + heads


def test_the_config_says_what_it_is_and_can_do() -> None:
    config = QueryTransformerConnector(config={"model_type": "blip_2_qformer", **BERT_BASE}, text=True)
    assert config.grid(Grid(columns=16, rows=16, lead=1)) == Grid(columns=0, rows=0, lead=32)
    assert (config.abilities, config.controls) == (("embed", "match", "tell"), ("[CLS]", "[DEC]"))
    resolved = config.resolve(640, {"[CLS]": 4, "[DEC]": 5}.__getitem__)
    assert resolved.ids == {"[CLS]": 4, "[DEC]": 5} and resolved.config["vocab_size"] == 640 and resolved.resolve() == resolved
    plain = QueryTransformerConnector(config={"model_type": "blip_2_qformer", **BERT_BASE})
    assert (plain.abilities, plain.controls, plain.resolve(640).config["vocab_size"]) == ((), (), 30522)
    with pytest.raises(Refused, match=r"model/unknown-q-former at connector\.config\n  found:   'bert'"):
        QueryTransformerConnector(config={"model_type": "bert"}).build(C, D)
    with pytest.raises(Refused, match=r"model/too-few-positions at connector\.max_tokens\n  found:   texts of 600 tokens\n  allowed: at most 512"):
        config.model_copy(update={"max_tokens": 600}).resolve()


def test_the_twin_runs_and_keeps_the_structure() -> None:
    config = QueryTransformerConnector(config={"model_type": "instructblip_qformer", **BERT_BASE}, reads_text=True).twin()
    module = config.build(32, 64)
    found = module(Features(values=torch.randn(9, 32), grids=(Grid(columns=3, rows=3),), crops=(0,)))
    found.values.sum().backward()
    assert found.values.shape == (4, 64)
    assert [hasattr(layer, "crossattention") for layer in module.blocks] == [True, False]
