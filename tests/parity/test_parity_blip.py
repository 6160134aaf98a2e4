"""BLIP's heads against transformers: captions, comparing and matching, answers to questions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity_cases import ROWS, Pair, compare, compare_values, labels, mixed, paired, paired_texts, photo, said, sample, shown, there
from torch import Tensor
from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipForQuestionAnswering

from sightline.model.assembly import ModelConfig
from sightline.model.batch import Batch, Given
from sightline.model.chat import ChatFormat, Role
from sightline.model.encoders import EncoderConfig
from sightline.model.fusion import CrossAttention, EncoderDecoder
from sightline.model.native.key_rules import rename
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.text_kinds.med import MedText
from sightline.model.tiling import WholeTiler

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
IDS = {"[CLS]": ROWS - 2, "[ENC]": ROWS - 3, "[DEC]": ROWS - 4}
TEXT: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "encoder_hidden_size": 32,
    "intermediate_size": 64,
    "projection_dim": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.05,
    "is_decoder": True,
    "pad_token_id": 0,
}
KEYS = ("self.key.bias",)
ENCODER = EncoderConfig(config={"model_type": "blip_vision_model", **VISION}, tokens="all", final_norm=True)
TILER = WholeTiler(size=28, fit="squash")
CAPTIONS = ChatFormat(name="captions", begin="[DEC]", end="[SEP]", pictures="first", controls=("[DEC]", "[SEP]"))
QUESTIONS = ChatFormat(name="questions", begin="[ENC]", user=Role(after="[SEP]"), end="[SEP]", pictures="first", controls=("[ENC]", "[SEP]"))
SAID = ("Three ships in the harbor.", "a photo of the harbor, two ships and a long quay", "Where?")


def pixels(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    return {"pixel_values": torch.stack(pair.pixels(batch))}


@pytest.fixture(scope="module")
def captioner() -> Pair:
    config = ModelConfig(
        encoders=[ENCODER],
        tiler=TILER,
        fusion=CrossAttention(),
        language_model=MedText(config={"model_type": "blip_text_model", **TEXT}, modes=("tell",), share="none", joint=16),
        chat=CAPTIONS,
    ).resolve()
    theirs = BlipConfig(text_config=TEXT, vision_config=VISION, image_text_hidden_size=16)
    return paired(config, lambda: BlipForConditionalGeneration(theirs), NATIVE_FORMATS["blip"].rules(config))


def test_captions(captioner: Pair) -> None:
    rows = [sample([photo(number, 30, 40)], said("user", 0, "a photo of"), said("assistant", text)) for number, text in enumerate(SAID)]
    batch = captioner.batch(*rows)
    compare(captioner, batch, shown(batch.decoder) | pixels(captioner, batch), KEYS).check(KEYS)


@pytest.fixture(scope="module")
def matcher() -> tuple[Pair, Batch]:
    config = ModelConfig(
        encoders=[ENCODER],
        tiler=TILER,
        text_encoder=MedText(config={"model_type": "blip_text_model", **TEXT}, modes=("embed", "match"), share="none", joint=16, ids=IDS),
        chat=ChatFormat(name="pairs", end="[SEP]"),
    ).resolve()
    theirs = BlipConfig(text_config=TEXT, vision_config=VISION, image_text_hidden_size=16)
    pair = paired(config, lambda: BlipForImageTextRetrieval(theirs), NATIVE_FORMATS["blip-retrieval"].rules(config), fresh=("text_encoder.scale",))
    return pair, paired_texts(pair, *SAID)


def test_comparing(matcher: tuple[Pair, Batch]) -> None:
    pair, batch = matcher
    assert batch.texts is not None
    output = pair.model(batch, ask="embed")
    ours = torch.einsum("pqe,xe->px", output.pictures, output.texts)
    theirs = pair.theirs(input_ids=batch.texts.ids, attention_mask=there(batch.texts), use_itm_head=False, **pixels(pair, batch)).itm_score
    unread = tuple(f"text_encoder.text_encoder.encoder.layer.{layer}.crossattention." for layer in range(2))
    compare_values(pair, (ours, mixed(ours)), (theirs, mixed(theirs)), KEYS).check(KEYS, ("text_encoder.itm_head.", "text_encoder.scale", *unread))


def test_matching(matcher: tuple[Pair, Batch]) -> None:
    pair, batch = matcher
    assert batch.texts is not None
    chosen = torch.tensor([[0, 1], [2, 0], [1, 2]])
    features = pair.model(batch, ask="embed").features
    assert features is not None
    ours = pair.model(batch, ask="match", given=Given(features=features, texts=batch.texts, pairs=chosen)).match
    picture, text = chosen.unbind(1)
    ids = torch.cat([torch.full_like(batch.texts.ids[:, :1], IDS["[ENC]"]), batch.texts.ids[:, 1:]], 1)
    given = {"pixel_values": pixels(pair, batch)["pixel_values"][picture], "input_ids": ids[text], "attention_mask": there(batch.texts)[text]}
    theirs = pair.theirs(**given, use_itm_head=True).itm_score
    unread = ("text_encoder.scale", "text_encoder.text_proj.", "text_encoder.vision_proj.")
    compare_values(pair, (ours, mixed(ours)), (theirs, mixed(theirs)), KEYS).check(KEYS, unread)


ASKED = (("How many ships?", "Three ships."), ("Where?", "In the harbor, and a long quay."))


def alone(theirs: Any, given: dict[str, Tensor], targets: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of the real tokens, and the mean loss, of questions that are asked one by one: a class that takes several reads the padding of the shorter ones."""
    logits: list[Tensor] = []
    hook = theirs.text_decoder.register_forward_hook(lambda _module, _given, output: logits.append(output.logits))
    losses = []
    for row, asked in enumerate(given["attention_mask"].sum(1).tolist()):
        own = {name: value[row : row + 1] for name, value in given.items()}
        own |= {name: own[name][:, :asked] for name in ("input_ids", "attention_mask")}
        losses.append(theirs(**own, labels=targets[row : row + 1]).loss * (targets[row] >= 0).sum())
    hook.remove()
    return torch.cat(logits)[real], torch.stack(losses).sum() / (targets >= 0).sum()


