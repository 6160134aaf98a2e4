"""`sightline report RUN --failures`: gathers what a run was asked, what it answered and what is known, and tells what goes wrong.

RUN/evaluate/NAME/{scores.json, answers.jsonl}, RUN/recipe.yaml, RUN/data/*  --gather-->  Evidence  --examine-->  RUN/failures/{failures.html, failures.json, failures.md}

Nothing is asked of a model unless `ask` says so: answers and annotations are enough.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sightline.data.labels import LabelTable
from sightline.errors import Problem, Refused
from sightline.evaluate.answers import answer_of
from sightline.evaluate.asking import shuffled_pictures
from sightline.evaluate.benchmarks import normalise
from sightline.evaluate.failures.comparison import Comparison, compare
from sightline.evaluate.failures.evidence import Case, Evidence, TextScores, boxes_of
from sightline.evaluate.failures.failure_table import examine
from sightline.evaluate.failures.finding import Failure
from sightline.evaluate.failures.hallucination import PROBES, WORDING, probes_of
from sightline.evaluate.failures.mentions import Mentions, vocabulary
from sightline.evaluate.region_benchmarks import RegionBenchmark, RegionRow
from sightline.evaluate.region_matching import mean_iou
from sightline.kinds import Config
from sightline.recipe import Recipe, load
from sightline.samples.codecs import regions_in
from sightline.samples.exchange import Answer, Answerer, Decoding, Request
from sightline.samples.sample import Regions, Sample, Text, Turn
from sightline.samples.store import Store
from sightline.training_rows import Near, TrainingRows, stores_of

FOLDER = "failures"
"""Where the report lies in a run."""
PROBED = 150
"""Pictures that probes are asked about, at most."""
SHUFFLED = "shuffled pictures"
SHORTEST = ("found", "unclear", "clear")
"""States of failures that a terminal lists."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question of a store, of whatever kind its answer is."""

    request: Request
    kind: str
    right: tuple[str, ...]
    reply: Turn
    source: Sample


@dataclass(frozen=True, kw_only=True)
class FailureReport:
    """Everything that the page shows."""

    run: Path
    name: str
    evidence: Evidence
    failures: tuple[Failure, ...]
    near: Mapping[tuple[str, str], tuple[Near, ...]] = field(default_factory=dict)
    """By evaluation and name of a shown question: the training rows most like it."""
    comparison: Comparison | None = None
    left_out: tuple[str, ...] = ()
    """What could have been looked at and was not, a line each."""

    def found(self) -> list[Failure]:
        """Failures that were found, the farthest above its limit first."""
        return sorted((one for one in self.failures if one.state == "found"), key=lambda one: -(one.rate.low - one.limit))

    def record(self) -> dict[str, Any]:
        """The content of failures.json."""
        near = {
            "/".join(key): [{"store": one.row.store, "row": one.row.row, "id": one.row.id, "words": one.words, "looks": one.looks} for one in rows]
            for key, rows in self.near.items()
        }
        return {
            "run": self.name,
            "answers": len(self.evidence.cases),
            "refused": len(self.evidence.cases) - len(self.evidence.written),
            "left_out": list(self.left_out),
            "found": [one.code for one in self.found()],
            "failures": [one.record() for one in self.failures],
            "nearest_training_rows": near,
            "comparison": self.comparison.record() if self.comparison is not None else None,
        }


def asked_of(samples: Iterable[Sample], max_tokens: int = 128) -> list[Asked]:
    """Every pair of user and assistant as a question by itself, named `SAMPLE#PAIR`; of dependent turns the first pair only. Unlike a benchmark's, the answer may hold regions."""
    found: list[Asked] = []
    for sample in named_apart(samples):
        lead = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
        body = sample.turns[len(lead) :]
        pairs = list(zip(body[::2], body[1::2]))
        kinds = str(sample.attributes.get("kind", "question")).split(",")
        for number, (user, reply) in enumerate(pairs if sample.attributes.get("turns") == "independent" else pairs[:1]):
            kind = kinds[number % len(kinds)]
            made = replace(sample, id=f"{sample.id}#{number}", turns=(*lead, user), annotations=(), attributes={"kind": kind})
            plain = tuple(_plain(items) for items in (reply.items, *reply.alternatives))
            right = tuple(text for text in plain if text is not None)
            found.append(Asked(request=Request(sample=made, decoding=Decoding(max_tokens=max_tokens)), kind=kind, right=right, reply=reply, source=sample))
    return found


