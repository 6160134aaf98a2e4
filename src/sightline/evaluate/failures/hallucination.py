"""What answers invent: labels that are not in the picture (CHAIR, Rohrbach et al. 2018), and yes to questions about them (POPE, Li et al. 2023)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from pydantic import Field

from sightline.evaluate import yes_no
from sightline.evaluate.chair import Told, chair, told
from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.evaluate.failures.finding import Failure, Shown, resampled_by, share_by, shares, worst
from sightline.evaluate.failures.mentions import Mentions, vocabulary
from sightline.evaluate.metrics import Value, share
from sightline.kinds import Config
from sightline.samples.exchange import Decoding, Request
from sightline.samples.sample import Sample, Show, Text, Turn

PROBES = "probes"
"""Name under which cases of probes stand."""
WORDING = "Is there {a_label} in the picture? Answer yes or no."
_CODE = "failure/hallucination"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A yes/no question about one label."""

    request: Request
    kind: str
    """`probe-present`, `probe-random`, `probe-popular` or `probe-adversarial`."""
    right: str
    source: Sample


def probes_of(samples: Sequence[Sample], mentions: Mentions, rng: np.random.Generator, wording: str = WORDING) -> list[Probe]:
    """Six questions about each picture where its labels give them: three that are there, and of the absent ones one at random, the most frequent one, and the one that stands most
    often beside what is there. Samples without annotations, or with areas to be ignored, are not asked about. `wording`: see Mentions.asked.
    """
    known = [(sample, mentions.present(sample.annotations) & set(mentions.labels)) for sample in samples if sample.pictures and sample.annotations]
    frequency = Counter(label for _, present in known for label in present)
    beside = Counter(pair for _, present in known for one in combinations(sorted(present), 2) for pair in (one, one[::-1]))
    probes: list[Probe] = []
    for sample, present in known:
        absent = [label for label in mentions.labels if not mentions.holds(present, label)]
        if not present or not absent or any(region.attributes.get("ignore") for region in sample.annotations):
            continue
        asked = [(str(label), "probe-present") for label in rng.permutation(sorted(present))[:3]]
        left = list(absent)
        for kind in ("probe-popular", "probe-adversarial", "probe-random"):
            if left:
                weight = {"probe-popular": frequency.__getitem__, "probe-adversarial": lambda label: sum(beside[one, label] for one in present)}.get(kind)  # noqa: B023 - used at once
                label = str(rng.choice(left)) if weight is None else max(left, key=weight)
                left.remove(label)
                asked.append((label, kind))
        probes += [_probe(sample, mentions, label, kind, wording) for label, kind in asked]
    return probes


def _probe(sample: Sample, mentions: Mentions, label: str, kind: str, wording: str) -> Probe:
    turn = Turn(role="user", items=(Show(picture=0), Text(text=mentions.asked(label, wording))))
    made = replace(sample, id=f"{sample.id}#{kind}:{label}", pictures=sample.pictures[:1], turns=(turn,), annotations=(), attributes={"kind": kind})
    request = Request(sample=made, decoding=Decoding(max_tokens=16))
    return Probe(request=request, kind=kind, right="yes" if kind == "probe-present" else "no", source=sample)


