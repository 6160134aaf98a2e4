"""Workload A: the sizes that benchmarks share, and its model with random weights, as ours and as transformers reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TOWER = {
    "model_type": "clip_vision_model",
    "image_size": 224,
    "patch_size": 16,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
}
DECODER = {
    "model_type": "qwen2",
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "initializer_range": 0.05,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
SEEN = "many green trees and some buildings are near a river with a bridge over it several planes parked beside the terminal of an airport"
WORDS = SEEN.split()


def write_model(folder: Path, blocks: int | None = None, texts: Sequence[str] = (), side: int = 224) -> tuple[Path, Path]:
    """The model directory, and the same weights as transformers reads them; `blocks`: of tower and decoder each, where not all; `texts`: what the tokenizer is trained on besides WORDS;
    `side`: px of a picture, 384 of which are 576 tokens.
    """
    import torch

    from sightline.model import directory
    from sightline.model.assembly import ModelConfig
    from sightline.model.connectors import MlpConnector
    from sightline.model.encoders import EncoderConfig
    from sightline.model.language import LanguageModelConfig
    from sightline.model.native.native_directory import export
    from sightline.model.processor import Processor
    from sightline.model.tiling import WholeTiler
    from sightline.model.tokens import train_tokenizer
    from sightline.model.vlm import Model

    fewer = {"num_hidden_layers": blocks} if blocks else {}
    config = ModelConfig(
        encoders=[EncoderConfig(config=TOWER | fewer | {"image_size": side}, layer=-2)],
        tiler=WholeTiler(size=side),
        connector=MlpConnector(depth=2),
        language_model=LanguageModelConfig(config=DECODER | fewer, attention="sdpa"),
        chat="vicuna",
    )
    tokenizer = train_tokenizer([SEEN, *texts, config.chat_format().default_system or ""], 600, config.chat_format())
    torch.manual_seed(0)
    resolved = config.resolve()
    ours, theirs = folder / "ours", folder / "theirs"
    ours.mkdir()
    directory.save(ours, Model(resolved), Processor(resolved, tokenizer))
    export(ours, theirs, "llava")
    return ours, theirs
