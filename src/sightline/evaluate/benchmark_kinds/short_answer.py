"""Questions with short answers, each scored by the rule of its makers: VQA v2, TextVQA, GQA, OCR-VQA, ChartQA, DocVQA, InfoVQA, RSVQA, VQA-RAD."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from sightline.data.readers.gqa import Gqa
from sightline.data.readers.ocr_vqa import OcrVqa
from sightline.data.readers.question_sets import PictureQuestions
from sightline.data.readers.rsvqa import Rsvqa, bucket
from sightline.data.readers.textvqa import Textvqa
from sightline.data.readers.vqa_rad import VqaRad
from sightline.data.readers.vqa_v2 import VqaV2
from sightline.evaluate import short_answers
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.published import PublishedKind, PublishedRow, Verdict, by_group, resampled
from sightline.evaluate.question_files import chart_rows, document_rows, reader_rows, right_answers, tsv_rows

BRIEFLY = "Answer the question using a single word or phrase."
_AMOUNT = re.compile(r"(\d{1,18})\s*(m2)?")
_RANGE = re.compile(r"0(?:m2)?|between .*|more than .*")


class ShortAnswers(PublishedKind):
    """Base of these kinds: a kind lists its rows and says what an answer is worth."""

    prompt: str = BRIEFLY
    """What is said after the question, on a line of its own."""

    @abstractmethod
    def listed(self, path: Path, seen: bool) -> Iterator[PublishedRow]:
        """The rows of the published file or folder."""
        raise NotImplementedError

    @abstractmethod
    def worth(self, row: PublishedRow, answer: str, right: list[str]) -> float:
        """What an answer is worth beside all right ones, 0..1."""
        raise NotImplementedError

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        path = Path(self.path)
        yield from tsv_rows(path, self.folder(), seen) if path.suffix == ".tsv" else self.listed(path, seen)

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """What the whole answer is worth: nothing is searched for in it."""
        return Verdict(score=self.worth(row, answer, right_answers(row)), read=answer if answer.strip() else None)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, then the published kinds of question."""
        scores = [verdict.score for verdict in verdicts]
        return {"all": share(sum(scores), len(scores))} | by_group([row.told("category") for row in rows], scores)


class VqaV2Test(ShortAnswers):
    """VQA v2 and sets of its form: the questions with their annotations beside them, flat lists, or a TSV file."""

    files: ClassVar[str] = "v2_OpenEnded_.._questions.json with its annotations beside it, a flat list, or a TSV file"
    kind: Literal["vqav2"] = "vqav2"
    normaliser: short_answers.Normaliser = "evalai"
    """How answers are made comparable: evalai or vlmevalkit. They differ on `3.` and `it's`."""

    def reader(self) -> PictureQuestions:
        """Who reads the published files."""
        return VqaV2()

    def listed(self, path: Path, seen: bool) -> Iterator[PublishedRow]:
        """See ShortAnswers."""
        return reader_rows(self.reader(), path, self.pictures, seen, given=True)

    def worth(self, row: PublishedRow, answer: str, right: list[str]) -> float:
        """VQA accuracy, each of the ten people left out once."""
        return short_answers.vqa_accuracy(answer, right, self.normaliser)


class TextVqaTest(VqaV2Test):
    """TextVQA: TextVQA_0.5.1_val.json with its pictures, or a TSV file."""

    files: ClassVar[str] = "TextVQA_0.5.1_val.json, or a TSV file"
    kind: Literal["textvqa"] = "textvqa"  # pyright: ignore[reportIncompatibleVariableOverride]

    def reader(self) -> PictureQuestions:
        """See VqaV2Test."""
        return Textvqa()


class GqaTest(ShortAnswers):
    """GQA: testdev_balanced_questions.json with its pictures, a flat list, or a TSV file. `category` is the structural type."""

    files: ClassVar[str] = "testdev_balanced_questions.json, a flat list, or a TSV file"
    kind: Literal["gqa"] = "gqa"

    def listed(self, path: Path, seen: bool) -> Iterator[PublishedRow]:
        """See ShortAnswers."""
        return reader_rows(Gqa(), path, self.pictures, seen)

    def worth(self, row: PublishedRow, answer: str, right: list[str]) -> float:
        """Equal whatever case and punctuation."""
        return short_answers.loose(answer, right)


class OcrVqaTest(ShortAnswers):
    """OCR-VQA: dataset.json with its covers, a flat list, or a TSV file."""

    files: ClassVar[str] = "dataset.json, a flat list, or a TSV file"
    kind: Literal["ocr-vqa"] = "ocr-vqa"
    split: Literal["train", "val", "test"] | None = "test"
    """The split that is asked, where the file says splits; all when null."""

    def listed(self, path: Path, seen: bool) -> Iterator[PublishedRow]:
        """See ShortAnswers."""
        return reader_rows(OcrVqa(), path, self.pictures, seen, wanted=lambda row: self.split is None or row.told("split") in ("", self.split))

    def worth(self, row: PublishedRow, answer: str, right: list[str]) -> float:
        """Equal in lower case."""
        return short_answers.exact(answer, right)