def named_apart(samples: Iterable[Sample]) -> list[Sample]:
    """Samples whose names differ: where sources share an id, it stands behind its source, and behind its picture where that is not enough."""
    found = list(samples)
    for prefix in (lambda sample: sample.origin.source, lambda sample: sample.pictures[0].hash[:12] if sample.pictures else ""):
        counts = Counter(sample.id for sample in found)
        found = [replace(sample, id=f"{prefix(sample)}:{sample.id}") if counts[sample.id] > 1 else sample for sample in found]
    return found


def _plain(items: Sequence[object]) -> str | None:
    """Text of items that are text alone."""
    return "".join(item.text for item in items if isinstance(item, Text)) if all(isinstance(item, Text) for item in items) else None


def case_of(evaluation: str, asked: Asked, answer: Answer, shuffled: Answer | None = None) -> Case:
    """A question of a store with its answer, scored: IoU of the boxes where the right answer holds some, else equality of the texts."""
    case = Case(
        evaluation=evaluation,
        name=asked.request.sample.id,
        kind=asked.kind,
        asked=asked.request.sample,
        right=asked.right,
        reply=asked.reply,
        annotations=asked.source.annotations,
        answer=answer,
    )
    score = _score(case, answer)
    return replace(case, score=score, shuffled=shuffled, shuffled_score=None if shuffled is None else _score(case, shuffled))


def _score(case: Case, answer: Answer) -> float:
    if case.wanted_boxes:
        return mean_iou(case.wanted_boxes, boxes_of(regions_in(answer.items)))
    return float(normalise(answer.text) in {normalise(text) for text in case.right})


# a run


def gather(run: Path, domains: Mapping[str, str] | None = None, labels: Path | None = None) -> tuple[Evidence, TrainingRows]:
    """What a run was asked and answered, and what it was trained on. Raises Refused when it has no answers, or an evaluation of `domains` is not one of its own."""
    if not (run / "recipe.yaml").is_file():
        found = "no recipe.yaml" if run.is_dir() else "no such folder"
        raise Refused(Problem(code="usage/no-run", place=str(run), found=found, allowed="the folder of a finished run", fix="sightline run RECIPE --out RUN"))
    recipe = load(run / "recipe.yaml").recipe
    strange = sorted(set(domains or {}) - recipe.evaluate.keys())
    if strange:
        allowed = ", ".join(recipe.evaluate) or "none"
        raise Refused(Problem(code="usage/no-evaluation", place=str(run), found=", ".join(strange), allowed=allowed, fix="name an evaluation of the recipe"))
    done = [name for name in recipe.evaluate if (run / "evaluate" / name / "scores.json").is_file()]
    left = [f"evaluation {name}: it has no scores yet" for name in recipe.evaluate if name not in done]
    cases: list[Case] = []
    for name in done:
        own, without = _cases_of(run, recipe, name)
        cases += own
        left += (
            [f"evaluation {name}: how {without:,} of {len(own):,} answers ended, and their likelihoods, which answers.jsonl does not hold"] if without else []
        )
    names = [name for stage in recipe.stages for name in stage.data]
    rows = TrainingRows(stores_of(run, names))
    return Evidence(
        cases=tuple(cases),
        table=LabelTable.load(labels),
        domains=domains or {},
        seen_sources=rows.sources if rows.stores else None,
        seen_kinds=rows.kinds if rows.stores else None,
        left_out=tuple(left),
    ), rows


