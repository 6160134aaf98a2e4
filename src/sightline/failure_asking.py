"""What the failure report asks of models when it may: questions of other stores, probes of labels, and held-out text before and after stages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from sightline.errors import Problem, Refused
from sightline.evaluate.failures.evidence import Case, Evidence, TextScores
from sightline.evaluate.failures.hallucination import WORDING
from sightline.failure_report import PROBED, ask_probes, ask_store, score_text
from sightline.named_answerers import named_answerer
from sightline.samples.exchange import Answerer
from sightline.samples.sample import Sample
from sightline.samples.store import Store

_TEXTS = 200
"""Rows of held-out text that are scored, at most, the first of those without pictures."""


def model_of(run: Path, answers: Path, model: str = "") -> Answerer:
    """Who answers for a run: its last stage or soup, or `model`, as named_answerer takes it. What is said is kept in the file `answers`."""
    name = model or str(run if run.is_absolute() else Path.cwd() / run)
    return named_answerer(name, answers=answers)


def asked(
    run: Path, evidence: Evidence, stores: list[Path], *, answers: Path, seed: int = 0, model: str = "", wording: str = WORDING, limit: int | None = None
) -> tuple[list[Case], list[str]]:
    """Answers to the questions of some stores, each also about other pictures, and to probes of the labels of annotated pictures; and what was not asked, a line each.
    `stores`: folders, or data sets of the run.
    """
    answerer = model_of(run, answers, model)
    opened = [Store.open(store_of(run, path)) for path in stores]
    cases = [case for store in opened for case in ask_store(store, answerer, seed, limit=limit)]
    known = [store[int(row)] for store in opened for row in store.kept]
    sources = [*known, *_pictured(evidence)]
    probes = ask_probes(evidence, sources, answerer, seed, wording)
    annotated = len({sample.pictures[0].hash for sample in sources if sample.pictures and sample.annotations})
    probed = len({case.picture for case in probes})
    left = [
        f"store {store.path.name}: {len(store.kept) - limit:,} of {len(store.kept):,} rows (--limit)" for store in opened if limit and len(store.kept) > limit
    ]
    if probed < annotated:
        why = f"at most {PROBED} are asked about, those of which some label is known to be there and another not"
        left.append(f"probes: {annotated - probed:,} of {annotated:,} annotated pictures: {why}")
    return [*cases, *probes], left


def _pictured(evidence: Evidence) -> list[Sample]:
    """One annotated sample for each picture that was asked about."""
    found = {
        case.picture: replace(case.asked, id=case.name.rpartition("#")[0] or case.name, annotations=case.annotations)
        for case in evidence.cases
        if case.annotations
    }
    return list(found.values())


def store_of(run: Path, path: Path) -> Path:
    """A store by its folder, or by its name in a run."""
    own = run / "data" / path
    return own if not path.is_dir() and own.is_dir() else path


def text_before_and_after(run: Path, store: Path, *, answers: Path) -> tuple[tuple[TextScores, ...], list[str]]:
    """Held-out text by each finished stage that writes, in the order of training; and what was not scored, a line each. Raises Refused where fewer than two do."""
    opened = Store.open(store_of(run, store))
    alone = [row for row, pictures in zip(opened.index["row"].to_pylist(), opened.index["pictures"].to_pylist(), strict=True) if not pictures]
    texts = sorted(set(alone) & set(opened.kept.tolist()))
    samples = [opened[row] for row in texts[:_TEXTS]]
    left = [f"held-out text: {len(texts) - _TEXTS:,} of {len(texts):,} rows, after the first {_TEXTS}"] if len(texts) > _TEXTS else []
    left += [f"held-out text: {len(opened.kept) - len(texts):,} rows with pictures"] if len(opened.kept) > len(texts) else []
    nodes = json.loads((run / "graph.json").read_text(encoding="utf-8"))
    stages = [node for node in nodes if node["name"].startswith("stages/") and (run / node["artifact"] / "config.json").is_file()]
    found = []
    for node in stages:
        config = json.loads((run / node["artifact"] / "config.json").read_text(encoding="utf-8"))
        if config.get("language_model") is not None:
            found.append(score_text(node["name"].removeprefix("stages/"), named_answerer(str((run / node["artifact"]).absolute()), answers=answers), samples))
    if len(found) < 2 or not samples:
        told = f"{len(found)} stages with a language model, {len(samples)} rows of text alone"
        raise Refused(
            Problem(code="usage/no-text", place=str(store), found=told, allowed="two stages and one row at least", fix="name a store of text without pictures")
        )
    return tuple(found), left
