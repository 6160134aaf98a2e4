"""Probes: fixed rows that the model answers while it trains, which leave the training as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conftest import picture
from sightline.data.mixture import Mixture, Share
from sightline.errors import Refused
from sightline.model.vlm import Model
from sightline.run_watch import watch_of
from sightline.samples.sample import Origin, Sample, Show, Text, Turn
from sightline.samples.store import Store
from sightline.train.feeding import Feed
from sightline.train.loop import Outcome, train
from sightline.train.objectives import Contrastive
from sightline.train.probing import Probes, probe_rows, undisturbed
from sightline.train.stage import ProbePlan, StageConfig, prepare

RATE = {"learning_rate": 1e-2}
PROBE = {"steps": 2, "rows": 3, "max_tokens": 6}


def trained(world, stage: StageConfig, out: Path) -> tuple[Model, Outcome, list[dict[str, Any]]]:
    """A stage with the watch that a run gives it."""
    torch.manual_seed(0)
    model, events = world.model(), []
    prepared = prepare(model, stage)
    feed = world.feed(stage)
    watch = watch_of(stage, model, world.processor, prepared, feed.objective, feed.mixture, events.append, seed=3, folder=out / "stages" / "01-try", run=out)
    return model, train(model, prepared, feed.objective, feed, stage, watch, "try"), events


def test_training_is_the_same_with_and_without(world, tmp_path: Path) -> None:
    # statistics of the encoder move in training mode only
    parts = {"encoders": RATE, "connector": RATE, "language_model": RATE}
    said = {"steps": 5, "every": 1, "train": parts, "data": {"questions": 1.0, "notes": 1.0}}
    plain, outcome, events = trained(world, world.stage(**said), tmp_path / "a")
    probed, same, more = trained(world, world.stage(**said, probe=PROBE), tmp_path / "b")
    assert all(torch.equal(tensor, probed.state_dict()[name]) for name, tensor in plain.state_dict().items())
    assert outcome.curve == same.curve
    keys = ("step", "loss", "norms", "by_source")
    assert [[event[key] for key in keys] for event in events] == [[event[key] for key in keys] for event in more if event["event"] == "step"]
    assert [event["step"] for event in more if event["event"] == "probe"] == [0, 2, 4]
    assert not (tmp_path / "a").exists()


def test_what_a_probe_records(world, tmp_path: Path) -> None:
    stage = world.stage(steps=2, data={"questions": 1.0, "notes": 1.0}, probe={**PROBE, "rows": 4})
    _, _, events = trained(world, stage, tmp_path)
    [first, last] = [event for event in events if event["event"] == "probe"]
    assert list(first) == ["event", "stage", "step", "answers", "repetition"]
    rows = [(answer["row"], answer["wanted"], tuple(answer["pictures"])) for answer in first["answers"]]
    assert rows == [(answer["row"], answer["wanted"], tuple(answer["pictures"])) for answer in last["answers"]]
    assert [bool(pictures) for _, _, pictures in rows] == [True, False, True, False], "one of each set in turn"
    for answer in first["answers"]:
        number = int(answer["row"][1:])
        assert answer["question"] == ("what is here?" if number % 2 else "is there a road beside it?")
        assert answer["source"] == "questions"
        for file in answer["pictures"]:
            assert (tmp_path / file).parent == tmp_path / "stages" / "01-try" / "probes"
            with Image.open(tmp_path / file) as shown:
                assert shown.size == (32, 32)
    assert 0 <= first["repetition"] <= 1


def test_rows_follow_from_the_seed(world) -> None:
    mixture = world.feed(world.stage(data={"questions": 1.0, "captions": 1.0})).mixture
    names = [[row.row for row in probe_rows(mixture, world.processor, 6, seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert [name[0] for name in names[0]] == ["q", "c"] * 3
    everything = probe_rows(mixture, world.processor, 256, 0)
    assert len({row.row for row in everything}) == len(everything) == 24


def test_rows_without_a_question_are_passed_over(world, tmp_path: Path) -> None:
    with Store.writer(tmp_path / "rows") as writer:
        for number in range(3):
            turns = (Turn(role="user", items=(Show(), Text(text="look"))), *([Turn(role="assistant", items=(Text(text="a pond"),))] if number == 2 else []))
            writer.add(Sample(id=str(number), pictures=(picture(number),), turns=turns, origin=Origin(source="rows")))
    store = Store.open(tmp_path / "rows")
    assert [row.row for row in probe_rows(Mixture([Share(name="rows", store=store)]), world.processor, 2, 0)] == ["2"]
    with pytest.raises(Refused) as refused:
        probe_rows(Mixture([]), world.processor, 2, 0)
    assert refused.value.problems[0].code == "train/nothing-to-probe"


@pytest.mark.parametrize(
    ("plan", "every", "asked"), [(4, 2, [0, 4, 8, 9]), (3, 2, [0, 4, 6, 9]), (1, 5, [0, 5, 9]), (100, 1, [0, 9]), (2, 1, [0, 2, 4, 6, 8, 9])]
)
def test_when_they_are_asked(world, plan: int, every: int, asked: list[int]) -> None:
    probes = Probes("try", ProbePlan(steps=plan), world.model(), [], ask=lambda requests: [], repetition=lambda text: 0.0)
    recorded = [step for step in range(10) if step % every == 0 or step == 9]
    assert [step for step in recorded if probes.due(step, every, step == 9)] == asked


def test_modes_and_generators_go_on_where_they_stood(world) -> None:
    model = world.model()
    model.connector.train()
    modes = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(KeyError), undisturbed(model):
        model.eval()
        torch.rand(100)
        raise KeyError
    assert torch.equal(torch.rand(3), wanted)
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert any(modes.values())
    assert not all(modes.values())


def test_a_model_that_cannot_write_is_refused(world, tmp_path: Path) -> None:
    stage = world.stage(objective="contrastive", data={"captions": 1.0}, train={"encoders": RATE, "text_encoder": RATE}, probe=PROBE)
    model = world.model(language_model=None, connector=None)
    feed: Feed = world.feed(stage)
    with pytest.raises(Refused) as refused:
        watch_of(stage, model, world.processor, prepare(model, stage), Contrastive().build(), feed.mixture, print, seed=0, folder=tmp_path, run=tmp_path)
    assert [(problem.code, problem.place) for problem in refused.value.problems] == [("train/probe-cannot-write", "stages.try.probe")]