def _cases_of(run: Path, recipe: Recipe, name: str) -> tuple[list[Case], int]:
    """The cases of one evaluation, from its scores; the answers themselves add how they ended, their likelihoods and their regions. Second: cases whose answer itself is not known."""
    folder, config = run / "evaluate" / name, recipe.evaluate[name]
    data = getattr(config.benchmark, "data", None)
    store = Store.open(run / "data" / data) if data is not None else None
    samples = [store[int(row)] for row in store.kept] if store is not None else []
    benchmark: Any = config.benchmark.build(samples)  # pyright: ignore[reportAttributeAccessIssue]
    requests = {request.sample.id: request.sample for request in benchmark.requests()}
    sources = {sample.id: sample for sample in samples}
    located = {row.index: row for row in benchmark.region_rows()} if isinstance(benchmark, RegionBenchmark) else {}
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    told = _by_name(read_answers(folder / "answers.jsonl"))
    other = {row["request"]: row for row in scores["controls"].get(SHUFFLED, {"per_request": []})["per_request"]}
    cases = []
    for row in scores["model"]["per_request"]:
        sample, pair, control = requests[row["request"]], row["request"].rpartition("#"), other.get(row["request"])
        source, place = sources.get(row["request"]) or sources.get(pair[0]), located.get(row["request"])
        cases.append(
            Case(
                evaluation=name,
                name=row["request"],
                kind=row["kind"],
                asked=sample,
                right=tuple(row["expected"]) if place is None else (),  # of regions it says how many
                reply=_reply(source, pair[2]) if place is None else _boxes(place),
                annotations=place.regions if place is not None else source.annotations if source is not None else (),
                answer=_told(told, row),
                score=row["score"],
                shuffled=_told(told, control) if control is not None and sample.pictures else None,
                shuffled_score=control["score"] if control is not None and sample.pictures else None,
            )
        )
    return cases, sum((row["request"], row["given"]) not in told for row in scores["model"]["per_request"])


def _reply(source: Sample | None, pair: str) -> Turn | None:
    """The right answer of one pair."""
    replies = [turn for turn in source.turns if turn.role == "assistant"] if source is not None else []
    number = int(pair) if pair.isdigit() else 0
    return replies[number] if number < len(replies) else None


def _boxes(row: RegionRow) -> Turn:
    """The right answer of a question about regions, of which there may be none."""
    return Turn(role="assistant", items=(Regions(regions=row.regions),))


def _told(told: Mapping[tuple[str, str], Answer], row: Mapping[str, Any]) -> Answer:
    """The answer that was scored. Requests of one key share an answer under the name of the first: what it says besides its text is then not known here."""
    return told.get((row["request"], row["given"])) or Answer(key="", sample=row["request"], weights="", text=row["given"])


def _by_name(answers: Iterable[Answer]) -> dict[tuple[str, str], Answer]:
    """(sample, text) -> answer. Controls are answered under the same names; the same text under the same name ended the same way."""
    return {(answer.sample, answer.text): answer for answer in reversed(list(answers))}


def read_answers(path: Path) -> list[Answer]:
    """The answers of an `answers.jsonl`, a last line torn by a kill left out. Refused with every other broken line."""
    answers, problems = [], []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                answers.append(answer_of(json.loads(line)))
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            if number < len(lines):
                found = f"{type(error).__name__}: {error}"
                problems.append(
                    Problem(code="evaluate/broken-answer", place=f"{path}:{number}", found=found, allowed="one answer as JSON", fix=f"delete line {number}")
                )
    if problems:
        raise Refused(problems)
    return answers


# what needs a model


def ask_store(store: Store, answerer: Answerer, seed: int, max_tokens: int = 128, limit: int | None = None) -> list[Case]:
    """Cases of the questions of a store, also asked about other pictures. Both sorts are kept by the answerer, if it remembers."""
    asked = asked_of(islice((store[int(row)] for row in store.kept), limit), max_tokens)
    requests = [one.request for one in asked]
    told = {answer.sample: answer for answer in answerer.answer(requests)}
    several = len({picture.hash for request in requests for picture in request.sample.pictures}) > 1
    other = {answer.sample: answer for answer in answerer.answer(shuffled_pictures(requests, seed))} if several else {}
    name = store.path.name
    return [case_of(name, one, told[one.request.sample.id], other.get(one.request.sample.id) if one.request.sample.pictures else None) for one in asked]