class ChartQa(ShortAnswers):
    """ChartQA: test_human.json and test_augmented.json with png/, a folder of both, or a TSV file."""

    files: ClassVar[str] = "test_human.json, test_augmented.json, their folder, or a TSV file"
    kind: Literal["chartqa"] = "chartqa"

    def listed(self, path: Path, seen: bool) -> Iterator[PublishedRow]:
        """See ShortAnswers."""
        return chart_rows(path, self.pictures, seen)

    def worth(self, row: PublishedRow, answer: str, right: list[str]) -> float:
        """Relaxed accuracy: numbers within 5 %."""
        return short_answers.relaxed(answer, right)


class DocVqa(ShortAnswers):
    """DocVQA: val_v1.0.json with documents/, or a TSV file."""

    files: ClassVar[str] = "val_v1.0.json, or a TSV file"
    kind: Literal["docvqa"] = "docvqa"
    max_tokens: int = 64
    """Longest answer."""

    def listed(self, path: Path, seen: bool) -> Iterator[PublishedRow]:
        """See ShortAnswers."""
        return document_rows(path, self.pictures, seen)

    def worth(self, row: PublishedRow, answer: str, right: list[str]) -> float:
        """ANLS: average normalised edit similarity."""
        return short_answers.anls(answer, right)


class InfoVqa(DocVqa):
    """InfoVQA: infographicsVQA_val_v1.0.json with its pictures, or a TSV file."""

    files: ClassVar[str] = "infographicsVQA_val_v1.0.json, or a TSV file"
    kind: Literal["infovqa"] = "infovqa"  # pyright: ignore[reportIncompatibleVariableOverride]


class RsvqaTest(ShortAnswers):
    """RSVQA, low and high resolution: a file of questions with its answers and pictures, or a TSV file. Counts (low resolution) and areas are compared as ranges, as published."""

    files: ClassVar[str] = "LR_split_test_questions.json or USGS_split_test_questions.json with their answers beside them, or a TSV file"
    kind: Literal["rsvqa"] = "rsvqa"
    numbers: Literal["bucket", "raw"] = "bucket"
    """Whether counts (low resolution) and areas are ranges, or as published."""
    leave_out: tuple[str, ...] = ()
    """Types of question that are not asked: count, area .."""

    def listed(self, path: Path, seen: bool) -> Iterator[PublishedRow]:
        """See ShortAnswers."""
        return reader_rows(Rsvqa(numbers=self.numbers), path, self.pictures, seen, wanted=lambda row: row.told("category") not in self.leave_out)

    def worth(self, row: PublishedRow, answer: str, right: list[str]) -> float:
        """Equal in lower case; where the right answer is a range, a number says the range that holds it."""
        amount = _AMOUNT.fullmatch(answer.strip().rstrip(".").lower())
        if amount and self.numbers == "bucket" and all(_RANGE.fullmatch(one) for one in right):
            unit = "m2" if "m2" in right[0] else ""
            return float(bucket(int(amount[1]), unit) in right)
        return short_answers.exact(answer.strip().rstrip("."), right)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all` (overall accuracy), `average` (mean over types of question), then each type."""
        found = super().metrics(rows, verdicts)
        types = [value for name, value in found.items() if name != "all"]
        if not types:
            return found
        groups, scores = [row.told("category") for row in rows], [verdict.score for verdict in verdicts]
        return {"all": found.pop("all"), "average": _mean_of_groups(groups, scores)} | found


def _mean_of_groups(groups: Sequence[str], scores: Sequence[float]) -> Value:
    """Mean over groups of their means, resampled by question; a group that a resample leaves out is not in its mean."""
    import numpy as np

    members = np.array([[group == one for one in dict.fromkeys(groups)] for group in groups], float)
    right = np.array(scores)

    def figure(times: np.ndarray) -> np.ndarray:
        counted = times @ members
        means = np.where(counted > 0, times @ (members * right[:, None]) / np.maximum(counted, 1), 0.0)
        return means.sum(axis=1) / (counted > 0).sum(axis=1)

    return resampled(range(len(groups)), figure)


class VqaRadTest(ShortAnswers):
    """VQA-RAD: testset.json with images/, or a TSV file. Closed questions have yes, no or one of a few named things as answer; open ones any words."""

    files: ClassVar[str] = "testset.json, or a TSV file"
    kind: Literal["vqa-rad"] = "vqa-rad"
    answers: Literal["all", "open", "closed"] = "all"
    """Which questions are asked, by their answers."""

    def listed(self, path: Path, seen: bool) -> Iterator[PublishedRow]:
        """See ShortAnswers."""
        return reader_rows(VqaRad(), path, self.pictures, seen, wanted=lambda row: self.answers in ("all", _side(row)))

    def worth(self, row: PublishedRow, answer: str, right: list[str]) -> float:
        """Equal whatever case and punctuation."""
        return short_answers.loose(answer, right)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all`, `closed` and `open` by equal answers, `open recall` by the share of a right answer's words that is said; then types of question."""
        scores = [verdict.score for verdict in verdicts]
        sides = [_side(row) for row in rows]
        found = {"all": share(sum(scores), len(scores))} | by_group(sides, scores)
        opened = [(row, verdict) for row, verdict, side in zip(rows, verdicts, sides, strict=True) if side == "open"]
        if opened:
            said = [short_answers.recall(verdict.read or "", right_answers(row)) for row, verdict in opened]
            found["open recall"] = share(sum(said), len(said))
        return found | by_group([row.told("category") for row in rows], scores)


def _side(row: PublishedRow) -> str:
    return row.told("answer_type").strip().lower()
