"""Llama 3.2 Vision against transformers: canvases of 1, 2 and 4 tiles, two pictures with text between them, and what transformers gives to tokens before the first picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity_cases import CLOSE, PICTURE, ROWS, TEXT, Pair, apart, compare, dialogue, greedy, paired, photo, said, sample
from torch import Tensor
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.processing_mllama import convert_sparse_cross_attention_mask_to_dense, get_cross_attention_token_mask

from sightline.model.assembly import ModelConfig
from sightline.model.batch import Batch
from sightline.model.connectors import MlpConnector
from sightline.model.encoder_kinds.canvas_tower import MllamaEncoder
from sightline.model.fusion import GatedCrossAttention
from sightline.model.language import LanguageModelConfig
from sightline.model.layouts import FlatLayout
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.tilers.canvases import CanvasTiler
from sightline.samples.sample import Sample

MOST = 4
"""Tiles of a canvas."""
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_global_layers": 1,
    "attention_heads": 4,
    "intermediate_size": 64,
    "vision_output_dim": 96,
    "image_size": 28,
    "patch_size": 14,
    "max_num_tiles": MOST,
    "intermediate_layers_indices": [0, 1],
}
SEED = 43
"""A gate's gradient is one number, a sum whose terms may cancel down to rounding: with these numbers none does."""
CROSSING = [1, 3]
"""Of the class's five layers; ours are three, before the second and third of which a gated block runs."""
ONE, TWO, FOUR = photo(1, 20, 24), photo(2, 50, 26), photo(3, 56, 50)


def opened(model: Any) -> Any:
    """Gates away from zero: behind closed ones no picture would be seen."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(0.6)
    return model


def mllama(pictures: Any = None) -> Pair:
    config = ModelConfig(
        encoders=[MllamaEncoder(config=VISION)],
        tiler=CanvasTiler(size=28),
        connector=MlpConnector(depth=1),
        layout=FlatLayout(token="<|image|>"),
        fusion=GatedCrossAttention(layers=(1, 2), unattended="uniform"),
        language_model=LanguageModelConfig(config={"model_type": "llama", **TEXT, "num_hidden_layers": 3}, extra_rows=8),
        chat="llama-3",
        pictures=pictures,
    ).resolve()
    text = TEXT | {"num_hidden_layers": 5, "cross_attention_layers": CROSSING, "bos_token_id": ROWS - 2, "eos_token_id": ROWS - 3, "pad_token_id": 0}
    theirs = MllamaConfig(vision_config=VISION, text_config=text, image_token_index=PICTURE)
    return paired(config, lambda: opened(MllamaForConditionalGeneration(theirs)), NATIVE_FORMATS["mllama"].rules(config), seed=SEED)


def inputs(pair: Pair, batch: Batch) -> dict[str, Any]:
    """Pictures of each bin in their order, tiles and pictures that are not there filled with zeros; what a token may read is said by the class's own processor."""
    assert batch.decoder is not None
    image = pair.processor.tokenizer.control("<|image|>")
    lines = [ids[own > 0].tolist() for ids, own in zip(batch.decoder.ids, batch.decoder.segments)]
    counts = [line.count(image) for line in lines]
    tilings = iter(batch.pictures.tilings)
    own = [[next(tilings) for _ in range(count)] for count in counts]
    tiles = [[len(tiling.crops) for tiling in row] for row in own]
    read = convert_sparse_cross_attention_mask_to_dense(
        [get_cross_attention_token_mask(line, image) for line in lines], tiles, MOST, batch.decoder.ids.shape[1]
    )
    pixels = torch.zeros(len(lines), max(counts), MOST, 3, 28, 28)
    ids, there = torch.zeros(pixels.shape[:2], dtype=torch.long), torch.zeros(pixels.shape[:3], dtype=torch.long)
    crops = iter(pair.pixels(batch))
    encoder: Any = pair.model.config.encoders[0]
    for b, row in enumerate(own):
        for number, tiling in enumerate(row):
            ids[b, number] = encoder.aspect_id(*tiling.grid)
            there[b, number, : tiles[b][number]] = 1
            for tile in range(tiles[b][number]):
                pixels[b, number, tile] = next(crops)
    return {
        "input_ids": batch.decoder.ids,
        "attention_mask": (batch.decoder.segments > 0).long(),
        "pixel_values": pixels,
        "aspect_ratio_ids": ids,
        "aspect_ratio_mask": there,
        "cross_attention_mask": torch.from_numpy(read),
    }


