"""What a model invents about annotated pictures: things in its descriptions (CHAIR), and yes to questions about what is not there (POPE). Made from any data with labels."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from sightline.data.labels import NEVER_SAID, LabelTable, spelled
from sightline.evaluate import yes_no
from sightline.evaluate.asking import Scores, judged, paired
from sightline.evaluate.benchmark_kinds.pope import yes_figures
from sightline.evaluate.benchmarks import caption_habits
from sightline.evaluate.chair import chair, told
from sightline.evaluate.failures.hallucination import WORDING, probes_of
from sightline.evaluate.failures.mentions import Mentions, vocabulary
from sightline.evaluate.metrics import Value, share, tokenize
from sightline.evaluate.published import PublishedBenchmark, PublishedRow, Verdict
from sightline.evaluate.read_sets import SetKind
from sightline.samples.exchange import Answer, Answerer
from sightline.samples.sample import Sample


class AnnotatedKind(SetKind):
    """Base of both: pictures whose annotations say what is there. What is not annotated anywhere in the set cannot be invented, unless `also` names it."""

    files: ClassVar[str] = "a store, or a set with labels in a layout that is read"
    also: tuple[str, ...] = Field(default=(), strict=False)
    """Labels beside those of the annotations."""
    labels: str | None = None
    """CSV table of names (docs/data.md); default is the one that Sightline brings."""

    def mentions(self, samples: Sequence[Sample]) -> Mentions:
        """Finds the labels of these samples, and those of `also`, by every name of the table."""
        return Mentions(LabelTable.load(Path(self.labels) if self.labels else None), (*vocabulary([sample.annotations for sample in samples]), *self.also))

    def group(self, row: PublishedRow) -> Hashable:
        """Questions about one picture belong together."""
        return row.pictures[0].hash


def annotated(samples: Iterable[Sample]) -> tuple[list[Sample], int]:
    """One sample for each picture with the annotations and references of all that show it, and how many samples are left out: those without a label, or with no or several pictures."""
    found: dict[str, Sample] = {}
    left_out = 0
    for sample in samples:
        if len(sample.pictures) != 1 or all(region.label is None or spelled(region.label) in NEVER_SAID for region in sample.annotations):
            left_out += 1
            continue
        name = sample.pictures[0].hash
        known = found.get(name)
        regions = (*(known.annotations if known else ()), *sample.annotations)
        references = (*(_references(known) if known else ()), *_references(sample))
        attributes = {**(known or sample).attributes, "references": references}
        found[name] = replace(known or sample, annotations=regions, attributes=attributes)
    return list(found.values()), left_out


def _references(sample: Sample) -> tuple[str, ...]:
    said = sample.attributes.get("references")
    return tuple(map(str, said)) if isinstance(said, list | tuple) else ()


class Chair(AnnotatedKind):
    """Pictures to describe; labels that a description names are looked up in the annotations, and in captions that are known of the picture."""

    kind: Literal["chair"] = "chair"
    ask: str = "Describe the picture in detail."
    """What the user says."""
    max_tokens: int = Field(default=128, ge=1)
    """Longest description."""

    def rows_of(self, samples: Sequence[Sample]) -> Iterator[PublishedRow]:
        """See SetKind. The right answer lists what is annotated."""
        known, _ = annotated(samples)
        mentions = self.mentions(known)
        for sample in known:
            wanted = sorted(mentions.present(sample.annotations) & set(mentions.labels))
            named = {label for text in _references(sample) for label in mentions.of(text)}
            if wanted:
                yield PublishedRow(
                    index=sample.id,
                    place=f"{sample.origin.source}:{sample.origin.row or sample.id}",
                    question=self.ask,
                    answer=", ".join(mentions.table.said(label) for label in wanted),
                    pictures=sample.pictures,
                    fields={"category": "description", "wanted": json.dumps(wanted), "present": json.dumps(sorted({*wanted, *named}))},
                )

    def build(self, samples: Iterable[Sample] = (), seen: bool = True) -> ChairBenchmark:
        """See SetKind."""
        asked = self.asked_samples(samples)
        return ChairBenchmark(self, self._limited(self.rows_of(asked)), self.mentions(asked), annotated(asked)[1] / max(1, len(asked)), seen)

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Never: what is named is looked up with the labels of the whole set."""
        raise AssertionError("see ChairBenchmark")

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """Never: see `verdict`."""
        raise AssertionError("see ChairBenchmark")


