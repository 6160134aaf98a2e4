"""Writes docs/parameters.md: the parameters of every full-size recipe beside what was published, and why they differ. `python tools/parameter_table.py`; a test fails when the page is behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

from sightline import recipe_source
from sightline.export.engines import Engines
from sightline.model import directory
from sightline.model.vlm import Model
from sightline.plan import ModelPlan, PartPlan
from sightline.recipe import load

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "parameters.md"
VARIANTS: dict[str, dict[str, list[str]]] = yaml.safe_load((REPOSITORY / "recipes" / "tables" / "variants.yaml").read_text(encoding="utf-8"))
"""Recipe -> variant -> overrides."""
SMALL = {"quickstart", "rsicd-from-scratch", "rs-quality", "rs-change", "soup-scenes", "soup-rsicd", "lisa-scenes"}
"""Recipes without a published model."""
OWN = "as the recipe stands"

_ROWS = "vocabulary rows that the converted checkpoint adds"
_TEXT = "text side of the Q-Former, which the class drops after the first stage: embeddings, feed-forward layers, heads"
_LAST = "the last norm, which the release cuts off: nothing reads it"
_HEAD = "7 heads of zeros, which the release adds to divide the tower among 8 accelerators"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What was published of one variant: parameters of the reference class or of its parts, and what our model has more (+) or less (-) of, by reason."""

    published: int | None
    reference: str
    differences: Mapping[str, int] = field(default_factory=dict)


