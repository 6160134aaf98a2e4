"""Qwen2-VL against transformers: pictures of several sizes, films of even and odd length, positions on a grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity_cases import PICTURE, TEXT, Pair, apart, compare, dialogue, greedy, paired, photo, said, sample
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from sightline.model.assembly import ModelConfig
from sightline.model.batch import Batch
from sightline.model.connector_kinds.merger import MergerConnector
from sightline.model.encoder_kinds.rope_towers import Qwen2VlEncoder
from sightline.model.language import LanguageModelConfig
from sightline.model.layouts import FlatLayout
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.tilers.native import SmartResizeTiler

FILM, PATCH, MERGE = PICTURE - 1, 14, 2
"""Id that the class takes for an entry of a film; px of a patch; patches of a token in each direction."""
VISION = {"depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 4, "mlp_ratio": 2, "patch_size": PATCH}
TIED = {**TEXT, "tie_word_embeddings": True}
SECTIONS = (2, 2, 2)
PICTURES = (dialogue([photo(1, 90, 60), photo(2, 30, 50)]), dialogue([photo(3, 56, 56)], "Two ships and a long quay."))


def film(frames: int, answer: str) -> Any:
    """A still and a film, and a word between them."""
    pictures = [photo(10 * frames + number, 60, 40) for number in range(frames)]
    return sample([*pictures, photo(frames, 30, 50)], said("user", "Look:", frames, "and then", tuple(range(frames)), "Where?"), said("assistant", answer))


@pytest.fixture(scope="module")
def pair() -> Pair:
    config = ModelConfig(
        encoders=[Qwen2VlEncoder(config=VISION)],
        tiler=SmartResizeTiler(factor=PATCH * MERGE, max_pixels=28 * 28 * 8),
        connector=MergerConnector(merge=MERGE),
        layout=FlatLayout(begin="<|vision_start|>", end="<|vision_end|>", film_as="block"),
        language_model=LanguageModelConfig(config={"model_type": "qwen2", **TIED}, sections=SECTIONS),
        chat="chatml",
    ).resolve()
    rope = {**TEXT["rope_parameters"], "mrope_section": list(SECTIONS)}
    theirs = Qwen2VLConfig(
        text_config={**TIED, "rope_parameters": rope}, vision_config=VISION, image_token_id=PICTURE, video_token_id=FILM, tie_word_embeddings=True
    )
    return paired(config, lambda: Qwen2VLForConditionalGeneration(theirs), NATIVE_FORMATS["qwen2_vl"].rules(config))


def patches(crop: Tensor) -> Tensor:
    """(n, 3 * 2 * 14 * 14) of a crop (bands, h, w), the patches of a token one after another; a still is seen at both moments."""
    frames = (torch.stack([crop, crop]) if len(crop) == 3 else crop.unflatten(0, (2, 3))).unflatten(-1, (-1, MERGE, PATCH)).unflatten(2, (-1, MERGE, PATCH))
    return frames.permute(2, 5, 3, 6, 1, 0, 4, 7).flatten(4).flatten(0, 3)


def inputs(pair: Pair, batch: Batch) -> dict[str, Any]:
    assert batch.decoder is not None
    found: dict[str, Any] = {"attention_mask": (batch.decoder.segments > 0).long()}
    crops = pair.pixels(batch)
    stills, films = ([crop for crop in crops if (len(crop) > 3) == moves] for moves in (False, True))
    if stills:
        found |= {"pixel_values": torch.cat([patches(crop) for crop in stills]), "image_grid_thw": torch.tensor([grid(crop) for crop in stills])}
    if films:
        found |= {"pixel_values_videos": torch.cat([patches(crop) for crop in films]), "video_grid_thw": blocks(films)}
    ids = batch.decoder.ids.clone()
    tokens = [FILM if len(crop) > 3 else PICTURE for crop in crops for _ in range(len(patches(crop)) // MERGE**2)]
    ids.view(-1)[batch.decoder.slots] = torch.tensor(tokens)
    return found | {"input_ids": ids, "mm_token_type_ids": (ids == PICTURE).int() + 2 * (ids == FILM).int()}


def grid(crop: Tensor, moments: int = 1) -> list[int]:
    return [moments, crop.shape[1] // PATCH, crop.shape[2] // PATCH]


def blocks(films: list[Tensor]) -> Tensor:
    """Each film here has two moments."""
    return torch.tensor([grid(crop, 2) for crop in films[::2]])


def test_pictures_of_several_sizes(pair: Pair) -> None:
    batch = pair.batch(*PICTURES)
    assert len({crop.shape for crop in pair.pixels(batch)}) == 3
    compare(pair, batch, inputs(pair, batch)).check()


def test_films_of_four_and_three_frames(pair: Pair) -> None:
    batch = pair.batch(film(4, "Three ships."), film(3, "Two ships and a long quay."))
    compare(pair, batch, inputs(pair, batch)).check()


def test_positions(pair: Pair) -> None:
    for batch in (pair.batch(*PICTURES), pair.batch(film(4, "Three ships."), film(3, "Two ships and a long quay."))):
        assert batch.decoder is not None
        names = ("input_ids", "mm_token_type_ids", "attention_mask", "image_grid_thw", "video_grid_thw")
        expected, _ = pair.theirs.model.get_rope_index(**{name: value for name, value in inputs(pair, batch).items() if name in names})
        real = batch.decoder.segments > 0
        assert torch.equal(batch.decoder.positions[:, real], expected[:, real])


@torch.no_grad()
def test_the_pictures_are_part_of_the_comparison(pair: Pair) -> None:
    given = inputs(pair, pair.batch(PICTURES[1]))
    assert apart(pair.theirs(**given | {"pixel_values": given["pixel_values"].flip(0)}).logits, pair.theirs(**given).logits) > 1e-3


def test_decoding(pair: Pair) -> None:
    batch = pair.prompt(sample([photo(1, 90, 60), photo(2, 30, 50)], said("user", 0, "Where?", 1, "And there?")))
    ours, theirs = greedy(pair, batch, inputs(pair, batch))
    assert ours == theirs
