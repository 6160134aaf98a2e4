"""What small models from nothing reach at two tasks: what is wrong with a picture, and what has changed between two.

Runs the recipes `rs-quality` (on RSICD) and `rs-change` (on made pairs), prints each figure with its 95 % interval beside its controls, and asks the model of the second about the
real pairs of LEVIR-CD, which it has never seen: reported, without a bar. The last line is one JSON object. A run that was stopped goes on; one that is done is read.

    python benchmarks/task_bars.py --out runs/tasks --data DATA
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import ROOT, Figure, Unmeasured, measure, show
from run_bars import scores_of, seconds_of

LEAST_QUALITY, LEAST_CHANGE = 0.85, 0.7
LONGEST = 8 * 60.0
QUALITY_KINDS = ("quality", "quality-kind", "quality-choice")
PROGRAM = (sys.executable, "-m", "sightline")
ASKED = ("--set", "ask=Has anything been built or torn down between the two pictures? Answer yes or no.", "--set", "ask_where=Where have buildings changed?")
"""The words of the recipe's own evaluation: a small model knows no others."""
Scores = Mapping[str, Any]


def run_recipe(name: str, run: Path, overrides: Sequence[str], program: Sequence[str] = PROGRAM) -> Path:
    """Run a shipped recipe, as a user would; the folder of its run. Raises Unmeasured where the command fails."""
    _call([*program, "run", str(ROOT / "recipes" / f"{name}.yaml"), "--out", str(run), *overrides])
    return run


def _call(words: Sequence[str]) -> str:
    """What a command prints."""
    try:
        ended = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise Unmeasured(f"{words[0]}: {error.strerror}") from error
    if ended.returncode:
        raise Unmeasured(f"{' '.join(words)} ended with {ended.returncode}")
    return ended.stdout


def quality_figures(out: Path, data: Path, overrides: Sequence[str] = (), program: Sequence[str] = PROGRAM) -> Iterator[Figure]:
    """Held-out RSICD pictures, spoilt by a seed: each kind of question, each fault, and the time of the whole run."""
    if not (data / "rsicd").is_dir():
        raise Unmeasured(f"{data / 'rsicd'} is not there: give the folder of the data sets with --data")
    run = run_recipe("rs-quality", out / "quality", [f"data.pictures.read.path={data / 'rsicd'}", *overrides], program)
    scores = scores_of(run, "quality")
    for kind in QUALITY_KINDS:
        yield _figure(scores, kind, f"tasks {kind}", LEAST_QUALITY)
    for fault, (right, asked) in by_fault(scores).items():
        yield Figure(name=f"tasks quality of {fault}", values=(right / asked,), note=f"{right} of {asked} named")
    yield Figure(name="tasks quality time", values=(seconds_of(run),), unit="s", most=LONGEST)


def by_fault(scores: Scores) -> dict[str, tuple[int, int]]:
    """Fault -> (named rightly, asked), of the questions that ask for its name in either language."""
    from sightline.data.synthesis.quality_kinds import FAULT_WORDS

    names = {word: fault for words in FAULT_WORDS.values() for fault, word in words.items()}
    found: dict[str, list[float]] = defaultdict(list)
    for row in scores["model"]["per_request"]:
        if row["kind"] == "quality-kind":
            found[names[row["expected"][0]]].append(row["score"])
    return {fault: (round(sum(told)), len(told)) for fault, told in sorted(found.items())}


def change_figures(out: Path, data: Path, overrides: Sequence[str] = (), program: Sequence[str] = PROGRAM) -> Iterator[Figure]:
    """Held-out made pairs: F1 of pairs and of pixels, what happened; then LEVIR-CD without a bar, and the time of the whole run."""
    run = run_recipe("rs-change", out / "change", overrides, program)
    scores = scores_of(run, "change")
    yield _figure(scores, "changed f1", "tasks changed f1", LEAST_CHANGE)
    yield _figure(scores, "f1", "tasks change f1 of pixels", LEAST_CHANGE)
    yield _figure(scores, "changed accuracy", "tasks changed accuracy", None)
    yield _figure(scores_of(run, "questions"), "change-kind", "tasks change-kind", None)
    yield Figure(name="tasks change time", values=(seconds_of(run),), unit="s", most=LONGEST)
    if not (data / "levir_cd").is_dir():
        raise Unmeasured(f"{data / 'levir_cd'} is not there: give the folder of the data sets with --data")
    scores = json.loads(_call([*program, "eval", "--benchmark", "change", "--path", str(data / "levir_cd"), "--model", str(run), *ASKED, "--json"]))
    for metric in ("changed f1", "f1"):
        own = scores["metrics"][metric]
        yield Figure(
            name=f"tasks LEVIR-CD {metric}",
            values=(float(own["value"]),),
            note=f"95 % {own['low']:.3f} to {own['high']:.3f} of {own['n']}; never seen in training",
        )


def _figure(scores: Scores, metric: str, name: str, least: float | None) -> Figure:
    """One metric with its interval and its controls."""
    metrics = scores["model"]["metrics"]
    if metric not in metrics:
        raise Unmeasured(f"no {metric} of the model")
    own = metrics[metric]
    beside = [f"{control} {told['metrics'][metric]['value']:.3f}" for control, told in scores["controls"].items() if metric in told["metrics"]]
    return Figure(name=name, values=(float(own["value"]),), least=least, note="; ".join([f"95 % {own['low']:.3f} to {own['high']:.3f} of {own['n']}", *beside]))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both tasks; 1 when a figure failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["quality", "change"], help="measure this task alone")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "tasks", metavar="DIR", help="folder of the runs (default: runs/tasks)")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", metavar="DIR", help="folder of the real data sets")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an override of every recipe that is run, for trying out")
    told = parser.parse_args(argv)
    lines = {"quality": quality_figures, "change": change_figures}
    chosen = {name: line for name, line in lines.items() if told.only in (None, name)}
    found = show(measure({f"tasks {name}": lambda line=line: line(told.out.resolve(), told.data.resolve(), told.set) for name, line in chosen.items()}))
    print(json.dumps([figure.record() for figure in found]))
    return int(any(not figure.passed for figure in found))


if __name__ == "__main__":
    sys.exit(main())
