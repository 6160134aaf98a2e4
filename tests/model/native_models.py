"""Tiny published checkpoints of every native format, as transformers saves them, and what transformers computes with them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiny_models
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor

from sightline.lineage import sha256_bytes
from sightline.model.batch import Batch, Stream
from sightline.model.chat import CHAT_FORMATS
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.tokens import PAD, train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.sample import Picture

ROWS = 416
"""Rows of the tiny language models' embeddings, more than any of the tokenizers has tokens."""
CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
TEXT = {
    "vocab_size": ROWS,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
Id = Callable[[str], int]
Inputs = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Tokens and pictures of one sample, as transformers' classes take them."""

    processor: Any
    shown: list[Image.Image]
    ids: Tensor
    """(1, T) of the decoder, slots holding the picture's token."""
    image: int
    """Id of the picture's token."""
    memory: Tensor | None
    """(1, M) of the memory stream, likewise."""
    read: Tensor | None
    """(X, L) of the texts beside the pictures."""

    def seen(self) -> Inputs:
        """What the image processor gives."""
        return dict(self.processor(self.shown, return_tensors="pt"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny checkpoint: how it is made, and what its class is given beside the ids."""

    build: Callable[[Id], Any]
    """The class with random weights; ids of tokens by name."""
    pictures: Callable[[], Any]
    """Its image processor."""
    chat: str
    image: str
    """The token that stands for a picture's entries."""
    tokens: tuple[str, ...] = ()
    """Further control tokens of the tokenizer."""
    inputs: Callable[[Asked], Inputs] = lambda asked: asked.seen() | {"input_ids": asked.ids}
    """What the class's forward takes."""
    side: bool = False
    """Whether there is a second tokenizer, for texts that a connector reads."""
    words: bool = False
    """Whether the tokenizer is BERT's sort."""
    sizes: tuple[tuple[int, int], ...] = ((61, 33),)
    """Width and height of the pictures that are shown. Of these a centre crop resizes the longer side to 51.8 px and cuts off an odd number."""


def _composite(config: Any, factory: Any) -> Any:
    torch.manual_seed(0)
    return factory(config).eval()


def _llava(**said: Any) -> Callable[[Id], Any]:
    def build(token: Id) -> Any:
        own = {"vision_config": hf.CLIPVisionConfig(**CLIP), "text_config": hf.LlamaConfig(**TEXT), "image_token_index": token("<image>")}
        return _composite(hf.LlavaConfig(**(own | said)), hf.LlavaForConditionalGeneration)

    return build


def _square(side: int) -> Inputs:
    return {"height": side, "width": side}


def _clip_pictures() -> Any:
    return hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=_square(28))


def _next(token: Id) -> Any:
    config = hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**CLIP),
        text_config=hf.MistralConfig(**TEXT, sliding_window=None),
        image_token_index=token("<image>"),
        image_grid_pinpoints=PINPOINTS,
    )
    return _composite(config, hf.LlavaNextForConditionalGeneration)


PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]


def _pixtral(token: Id) -> Any:
    tower = hf.PixtralVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, head_dim=16, image_size=64, patch_size=8, hidden_act="silu"
    )
    text = hf.MistralConfig(**TEXT, head_dim=12, sliding_window=None)
    config = hf.LlavaConfig(
        vision_config=tower, text_config=text, image_token_index=token("[IMG]"), vision_feature_layer=-1, vision_feature_select_strategy="full"
    )
    return _composite(config, hf.LlavaForConditionalGeneration)


def _pixtral_inputs(asked: Asked) -> Inputs:
    seen = {name: torch.as_tensor(np.stack([np.asarray(one) for one in value])) for name, value in asked.processor(asked.shown).items()}
    return seen | {"input_ids": asked.ids}


def _qwen2_vl(token: Id) -> Any:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}
    config = hf.Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 48, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    return _composite(config, hf.Qwen2VLForConditionalGeneration)


def _mllama(token: Id) -> Any:
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_global_layers": 1,
        "attention_heads": 4,
        "intermediate_size": 64,
        "vision_output_dim": 96,
        "image_size": 28,
        "patch_size": 14,
        "max_num_tiles": 4,
        "intermediate_layers_indices": [0, 1],
    }
    rope = {"rope_type": "default", "rope_theta": 1e4}
    text = {**TEXT, "num_hidden_layers": 5, "cross_attention_layers": [1, 3], "rope_parameters": rope}
    return _composite(hf.MllamaConfig(vision_config=vision, text_config=text, image_token_index=token("<|image|>")), hf.MllamaForConditionalGeneration)