@pytest.fixture(scope="module")
def first() -> Pair:
    """Pictures before all text: every token sees one."""
    return mllama("first")


@pytest.fixture(scope="module")
def between() -> Pair:
    """Pictures where the sample shows them."""
    return mllama()


@pytest.mark.parametrize("picture", [ONE, TWO, FOUR])
def test_canvases_of_one_two_and_four_tiles(first: Pair, picture: Any) -> None:
    batch = first.batch(
        sample([picture], said("user", 0, "How many ships?"), said("assistant", "Three ships.")),
        sample([photo(4, 26, 50)], said("user", 0, "Where?"), said("assistant", "Two ships and a long quay.")),
    )
    compare(first, batch, inputs(first, batch)).check()


def test_two_pictures_and_tokens_before_the_first(between: Pair) -> None:
    """Apart in one sample, side by side in the other."""
    beside = sample([photo(6, 20, 100), photo(7, 56, 56)], said("user", "Look:", 0, 1, "Where?"), said("assistant", "Two ships and a long quay."))
    batch = between.batch(dialogue([FOUR, photo(5, 100, 20)]), beside)
    assert batch.sees is not None and bool((batch.sees[..., 0] == batch.sees[..., 1]).any())
    compare(between, batch, inputs(between, batch)).check()


@torch.no_grad()
def test_closed_gates_are_the_text_model(first: Pair) -> None:
    gates = [parameter for name, parameter in first.model.fusion.named_parameters() if name.endswith("_gate")]
    kept = [gate.clone() for gate in gates]
    for gate in gates:
        gate.zero_()
    batch = first.batch(dialogue([FOUR, TWO]))
    assert batch.decoder is not None
    ours = first.model.language_model.logits(first.model.hidden(batch)[0])
    for gate, value in zip(gates, kept):
        gate.copy_(value)
    assert len(gates) == 4
    assert apart(ours, first.theirs(input_ids=batch.decoder.ids).logits[0]) <= CLOSE


def test_decoding(between: Pair) -> None:
    batch = between.prompt(sample([FOUR, photo(5, 100, 20)], said("user", 0, "Where?", 1, "And there?")))
    ours, theirs = greedy(between, batch, inputs(between, batch))
    assert ours == theirs


def test_absent_tiles_are_all_that_differs(between: Pair) -> None:
    """Tokens before the first picture get the mean of all memory, in which the class has tiles that the canvas has not; without these both are the same."""
    batch = between.batch(dialogue([TWO]), dialogue([photo(4, 26, 50)], "Two ships and a long quay."))
    given = inputs(between, batch)
    with torch.no_grad():
        ours = between.model.language_model.logits(between.model.hidden(batch).flatten(0, 1))
        assert apart(ours, between.theirs(**given).logits.flatten(0, 1)) > 1e-4
    inner = between.theirs.model
    names = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")
    seen = inner.vision_model(**{name: given.pop(name) for name in names}).last_hidden_state[:, :, :2]
    given["cross_attention_states"] = inner.multi_modal_projector(seen).flatten(1, 3)
    given["cross_attention_mask"] = given["cross_attention_mask"][..., :2]
    compare(between, batch, given).check()


def logps(pair: Pair, bins: list[list[Sample]]) -> Tensor:
    found = pair.model(pair.processor.collate([[pair.processor.encode(one) for one in packed] for packed in bins])).logp
    assert found is not None
    return found


@torch.no_grad()
def test_what_leaks_is_of_the_sample_itself(between: Pair) -> None:
    rows = [dialogue([ONE]), sample([], said("user", "Where?"), said("assistant", "In the harbor.")), dialogue([FOUR, TWO], "Two.")]
    alone = torch.cat([logps(between, [[row]]) for row in rows])
    for bins in ([[row] for row in rows], [rows], [rows[:2], rows[2:]]):
        assert apart(logps(between, bins), alone) <= CLOSE
    text = between.batch(rows[1])
    assert text.decoder is not None
    ours = between.model.language_model.logits(between.model.hidden(text)[0])
    assert apart(ours, between.theirs(input_ids=text.decoder.ids).logits[0]) <= CLOSE