FIGURES: dict[str, dict[str, Figure]] = {
    "llava-v1": {OWN: Figure(published=None, reference="no count is published")},
    "llava-1.5": {
        OWN: Figure(published=7_063_427_072, reference="llava-hf/llava-1.5-7b-hf"),
        "13B": Figure(published=13_351_494_656, reference="llava-hf/llava-1.5-13b-hf"),
    },
    "llava-next": {
        OWN: Figure(published=7_063_431_168, reference="llava-hf/llava-v1.6-vicuna-7b-hf"),
        "13B": Figure(published=13_351_499_776, reference="llava-hf/llava-v1.6-vicuna-13b-hf"),
        "Mistral-7B": Figure(published=7_566_747_648, reference="llava-hf/llava-v1.6-mistral-7b-hf", differences={_ROWS: -2 * 64 * 4096}),
        "Hermes-Yi-34B": Figure(published=34_752_083_968, reference="llava-hf/llava-v1.6-34b-hf", differences={_ROWS: -2 * 64 * 7168}),
        "Llama-3-8B": Figure(published=8_355_276_800, reference="llava-hf/llama3-llava-next-8b-hf", differences={_ROWS: -2 * 64 * 4096}),
    },
    "clip": {
        OWN: Figure(published=427_616_513, reference="openai/clip-vit-large-patch14"),
        "ViT-B/32": Figure(published=151_277_313, reference="openai/clip-vit-base-patch32"),
        "ViT-B/16": Figure(published=149_620_737, reference="openai/clip-vit-base-patch16"),
        "ViT-L/14@336": Figure(published=427_944_193, reference="openai/clip-vit-large-patch14-336"),
    },
    "clip-resnet": {OWN: Figure(published=623_258_305, reference="open_clip RN50x64")},
    "blip": {
        OWN: Figure(published=None, reference="no count is published"),
        "captioner": Figure(published=223_971_644, reference="Salesforce/blip-image-captioning-base, tied head"),
        "large captioner": Figure(published=446_290_492, reference="Salesforce/blip-image-captioning-large, tied head"),
    },
    "blip-2": {
        OWN: Figure(published=3_744_761_856, reference="Salesforce/blip2-opt-2.7b", differences={_TEXT: 81_540_414}),
        "OPT-6.7B": Figure(published=7_752_869_376, reference="Salesforce/blip2-opt-6.7b", differences={_TEXT: 81_540_414}),
        "Flan-T5-XL": Figure(published=3_876_648_448, reference="Salesforce/blip2-flan-t5-xl, tied head", differences={_TEXT: 81_540_414}),
        "Flan-T5-XXL": Figure(published=12_098_000_384, reference="Salesforce/blip2-flan-t5-xxl, tied head", differences={_TEXT: 81_540_414}),
    },
    "minigpt-4": {
        OWN: Figure(published=7_832_688_128, reference="BLIP-2's class with Vicuna"),
        "13B": Figure(published=14_110_926_336, reference="BLIP-2's class with Vicuna"),
    },
    "instructblip": {OWN: Figure(published=7_913_210_624, reference="Salesforce/instructblip-vicuna-7b")},
    "llama-3.2-vision": {
        OWN: Figure(published=10_670_220_835, reference="meta-llama/Llama-3.2-11B-Vision-Instruct"),
        "90B": Figure(published=88_593_355_323, reference="meta-llama/Llama-3.2-90B-Vision-Instruct"),
        "11B base, 448 px": Figure(published=10_642_941_475, reference="meta-llama/Llama-3.2-11B-Vision"),
    },
    "nvlm-d": {
        OWN: Figure(published=79_379_593_344, reference="nvidia/NVLM-D-72B", differences={_HEAD: -516_176_640}),
        "Hermes-Yi-34B": Figure(published=40_334_383_488, reference="sum of its parts; not released"),
    },
    "nvlm-x": {OWN: Figure(published=None, reference="not released")},
    "nvlm-h": {OWN: Figure(published=None, reference="not released")},
    "molmo": {
        OWN: Figure(published=8_021_025_280, reference="allenai/Molmo-7B-D-0924", differences={_LAST: 2_048}),
        "7B-O": Figure(published=7_665_032_192, reference="allenai/Molmo-7B-O-0924", differences={_LAST: 2_048}),
        "MolmoE-1B": Figure(published=7_221_875_712, reference="allenai/MolmoE-1B-0924", differences={_LAST: 2_048}),
        "72B": Figure(published=73_308_285_952, reference="allenai/Molmo-72B-0924", differences={_LAST: 2_048}),
    },
    "qwen2-vl": {
        OWN: Figure(published=8_291_375_616, reference="Qwen/Qwen2-VL-7B-Instruct"),
        "2B": Figure(published=2_208_985_600, reference="Qwen/Qwen2-VL-2B-Instruct"),
        "72B": Figure(published=73_405_560_320, reference="Qwen/Qwen2-VL-72B-Instruct"),
    },
    "pixtral": {OWN: Figure(published=12_682_739_712, reference="mistral-community/pixtral-12b")},
    "idefics2": {OWN: Figure(published=8_402_768_112, reference="HuggingFaceM4/idefics2-8b")},
    "llava-uhd": {
        OWN: Figure(published=13_456_393_216, reference="sum of its parts"),
        "144 queries": Figure(published=13_457_212_416, reference="guozonghao96/llava-uhd-144-13b"),
    },
    "internvl": {OWN: Figure(published=25_514_186_112, reference="sum of its parts; the card of OpenGVLab/InternVL-Chat-V1-5 says 25.51 B")},
    "points": {
        OWN: Figure(published=9_469_984_768, reference="sum of its parts"),
        "Qwen2.5-7B": Figure(published=8_250_163_712, reference="sum of its parts"),
    },
    "mini-gemini": {
        OWN: Figure(published=7_266_093_504, reference="sum of its parts"),
        "13B": Figure(published=13_554_030_016, reference="sum of its parts; the files of YanweiLi/MGM-13B hold 13.55 B"),
    },
    "ferret-v2": {OWN: Figure(published=None, reference="not released")},
    "vila": {
        OWN: Figure(published=7_046_121_472, reference="sum of its parts"),
        "1.5 3B": Figure(published=3_148_150_336, reference="Efficient-Large-Model/VILA1.5-3b"),
        "1.5 8B": Figure(published=8_494_155_840, reference="Efficient-Large-Model/Llama-3-VILA1.5-8B"),
    },
    "geochat": {OWN: Figure(published=7_063_640_064, reference="MBZUAI/geochat-7B")},
    "lisa": {OWN: Figure(published=None, reference="no count is published")},
    "remote-sensing": {
        OWN: Figure(published=14_830_835_200, reference="sum of its parts; not released"),
        "ViT-B/32": Figure(published=14_284_903_680, reference="sum of its parts; not released"),
        "ViT-L/14@336": Figure(published=14_502_265_856, reference="sum of its parts; not released"),
    },
    "catty-dual-gated": {OWN: Figure(published=None, reference="of no paper")},
}
"""Recipe -> variant -> figures."""