class Hallucination(Config):
    """Labels that are named and not there, and yes to what is not there."""

    kind: Literal["hallucination"] = "hallucination"
    invented: float = Field(default=0.15, ge=0, le=1)
    """CHAIR_i: share of the labels named in descriptions that may be invented."""
    agreed: float = Field(default=0.2, ge=0, le=1)
    """Share of questions about absent things that may be answered with yes."""

    def examine(self, evidence: Evidence) -> list[Failure]:
        """See Examiner. Labels are those of the annotations, names those of the table."""
        mentions = Mentions(evidence.table, vocabulary([case.annotations for case in evidence.cases]))
        told, asked = self._descriptions(evidence, mentions), self._questions(evidence)
        measured = [one for one in (told, asked) if one.rate.n]
        top = max(measured, key=lambda one: one.rate.low - one.limit, default=told)
        note = top.note if measured else "no description of an annotated picture, and no question whose answer is yes or no"
        return [replace(top, figures={**told.figures, **asked.figures}, note=note, worst=worst([*told.worst, *asked.worst]), count=told.count + asked.count)]

    def _descriptions(self, evidence: Evidence, mentions: Mentions) -> Failure:
        cases: list[Case] = []
        found: list[Told] = []
        for case in evidence.written:
            wanted = {label for text in case.right for label in mentions.of(text)}
            if not case.annotations or not wanted or mentions.of(case.question, denied=True):
                continue
            cases.append(case)
            found.append(told(case.picture, mentions.of(case.said), mentions.present(case.annotations) | wanted, wanted, mentions.holds))
        figures: dict[str, Value] = dict(zip(("CHAIR_i", "CHAIR_s", "recall of labels"), chair(found).values(), strict=True)) if cases else {}
        shown = [
            Shown(case=case, badness=float(len(one.invented)), note=f"not there: {', '.join(dict.fromkeys(one.invented))}")
            for case, one in zip(cases, found)
            if one.invented
        ]
        return Failure(
            code=_CODE,
            title="Answers invent things",
            meaning="CHAIR_i: share of the labels named in descriptions that are neither annotated nor in a right answer.",
            fix="look for captions written by models (data caption checks them against labels), and add questions whose answer is no",
            count=sum(bool(one.invented) for one in found),
            rate=figures["CHAIR_i"] if cases else Failure.rate,
            limit=self.invented,
            figures=figures,
            worst=worst(shown),
            note="Where annotations leave things out, what is named and truly there counts as invented.",
        )

    def _questions(self, evidence: Evidence) -> Failure:
        asked = [(case, truth, yes_no.tolerant(case.answer.text)) for case in evidence.written if (truth := stated(case)) is not None]
        absent = [(case, said == "yes") for case, truth, said in asked if truth == "no"]
        figures: dict[str, Value] = {}
        if asked:
            figures["right (yes and no)"] = shares((case, said == truth) for case, truth, said in asked)
            figures["yes to what is there"] = shares((case, said == "yes") for case, truth, said in asked if truth == "yes")
            figures["yes to what is not there"] = shares(absent)
            figures["F1 of yes"] = _f1([(case.picture, truth == "yes", said == "yes") for case, truth, said in asked])
            figures["share of yes"] = shares((case, said == "yes") for case, _, said in asked)
            figures["neither yes nor no"] = share(sum(said is None for *_, said in asked), len(asked))
        for kind in ("random", "popular", "adversarial"):
            if own := [one for one in absent if one[0].kind == f"probe-{kind}"]:
                figures[f"yes to what is not there, {kind}"] = shares(own)
        shown = [Shown(case=case, badness=_sureness(case), note="it is not there") for case, bad in absent if bad]
        return Failure(
            code=_CODE,
            title="Answers invent things",
            meaning="Share of questions about what is not there that are answered with yes.",
            fix="ask for absent things as often as for those that are there (the operators `questions` and `synthesize` do)",
            count=sum(bad for _, bad in absent),
            rate=share_by([case.picture for case, _ in absent], [float(bad) for _, bad in absent], [1.0] * len(absent)),
            limit=self.agreed,
            figures=figures,
            worst=worst(shown),
        )


def stated(case: Case) -> yes_no.Said | None:
    """What the right answer of a yes/no question says; None for other questions. `no, but a road` is one; `northeast` and `normal` are not."""
    said: set[yes_no.Said | None] = {yes_no.tolerant(text) for text in case.right}
    return said.pop() if len(said) == 1 else None


def _f1(asked: Sequence[tuple[str, bool, bool]]) -> Value:
    """2 TP / (2 TP + FP + FN) of yes, over resamples of the pictures; `asked`: (picture, yes is right, yes was said)."""
    true, said = np.array([right for _, right, _ in asked], float), np.array([yes for *_, yes in asked], float)
    return resampled_by([picture for picture, *_ in asked], lambda times: 2 * (times @ (true * said)) / np.maximum(times @ (true + said), 1))


def _sureness(case: Case) -> float:
    return float(np.exp(case.answer.logps[0])) if case.answer.logps else 0.0