def test_answers_to_questions() -> None:
    config = ModelConfig(
        encoders=[ENCODER],
        tiler=TILER,
        fusion=EncoderDecoder(),
        language_model=MedText(config={"model_type": "blip_text_model", **TEXT}, modes=("question", "tell"), share="none", ids=IDS),
        chat=QUESTIONS,
    ).resolve()
    theirs = BlipConfig(text_config=TEXT, vision_config=VISION)
    tower = rename(config.encoders[0].path + ".tower.*", "vision_model.*")
    sides = [rename(f"language_model.text_{side}.*", f"text_{side}.*") for side in ("encoder", "decoder")]
    pair = paired(config, lambda: BlipForQuestionAnswering(theirs), [tower, *sides])
    batch = pair.batch(*(sample([photo(number, 30, 40)], said("user", 0, asked), said("assistant", told)) for number, (asked, told) in enumerate(ASKED)))
    assert batch.decoder is not None and batch.memory is not None
    seen, real = len(batch.memory.slots) // len(ASKED), batch.decoder.segments > 0
    given = {"input_ids": batch.memory.ids[:, seen:], "attention_mask": (batch.memory.segments[:, seen:] > 0).long(), "decoder_input_ids": batch.decoder.ids}
    ours = pair.model.language_model.logits(pair.model.hidden(batch)[real]), -pair.model(batch).logp.mean()
    compare_values(pair, ours, alone(pair.theirs, given | pixels(pair, batch), labels(batch), real), KEYS).check(KEYS)