_VICUNA_7B, _QWEN2_7B, _QWEN2_72B, _INTERNVIT, _CLIP_336, _EVA = 6_738_415_616, 7_615_616_512, 72_706_203_648, 5_536_496_000, 303_507_456, 985_952_256
_LLAVA = {"encoders.vision": _CLIP_336, "connector": 20_979_712, "language_model": _VICUNA_7B}
PARTS: dict[str, dict[str, int]] = {
    "blip-2": {"encoders.vision": _EVA, "language_model": 2_651_596_800 + 32 * 2560},
    "catty-dual-gated": {"encoders.siglip": 428_225_600, "encoders.dino": 304_368_640, "language_model": 1_543_714_304},
    "clip": {"encoders.vision": 303_179_776, "text_encoder": 124_436_737},
    "ferret-v2": {
        "encoders.clip": _CLIP_336,
        "encoders.dino": 304_368_640,
        "connector.clip": 20_979_712,
        "connector.dino": 20_979_712,
        "language_model": _VICUNA_7B,
    },
    "geochat": {**_LLAVA, "encoders.vision": _CLIP_336 + 737_280},
    "idefics2": {"encoders.vision": 417_792_240, "language_model": 7_241_732_096 + 2 * 3 * 4096},
    "instructblip": {"encoders.vision": _EVA, "connector": 185_660_160 + 32 * 768 + 768 * 4096 + 4096, "language_model": _VICUNA_7B + 2 * 4096},
    "internvl": {"encoders.vision": _INTERNVIT},
    "llama-3.2-vision": {
        "encoders.vision": 863_567_379,
        "connector": 31_461_376,
        "fusion": 9_775_192_080 - 8_030_261_248 - 8 * 4096,
        "language_model": 8_030_261_248 + 8 * 4096,
    },
    "lisa": {"encoders.vision": 303_179_776, "connector": 4_198_400, "language_model": _VICUNA_7B + 2 * 4096},
    "llava-1.5": {**_LLAVA, "language_model": _VICUNA_7B + 2 * 64 * 4096},
    "llava-next": {**_LLAVA, "language_model": _VICUNA_7B + 2 * 64 * 4096, "layout": 4096},
    "llava-uhd": {"encoders.vision": _CLIP_336, "connector": 137_021_440, "language_model": 13_015_864_320},
    "llava-v1": {"encoders.vision": 303_179_776, "connector": 4_198_400, "language_model": _VICUNA_7B},
    "mini-gemini": {"encoders.clip": _CLIP_336, "encoders.convnext": 196_227_264, "combine": 6_963_456, "connector": 20_979_712, "language_model": _VICUNA_7B},
    "minigpt-4": {"encoders.vision": _EVA, "connector": 105_137_664 + 32 * 768 + 3_149_824, "language_model": _VICUNA_7B + 2 * 4096},
    "molmo": {"encoders.vision": 290_909_184 + 2_048, "connector": 7_348_224 + 106_692_608, "language_model": 7_616_075_264},
    "nvlm-d": {"encoders.vision": _INTERNVIT, "connector": 620_717_056, "language_model": _QWEN2_72B},
    "nvlm-h": {"encoders.vision": _INTERNVIT, "connector": 620_717_056, "language_model": _QWEN2_72B},
    "nvlm-x": {"encoders.vision": _INTERNVIT, "language_model": _QWEN2_72B},
    "pixtral": {"encoders.vision": 403_489_792, "connector": 12_682_739_712 - 403_489_792 - 12_247_782_400, "language_model": 12_247_782_400},
    "points": {"encoders.general": _CLIP_336, "encoders.text": _CLIP_336, "connector": 33_562_624, "language_model": 8_829_407_232},
    "qwen2-vl": {"encoders.vision": 675_759_104 - 44_575_744, "connector": 44_575_744, "language_model": _QWEN2_7B},
    "remote-sensing": {"encoders.vision": 630_766_080, "connector": 32_778_240, "language_model": 14_167_290_880},
    "vila": {"encoders.vision": _CLIP_336, "connector": 4_198_400, "language_model": _VICUNA_7B},
}
"""Recipe -> part -> parameters of the published tower, language model or connector, as far as they are known apart. Rows of embeddings that a recipe adds are added here."""