class ChairBenchmark(PublishedBenchmark):
    """Metrics: `faithful`, the share of descriptions that invent nothing (1 - CHAIR_s, so that higher is better), then `chair-i`, `chair-s`, and `recall` of annotated labels, which silence lowers."""

    def __init__(self, config: Chair, rows: Sequence[PublishedRow], mentions: Mentions, left_out: float, seen: bool = True) -> None:
        super().__init__(config, rows, seen)
        self.mentions, self.left_out = mentions, left_out

    @property
    def headline(self) -> tuple[str, ...]:
        """What gates and selections look at."""
        return ("faithful",)

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """A description is worth 1 where it invents nothing. Habits: those of captions, `left-out`, the share of samples that could not be asked about, and `nothing-named`. No judge is asked."""
        matched = paired(self.questions, answers)
        found = [
            told(row.pictures[0].hash, self.mentions.of(answer.text), json.loads(row.told("present")), json.loads(row.told("wanted")), self.mentions.holds)
            for row, answer in zip(self.rows, matched, strict=True)
        ]
        clean = [float(not one.invented) for one in found]
        habits = {
            **caption_habits([tokenize(answer.text) for answer in matched], [row.pictures[0].hash for row in self.rows], matched),
            "nothing-named": share(sum(not one.named for one in found), len(found)),
            "left-out": Value(value=self.left_out, low=self.left_out, high=self.left_out, n=len(found)),
        }
        return Scores(
            metrics={"faithful": share(sum(clean), len(clean)), **chair(found)}, habits=habits, per_request=tuple(map(judged, self.questions, matched, clean))
        )


class LabelProbes(AnnotatedKind):
    """Six questions about each picture, as in POPE: three labels that are there, and of the absent ones one at random, the most frequent one, and the one that most often stands beside what is there."""

    kind: Literal["label-probes"] = "label-probes"
    ask: str = WORDING
    """Question about a label, with {label} or {a_label}."""
    rule: yes_no.Rule = "tolerant"
    """How answers are read: tolerant, pope (what does not say no says yes), word or mme."""
    seed: int = Field(default=0, ge=0)
    """Of the random ones."""
    max_tokens: int = Field(default=16, ge=1)
    """Longest answer."""

    def rows_of(self, samples: Sequence[Sample]) -> Iterator[PublishedRow]:
        """See SetKind."""
        known, _ = annotated(samples)
        for probe in probes_of(known, self.mentions(known), np.random.default_rng(self.seed), self.ask):
            asked = probe.request.sample
            yield PublishedRow(
                index=asked.id,
                place=f"{asked.origin.source}:{asked.origin.row or asked.id}",
                question=asked.text(0),
                answer=probe.right,
                pictures=asked.pictures,
                fields={"category": probe.kind.removeprefix("probe-")},
            )

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Right where the answer is the truth's."""
        said = yes_no.RULES[self.rule](answer)
        return Verdict(score=float(said == row.answer), read=said)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all` (accuracy), precision, recall and f1 of yes, yes-share; then `yes to KIND`, the share of questions about random, popular and adversarial absent labels that are answered with yes."""
        figures = yes_figures(rows, verdicts)
        found = {"all": figures.pop("accuracy"), **figures}
        for kind in ("random", "popular", "adversarial"):
            own = [verdict.read == "yes" for row, verdict in zip(rows, verdicts, strict=True) if row.told("category") == kind]
            found |= {f"yes to {kind}": share(sum(own), len(own))} if own else {}
        return found
