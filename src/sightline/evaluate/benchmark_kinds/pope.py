"""POPE (Li et al. 2023): is an object in the picture? Three splits of 3,000 questions: absent objects at random, popular ones, and those that often stand beside what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from sightline.evaluate import yes_no
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.official_sets import pope_rows
from sightline.evaluate.published import PublishedKind, PublishedRow, Verdict, resampled
from sightline.evaluate.vlmevalkit_tsv import read_tsv


class Pope(PublishedKind):
    """POPE: the JSON lines of one split, a folder with all splits, or a TSV file."""

    files: ClassVar[str] = "coco_pope_SPLIT.json, a folder of them, or a TSV file"
    kind: Literal["pope"] = "pope"
    rule: yes_no.Rule = "pope"
    """How answers are read: pope (official: what does not say no says yes), tolerant, word or mme."""
    max_tokens: int = 16
    """Longest answer."""
    prompt: str = "Answer the question using a single word or phrase."
    """What is said after the question, on a line of its own."""

    def rows(self, seen: bool) -> Iterator[PublishedRow]:
        """See PublishedKind."""
        path = Path(self.path)
        if path.suffix == ".tsv":
            yield from read_tsv(path, self.folder(), seen)
        else:
            yield from pope_rows(path, self.seen(seen))

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """Right where the label is the truth's."""
        said = yes_no.RULES[self.rule](answer)
        return Verdict(score=float(said == row.answer.lower()), read=said)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """`all` (accuracy), precision, recall, f1 of yes and yes-share, over all rows; then f1 of each split and the rest as `SPLIT accuracy` ..

        The yes-share is of answers. An unreadable answer is wrong and says neither. A row of several splits, as TSV files join them with commas, counts in each.
        """
        of_split: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            for split in filter(None, row.told("category").split(",")):
                of_split.setdefault(split, []).append(number)
        found = yes_figures(rows, verdicts)
        found["all"] = found.pop("accuracy")
        for split, numbers in of_split.items():
            figures = yes_figures([rows[number] for number in numbers], [verdicts[number] for number in numbers])
            found |= {f"{split} {name}": value for name, value in figures.items()}
        return found


def yes_figures(rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
    """Accuracy, precision, recall and F1 of yes, and the share of answers that say yes."""
    truth = np.array([row.answer.lower() == "yes" for row in rows], float)
    said = np.array([verdict.read == "yes" for verdict in verdicts], float)
    both, right = truth * said, sum(verdict.score for verdict in verdicts)
    pictures = [row.told("image_path", "image") or (row.pictures[0].hash if row.pictures else row.index) for row in rows]

    def f1(times: np.ndarray) -> np.ndarray:
        """2 TP / (yes said + yes true); 0 where there is neither."""
        below = times @ said + times @ truth
        return np.where(below > 0, 2 * (times @ both) / np.maximum(below, 1), 0.0)

    return {
        "accuracy": share(right, len(rows)),
        "precision": share(float(both.sum()), int(said.sum())),
        "recall": share(float(both.sum()), int(truth.sum())),
        "f1": resampled(pictures, f1),
        "yes-share": share(float(said.sum()), len(rows)),
    }
