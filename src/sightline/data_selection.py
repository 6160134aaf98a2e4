"""Which data sets join a stage: those that improve a score when the stage is trained with them (Individual Select, Liu et al. 2024, arXiv 2405.11850). Trainings are asked of a callable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sightline.soup_recipe import Accept
from sightline.soup_search import Measured, improves, score_of
from sightline.vary_recipe import Rule

Added = tuple[str, ...]
"""Candidates beside the base sets, in the order in which they joined."""
Trainer = Callable[[Sequence[Added]], Sequence[Sequence[Measured]]]
"""Trains the stage once for each, and gives what it reached in every evaluation that is selected on."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One candidate that was tried."""

    candidate: str
    beside: Added
    """Candidates that were there already."""
    score: float
    gain: tuple[float, float] | None
    """Paired 95 % interval of the gain over the training without it; None where answers have no scores of their own."""
    improves: bool
    kept: bool
    why: str


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What was chosen, and why."""

    rule: Rule
    accept: Accept
    base: float
    """Score of the base sets alone."""
    kept: Added
    trials: tuple[Trial, ...]
    stamp: str = ""
    """What is wrong with the choice: it met the test."""

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def markdown(self, name: str) -> str:
        """For people."""
        text = [f"### data chosen for {name}", ""]
        text += [f"**{self.stamp}**", ""] if self.stamp else []
        text += ["| tried | beside | score | kept | why |", "|---|---|---:|---|---|", f"| the base sets | | {100 * self.base:.2f} | | |"]
        text += [
            f"| {trial.candidate} | {', '.join(trial.beside)} | {100 * trial.score:.2f} | {'yes' if trial.kept else 'no'} | {trial.why}{_gain(trial)} |"
            for trial in self.trials
        ]
        return "\n".join([*text, "", f"Kept: {', '.join(self.kept) or 'none'}.", ""])


def _gain(trial: Trial) -> str:
    if trial.gain is None or trial.why.startswith("gain"):
        return ""
    return f"; gain {trial.gain[0]:+.4f}..{trial.gain[1]:+.4f}"


def choose(candidates: Iterable[str], rule: Rule, accept: Accept, train: Trainer, stamp: str = "") -> Selection:
    """Individual: one round, every candidate that improves the base is kept. Greedy: rounds, of those that improve the one with the highest score (equal ones by name) joins, until none does."""
    [best] = train([()])
    base, kept, trials = score_of(best), (), []
    rest = list(candidates)
    while rest:
        reached = dict(zip(rest, train([(*kept, name) for name in rest]), strict=True))
        judged = {name: improves(best, reached[name], accept) for name in rest}
        better = sorted((name for name in rest if judged[name][0]), key=lambda name: (-score_of(reached[name]), name))
        joined = [name for name in rest if judged[name][0]] if rule == "individual" else better[:1]
        trials += [
            Trial(candidate=name, beside=kept, score=score_of(reached[name]), gain=gain, improves=good, kept=name in joined, why=why)
            for name, (good, why, gain) in judged.items()
        ]
        kept = (*kept, *joined)
        if rule == "individual" or not joined:
            break
        best, rest = reached[joined[0]], [name for name in rest if name not in joined]
    return Selection(rule=rule, accept=accept, base=base, kept=kept, trials=tuple(trials), stamp=stamp)