_HEADING = """# Parameters

Every full-size recipe, built without memory, beside what was published. `published` is the number of the reference implementation's class, or the sum of its parts where there is no class; tied weights count once.
A difference that is not 0 has its reason in the last column. `sightline plan NAME --model-only` prints the same numbers; the overrides of a variant are in `recipes/tables/variants.yaml`.

| recipe | part | parameters | published | difference | why |
| --- | --- | ---: | ---: | ---: | --- |
"""


def systems() -> list[str]:
    """Names of the full-size recipes."""
    return sorted({name for name, path in recipe_source.shipped().items() if path.parent.name != "studies"} - SMALL)


def built(recipe: str, variant: str) -> ModelPlan:
    """The last model of a recipe's variant with its parts, built on the meta device. Its stages are not planned."""
    config = list(load(recipe, [] if variant == OWN else VARIANTS[recipe][variant]).recipe.all_models().values())[-1]
    resolved = directory.without_checkpoints(config.resolve(config.tokenizer.size if config.tokenizer.train_on else None))
    with torch.device("meta"):
        parts = Model(resolved).parts()
    counts = [PartPlan(path=path, module=type(module).__name__, parameters=sum(p.numel() for p in module.parameters())) for path, module in parts.items()]
    return ModelPlan(name=recipe, parts=counts, stages=[], picture_tokens=[], engines=Engines(target=None, takings=()))


def rows(recipe: str, variant: str, model: ModelPlan) -> list[str]:
    """Lines of the table: its parts, where it is no variant, and all of them together."""
    figure = FIGURES[recipe][variant]
    name = recipe if variant == OWN else f"{recipe}, {variant}"
    lines = [_row(name, part) for part in model.parts] if variant == OWN else []
    if figure.published is None:
        return [*lines, f"| {name} | **all** | **{model.parameters:,}** | | | {figure.reference} |"]
    reasons = "; ".join(f"{reason}: {amount:+,}" for reason, amount in figure.differences.items())
    difference = _signed(model.parameters - figure.published)
    why = f"{figure.reference}. {reasons[0].upper()}{reasons[1:]}" if reasons else figure.reference
    return [*lines, f"| {name} | **all** | **{model.parameters:,}** | {figure.published:,} | {difference} | {why} |"]


def _row(recipe: str, part: PartPlan) -> str:
    published = PARTS.get(recipe, {}).get(part.path)
    known = f"{published:,} | {_signed(part.parameters - published)}" if published is not None else "|"
    return f"| {recipe} | `{part.path}` | {part.parameters:,} | {known} | |"


def _signed(difference: int) -> str:
    return f"{difference:+,}" if difference else "0"


def page(names: Sequence[str]) -> Iterator[str]:
    """The lines of the page, in the order of the recipes."""
    yield _HEADING.rstrip("\n")
    for recipe in names:
        for variant in FIGURES[recipe]:
            yield from rows(recipe, variant, built(recipe, variant))


def main() -> None:
    """Write the page."""
    PAGE.write_text("\n".join(page(systems())) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