def _gates_open(model: Any) -> Any:
    """Gates away from zero: behind closed ones no picture would be seen."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and parameter.numel() == 1:
                parameter.fill_(0.5)
    return model


def _mllama_inputs(asked: Asked) -> Inputs:
    found = dict(asked.processor([asked.shown], return_tensors="pt"))
    [tiles] = found.pop("num_tiles")
    length = asked.ids.shape[1]
    mask = torch.zeros(1, length, len(asked.shown), 4, dtype=torch.int64)
    starts = [*(asked.ids[0] == asked.image).nonzero()[:, 0].tolist(), length]
    for number, (start, end) in enumerate(pairwise(starts)):
        mask[0, start:end, number, : tiles[number]] = 1
    return found | {"cross_attention_mask": mask, "input_ids": asked.ids}


def _internvl(token: Id) -> Any:
    tower = {
        "image_size": [28, 28],
        "patch_size": [7, 7],
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "attention_bias": True,
    }
    config = hf.InternVLConfig(vision_config=tower, text_config=hf.Qwen2Config(**TEXT), image_token_id=token("<IMG_CONTEXT>"), image_seq_length=4)
    return _composite(config, hf.InternVLForConditionalGeneration)


def _idefics2(token: Id) -> Any:
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}
    perceiver = {
        "hidden_size": 48,
        "resampler_n_latents": 4,
        "resampler_depth": 2,
        "resampler_n_heads": 4,
        "resampler_head_dim": 12,
        "num_key_value_heads": 2,
    }
    config = hf.Idefics2Config(
        vision_config=tower, perceiver_config=perceiver, text_config=hf.MistralConfig(**TEXT, sliding_window=None), image_token_id=token("<image>")
    )
    return _composite(config, hf.Idefics2ForConditionalGeneration)


QFORMER = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "encoder_hidden_size": 32,
    "cross_attention_frequency": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
BLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
OPT = {
    "vocab_size": ROWS,
    "hidden_size": 48,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "word_embed_proj_dim": 48,
    "init_std": 0.2,
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
    "initializer_factor": 1.0,
}


def noisy(model: Any) -> Any:
    """Parameters that start as zeros filled with noise, so that none of them can be lost unseen."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3)
    return model


def _blip2(text: Any) -> Callable[[Id], Any]:
    def build(token: Id) -> Any:
        config = hf.Blip2Config(
            vision_config={**BLIP, "qkv_bias": True}, qformer_config=QFORMER, text_config=text, num_query_tokens=4, image_token_index=token("<image>")
        )
        return noisy(_composite(config, hf.Blip2ForConditionalGeneration))

    return build


def _instructblip(token: Id) -> Any:
    config = hf.InstructBlipConfig(
        vision_config={**BLIP, "qkv_bias": True},
        qformer_config={**QFORMER, "vocab_size": len(WORDS) + 1},
        text_config=hf.LlamaConfig(**TEXT),
        num_query_tokens=4,
        image_token_index=token("<image>"),
    )
    return noisy(_composite(config, hf.InstructBlipForConditionalGeneration))


def blip_text(token: Id) -> dict[str, Any]:
    """BLIP's text transformer."""
    return {
        "vocab_size": WORD_ROWS,
        "hidden_size": 32,
        "encoder_hidden_size": 32,
        "intermediate_size": 64,
        "projection_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "bos_token_id": WORD_ROWS - 2,
        "eos_token_id": token("[SEP]"),
        "sep_token_id": token("[SEP]"),
        "pad_token_id": token("[PAD]"),
        "is_decoder": True,
        "initializer_range": 0.2,
    }


def _blip(token: Id) -> Any:
    config = hf.BlipConfig(text_config=blip_text(token), vision_config=BLIP, image_text_hidden_size=16)
    return noisy(_composite(config, hf.BlipForConditionalGeneration))


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "how", "many", "ships", "where", "in", "the", "harbor", "a", "photo", "of", "?", "."]
WORD_ROWS = len(WORDS) + 2
"""Two tokens more than the tokenizer holds: the class adds them."""


