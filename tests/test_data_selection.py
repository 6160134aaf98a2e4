"""Individual Select: which candidates are kept, by which rule, and what is trained for it."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.data_selection import Added, choose
from sightline.evaluate.metrics import Value
from sightline.soup_search import Measured

WORTH = {"good": 0.2, "fair": 0.1, "bad": -0.1, "rival": 0.15}


class Trainings:
    """Scores by what is among the data; `rival` helps only without `good`. Remembers what was trained."""

    def __init__(self, noise: bool = False) -> None:
        self.noise, self.trained = noise, list[Added]()

    def __call__(self, wanted: Sequence[Added]) -> list[list[Measured]]:
        self.trained += wanted
        return [[self.measured(added)] for added in wanted]

    def measured(self, added: Added) -> Measured:
        gain = sum(WORTH[name] for name in added) - (0.2 if {"rival", "good"} <= set(added) else 0.0)
        right = round((0.4 + gain) * 100)
        rows = tuple(float(number < right) for number in range(100))
        rows = rows[::-1] if self.noise and added else rows  # other answers are right: the gain is within chance
        return Measured(value=Value(right / 100, 0.0, 1.0, 100), rows=rows, groups=tuple(map(str, range(100))))


def test_each_candidate_alone_is_compared_with_the_base() -> None:
    trainings = Trainings()
    found = choose(["bad", "fair", "rival", "good"], "individual", "better", trainings)
    assert found.kept == ("fair", "rival", "good")
    assert trainings.trained == [(), ("bad",), ("fair",), ("rival",), ("good",)]
    assert found.base == 0.4
    assert (found.trials[0].candidate, found.trials[0].kept, round(found.trials[0].score, 2)) == ("bad", False, 0.3)


def test_greedy_tries_the_rest_beside_what_joined() -> None:
    trainings = Trainings()
    found = choose(["bad", "fair", "rival", "good"], "greedy", "better", trainings)
    assert found.kept == ("good", "fair")
    assert ("good", "rival") in trainings.trained
    assert [trial.beside for trial in found.trials][-1] == ("good", "fair")
    assert [trial.candidate for trial in found.trials if trial.improves and not trial.kept] == ["fair", "rival"]


def test_what_chance_may_do_is_not_sure() -> None:
    assert choose(["fair"], "individual", "better", Trainings(noise=True)).kept == ("fair",)
    unsure = choose(["fair"], "individual", "surely-better", Trainings(noise=True))
    assert unsure.kept == ()
    assert unsure.trials[0].gain is not None and unsure.trials[0].gain[0] < 0 < unsure.trials[0].gain[1]
    assert choose(["fair"], "individual", "surely-better", Trainings()).kept == ("fair",)


def test_its_page_says_why() -> None:
    text = choose(["bad", "good"], "individual", "better", Trainings(), stamp="too high").markdown("row")
    assert "**too high**" in text
    assert "| good |  | 60.00 | yes | 0.6000 is above 0.4000; gain " in text
    assert "Kept: good." in text
