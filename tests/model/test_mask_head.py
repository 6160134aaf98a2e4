"""Mask heads: taps are the hidden states that predict the codec's token, however samples are packed; gradients reach the projection; SAM's path is that of transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compositions import CLIP, DINO, LLAMA
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TEXTS, built, picture

from sightline.errors import Refused
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.batch import Batch, MaskTaps
from sightline.model.head_kinds.sam_head import SamHead
from sightline.model.mask_views import view_mask, view_of, view_pixels, view_share, view_target
from sightline.model.native.native_format import refuse_kinds
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.geometry import decode_mask, encode_mask, mask_area
from sightline.samples.sample import Mask, Origin, Polygon, Region, Regions, Sample, Show, Text, Turn
from sightline.train.mask_objective import MaskLikelihood, mask_losses

SAM = SamHead(config={"model_type": "sam"}).twin()
HEADS: dict[str, dict[str, Any]] = {
    "maps": {"kind": "maps", "encoder": "vision", "size": 32, "told": 8, "looks": 2, "width": 16, "stem": 8, "depth": 1},
    "own-tower": {
        "kind": "maps",
        "encoder": {"config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}},
        "size": 48,
        "width": 16,
        "stem": 8,
    },
    "sam": SAM.model_dump(mode="json"),
}


def config(head: str, **changes: Any) -> ModelConfig:
    said = {
        "encoders": [DINO],
        "tiler": {"kind": "whole", "size": 32},
        "connector": {"kind": "mlp"},
        "language_model": LLAMA,
        "heads": {"mask": HEADS[head]},
        "codec": {"kind": "seg"},
    }
    return ModelConfig.model_validate_json(json.dumps({**said, **changes}))


def made(head: str = "maps", **changes: Any) -> tuple[Model, Processor]:
    whole = config(head, **changes)
    tokenizer = train_tokenizer(TEXTS, 400, whole.chat_format(), whole.controls())
    return built(whole.resolve(tokenizer.size), tokenizer)


def blob(seed: int, width: int, height: int) -> Mask:
    rng = np.random.default_rng(seed)
    x, y = sorted(rng.integers(0, width, 2).tolist()), sorted(rng.integers(0, height, 2).tolist())
    pixels = np.zeros((height, width), bool)
    pixels[y[0] : y[1] + 1, x[0] : x[1] + 1] = True
    return encode_mask(pixels)


def row(number: int, masks: int = 2, independent: bool = False) -> Sample:
    """A question about a picture, answered by masks under one label, with words after them; another pair says there is none."""
    shown = picture(number, 40 + number, 30)
    regions = tuple(Region(label="ship", shape=blob(10 * number + k, 40 + number, 30)) for k in range(masks))
    items = (Regions(regions=regions, label="ship"), Text(text=" in the harbor")) if masks else (Text(text="none"),)
    turns = (Turn(role="user", items=(Show(picture=0), Text(text="Where?"))), Turn(role="assistant", items=items))
    more = (
        Turn(role="user", items=(*((Show(picture=0),) if independent else ()), Text(text="How many ships?"))),
        Turn(role="assistant", items=(Text(text="none"),)),
    )
    attributes = {"turns": "independent"} if independent else {}
    return Sample(id=f"s{number}", pictures=(shown,), turns=(*turns, *more), attributes=attributes, origin=Origin(source="test", row=str(number)))


def taps_of(model: Model, batch: Batch) -> torch.Tensor:
    assert batch.masks is not None
    return model.rows(batch)[batch.masks.answers]


@pytest.mark.parametrize("independent", [False, True])
def test_taps_are_the_states_that_predict_the_token_however_rows_are_packed(independent: bool) -> None:
    model, processor = made()
    rows = [processor.encode(row(number, masks, independent)) for number, masks in enumerate((2, 0, 1, 3))]
    for one, masks in zip(rows, (2, 0, 1, 3)):
        assert len(one.taps) == masks
        assert all(one.targets[answer] == processor.tap_id for answer, _ in one.taps)
        assert sum(one.targets == processor.tap_id) == masks
    alone = processor.collate([[one] for one in rows])
    packed = processor.collate([rows[:3], rows[3:]])
    with torch.no_grad():
        states, bare = taps_of(model, alone), taps_of(model, packed)
        assert torch.allclose(states, bare, atol=1e-5)
        hidden = model.hidden(alone).flatten(0, 1)
        assert torch.allclose(states, hidden[alone.answers[alone.masks.answers]], atol=1e-5)  # pyright: ignore[reportOptionalMemberAccess]
        assert alone.decoder is not None and alone.masks is not None
        after = alone.decoder.ids.flatten()[alone.answers[alone.masks.answers] + 1]
        assert (after == processor.tap_id).all()
        first, second = model(alone, ask="mask"), model(packed, ask="mask")
    assert first.masks is not None and second.masks is not None and first.masks.shape == (6, 32, 32)
    assert torch.allclose(first.masks, second.masks, atol=1e-4)
    assert torch.equal(alone.masks.views, torch.tensor([0, 0, 1, 2, 2, 2]))
    for number, (_, (_, shape)) in enumerate(tap for one in rows for tap in one.taps):
        size = (rows[(0, 0, 2, 3, 3, 3)[number]].pictures[0].width, 30)
        assert np.allclose(alone.masks.targets[number], view_target(shape, size, view_of(*size, 32), 32, 1))  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("head", HEADS)
def test_gradients_reach_projection_decoder_and_language_model(head: str) -> None:
    model, processor = made(head)
    batch = processor.collate([[processor.encode(row(1)), processor.encode(row(2, 0))]])
    objective = MaskLikelihood(text=1e-9).build()
    assert objective.counts(batch)["bce"] == pytest.approx(2)
    losses = objective(model, batch)
    torch.stack([losses.sums[term] for term in ("bce", "dice")]).sum().backward()
    named = dict(model.named_parameters())
    drawing: Any = model.heads["mask"]
    spare = {f"heads.mask.{name}" for name in drawing.spare}
    unread = {name for name, p in named.items() if name.startswith("heads.") and name not in spare and (p.grad is None or not p.grad.any())}
    allowed = ("heads.mask.decoder.told.0", "heads.mask.decoder.told.2") if head != "sam" else ()
    assert not {name for name in unread if not name.startswith(allowed)}, unread
    assert any(p.grad is not None and p.grad.any() for name, p in named.items() if name.startswith("language_model"))
    assert losses.sums["bce"] > 0 and 0 < losses.sums["dice"] < 1.0 and losses.report["iou"][1] == 2


def test_rows_without_masks_learn_their_words() -> None:
    model, processor = made()
    later = row(2)
    assert processor.encode(later).taps and not processor.encode(replace(later, turns=later.turns[:3]), answer=False).taps, "a prompt asks for nothing"
    batch = processor.collate([[processor.encode(row(1, 0))]])
    assert batch.masks is None
    objective = MaskLikelihood().build()
    losses = objective(model, batch)
    assert losses.sums["bce"] == losses.sums["dice"] == 0 and objective.counts(batch)["dice"] > 0
    losses.sums["answer"].backward()


def test_losses_are_the_published_ones() -> None:
    """LISA's own lines: mean cross-entropy of a mask; 1 - (2 sum(p t) / 1000 + eps) / (sum(p) / 1000 + sum(t) / 1000 + eps)."""
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 8, 8), (torch.rand(3, 8, 8) > 0.5).float()
    asked = MaskTaps(answers=torch.arange(3), views=torch.tensor([0, 1, 0]), pixels=torch.zeros(2, 3, 8, 8), share=torch.ones(2, 8, 8), targets=targets)
    bce, dice, _ = mask_losses(logits, asked)
    flat, true = logits.sigmoid().flatten(1), targets.flatten(1)
    assert torch.allclose(bce, torch.nn.functional.binary_cross_entropy(flat, true, reduction="none").mean(1), atol=1e-6)
    expected = 1 - (2 * (flat / 1000 * true).sum(1) + 1e-6) / ((flat / 1000).sum(1) + (true / 1000).sum(1) + 1e-6)
    assert torch.allclose(dice, expected, atol=1e-6)
    half = replace(asked, share=torch.cat([torch.ones(2, 4, 8), torch.zeros(2, 4, 8)], 1), targets=targets * torch.cat([torch.ones(4, 8), torch.zeros(4, 8)]))
    changed = logits.clone()
    changed[:, 4:] += 50
    assert all(torch.allclose(a, b) for a, b in zip(mask_losses(logits, half), mask_losses(changed, half)))