def ask_probes(evidence: Evidence, sources: Sequence[Sample], answerer: Answerer, seed: int, wording: str = WORDING) -> list[Case]:
    """Six yes/no questions about each of some annotated pictures; see probes_of."""
    distinct = named_apart(list({sample.pictures[0].hash: sample for sample in sources if sample.pictures and sample.annotations}.values())[:PROBED])
    mentions = Mentions(evidence.table, vocabulary([sample.annotations for sample in distinct]))
    probes = probes_of(distinct, mentions, np.random.default_rng(seed), wording)
    told = {answer.sample: answer for answer in answerer.answer([probe.request for probe in probes])}
    return [
        Case(
            evaluation=PROBES,
            name=probe.request.sample.id,
            kind=probe.kind,
            asked=probe.request.sample,
            right=(probe.right,),
            annotations=probe.source.annotations,
            answer=told[probe.request.sample.id],
        )
        for probe in probes
    ]


def score_text(stage: str, answerer: Answerer, samples: Sequence[Sample]) -> TextScores:
    """What a model thinks of the last answer of each text-only sample, and of its `options` where it has some."""
    given = [replace(sample, id=f"{number}:{sample.id}") for number, sample in enumerate(samples)]
    texts = [Request(sample=sample, ask="score") for sample in given if sample.turns and sample.turns[-1].role == "assistant"]
    scored = {answer.sample: answer for answer in answerer.answer(texts)}
    optional = [sample for sample in given if isinstance(sample.attributes.get("options"), list) and sample.turns[-1].role == "assistant"]
    choices = [Request(sample=replace(sample, turns=sample.turns[:-1]), ask="choose") for sample in optional]
    chosen = {answer.sample: answer.text for answer in answerer.answer(choices)} if choices else {}
    return TextScores(
        stage=stage,
        logps=tuple((sum(answer.logps), len(answer.logps)) for request in texts if (answer := scored[request.sample.id]).logps),
        chosen=tuple(chosen[sample.id] == sample.text(-1) for sample in optional),
    )


def report(
    run: Path, evidence: Evidence, rows: TrainingRows, configs: tuple[Config, ...] | None = None, against: tuple[Path, Evidence] | None = None
) -> FailureReport:
    """Every failure, the training rows most like what is shown, and the comparison with another run. Raises Refused when there is no answer to look at."""
    if not evidence.cases:
        raise Refused(
            Problem(
                code="evaluate/no-answers",
                place=str(run),
                found="no evaluation with scores and answers",
                allowed="a run that was evaluated",
                fix="sightline run, or --ask --data STORE",
            )
        )
    failures = examine(evidence, configs)
    shown = [one.case for failure in failures if failure.state in ("found", "unclear") for one in failure.worst]
    near = rows.near(shown) if rows.stores and shown else {}
    cut = [f"training rows of {name}: {count:,} more were not looked through for those most like an answer" for name, count in rows.cut.items()] if near else []
    name, comparison = name_of(run), None
    if against is not None:
        names = name_of(run, against[0]), name_of(against[0], run)
        name, comparison = names[0], compare(names, (evidence, against[1]), (failures, examine(against[1], configs)))
        cut += [f"of {names[1]}: {line}" for line in against[1].left_out]
    return FailureReport(run=run, name=name, evidence=evidence, failures=failures, near=near, comparison=comparison, left_out=(*evidence.left_out, *cut))


def name_of(run: Path, other: Path | None = None) -> str:
    """The name of a run's folder, behind as many of the folders that it lies in as tell it from `other`'s."""
    own, beside = run.resolve().parts, other.resolve().parts if other is not None else ()
    return next(("/".join(own[-length:]) for length in range(1, len(own)) if own[-length:] != beside[-length:]), "/".join(own[1:]))
