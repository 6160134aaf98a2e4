"""How long the rows of a stage are: measured on stores that are at hand, else as the recipe declares them; and the batches that stand in for them in a plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from sightline.data.mixing import SetSize, plan_mixture
from sightline.model.assembly import ModelConfig
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.tiling import Tiling
from sightline.model.tokens import TextTokenizer, train_tokenizer
from sightline.recipe import Expect, Recipe
from sightline.run_checks import tokenizer_folder
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn
from sightline.samples.store import Store
from sightline.train.batching import shares_bins
from sightline.train.stage import StageConfig

SAMPLED = 2000
"""Rows that are measured of a store, spread evenly."""
MASKS = 3
"""Masks that are taken of a picture where a stage learns masks (the published mixture asks about at most three classes)."""
_QUANTILES = 200
"""Rows that stand for a declared distribution."""
_LETTERS = 600


@dataclass(frozen=True, kw_only=True)
class RowLength:
    """One row as a plan sees it."""

    tokens: int
    """Decoder positions, pictures included."""
    answers: int
    """Supervised positions."""
    encoded: Mapping[str, int] = field(default_factory=dict)
    """Tokens that each encoder computes, by its name."""
    entries: int = 0
    """Tokens behind the connector."""
    size: tuple[int, int] | None = None
    """px of its first picture."""
    pictures: int = 0

    @property
    def patches(self) -> int:
        """Tokens that all encoders compute."""
        return sum(self.encoded.values())


@dataclass(frozen=True, kw_only=True)
class DataRows:
    """Rows of one data set in a stage."""

    name: str
    rows: int
    """Visits in one epoch."""
    own: int
    """Rows of the set."""
    pictures: int
    """Different pictures."""
    how: str
    """measured, declared, or assumed."""
    lengths: list[RowLength]

    def mean(self, key: str) -> float:
        """Mean of a number of its rows."""
        return sum(getattr(one, key) for one in self.lengths) / max(1, len(self.lengths))

    def encoded(self, encoder: str) -> float:
        """Mean tokens of a row that an encoder computes."""
        return sum(one.encoded.get(encoder, 0) for one in self.lengths) / max(1, len(self.lengths))


class BlankPictures(Processor):
    """A processor that cuts blank pictures: a plan needs their shapes only."""

    def _crops(self, picture: Any, tiling: Tiling, root: Path | None) -> tuple[torch.Tensor, ...]:
        del root
        bands = len(self.config.bands) * len(getattr(picture, "pictures", (picture,)))
        return tuple(torch.zeros(bands, crop.window[3], crop.window[2], dtype=torch.uint8) for crop in tiling.crops)

    def read(self, picture: Picture, bands: tuple[str, ...], root: Path | None = None) -> np.ndarray:
        """Zeros."""
        del root
        return np.zeros((picture.height, picture.width, len(bands)), np.uint8)


def letters(config: ModelConfig, controls: Sequence[str]) -> TextTokenizer:
    """A tokenizer that writes a token for each letter: stands in where none is at hand, since declared lengths are in tokens."""
    return train_tokenizer([], max(_LETTERS, 256 + len(controls) + 8), config.chat_format(), controls)


def vocabulary(recipe: Recipe, model: str) -> tuple[int | None, int | None]:
    """Sizes of tokenizers that the run will train: of the model, and of its side texts."""
    config = recipe.all_models()[model]
    side = config.side_tokenizer
    return config.tokenizer.size if config.tokenizer.train_on else None, side.size if side is not None and side.train_on else None


def processor_of(recipe: Recipe, stage: StageConfig, resolved: ModelConfig, run: Path | None) -> tuple[BlankPictures, bool]:
    """A processor for a stage, and whether its tokenizer is the true one: of the checkpoint, or of a run in this folder."""
    name = recipe.model_of(stage)
    controls, config = recipe.controls(name), recipe.all_models()[name]
    trained = run / "tokenizer" / name if run else None
    folder = tokenizer_folder(config) if not config.tokenizer.train_on else trained if trained and (trained / "tokenizer.json").is_file() else None
    known = TextTokenizer.load(folder, config.chat_format().end, controls, config.reads_padding) if folder else None
    return BlankPictures(resolved, known or letters(config, (*controls, *config.side_controls()))), known is not None


def rows_of(recipe: Recipe, stage: StageConfig, processor: BlankPictures, true_tokenizer: bool, run: Path | None) -> list[DataRows]:
    """Rows of each data set of a stage, by the stores of a run in `run`, by `expect`, or by a guess that says so."""
    found = []
    objective = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
    for name, weight in stage.data.items():
        folder = run / "data" / name if run else None
        if folder is not None and true_tokenizer and (folder / "lineage.json").is_file():
            found.append(_measured(name, weight, Store.open(folder), processor, objective))
        else:
            said = recipe.data[name].expect
            found.append(
                _declared(name, weight, said or Expect(rows=stage.batch * (stage.steps or 1)), "declared" if said else "assumed", processor, objective)
            )
    return _mixed(stage, found)


def _mixed(stage: StageConfig, found: list[DataRows]) -> list[DataRows]:
    """Visits as `mix` shares them out, by the rule of the run. Which rows a model wrote is not known before they are there: none is taken for such."""
    if stage.mix is None:
        return found
    sizes = [SetSize(name=one.name, rows=one.own, tokens=one.mean("tokens")) for one in found]
    return [replace(one, rows=own.visits) for one, own in zip(found, plan_mixture(sizes, stage.mix, stage.data), strict=True)]


def _measured(name: str, weight: float, store: Store, processor: BlankPictures, objective: Any) -> DataRows:
    kept = store.kept
    chosen = kept[np.unique(np.linspace(0, len(kept) - 1, min(SAMPLED, len(kept))).astype(int))]
    objective.prepare((store[int(row)] for row in chosen), processor)
    rng = np.random.default_rng(0)
    samples = [store[int(row)] for row in chosen]
    lengths = [length_of(objective.encode(sample, processor, rng)) for sample in samples]
    different = len({picture.hash for sample in samples for picture in sample.pictures})
    rows, pictures = math.ceil(round(weight * len(kept), 6)), round(different * len(kept) / max(1, len(chosen)))
    return DataRows(name=name, rows=rows, own=len(kept), pictures=pictures, how="measured", lengths=lengths)


def length_of(encoded: Encoded) -> RowLength:
    """The numbers of one encoded row."""
    tokens: Counter[str] = Counter()
    for measure in encoded.measures:
        tokens.update(measure.encoded)
    return RowLength(
        tokens=len(encoded.ids),
        answers=len(encoded.answers),
        encoded=dict(tokens),
        entries=sum(measure.entries for measure in encoded.measures),
        size=(encoded.pictures[0].width, encoded.pictures[0].height) if encoded.pictures else None,
        pictures=len(encoded.pictures),
    )


def _declared(name: str, weight: float, said: Expect, how: str, processor: BlankPictures, objective: Any) -> DataRows:
    """Log-normal texts of the declared mean, at evenly spaced quantiles; answers keep their share."""
    sigma = said.spread
    mu = math.log(said.text) - sigma * sigma / 2
    texts = [math.exp(mu + sigma * NormalDist().inv_cdf((k + 0.5) / _QUANTILES)) for k in range(_QUANTILES)]
    rng = np.random.default_rng(0)
    least, longer = (length_of(objective.encode(stand_in(said, asked, 1, processor), processor, rng)) for asked in (1, 9))
    asks = longer.tokens > least.tokens  # formats of captions write no question
    room = processor.config.max_tokens - least.tokens + 2
    lengths = []
    for text in texts:
        own = max(2, min(round(text), room))
        answers = max(1, min(own - 1, round(own * said.answers / said.text)))
        written = answers - 1 + (own - answers - 1 if asks else 0)
        lengths.append(replace(least, tokens=least.tokens + written, answers=least.answers + answers - 1) if least.tokens else least)
    rows = math.ceil(round(weight * said.rows, 6))
    return DataRows(name=name, rows=rows, own=said.rows, pictures=0 if said.size is None else said.rows * said.pictures, how=how, lengths=lengths)


def stand_in(said: Expect, question: int, answer: int, processor: Processor) -> Sample:
    """A made sample with this many letters of question and answer, and its pictures blank."""
    bands = processor.config.bands
    shown = said.pictures if said.size is not None and processor.config.encoders else 0
    width, height = said.size or (1, 1)
    pictures = tuple(Picture(hash=f"{number:064x}", width=width, height=height, bands=bands, data=b"") for number in range(shown))
    asked = Turn(role="user", items=(*(Show(picture=number) for number in range(shown)), Text(text="x" * max(0, question))))
    return Sample(id="0", pictures=pictures, turns=(asked, Turn(role="assistant", items=(Text(text="y" * max(1, answer)),))), origin=Origin(source="plan"))


def worst_rows(lengths: Sequence[RowLength], rows: int, tokens: int | None) -> int:
    """Rows of the worst micro-batch: `rows`, or with a budget of `tokens` as many of the longest ones as it holds."""
    if tokens is None:
        return rows
    longest = max((one.tokens for one in lengths), default=1)
    return max(1, min(rows, tokens // max(1, longest)))


def worst_batch(lengths: Sequence[RowLength], rows: int, processor: BlankPictures, objective: Any, pack: bool | None = False) -> tuple[Any, list[RowLength]]:
    """The batch of the `rows` longest of these rows, made of stand-ins with their lengths; and their lengths. `pack`: as a stage says it."""
    chosen = sorted(lengths, key=lambda one: (one.tokens, one.patches), reverse=True)
    chosen = (chosen * math.ceil(rows / max(1, len(chosen))))[:rows]
    rng = np.random.default_rng(0)
    by_letter = BlankPictures(processor.config, letters(processor.config, _controls(processor)))
    encoded = []
    bare: dict[tuple[Any, int], RowLength] = {}
    for number, one in enumerate(chosen):
        said = Expect(rows=1, size=one.size, pictures=max(1, one.pictures))
        key = (one.size, one.pictures)
        if key not in bare:
            bare[key] = length_of(objective.encode(stand_in(said, 1, 1, by_letter), by_letter, rng))
        answers = max(1, one.answers - bare[key].answers + 1)
        sample = stand_in(said, max(0, one.tokens - bare[key].tokens + 2 - answers), answers, by_letter)
        different = tuple(replace(picture, hash=f"{number:032x}{place:032x}") for place, picture in enumerate(sample.pictures))
        made = objective.encode(replace(sample, id=str(number), pictures=different), by_letter, rng)
        masks = ((0, (0, None)),) * MASKS if "mask" in objective.needs and different else ()
        encoded.append(replace(made, taps=masks))
    words = len(getattr(objective, "words", ()))
    packed, _ = shares_bins(processor.config, pack, "plan")
    return by_letter.collate([encoded] if packed else [[one] for one in encoded], tag_words=words), [length_of(one) for one in encoded]


def _controls(processor: Processor) -> tuple[str, ...]:
    config = processor.config
    return tuple(dict.fromkeys((*config.controls(), *config.side_controls())))


def histogram(data: Sequence[DataRows], bins: int = 8) -> list[tuple[int, int, float]]:
    """(from, to, share of the epoch's rows) of tokens per row, in bins of equal width; every set weighs as its visits."""
    counted = [(one.tokens, data_set.rows / len(data_set.lengths)) for data_set in data for one in data_set.lengths]
    low, high = min(tokens for tokens, _ in counted), max(tokens for tokens, _ in counted)
    width = max(1, math.ceil((high - low + 1) / bins))
    total = sum(weight for _, weight in counted)
    found = [0.0] * math.ceil((high - low + 1) / width)
    for tokens, weight in counted:
        found[(tokens - low) // width] += weight / total
    return [(low + number * width, low + (number + 1) * width - 1, share) for number, share in enumerate(found)]
