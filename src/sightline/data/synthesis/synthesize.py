"""The operator `synthesize`: rows of questions and answers from what is annotated, in two languages.

Each row is seeded by its own id and each kind by its name, so that neither other rows nor other kinds change what is asked. The one thing that is taken from the whole set is
which labels it annotates and how often; with `statistics` from a file that, too, is fixed, and pictures can be added without any change to the rows that were there.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from sightline.data.labels import LabelTable
from sightline.data.operators import Outcome
from sightline.data.synthesis.asked import Asked, Limits, Maker, Subject
from sightline.data.synthesis.change_kinds import change, change_kind, change_where
from sightline.data.synthesis.corpus_statistics import Statistics
from sightline.data.synthesis.label_kinds import choice, listing, yes_no
from sightline.data.synthesis.phrasings import Language, Phrasings
from sightline.data.synthesis.picture_facts import Known, Rules, known_of, present_in
from sightline.data.synthesis.prompt_kinds import caption, question, vqa
from sightline.data.synthesis.quality_kinds import quality, quality_choice, quality_kind
from sightline.data.synthesis.region_kinds import counting, grounding, naming
from sightline.data.synthesis.scene_kinds import scene, scene_choice
from sightline.data.synthesis.text_kinds import reading, spotting, transcription
from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Config
from sightline.samples.codec_kinds.rotated_codecs import XyhwtCodec
from sightline.samples.codec_table import CODEC
from sightline.samples.codecs import text_of
from sightline.samples.exchange import Answer
from sightline.samples.frames import frame_of
from sightline.samples.sample import Regions, Sample

KindName = Literal[
    "list",
    "yes-no",
    "choice",
    "scene",
    "scene-choice",
    "grounding",
    "naming",
    "counting",
    "caption",
    "vqa",
    "question",
    "reading",
    "spotting",
    "transcription",
    "change",
    "change-kind",
    "change-where",
    "quality",
    "quality-kind",
    "quality-choice",
]
MAKERS: dict[KindName, Maker] = {
    "list": listing,
    "yes-no": yes_no,
    "choice": choice,
    "scene": scene,
    "scene-choice": scene_choice,
    "grounding": grounding,
    "naming": naming,
    "counting": counting,
    "caption": caption,
    "vqa": vqa,
    "question": question,
    "reading": reading,
    "spotting": spotting,
    "transcription": transcription,
    "change": change,
    "change-kind": change_kind,
    "change-where": change_where,
    "quality": quality,
    "quality-kind": quality_kind,
    "quality-choice": quality_choice,
}
_PAIRS: tuple[KindName, ...] = ("change", "change-kind", "change-where")
"""Kinds about two pictures; all others are about one."""
_DEFAULT: dict[KindName, int] = {
    "list": 1, "yes-no": 2, "choice": 1, "scene": 1, "scene-choice": 1, "grounding": 8, "naming": 2, "counting": 2, "caption": 1, "vqa": 0, "question": 0, "reading": 4, "spotting": 4, "transcription": 1,
    "change": 1, "change-kind": 1, "change-where": 1, "quality": 1, "quality-kind": 1, "quality-choice": 1,
}  # fmt: skip


class Synthesize(Config):
    """Questions and answers from masks, boxes, texts and captions: one row per question, with the annotations kept beside it."""

    kind: Literal["synthesize"] = "synthesize"
    kinds: dict[KindName, int] = Field(default=_DEFAULT, min_length=1)
    """Most questions of each kind about one picture; a kind that is left out is not asked."""
    languages: tuple[Language, ...] = Field(default=("en", "zh"), min_length=1, strict=False)
    """Languages; one is drawn for each question."""
    codec: Annotated[Config, CODEC] = XyhwtCodec(convert=True)
    """Region codec that answers will be written with: a box that it does not keep is not used."""
    labels: str = ""
    """Label table (CSV); empty: the one that Sightline brings."""
    phrasings: str = ""
    """Wordings (YAML); empty: those that Sightline brings."""
    statistics: str = ""
    """File of the statistics that negatives are drawn from, so that pictures can be added later without a change to other rows; empty: learnt from the set."""
    never: tuple[str, ...] = Field(default=("text",), strict=False)
    """Labels that are never said, beside background, clutter and unknown."""
    change: str = "changed-building"
    """Label of what has changed in pairs of pictures without turns."""
    terse: float = Field(default=0.25, ge=0, le=1)
    """Share of yes-no, choice, scene, naming, counting, change and quality questions that ask for a bare answer, as short-answer benchmarks do."""
    least_share: float = Field(default=0.005, ge=0, le=1)
    """Share of the picture below which an area is neither present nor absent."""
    least_fill: float = Field(default=0.25, ge=0, le=1)
    """Share of its rotated box that a piece of a mask must fill to be asked for by box."""
    least_owned: float = Field(default=0.6, ge=0, le=1)
    """Share of the pixels in a box that a label must own to be its name."""
    least_iou: float = Field(default=0.8, ge=0, le=1)
    """Rotated IoU that a box must keep through the codec, in px of the picture."""
    most_labels: int = Field(default=8, ge=1)
    """Pictures with more labels are not asked for a list."""
    most_boxes: int = Field(default=10, ge=1)
    """Boxes in one answer; it says how many remain."""
    follow_ups: int = Field(default=3, ge=0)
    """How often a conversation asks for the boxes that remain."""
    most_counted: int = Field(default=10, ge=1)
    """Larger numbers of objects are not counted."""
    zeros: float = Field(default=0.1, ge=0, le=1)
    """Share of counting questions whose answer is 0."""
    options: int = Field(default=4, ge=2, le=8)
    """Options of a multiple choice."""
    several: float = Field(default=0.3, ge=0, le=1)
    """Share of multiple choices with more than one right option, which the question says."""
    most_lines: int = Field(default=60, ge=1)
    """Pictures with more lines of text are not asked for all of them."""
    together: bool = False
    """One row per picture, whose turns are independent pairs that share the picture's tokens, instead of one row per question."""

    @cached_property
    def rules(self) -> Rules:
        """When something may be asked. Refused when the label table is wrong."""
        table = LabelTable.load(Path(self.labels) if self.labels else None)
        codec: Any = self.codec
        return Rules(table=table, codec=codec, never=self.never, least_share=self.least_share, least_fill=self.least_fill, least_iou=self.least_iou)

    @cached_property
    def limits(self) -> Limits:
        """Sizes of questions and answers."""
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})

    def known(self, sample: Sample) -> Known:
        """What is known of a sample: of its later picture for pairs, of its first picture otherwise."""
        return known_of(sample, self.rules, picture=1 if self.is_change(sample) else 0)

    def written(self, item: Regions, sample: Sample) -> str:
        """What the codec writes for regions of a sample."""
        codec: Any = self.codec
        shown = sample.pictures[item.regions[0].picture]
        return text_of(codec.render(item, frame_of(codec.frame, shown.width, shown.height)))

    def is_change(self, sample: Sample) -> bool:
        """Whether a sample is a pair of pictures of one place with what has changed, and nothing else, annotated; also when questions were made of it."""
        sizes = {(picture.width, picture.height) for picture in sample.pictures}
        labels = {self.rules.table.canonical(region.label or "") for region in sample.annotations}
        unasked = not sample.turns or "reached" in sample.attributes
        return len(sample.pictures) == 2 and len(sizes) == 1 and unasked and labels <= {self.rules.table.canonical(self.change)}

    def learn(self, samples: Iterable[Sample]) -> Synthesizer:
        """The operator with the statistics of its set. Refused with all labels that have no name in a language that is asked for."""
        if self.statistics:
            return Synthesizer(config=self, statistics=Statistics.load(Path(self.statistics)))
        strange: dict[str, str] = {}
        statistics = Statistics.learn(self._seen(samples, strange))
        if strange:
            raise Refused([_unknown_label(label, place, self.rules.table) for label, place in sorted(strange.items())])
        return Synthesizer(config=self, statistics=statistics)

    def _seen(self, samples: Iterable[Sample], strange: dict[str, str]) -> Iterable[tuple[str, set[str]]]:
        for sample in samples:
            strange.update(dict.fromkeys(self.unnamed(sample), sample.id))
            if sample.pictures:
                yield sample.origin.source, present_in(sample, self.rules)

    def unnamed(self, sample: Sample) -> set[str]:
        """Labels of a sample that the table cannot say in Chinese where that is asked for."""
        labels = {region.label for region in sample.annotations if region.label is not None and self.rules.said(region.label)}
        return {label for label in labels if self.rules.table.find(label) is None} if "zh" in self.languages else set()