def test_sam_decodes_as_transformers_does() -> None:
    """The same image, and the same vector as its only sparse prompt, give the same logits by SamModel's own parts."""
    model, processor = made("sam")
    head: Any = model.heads["mask"]
    from transformers import SamConfig, SamModel

    block = dict(head.config.block())
    block.pop("model_type")
    torch.manual_seed(1)
    sam: Any = SamModel(SamConfig(**block)).eval()
    head.encoder.load_state_dict(sam.vision_encoder.state_dict())
    head.places.load_state_dict(sam.shared_image_embedding.state_dict())
    head.no_mask.load_state_dict(sam.prompt_encoder.no_mask_embed.state_dict())
    head.decoder.load_state_dict(sam.mask_decoder.state_dict())
    assert processor.masks is not None
    asked = processor.masks.about(picture(3, 40, 30), 2)
    taps = torch.randn(2, 32)
    with torch.no_grad():
        ours = model.draw(taps, asked)
        seen = sam.get_image_embeddings((asked.pixels - head.mean) / head.std)
        sparse = head.projection(taps)[None, :, None]  # one picture, two prompts of one vector
        places = sam.get_image_wide_positional_embeddings()
        _, dense = sam.prompt_encoder(input_points=None, input_labels=None, input_boxes=None, input_masks=None)
        theirs, _ = sam.mask_decoder(
            image_embeddings=seen, image_positional_embeddings=places, sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False
        )
    assert ours.shape == (2, 16, 16) and torch.allclose(ours, theirs[0, :, 0], atol=1e-6)
    assert not torch.allclose(ours[0], ours[1])


