"""Names of systems stand in modules of kinds and of conversion, and nowhere else: no code branches on whose model it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

NAMES = (
    "blip",
    r"(?<![.\w])clip(?!\w|\s*[:=(])|clip[-_](?:vit|vision|text|resnet|model)",  # not the clipping of gradients or boxes
    "dinov2",
    "ferret",
    "flamingo",
    "geochat",
    "georsclip",
    "idefics",
    "instructblip",
    "internvl",
    "internvit",
    r"\blisa\b",
    "llava",
    "mini-?gemini",
    "minigpt",
    "mllama",
    "molmo",
    "nvlm",
    "pixtral",
    "qwen",
    "siglip",
    "vicuna",
    r"\bvila\b",
)
PATTERN = re.compile("|".join(NAMES), re.IGNORECASE)
KINDS = (
    # tilers, encoders, combines, connectors, layouts, fusions, language models, text sides, region samplers, chat formats
    "model/tilers/",
    "model/tiling.py",
    "model/tiler_table.py",
    "model/encoders.py",
    "model/encoder_kinds/",
    "model/encoder_table.py",
    "model/towers/",
    "model/combine",
    "model/connector",
    "model/layout",
    "model/fusion",
    "model/head",
    "model/language",
    "model/seq2seq",
    "model/text_",
    "model/region_samplers",
    "model/chat",
    "data/readers/",
    "data/reading.py",
    "data/reader_table.py",
    "data/scoring.py",
    "cli/score_verb.py",
    "samples/codec_kinds/",
    "samples/codec_table.py",
    "data/captioning.py",
    "data/segment_questions.py",
    "evaluate/benchmark_kinds/",
    "evaluate/benchmark_table.py",
    "train/mask_objective.py",
    "train/objectives.py",
    "train/picture_text.py",
    # conversion of published checkpoints
    "model/native/",
    "model/open_clip.py",
    "model/composite_weights.py",
    "export/",
)
"""Where a name may stand: beginnings of paths under src/sightline."""


def strays(texts: Mapping[str, str]) -> list[str]:
    """file:line: name, for every name of a system outside the modules of kinds and conversion."""
    found = []
    for path, text in sorted(texts.items()):
        if not path.startswith(KINDS):
            for number, line in enumerate(text.splitlines(), 1):
                found += [f"{path}:{number}: {match[0]}" for match in PATTERN.finditer(line)]
    return found


def test_a_stray_name_is_found() -> None:
    assert strays({"model/vlm.py": "x = 1\nif 'llava' in name:\n    ...", "model/tilers/a.py": "llava"}) == ["model/vlm.py:2: llava"]
    assert strays({"run.py": "# as CLIP does\nclip_vision_model"}) == ["run.py:1: CLIP", "run.py:2: clip_vision"]
    assert strays({"train/stage.py": "clip: float\nclip_grad_norm_(x)\nclipped"}) == []


def test_systems_are_named_in_kinds_and_conversion_alone(repository: Path) -> None:
    source = repository / "src/sightline"
    texts = {path.relative_to(source).as_posix(): path.read_text(encoding="utf-8") for path in source.rglob("*.py")}
    assert len(texts) > 100
    assert strays(texts) == []
