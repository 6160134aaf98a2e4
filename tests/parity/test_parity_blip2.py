"""BLIP-2 with OPT and with T5, its first stage, and InstructBLIP with two tokenizers, against transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity_cases import (
    PICTURE,
    ROWS,
    TEXT,
    TEXTS,
    Pair,
    compare,
    compare_values,
    dialogue,
    greedy,
    mixed,
    paired,
    paired_texts,
    photo,
    said,
    sample,
    shown,
    there,
)
from torch import Tensor
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    OPTConfig,
    T5Config,
)

from sightline.model.assembly import ModelConfig, TokenizerConfig
from sightline.model.batch import Batch, Given
from sightline.model.chat import ChatFormat
from sightline.model.connector_kinds.query_transformer import QueryTransformerConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.fusion import EncoderDecoder
from sightline.model.language import EncoderDecoderConfig, LanguageModelConfig
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.text_tower import SharedTextEncoder
from sightline.model.tiling import WholeTiler
from sightline.model.tokens import train_tokenizer

VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14, "qkv_bias": True}
QFORMER = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "encoder_hidden_size": 32,
    "cross_attention_frequency": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.05,
}
OPT = {
    "vocab_size": ROWS,
    "hidden_size": 48,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "word_embed_proj_dim": 48,
    "init_std": 0.05,
}
T5 = {
    "vocab_size": ROWS,
    "d_model": 48,
    "d_ff": 96,
    "d_kv": 12,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "initializer_factor": 0.2,
}
QUERIES = 4
KEYS = ("attention.key.bias", "k_proj.bias")
SAMPLES = (dialogue([photo(1, 40, 30), photo(2, 17, 44)]), dialogue([photo(3, 28, 28)], "Two ships and a long quay."))
ENCODER = EncoderConfig(config={"model_type": "blip_2_vision_model", **VISION}, tokens="all", final_norm=True)


def pixels(pair: Pair, batch: Batch) -> dict[str, Tensor]:
    return {"pixel_values": torch.stack(pair.pixels(batch))}


def test_with_opt() -> None:
    config = ModelConfig(
        encoders=[ENCODER],
        tiler=WholeTiler(size=28, fit="squash"),
        connector=QueryTransformerConnector(config={"model_type": "blip_2_qformer", **QFORMER}, queries=QUERIES),
        language_model=LanguageModelConfig(config={"model_type": "opt", **OPT}),
        chat="blip-2",
        max_tokens=512,
    ).resolve()
    theirs = Blip2Config(vision_config=VISION, qformer_config=QFORMER, text_config=OPTConfig(**OPT), num_query_tokens=QUERIES, image_token_index=PICTURE)
    pair = paired(config, lambda: Blip2ForConditionalGeneration(theirs), NATIVE_FORMATS["blip-2"].rules(config))
    batch = pair.batch(*SAMPLES)
    compare(pair, batch, shown(batch.decoder) | pixels(pair, batch), KEYS).check(KEYS)


def untied(model: Any) -> Any:
    """Words are written with numbers of their own, as in Flan-T5, which the class has only when they are loaded."""
    head = model.language_model.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    return model


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def prompted(request: pytest.FixtureRequest) -> Pair:
    """BLIP-2 with T5."""
    config = ModelConfig(
        encoders=[ENCODER],
        tiler=WholeTiler(size=28, fit="squash"),
        connector=QueryTransformerConnector(config={"model_type": "blip_2_qformer", **QFORMER}, queries=QUERIES),
        fusion=EncoderDecoder(),
        language_model=EncoderDecoderConfig(config={"model_type": "t5", **T5}, tied=request.param),
        chat="blip-2-t5",
        max_tokens=512,
    ).resolve()
    theirs = Blip2Config(vision_config=VISION, qformer_config=QFORMER, text_config=T5Config(**T5), num_query_tokens=QUERIES, image_token_index=PICTURE)
    make = Blip2ForConditionalGeneration if request.param else lambda said: untied(Blip2ForConditionalGeneration(said))
    return paired(config, lambda: make(theirs), NATIVE_FORMATS["blip-2"].rules(config))


def test_with_t5(prompted: Pair) -> None:
    """A decoder that reads its prompt writes one answer a line: each sample is one question, about two pictures or one."""
    two = sample([photo(1, 30, 40), photo(2, 30, 40)], said("user", 0, 1, "How many ships?"), said("assistant", "Three ships."))
    one = sample([photo(3, 30, 40)], said("user", 0, "How many ships?"), said("assistant", "Two ships and a long quay."))
    batch = prompted.batch(two, one)
    compare(prompted, batch, shown(batch.memory) | pixels(prompted, batch), KEYS[:1], shifts=False).check(KEYS[:1])


def test_decoding_with_t5(prompted: Pair) -> None:
    batch = prompted.prompt(sample([photo(1, 40, 30)], said("user", 0, "Where?")))
    ours, theirs = greedy(prompted, batch, shown(batch.memory) | pixels(prompted, batch))
    assert ours == theirs


SIDE = ChatFormat(name="side", end="[SEP]")
UNPUBLISHED = ("connector.scale", "connector.cls.")
SAID = ("Three ships in the harbor.", "a photo of the harbor, two ships and a long quay", "Where?")


def test_instructblip_with_two_tokenizers() -> None:
    config = ModelConfig(
        encoders=[ENCODER],
        tiler=WholeTiler(size=28, fit="squash"),
        connector=QueryTransformerConnector(config={"model_type": "instructblip_qformer", **QFORMER}, queries=QUERIES, reads_text=True),
        language_model=LanguageModelConfig(config={"model_type": "llama", **TEXT}),
        side_tokenizer=TokenizerConfig(),
        chat="instructblip",
        max_tokens=512,
    ).resolve()
    side = train_tokenizer(TEXTS, 300, SIDE, config.side_controls())
    theirs = InstructBlipConfig(
        vision_config=VISION, qformer_config=QFORMER, text_config=LlamaConfig(**TEXT), num_query_tokens=QUERIES, image_token_index=PICTURE
    )
    pair = paired(config, lambda: InstructBlipForConditionalGeneration(theirs), NATIVE_FORMATS["instructblip"].rules(config), side)
    batch = pair.batch(*SAMPLES)
    assert batch.texts is not None and len(set(batch.texts.lengths.tolist())) > 1
    read = {"qformer_input_ids": batch.texts.ids, "qformer_attention_mask": there(batch.texts)}
    compare(pair, batch, shown(batch.decoder) | pixels(pair, batch) | read, KEYS[:1]).check(KEYS[:1])


@pytest.fixture(scope="module")
def first_stage() -> tuple[Pair, Batch]:
    config = ModelConfig(
        encoders=[ENCODER],
        tiler=WholeTiler(size=28, fit="squash"),
        connector=QueryTransformerConnector(config={"model_type": "blip_2_qformer", **QFORMER}, queries=QUERIES, text=True, project=False, joint=16),
        text_encoder=SharedTextEncoder(part="connector"),
        chat=SIDE,
    ).resolve()
    theirs = Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "use_qformer_text_input": True},
        text_config=OPTConfig(**OPT),
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
    )
    pair = paired(config, lambda: Blip2ForImageTextRetrieval(theirs), NATIVE_FORMATS["blip-2-retrieval"].rules(config), fresh=UNPUBLISHED)
    return pair, paired_texts(pair, *SAID)


def test_first_stage_compares(first_stage: tuple[Pair, Batch]) -> None:
    pair, batch = first_stage
    output = pair.model(batch, ask="embed")
    ours = torch.einsum("pqe,xe->pqx", output.pictures, output.texts).amax(1)
    assert batch.texts is not None
    theirs = pair.theirs(input_ids=batch.texts.ids, attention_mask=there(batch.texts), **pixels(pair, batch)).logits_per_image
    compare_values(pair, (ours, mixed(ours)), (theirs, mixed(theirs)), KEYS[:1]).check(KEYS[:1], (*UNPUBLISHED, "connector.itm_head."))


def test_first_stage_matches(first_stage: tuple[Pair, Batch]) -> None:
    pair, batch = first_stage
    assert batch.texts is not None
    chosen = torch.tensor([[0, 1], [2, 0], [1, 2]])
    features = pair.model(batch, ask="embed").features
    ours = pair.model(batch, ask="match", given=Given(features=features, texts=batch.texts, pairs=chosen)).match
    picture, text = chosen.unbind(1)
    given = {"pixel_values": pixels(pair, batch)["pixel_values"][picture], "input_ids": batch.texts.ids[text], "attention_mask": there(batch.texts)[text]}
    theirs = pair.theirs(**given, use_image_text_matching_head=True).logits_per_image
    unread = (
        "connector.qformer.encoder.layer.3.intermediate.",
        "connector.qformer.encoder.layer.3.output.",
        "connector.text_projection.",
        "connector.vision_projection.",
    )
    compare_values(pair, (ours, mixed(ours)), (theirs, mixed(theirs)), KEYS[:1]).check(KEYS[:1], (*UNPUBLISHED, *unread))
