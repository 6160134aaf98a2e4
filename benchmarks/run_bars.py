"""Figures drawn from finished runs: scores beside their controls, and the seconds that the work took."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import Figure, Unmeasured

QUESTION_BARS = {"presence": 0.95, "labels": 0.85, "count": 0.70, "count-not-one": 0.60, "at": 0.85, "where": 0.62}
"""Exact match that the quickstart has to reach, by kind of question."""
FEWEST_PICTURES = 500
CAPTION_BARS = {"bleu-4": 0.20, "class": 0.35}
LARGEST_SHUFFLED_BLEU = 0.11
"""BLEU-4 of captions of other pictures: what the style of the captions alone is worth."""
LONGEST_RSICD = 25 * 60.0
BLIND = ("shuffled pictures", "no picture")
MAJORITY, PROBE, CAPTION_PROBE = "commonest answer", "thumbnail probe", "caption of another"

Scores = Mapping[str, Any]
"""The content of one scores.json."""


def scores_with(run: Path, metric: str) -> Scores:
    """The scores of the first evaluation of a run that has this metric."""
    for file in sorted(run.glob("evaluate/*/scores.json")):
        scores = json.loads(file.read_text(encoding="utf-8"))
        if metric in scores["model"]["metrics"]:
            return scores
    raise Unmeasured(f"no evaluation in {run} has {metric}")


def scores_of(run: Path, evaluation: str) -> Scores:
    """The scores of one evaluation of a run."""
    file = run / "evaluate" / evaluation / "scores.json"
    if not file.is_file():
        raise Unmeasured(f"{file} is not there")
    return json.loads(file.read_text(encoding="utf-8"))


def seconds_of(run: Path) -> float:
    """Seconds of work: of each node the last time it was done, so that a run which was stopped and went on counts once."""
    last: dict[str, float] = {}
    for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines():
        if '"event": "done"' in line:
            event = json.loads(line)
            last[event["node"]] = event["seconds"]
    return sum(last.values())


def metric_values(runs: Sequence[Scores], metric: str, control: str = "") -> tuple[float, ...]:
    """One metric of the model, or of a control, in each run."""
    found = []
    for scores in runs:
        metrics = (scores["controls"].get(control, {}) if control else scores["model"]).get("metrics", {})
        if metric not in metrics:
            raise Unmeasured(f"no {metric} of {control or 'the model'}")
        found.append(float(metrics[metric]["value"]))
    return tuple(found)


def question_figures(name: str, runs: Sequence[Scores]) -> Iterator[Figure]:
    """The kinds of question against their bars, the blind controls against the commonest answer, the number of pictures."""
    for kind, bar in QUESTION_BARS.items():
        beside = ", ".join(f"{control} {statistics.median(metric_values(runs, kind, control)):.3f}" for control in (MAJORITY, PROBE))
        yield Figure(name=f"{name} {kind}", values=metric_values(runs, kind), least=bar, note=beside)
    for control in BLIND:
        excesses = [_excess(scores, control) for scores in runs]
        note = "how far its interval lies above the commonest answer's score; largest in " + ", ".join(kind for _, kind in excesses)
        yield Figure(name=f"{name} {control}", values=tuple(excess for excess, _ in excesses), most=0.0, note=note)
    pictures = tuple(float(len({row["request"].rpartition("#")[0] for row in scores["model"]["per_request"]})) for scores in runs)
    yield Figure(name=f"{name} pictures", values=pictures, least=FEWEST_PICTURES, take="least")


def _excess(scores: Scores, control: str) -> tuple[float, str]:
    """(excess, kind): how far the low end of a control's interval lies above the score of the commonest answer, where that is furthest.

    Only kinds that are asked: in `count-not-one` the commonest answer may be the one that was taken away.
    """
    if control not in scores["controls"] or MAJORITY not in scores["controls"]:
        raise Unmeasured(f"no {control} or no {MAJORITY} beside the scores")
    blind, majority = scores["controls"][control]["metrics"], scores["controls"][MAJORITY]["metrics"]
    kinds = sorted({row["kind"] for row in scores["model"]["per_request"]})
    return max((blind[kind]["low"] - majority[kind]["value"], kind) for kind in kinds)


def caption_figures(name: str, runs: Sequence[Scores], seconds: Sequence[float]) -> Iterator[Figure]:
    """Captions and the classes they name against their bars, captions of other pictures, and the time of the whole run."""
    for metric, bar in CAPTION_BARS.items():
        controls = (CAPTION_PROBE, PROBE) if metric == "class" else (CAPTION_PROBE,)
        known = [control for control in controls if all(control in scores["controls"] for scores in runs)]
        beside = ", ".join(f"{control} {statistics.median(metric_values(runs, metric, control)):.3f}" for control in known)
        yield Figure(name=f"{name} {metric}", values=metric_values(runs, metric), least=bar, note=beside)
    yield Figure(name=f"{name} shuffled bleu-4", values=metric_values(runs, "bleu-4", BLIND[0]), most=LARGEST_SHUFFLED_BLEU)
    yield Figure(name=f"{name} time", values=tuple(seconds), unit="s", most=LONGEST_RSICD)
