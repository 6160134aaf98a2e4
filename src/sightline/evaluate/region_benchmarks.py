"""What benchmarks of regions share: a set whose samples hold regions becomes questions, and answers are read as regions in px of the source picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field

from sightline.data.readers.files import first_row
from sightline.evaluate.answer_files import read_answers
from sightline.evaluate.asking import Scores, judged, paired
from sightline.evaluate.benchmarks import cut_off
from sightline.evaluate.metrics import Value, commonest, share
from sightline.evaluate.published import PublishedBenchmark, PublishedRow, Verdict, refused
from sightline.evaluate.read_sets import SetKind, kept_answers, samples_at
from sightline.kinds import Config
from sightline.samples.codec_table import codec_said
from sightline.samples.codecs import CODEC, FORMAT_ERROR, regions_in
from sightline.samples.exchange import Answer, Answerer
from sightline.samples.frames import frame_of
from sightline.samples.sample import Region, Regions, Sample


@dataclass(frozen=True, kw_only=True)
class RegionRow(PublishedRow):
    """A question whose right answer is regions; `answer` says how many."""

    regions: tuple[Region, ...] = ()
    ignored: tuple[Region, ...] = ()
    """Regions that count neither as found nor as missed."""
    sample: str = ""
    """Id of the sample that it was made from."""

    @property
    def shown(self) -> str:
        """What tells pictures apart."""
        return self.pictures[-1].hash


class RegionAnswer(NamedTuple):
    """What an answer says."""

    regions: tuple[Region, ...]
    format_error: bool
    answer: Answer


class RegionKind(SetKind):
    """Base of these kinds: what they ask about has regions."""

    files: ClassVar[str] = "a store, or a set with regions in a layout that is read"
    headlines: ClassVar[tuple[str, ...]] = ("acc@0.5",)
    """Metrics that stand first on the page."""
    codec: Annotated[Config, CODEC, BeforeValidator(codec_said)] | None = None
    """How ready answers in words write regions. The answers of a model are read by the model's own codec, which this does not change."""
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer."""

    @abstractmethod
    def questions_of(self, sample: Sample, labels: Sequence[str]) -> Iterator[RegionRow]:
        """The questions about a sample; `labels` are all of the set."""
        raise NotImplementedError

    @abstractmethod
    def scored(self, rows: Sequence[RegionRow], found: Sequence[RegionAnswer]) -> tuple[dict[str, Value], list[float]]:
        """The figures, the headline first, and the score of each row, 0..1."""
        raise NotImplementedError

    def rows_of(self, samples: Sequence[Sample]) -> Iterator[PublishedRow]:
        """See SetKind. Pictures are read in any case: their sizes say where regions are. The same question about the same picture is asked once."""
        labels = sorted({region.label for sample in samples for region in sample.annotations if region.label is not None})
        asked: set[tuple[str, str]] = set()
        for row in (row for sample in samples for row in self.questions_of(sample, labels)):
            if (row.shown, row.question) not in asked:
                asked.add((row.shown, row.question))
                yield row

    def group(self, row: PublishedRow) -> Hashable:
        """Questions about one sample belong together."""
        return row.sample if isinstance(row, RegionRow) else row.index

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Never: regions are compared, and not words."""
        raise AssertionError("regions are compared, not words")

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """Never: see `scored`."""
        raise AssertionError("regions are compared, not words")

    def build(self, samples: Iterable[Sample] = (), seen: bool = True) -> RegionBenchmark:
        """See SetKind."""
        return RegionBenchmark(self, self._limited(self.rows_of(self.asked_samples(samples))), seen)

    def said(self, row: RegionRow, answer: Answer) -> RegionAnswer:
        """The regions of an answer, and whether something in it was no well formed region.

        Refused for an answer in words whose model has no codec, where `codec` does not say how to read it.
        """
        told = regions_in(answer.items)
        faults = any(problem.code == FORMAT_ERROR for problem in answer.problems)
        if told or answer.items or not answer.text.strip():
            if self.codec is None or told or faults:
                return RegionAnswer(tuple(told), faults, answer)
        elif self.codec is None:
            found, fix = f"an answer in words, {answer.text[:60]!r}", "set `codec`, such as xyhwt-pad"
            raise refused("no-codec", row.place, found, "regions, or a codec that reads them", fix)
        codec: Any = self.codec
        picture = row.pictures[-1]
        items, problems = codec.parse(answer.text, frame_of(codec.frame, picture.width, picture.height))
        return RegionAnswer(tuple(regions_in(items)), bool(problems), answer)


class RegionBenchmark(PublishedBenchmark):
    """Questions about regions and the scorer of their answers."""

    config: RegionKind

    @property
    def headline(self) -> tuple[str, ...]:
        """As the kind says."""
        return self.config.headlines

    def region_rows(self) -> list[RegionRow]:
        """The rows, all of them about regions."""
        return [row for row in self.rows if isinstance(row, RegionRow)]

    def score(self, answers: Iterable[Answer], judge: Answerer | None = None) -> Scores:
        """The figures of the kind. Habits: `nothing-said`, the share of answers without a region. No judge is asked."""
        matched = paired(self.questions, answers)
        rows = self.region_rows()
        found = [self.config.said(row, answer) for row, answer in zip(rows, matched, strict=True)]
        metrics, scores = self.config.scored(rows, found)
        habits = {
            "nothing-said": share(sum(not one.regions for one in found), len(found)),
            "same-answer": share(commonest(answer.text or str(answer.items) for answer in matched)[1], len(matched)),
            "cut-off": cut_off(matched),
        }
        return Scores(metrics=metrics, habits=habits, per_request=tuple(map(judged, self.questions, matched, scores)))

    def read_answers(self, path: Path) -> list[Answer]:
        """Ready answers: an answers.jsonl with its regions, a set of found objects or masks (see `answers_of`), or words in a published form, which `codec` reads."""
        if path.is_dir():
            return answers_of(samples_at(path), self.region_rows(), path.name)
        first = first_row(path)
        return kept_answers(path) if first is not None and "items" in first else read_answers(path, self)


def answers_of(samples: Iterable[Sample], rows: Iterable[RegionRow], by: str) -> list[Answer]:
    """An answer to each row from the annotations of samples that a model made: those of the row's label, on the sample of the same id or else on the picture of the same bytes.

    A row whose sample is not there is left without an answer, and told when it is scored.
    """
    known: dict[str, Sample] = {}
    for sample in samples:
        known |= {sample.id: sample, **({sample.pictures[-1].hash: sample} if sample.pictures else {})}
    found: list[Answer] = []
    for row in rows:
        sample = known.get(row.sample) or known.get(row.shown)
        if sample is not None:
            regions = tuple(replace(region, picture=0) for region in sample.annotations if _of(row, region))
            text = "yes" if regions else "no"
            found.append(Answer(key=f"{by}:{row.index}", sample=row.index, weights=by, text=text, items=(Regions(regions=regions),)))
    return found


def _of(row: RegionRow, region: Region) -> bool:
    label = row.told("label")
    return region.shape is not None and (not label or region.label == label)
