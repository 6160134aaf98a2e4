"""Our models inside VLMEvalKit. One line before its run makes a model known there, as `supported_VLM[NAME]`:

    from sightline.bridges.vlmevalkit_bridge import register; register("mine", "runs/mine")

Its class is made when it is asked for, for its base is VLMEvalKit's own class. For the benchmarks in PRESETS it asks in our words, so that answers are those of `sightline eval`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from sightline.bridges.harness import MAX_NEW_TOKENS, HarnessModel, Part, picture_of, unsayable
from sightline.errors import Problem, Refused
from sightline.evaluate.benchmark_table import BENCHMARK
from sightline.evaluate.published import PublishedKind, items_of
from sightline.evaluate.vlmevalkit_tsv import row_of
from sightline.samples.exchange import Decoding
from sightline.samples.sample import Picture, Role, Show, Text

PRESETS: dict[str, str] = {
    **dict.fromkeys(
        [f"MMBench_{part}{version}" for part in ("DEV_EN", "DEV_CN", "TEST_EN", "TEST_CN") for version in ("", "_V11")]
        + ["MMBench", "MMBench_CN", "MMBench_V11", "MMBench_CN_V11"],
        "mmbench",
    ),
    "MMStar": "mmstar",
    "AI2D_TEST": "ai2d",
    "AI2D_TEST_NO_MASK": "ai2d",
    "RealWorldQA": "realworldqa",
    "ScienceQA_VAL": "scienceqa",
    "ScienceQA_TEST": "scienceqa",
    "MMMU_DEV_VAL": "mmmu",
    "MMMU_TEST": "mmmu",
    "MME": "mme",
    "POPE": "pope",
    "HallusionBench": "hallusionbench",
    "OCRBench": "ocrbench",
    "MMVet": "mm-vet",
}
"""Kind of benchmark whose words and longest answer are ours, by VLMEvalKit's name of the data set. MathVista is asked in VLMEvalKit's words: its file holds them."""
_COLUMNS_OF_PICTURES = ("image", "image_path")


def register(name: str, model_path: str, **options: Any) -> None:
    """Make a model known to the VLMEvalKit that is installed; `options` are those of `VlmEvalKitModel`. Raises Refused where there is none, or the name is taken."""
    try:
        from vlmeval.config import supported_VLM  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Refused(Problem(code="bridges/no-harness", place="vlmeval", found=str(error), allowed="VLMEvalKit", fix="install it from its source")) from None
    if name in supported_VLM:
        found, fix = f"{name}, which is known already", "choose another name"
        raise Refused(Problem(code="bridges/name-taken", place="supported_VLM", found=found, allowed="a name of its own", fix=fix))
    supported_VLM[name] = partial(model_class(), model_path=model_path, **options)


def model_class(base: type | None = None) -> type:
    """The class that VLMEvalKit is given: ours on its `BaseModel`, or on `base`."""
    if base is not None:
        return type("Sightline", (VlmEvalKitModel, base), {"__doc__": VlmEvalKitModel.__doc__})
    from vlmeval.vlm.base import BaseModel  # pyright: ignore[reportMissingImports]

    return model_class(BaseModel)


class VlmEvalKitModel:
    """What VLMEvalKit asks of a model, answered by ours.

    `model_path`: a run, a model directory, a published checkpoint, or http://HOST:PORT/v1#MODEL. `presets`: further data sets by name and their kind of benchmark, such as {"Mine": "multiple-choice"}.
    `own_prompts=False`: all questions in VLMEvalKit's words. `answers`: file where answers are kept and never asked twice. `max_new_tokens`: longest answer of data sets that are in no preset.
    """

    INTERLEAVE = True
    dump_image: Callable[..., Any]
    """VLMEvalKit's: writes the pictures of a row and gives their paths."""

    def __init__(
        self,
        model_path: str,
        precision: str = "float32",
        answers: str | None = None,
        presets: Mapping[str, str] | None = None,
        own_prompts: bool = True,
        max_new_tokens: int = MAX_NEW_TOKENS,
        key_file: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        kinds = {**PRESETS, **(presets or {})}
        self.presets = {name: _preset(kind) for name, kind in kinds.items()}
        self.own_prompts, self.max_new_tokens = own_prompts, max_new_tokens
        self.model = HarnessModel(model_path, precision, answers, device, key_file)

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """Whether questions of this data set are asked in our words."""
        return self.own_prompts and dataset in self.presets

    def build_prompt(self, line: Any, dataset: str) -> list[dict[str, str]]:
        """The message of a row, which is a Series of pandas or a mapping: our words with its pictures where they are marked, before them where they are not."""
        paths = self.dump_image(line, dataset) if any(name in line and _said(line[name]) for name in _COLUMNS_OF_PICTURES) else []
        shown = [str(path) for path in ([paths] if isinstance(paths, str) else paths)]
        fields = {str(name): str(line[name]) for name in line.keys() if name not in _COLUMNS_OF_PICTURES and _said(line[name])}  # noqa: SIM118, a Series yields values
        words = self.presets[dataset].asked(row_of(f"{dataset}:{fields.get('index', '')}", {"question": "", "index": "", **fields}))
        stand_ins = [Picture(hash=path, width=1, height=1, data=path) for path in shown]
        return [
            {"type": "image", "value": shown[item.picture]} if isinstance(item, Show) else {"type": "text", "value": item.text}
            for item in items_of(words, stand_ins)
            if isinstance(item, Show | Text)
        ]

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """The answer to a message of texts and pictures in any order."""
        return self.generate_batch([message], dataset)[0]

    def generate_batch(self, messages: Sequence[Sequence[Mapping[str, str]]], dataset: str | None = None) -> list[str]:
        """The answers to several messages, asked at once."""
        return self._written([[("user", _parts(message))] for message in messages], dataset)

    def chat_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """The answer to the last turn of a conversation, `[{role, content: [{type, value}]}]`."""
        return self._written([[(turn["role"], _parts(turn["content"])) for turn in message]], dataset)[0]

    def _written(self, asked: Sequence[Sequence[tuple[Role, Sequence[Part]]]], dataset: str | None) -> list[str]:
        longest = self.presets[dataset].max_tokens if dataset in self.presets else self.max_new_tokens
        return self.model.written([(turns, Decoding(max_tokens=longest)) for turns in asked])


def _preset(kind: str) -> PublishedKind:
    config = BENCHMARK.parse({"kind": kind, "path": "-"})
    assert isinstance(config, PublishedKind), f"{kind} reads no published files"
    return config


def _said(value: Any) -> bool:
    """Whether a cell says something: pandas has NaN for those that do not."""
    return not isinstance(value, float) or value == value


def _parts(message: Sequence[Mapping[str, str]]) -> list[Part]:
    """Texts and pictures in their order; texts that follow each other are lines of one."""
    found: list[Part] = []
    for item in message:
        if item["type"] == "image":
            found.append(picture_of(item["value"], "message"))
        elif item["type"] != "text":
            raise unsayable("message", f"an item of type {item['type']}", "text and image", "choose a data set of pictures")
        elif found and isinstance(found[-1], str):
            found[-1] = f"{found[-1]}\n{item['value']}"
        else:
            found.append(item["value"])
    return found
