"""What a model is asked about a window, in the words that it has learnt: labels, wordings and the size of pictures, told from the data of its run."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sightline.data.wording import plural, said, with_article
from sightline.errors import Problem, Refused
from sightline.samples.codecs import regions_in
from sightline.samples.sample import Sample, Show, Text
from sightline.samples.store import Store

ASK = "where is the {label}?"
PRESENCE = "is there {a_label} in the picture? Answer yes or no."
_ROWS = 2000
"""Rows of a store that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What a run's data were asked and answered with regions."""

    labels: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    """Label -> the words that questions have for it, where these are others."""
    ask: str | None = None
    """The commonest question about where a label is, with {label} or {labels} in it; None: not known."""
    presence: str | None = None
    """The commonest question whether it is there, with {a_label} or {label} in it."""
    side: int | None = None
    """Median of the longer sides of the pictures, px."""


def run_of(model: Path) -> Path | None:
    """The run that a path means or lies in: where graph.json is. None for a model that stands alone."""
    return next((folder for folder in (model, *model.resolve().parents[:3]) if (folder / "graph.json").is_file()), None)


def learnt_by(run: Path) -> Learnt:
    """What the stores of a run say; the first rows of each are read."""
    stores = [Store.open(folder) for folder in sorted((run / "data").glob("*")) if (folder / "index.parquet").is_file()]
    return learnt_from(sample for store in stores for sample in store.stream(stop=min(len(store), _ROWS)))


def learnt_from(samples: Iterable[Sample]) -> Learnt:
    """Labels, wordings and sizes of samples whose answers are regions."""
    located: Counter[tuple[str, str]] = Counter()
    yes_no: Counter[str] = Counter()
    sides: list[int] = []
    for sample in samples:
        for question, labels, told in _pairs(sample):
            if labels:
                located.update((question, label) for label in labels)
                sides += [max(picture.width, picture.height) for picture in sample.pictures[:1]]
            elif told.strip(" .!").lower() in ("yes", "no"):
                yes_no[question] += 1
    ask = _wording((question, label) for (question, label), count in located.items() for _ in range(count))
    words = _words(ask, located)
    names = {label: words.get(label, said(label)) for _, label in located}
    presence = _wording((question, label) for question, count in yes_no.items() for label, name in names.items() if name in question for _ in range(count))
    return Learnt(
        labels=tuple(sorted({label for _, label in located})),
        words={label: word for label, word in words.items() if word != said(label)},
        ask=ask,
        presence=presence,
        side=round(statistics.median(sides)) if sides else None,
    )


def _pairs(sample: Sample) -> Iterator[tuple[str, set[str], str]]:
    """Question, labels of the regions in its answer, and the words of its answer; questions that nothing but words and pictures are in."""
    for number, (asked, answered) in enumerate(zip(sample.turns, sample.turns[1:])):
        if asked.role == "user" and answered.role == "assistant" and all(isinstance(item, Text | Show) for item in asked.items):
            found = {region.label for region in regions_in(answered.items) if region.label}
            yield sample.text(number).strip(), found, sample.text(number + 1)


def _slots(label: str) -> tuple[tuple[str, str], ...]:
    """Words for a label, and the slot that they fill, the longest first."""
    words = said(label)
    return (plural(words), "{labels}"), (with_article(words), "{a_label}"), (words, "{label}"), (label, "{label}")


def _wording(asked: Iterable[tuple[str, str]]) -> str | None:
    """The commonest question with its label taken out."""
    found: Counter[str] = Counter()
    for question, label in asked:
        slot = next(((words, name) for words, name in _slots(label) if question.count(words) == 1), None)
        if slot is not None:
            found[question.replace(*slot)] += 1
    return min(found, key=lambda wording: (-found[wording], wording)) if found else None


def _words(ask: str | None, located: Mapping[tuple[str, str], int]) -> dict[str, str]:
    """What stands in the slot of a wording, for each label: `tank` may be asked for as `storage tank`."""
    if ask is None or "{label}" not in ask:
        return {}
    before, _, after = ask.partition("{label}")
    found: dict[str, Counter[str]] = {}
    for (question, label), count in located.items():
        if question.startswith(before) and question.endswith(after) and len(question) > len(before) + len(after):
            found.setdefault(label, Counter())[question[len(before) : len(question) - len(after)]] += count
    return {label: min(words, key=lambda word: (-words[word], word)) for label, words in found.items()}


def question(wording: str, label: str, words: Mapping[str, str]) -> str:
    """A wording about a label."""
    name = words.get(label, said(label))
    return wording.replace("{labels}", plural(name)).replace("{a_label}", with_article(name)).replace("{label}", name)


def checked_labels(given: Sequence[str], learnt: Learnt) -> tuple[str, ...]:
    """The labels to ask for; `all` is every label that the run's data have. Refused: none, one twice, or `all` where no label is known."""
    labels = learnt.labels if tuple(given) == ("all",) else tuple(given)
    if labels and len(set(labels)) == len(labels):
        return labels
    found = "all, and no data of a run with regions in its answers" if tuple(given) == ("all",) else ", ".join(given) or "no label"
    raise Refused(
        Problem(
            code="refine/labels", place="--labels", found=found, allowed="labels that differ, or `all` of a run folder with its data", fix="--labels ship,plane"
        )
    )


def checked_wording(wording: str) -> str:
    """A wording with a slot. Refused where it has none: every label would be asked the same."""
    if any(slot in wording for slot in ("{label}", "{labels}", "{a_label}")):
        return wording
    raise Refused(Problem(code="refine/wording", place="--ask", found=wording, allowed="a question with {label}, {labels} or {a_label}", fix=f"--ask {ASK!r}"))
