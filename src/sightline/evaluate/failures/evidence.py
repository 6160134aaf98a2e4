"""What failures are looked for in: questions with their answers beside what is known of their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from sightline.data.labels import LabelTable
from sightline.samples.codecs import regions_in, rotated
from sightline.samples.exchange import Answer
from sightline.samples.sample import Region, Regions, RotatedBox, Sample, Text, Turn


@dataclass(frozen=True, kw_only=True)
class Case:
    """One question, what is right, and what came back."""

    evaluation: str
    """Evaluation, or data set, that asked it."""
    name: str
    """Id of the request's sample."""
    kind: str
    asked: Sample
    """The sample that was asked: pictures, and turns up to the user's last one."""
    right: tuple[str, ...]
    """Right answers as text; none where only regions are right."""
    reply: Turn | None = None
    """The right answer as it stands in its sample, regions and all; None where only texts are known."""
    annotations: tuple[Region, ...] = ()
    """All that is known of the pictures."""
    answer: Answer
    score: float | None = None
    """What the evaluation gave to the answer, 0..1; None where it did not say."""
    shuffled: Answer | None = None
    """The answer to the same question about another picture."""
    shuffled_score: float | None = None

    @cached_property
    def question(self) -> str:
        """The text of the last turn."""
        return self.asked.text(-1)

    @cached_property
    def picture(self) -> str:
        """What questions about one picture have in common."""
        return self.asked.pictures[0].hash if self.asked.pictures else self.name

    @cached_property
    def said(self) -> str:
        """The answer without what its regions wrote."""
        items = self.answer.items
        return "".join(item.text for item in items if isinstance(item, Text)) if items else self.answer.text

    @cached_property
    def truth(self) -> tuple[Region, ...]:
        """Regions of the right answer."""
        return tuple(regions_in(self.reply.items)) if self.reply is not None else ()

    @property
    def asks_boxes(self) -> bool:
        """Whether the right answer is boxes, or that there are none."""
        return self.reply is not None and any(isinstance(item, Regions) for item in self.reply.items)

    @cached_property
    def wanted_boxes(self) -> tuple[RotatedBox, ...]:
        """Boxes of the right answer on the first picture."""
        return boxes_of(self.truth)

    @cached_property
    def found_boxes(self) -> tuple[RotatedBox, ...]:
        """Boxes that the answer names."""
        return boxes_of(regions_in(self.answer.items))


def boxes_of(regions: Sequence[Region]) -> tuple[RotatedBox, ...]:
    """The rectangles, le90, of the regions that have an area."""
    boxes = (rotated(region.shape) for region in regions if region.picture == 0)
    return tuple(box for box in boxes if box is not None and min(box.w, box.h) > 0)


@dataclass(frozen=True, kw_only=True)
class TextScores:
    """What a model thinks of held-out text, row by row."""

    stage: str
    logps: tuple[tuple[float, int], ...] = ()
    """(sum of the log-probabilities, tokens) of each text."""
    chosen: tuple[bool, ...] = ()
    """For each question with options, whether the right one was the likeliest."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that is looked at."""

    cases: tuple[Case, ...]
    table: LabelTable = field(default_factory=LabelTable.load)
    """Names of labels."""
    domains: Mapping[str, str] = field(default_factory=dict)
    """Evaluation -> `generic` or `domain`."""
    seen_sources: frozenset[str] | None = None
    """Data sets that the model was trained on; None: not known."""
    seen_kinds: frozenset[str] | None = None
    """Kinds of question that it was trained on."""
    text: tuple[TextScores, ...] = ()
    """Held-out text before and after stages, in the order of training."""
    left_out: tuple[str, ...] = ()
    """What could have been looked at and was not, and how much of it, a line each."""

    @cached_property
    def written(self) -> tuple[Case, ...]:
        """Cases that were answered, in whatever way."""
        return tuple(case for case in self.cases if case.answer.finish != "refused")