def save_words(folder: Path) -> Tokenizer:
    """BERT's sort of tokenizer, without the tokens that BLIP adds to it."""
    found = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    found.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    found.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    found.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    hf.PreTrainedTokenizerFast(tokenizer_object=found, **named).save_pretrained(folder)
    return found


def _blip_pictures() -> Any:
    return hf.BlipImageProcessor(size=_square(28))


CASES: dict[str, Case] = {
    "llava": Case(build=_llava(), pictures=_clip_pictures, chat="vicuna", image="<image>"),
    "llava-many-layers": Case(
        build=_llava(vision_feature_layer=[-2, -3], vision_feature_select_strategy="full", multimodal_projector_bias=False),
        pictures=_clip_pictures,
        chat="vicuna",
        image="<image>",
    ),
    "llava-padded": Case(
        build=_llava(),
        pictures=lambda: hf.LlavaImageProcessor(size={"shortest_edge": 28}, crop_size=_square(28), do_pad=True),
        chat="vicuna",
        image="<image>",
        sizes=((61, 33), (30, 57)),
    ),
    "llava-siglip": Case(
        build=_llava(vision_config=hf.SiglipVisionConfig(**CLIP), vision_feature_select_strategy="full", text_config=hf.Qwen2Config(**TEXT)),
        pictures=lambda: hf.SiglipImageProcessor(size=_square(28)),
        chat="chatml",
        image="<image>",
        sizes=((50, 31), (28, 28)),
    ),
    "llava-next": Case(
        build=_next,
        pictures=lambda: hf.LlavaNextImageProcessor(size={"shortest_edge": 28}, crop_size=_square(28), image_grid_pinpoints=PINPOINTS),
        chat="mistral",
        image="<image>",
        sizes=((60, 40),),
    ),
    "pixtral": Case(
        build=_pixtral,
        pictures=lambda: hf.PixtralImageProcessor(size={"longest_edge": 64}, patch_size=_square(8)),
        chat="pixtral",
        image="[IMG]",
        tokens=("[IMG_BREAK]", "[IMG_END]"),
        inputs=_pixtral_inputs,
        sizes=((90, 40),),
    ),
    "qwen2-vl": Case(
        build=_qwen2_vl,
        pictures=lambda: hf.Qwen2VLImageProcessor(size={"shortest_edge": 784, "longest_edge": 28 * 28 * 12}),
        chat="chatml",
        image="<|image_pad|>",
        tokens=("<|vision_start|>", "<|vision_end|>", "<|video_pad|>"),
        inputs=lambda asked: asked.seen() | {"input_ids": asked.ids, "mm_token_type_ids": (asked.ids == asked.image).int()},
        sizes=((90, 60), (30, 50)),
    ),
    "mllama": Case(
        build=lambda token: _gates_open(_mllama(token)),
        pictures=lambda: hf.MllamaImageProcessor(size=_square(28)),
        chat="llama-3",
        image="<|image|>",
        inputs=_mllama_inputs,
        sizes=((60, 60), (112, 28)),
    ),
    "internvl": Case(
        build=_internvl,
        pictures=lambda: hf.GotOcr2ImageProcessor(size=_square(28), crop_to_patches=True, max_patches=4),
        chat="chatml-bare",
        image="<IMG_CONTEXT>",
        tokens=("<img>", "</img>"),
        inputs=lambda asked: {"pixel_values": asked.seen()["pixel_values"], "input_ids": asked.ids},
        sizes=((60, 30),),
    ),
    "idefics2": Case(
        build=_idefics2,
        pictures=lambda: hf.Idefics2ImageProcessor(size={"longest_edge": 56, "shortest_edge": 28}, do_image_splitting=True),
        chat="idefics2",
        image="<image>",
        tokens=("<fake_token_around_image>",),
        sizes=((90, 60),),
    ),
    "blip-2": Case(build=_blip2(hf.OPTConfig(**OPT)), pictures=_blip_pictures, chat="blip-2", image="<image>", sizes=((50, 31),)),
    "blip-2-t5": Case(
        build=_blip2(hf.T5Config(**T5)),
        pictures=_blip_pictures,
        chat="blip-2-t5",
        image="<image>",
        inputs=lambda asked: asked.seen() | {"input_ids": asked.memory, "decoder_input_ids": asked.ids},
        sizes=((50, 31),),
    ),
    "instructblip": Case(
        build=_instructblip,
        pictures=_blip_pictures,
        chat="instructblip",
        image="<image>",
        inputs=lambda asked: asked.seen() | {"input_ids": asked.ids, "qformer_input_ids": asked.read},
        side=True,
        sizes=((50, 31),),
    ),
    "blip": Case(
        build=_blip,
        pictures=_blip_pictures,
        chat="",
        image="[PAD]",
        inputs=lambda asked: asked.seen() | {"input_ids": asked.ids},
        words=True,
        sizes=((50, 31),),
    ),
}
"""Writers, by what they show."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A tiny checkpoint on disk, and the model that was saved there."""

    folder: Path
    reference: Any
    pictures: Any
    image: int
    """Id of the picture's token."""