def _unknown_label(label: str, place: str, table: LabelTable) -> Problem:
    return Problem(
        code="data/unnamed-label",
        place=place,
        found=f"label {label!r}, which has no Chinese name",
        allowed="labels of the table",
        fix=nearest(label, list(table.labels)) or "add it to a label table (`labels: FILE.csv`), or ask in English only (`languages: [en]`)",
    )


@dataclass(frozen=True, kw_only=True)
class Synthesizer:
    """`synthesize` that knows its set."""

    config: Synthesize
    statistics: Statistics

    kind: str = "synthesize"

    def each(self, sample: Sample, rng: np.random.Generator, answers: Sequence[Answer]) -> Outcome:
        """The questions about a sample; quarantined when there is none. The counts of what was left out stay with the row."""
        if not sample.pictures:
            return Outcome(verdict="quarantined", rule="synthesize/no-picture")
        if self.config.unnamed(sample):
            return Outcome(verdict="quarantined", rule="synthesize/unnamed-label")
        known = self.config.known(sample)
        asked = self._asked(sample, known, int(rng.integers(2**63)))
        faults = [thing.fault for thing in known.things if thing.fault]
        columns = {f"synthesize_{reason}": faults.count(reason) for reason in sorted(set(faults))}
        if not asked:
            return Outcome(verdict="quarantined", rule="synthesize/nothing-to-ask", columns=columns)
        rows = (_row(sample, asked, ""),) if self.config.together else tuple(_row(sample, [one], f"#{name}") for name, one in _named(asked))
        return Outcome(samples=rows, columns=columns)

    def _asked(self, sample: Sample, known: Known, key: int) -> list[Asked]:
        pair = self.config.is_change(sample)
        subject = Subject(
            sample=sample,
            known=known,
            rules=self.config.rules,
            statistics=self.statistics,
            phrasings=Phrasings.load(Path(self.config.phrasings) if self.config.phrasings else None),
            languages=self.config.languages,
            limits=self.config.limits,
            change=self.config.rules.table.canonical(self.config.change) if pair else "",
        )
        found: list[Asked] = []
        for kind, make in MAKERS.items():
            most = self.config.kinds.get(kind, 0)
            if most and (kind in _PAIRS) == pair:
                found += make(subject, np.random.default_rng([key, zlib.crc32(kind.encode())]), most)
        return found