def test_weights_of_a_checkpoint_are_taken(tmp_path: Path) -> None:
    from transformers import SamConfig, SamModel

    block = {key: value for key, value in SAM.block().items() if key != "model_type"}
    torch.manual_seed(2)
    sam: Any = SamModel(SamConfig(**block))
    sam.save_pretrained(tmp_path)
    head: Any = SamHead(checkpoint=str(tmp_path)).resolve(()).build(32, ())
    assert torch.equal(head.decoder.mask_tokens.weight, sam.mask_decoder.mask_tokens.weight)
    assert torch.equal(head.encoder.pos_embed, sam.vision_encoder.pos_embed)
    assert head.config.side == 32 and head.config.stride == 2


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_model_draws_the_same(head: str, tmp_path: Path) -> None:
    model, processor = made(head)
    directory.save(tmp_path, model, processor)
    again, reader, _ = directory.load(tmp_path)
    assert again.config.heads == directory.without_checkpoints(model.config).heads and "mask" in again.abilities
    batch = processor.collate([[processor.encode(row(1))]])
    with torch.no_grad():
        assert torch.equal(model(batch, ask="mask").masks, again(reader.collate([[reader.encode(row(1))]]), ask="mask").masks)


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), side=st.sampled_from([32, 48, 64]), seed=st.integers(0, 1000))
def test_what_a_view_shows_comes_back(width: int, height: int, side: int, seed: int) -> None:
    """A mask taken to the grid and back is the same mask where the square is no coarser than the picture, and about as large where it is."""
    view, mask = view_of(width, height, side), blob(seed, width, height)
    assert max(view.width, view.height) == side
    target, share = view_target(mask, (width, height), view, side, 1), view_share(view, side, 1)
    assert ((target > 0) <= (share > 0)).all() and target.max() <= 1
    back = view_mask(target - 0.5, view, width, height)
    if max(width, height) * 2 <= side:
        assert (decode_mask(back) == decode_mask(mask)).mean() > 0.95
    assert mask_area(view_mask(target * 0 + 1, view, width, height)) == width * height
    coarse = view_target(mask, (width, height), view, side, 4)
    assert coarse.shape == (side // 4, side // 4) and coarse.mean() == pytest.approx(target.mean(), abs=1e-5)


def test_polygons_are_targets_and_depths_are_scaled() -> None:
    view = view_of(20, 10, 40)
    target = view_target(Polygon(points=((0, 0), (10, 0), (10, 10), (0, 10))), (20, 10), view, 40, 1)
    assert target[:20, :19].min() == 1 and target[:, 21:].max() == 0
    deep = view_pixels(np.full((10, 20, 2), 65535, np.uint16), view, 40, (0.5, 0.25))
    assert deep.shape == (2, 40, 40) and np.allclose(deep[:, :20], 255) and np.allclose(deep[0, 20:], 127.5) and np.allclose(deep[1, 20:], 63.75)


def test_what_cannot_be_learnt_is_refused() -> None:
    _, processor = made()
    asking = Sample(
        id="q",
        pictures=(picture(1, 40, 30),),
        turns=(
            Turn(role="user", items=(Show(picture=0), Regions(regions=(Region(shape=blob(1, 40, 30)),)))),
            Turn(role="assistant", items=(Text(text="none"),)),
        ),
        origin=Origin(source="test"),
    )
    wrong = replace(row(1), pictures=(picture(1, 50, 30),))
    for sample, code in ((asking, "model/regions-asked"), (wrong, "model/mask-size")):
        with pytest.raises(Refused) as refused:
            processor.encode(sample)
        assert [problem.code for problem in refused.value.problems] == [code]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": {}}, "add a head"),
        ({"codec": "xyhwt-pad"}, "heads.mask draws the masks"),
        ({"heads": {"mask": {"kind": "maps", "encoder": "other"}}}, "one of vision"),
    ],
)
def test_heads_and_codecs_belong_together(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config("maps", **changes)


def test_a_size_that_the_tower_does_not_take_is_refused() -> None:
    with pytest.raises(Refused) as refused:
        config("maps", encoders=[CLIP], heads={"mask": {**HEADS["maps"], "size": 48}}).resolve(400)
    assert refused.value.problems[0].code == "model/head-size"


def test_published_formats_hold_no_head() -> None:
    model, _ = made()
    with pytest.raises(Refused) as refused:
        refuse_kinds(model.config, "llava", encoders=("transformers",), tiler=("whole",), connector=("mlp",), language_model=("transformers",), codec=("seg",))
    assert [(problem.place, problem.found) for problem in refused.value.problems] == [("model.heads", "mask head (maps)")]
