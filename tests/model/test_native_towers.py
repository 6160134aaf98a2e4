"""Published checkpoints of systems that compare and match: read, computed with, written back, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import native_models
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tiny_models import sample
from torch import Tensor

from sightline.errors import Problem
from sightline.model import directory
from sightline.model.batch import Batch, Given
from sightline.model.native import native_directory
from sightline.model.vlm import Model

SIZES = ((61, 33), (28, 28))
"""Of the pictures: the first has an odd margin and a side of 51.8 px where its centre is cut out."""
TEXTS = ("how many ships ?", "a photo of the harbor .")


@dataclass(frozen=True)
class Towers:
    """A tiny class, its image processor, and what it gives for pictures and texts."""

    build: Callable[[], Any]
    pictures: Callable[[], Any]
    save_tokenizer: Callable[[Path], object]
    vectors: Callable[[Any, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """From pixels, ids and mask: picture vectors (P, Q, E) and text vectors (X, E), unit."""
    match: Callable[[Any, Tensor, Tensor, Tensor], Tensor] | None = None
    """Logits (P, 2) of each picture with its own text."""
    fresh: tuple[str, ...] = ()
    """Tensors of ours that are not published."""


def _clip() -> Any:
    text = {
        "vocab_size": native_models.ROWS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": _eos(),
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=native_models.CLIP, projection_dim=24)).eval()


def _save_clip(folder: Path) -> object:
    return native_models.save_tokenizer(folder, "llama-3", (), "<|begin_of_text|>")


def _eos() -> int:
    from sightline.model.chat import CHAT_FORMATS
    from sightline.model.tokens import train_tokenizer

    return train_tokenizer(native_models.tiny_models.TEXTS, 300, CHAT_FORMATS["llama-3"]).end_id


def _clip_vectors(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    found = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    return found.image_embeds[:, None], found.text_embeds


def _siglip() -> Any:
    text = {
        "vocab_size": native_models.ROWS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    return native_models.noisy(hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=native_models.CLIP)).eval())


def _siglip_vectors(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    assert ids.shape[1] == 40, "every text is filled up"
    found = model(input_ids=ids, pixel_values=pixels)
    return found.image_embeds[:, None], found.text_embeds


def _blip_itm() -> Any:
    text = native_models.blip_text(native_models.WORDS.index)
    config = hf.BlipConfig(text_config=text, vision_config=native_models.BLIP, image_text_hidden_size=16)
    torch.manual_seed(0)
    return native_models.noisy(hf.BlipForImageTextRetrieval(config).eval())


def _blip_vectors(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    seen = model.vision_model(pixel_values=pixels)[0]
    read = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    unit = torch.nn.functional.normalize
    return unit(model.vision_proj(seen[:, 0]), dim=-1)[:, None], unit(model.text_proj(read[:, 0]), dim=-1)


def _blip_match(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    ids = torch.cat([torch.full_like(ids[:, :1], native_models.WORD_ROWS - 1), ids[:, 1:]], dim=1)  # what begins a text that is matched
    return model(input_ids=ids, pixel_values=pixels, attention_mask=mask).itm_score


def _blip2_itm() -> Any:
    qformer = {**native_models.QFORMER, "vocab_size": len(native_models.WORDS) + 1, "use_qformer_text_input": True}
    config = hf.Blip2Config(
        vision_config={**native_models.BLIP, "qkv_bias": True},
        qformer_config=qformer,
        text_config=hf.OPTConfig(**native_models.OPT),
        num_query_tokens=4,
        image_text_hidden_size=16,
    )
    torch.manual_seed(0)
    return native_models.noisy(hf.Blip2ForImageTextRetrieval(config).eval())


def _blip2_vectors(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    found = model(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    return found.image_embeds, found.text_embeds


def _blip2_match(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    return model(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=True).logits_per_image


def _blip_pictures() -> Any:
    return hf.BlipImageProcessor(size={"height": 28, "width": 28})


CASES = {
    "clip": Towers(_clip, lambda: hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}), _save_clip, _clip_vectors),
    "siglip": Towers(_siglip, lambda: hf.SiglipImageProcessor(size={"height": 28, "width": 28}), _save_clip, _siglip_vectors),
    "blip": Towers(_blip_itm, _blip_pictures, native_models.save_words, _blip_vectors, _blip_match, ("text_encoder.scale",)),
    "blip-2": Towers(_blip2_itm, _blip_pictures, native_models.save_words, _blip2_vectors, _blip2_match, ("connector.cls.", "connector.scale")),
}


@dataclass(frozen=True)
class Trip:
    """A checkpoint, the model directory that it became, and the checkpoint that this became."""

    case: Towers
    reference: Any
    published: Path
    model: Model
    batch: Batch
    pixels: Tensor
    mask: Tensor
    back: Path
    left_out: list[str]
    problems: tuple[Problem, ...]


@pytest.fixture(scope="module", params=CASES)
def trip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trip:
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    published = folder / "published"
    reference, pictures = case.build(), case.pictures()
    for part in (reference, pictures):
        part.save_pretrained(published)
    case.save_tokenizer(published)
    native = native_directory.import_(published, folder / "model")
    left_out = native_directory.export(folder / "model", folder / "back")
    model, processor, _ = directory.load(folder / "model")
    shown = [native_models.photo(number, *size) for number, size in enumerate(SIZES)]
    pairs = [processor.encode_pair(sample(pictures=[picture]), text) for picture, text in zip(shown, TEXTS)]
    batch = processor.collate([[pair] for pair in pairs])
    assert batch.texts is not None
    mask = (torch.arange(batch.texts.ids.shape[1]) < batch.texts.lengths[:, None]).long()
    pixels = pictures([native_models.shown(picture) for picture in shown], return_tensors="pt")["pixel_values"]
    return Trip(case, reference, published, model, batch, pixels, mask, folder / "back", left_out, native.problems)


def _near(ours: Tensor | None, theirs: Tensor) -> bool:
    assert ours is not None and ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item() <= 1e-5


@torch.no_grad()
def test_vectors_and_match_are_those_of_transformers(trip: Trip) -> None:
    texts = trip.batch.texts
    assert texts is not None
    ours = trip.model(trip.batch, ask="embed")
    pictures, words = trip.case.vectors(trip.reference, trip.pixels, texts.ids, trip.mask)
    assert _near(ours.pictures, pictures)
    assert _near(ours.texts, words)
    assert (texts.ids[:, 0] == texts.ids[0, 0]).all() == (trip.case is not CASES["siglip"])  # all but SigLIP begin texts with a token of their own
    if trip.case.match is not None:
        assert ours.features is not None
        given = Given(features=ours.features, texts=texts, pairs=torch.tensor([[0, 0], [1, 1]]))
        assert _near(trip.model(trip.batch, ask="match", given=given).match, trip.case.match(trip.reference, trip.pixels, texts.ids, trip.mask))


def test_it_comes_back_bit_for_bit(trip: Trip) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (trip.published, trip.back))
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert json.loads((trip.back / name).read_text()) == json.loads((trip.published / name).read_text()), name


def test_what_is_not_published_starts_fresh_and_is_left_out(trip: Trip) -> None:
    assert all(name.startswith(trip.case.fresh) for name in trip.left_out) and bool(trip.left_out) == bool(trip.case.fresh)
    told = [(problem.code, problem.severity, problem.found.partition(" tensors")[0]) for problem in trip.problems]
    assert told == ([("model/fresh-weights", "warn", str(len(trip.left_out)))] if trip.case.fresh else [])


def test_transformers_loads_what_was_written(trip: Trip) -> None:
    loaded, info = type(trip.reference).from_pretrained(trip.back, output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    state = trip.reference.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