def _named(asked: Sequence[Asked]) -> list[tuple[str, Asked]]:
    """Each question with a name of its own: `grounding-0`."""
    numbers: dict[str, int] = {}
    named = []
    for one in asked:
        numbers[one.kind] = numbers.get(one.kind, -1) + 1
        named.append((f"{one.kind}-{numbers[one.kind]}", one))
    return named


def _row(sample: Sample, asked: Sequence[Asked], suffix: str) -> Sample:
    """A row of questions. What the published row said of turns of its own (options, answers, references) does not go along."""
    attributes: dict[str, Any] = {key: value for key, value in sample.attributes.items() if key not in ("options", "answers", "references", "turns")}
    attributes |= {
        "kind": ",".join(one.kind for one in asked for _ in one.turns[::2]),
        "language": ",".join(dict.fromkeys(one.language for one in asked)),
        "template": ",".join(one.template for one in asked),
        "reached": sorted({number for one in asked for number in one.reached}),
    }
    if len(asked) == 1:
        attributes |= {"options": list(asked[0].options)} if asked[0].options else {}
        attributes |= {"answers": list(asked[0].answers)} if asked[0].answers else {}
    else:
        attributes["turns"] = "independent"
    maker = f"template:{asked[0].template}" if len(asked) == 1 else "template:synthesize"
    return replace(
        sample,
        id=f"{sample.id}{suffix}",
        turns=tuple(turn for one in asked for turn in one.turns),
        annotations=(*sample.annotations, *(target for one in asked for target in one.targets)),
        attributes=attributes,
        origin=replace(sample.origin, parents=(sample.id,), maker=maker),
    )