def save_tokenizer(folder: Path, chat_name: str, tokens: tuple[str, ...], bos: str | None = None) -> Tokenizer:
    """A byte-level tokenizer that holds what the chat format and the layout write."""
    chat = CHAT_FORMATS[chat_name]
    own = train_tokenizer(tiny_models.TEXTS, 300, chat, tokens)
    found = Tokenizer.from_str(own.document)
    hf.PreTrainedTokenizerFast(tokenizer_object=found, eos_token=chat.end, pad_token=PAD, bos_token=bos).save_pretrained(folder)
    return found


def published(case: Case, folder: Path, dtype: torch.dtype = torch.float32) -> Checkpoint:
    """The case as a checkpoint folder."""
    tokenizer = save_words(folder) if case.words else save_tokenizer(folder, case.chat, (case.image, *case.tokens))
    if case.side:
        save_words(folder / "qformer_tokenizer")

    def token(name: str) -> int:
        found = tokenizer.token_to_id(name)
        assert found is not None, name
        return found

    model = case.build(token).to(dtype)
    model.generation_config.eos_token_id = token("[SEP]" if case.words else CHAT_FORMATS[case.chat].end)
    model.save_pretrained(folder)
    pictures = case.pictures()
    pictures.save_pretrained(folder)
    return Checkpoint(folder=folder, reference=model, pictures=pictures, image=token(case.image))


def shown(picture: Picture) -> Image.Image:
    """A picture as transformers' processors take it."""
    assert isinstance(picture.data, bytes)
    return Image.open(io.BytesIO(picture.data)).convert("RGB")


def photo(seed: int, width: int, height: int) -> Picture:
    """A smooth picture: noise that was enlarged."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(stream, "PNG")
    data = stream.getvalue()
    return Picture(hash=sha256_bytes(data), width=width, height=height, data=data)


@torch.no_grad()
def our_logits(model: Model, processor: Processor, encoded: Encoded) -> tuple[Batch, Tensor]:
    """Logits (T, V) of every token of one sample, and its batch."""
    batch = processor.collate([[encoded]])
    assert batch.decoder is not None
    length = batch.decoder.ids.shape[1]
    zeros = torch.zeros(length, dtype=torch.int64)
    found: list[Tensor] = []
    logits = model.language_model.logits

    def listened(rows: Tensor) -> Tensor:
        found.append(logits(rows))
        return found[-1]

    model.language_model.logits = listened
    model(replace(batch, answers=torch.arange(length), targets=zeros, weights=torch.ones(length), owners=zeros))
    del model.language_model.logits
    return batch, torch.cat(found)


def _placed(stream: Stream | None, image: int) -> Tensor | None:
    if stream is None:
        return None
    ids = stream.ids.clone()
    ids.view(-1)[stream.slots] = image
    return ids


@torch.no_grad()
def their_logits(case: Case, checkpoint: Checkpoint, model: Any, batch: Batch, pictures: list[Picture]) -> Tensor:
    """Logits (T, V) of transformers' class for the same tokens and pictures."""
    ids, memory = (_placed(stream, checkpoint.image) for stream in (batch.decoder, batch.memory))
    assert ids is not None
    read = batch.texts.ids if batch.texts is not None else None
    asked = Asked(processor=checkpoint.pictures, shown=[shown(picture) for picture in pictures], ids=ids, image=checkpoint.image, memory=memory, read=read)
    return model(**case.inputs(asked)).logits[0]
