"""Writers to TensorBoard, W&B and trackio: what they are handed, that they change nothing of a run, and that a broken one ends itself and not the training."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import Refused
from sightline.recipe import load
from sightline.run import run
from sightline.run_events import Events
from sightline.run_history import history
from sightline.run_writers import TensorBoard, Trackio, Wandb, WriterConfig, Writers, absent_writers, numbers_of
from sightline.twin import twin

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
SETTINGS = {"name": "toy", "stages": [{"name": "align"}, {"name": "instruct"}]}


class Log(types.ModuleType):
    """Stands for a module with `init`, `log` and `finish`; what it is told to break breaks."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.seen: list[tuple[str, Any]] = []
        self.broken: set[str] = set()

    def _told(self, what: str, said: Any) -> None:
        if what in self.broken:
            raise ConnectionError("network is unreachable")
        self.seen.append((what, said))

    def init(self, **named: Any) -> None:
        self._told("init", named)

    def log(self, numbers: dict[str, float], step: int) -> None:
        self._told("log", (step, numbers))

    def finish(self) -> None:
        self._told("finish", None)

    def logged(self) -> list[tuple[int, dict[str, float]]]:
        return [said for what, said in self.seen if what == "log"]


@pytest.fixture
def logs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Log]:
    """Modules in place of wandb and trackio."""
    found = {name: Log(name) for name in ("wandb", "trackio")}
    for name, module in found.items():
        monkeypatch.setitem(sys.modules, name, module)
    return found


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(tmp_path / "run" / "events.jsonl")


def begun(configs: list[WriterConfig], events: Events, told: list[str] | None = None) -> Writers:
    return Writers(configs, events.path.parent, SETTINGS, events, (told if told is not None else []).append)


def step(stage: str, number: int, **more: Any) -> dict[str, Any]:
    return {"event": "step", "stage": stage, "step": number, "loss": 1.5, "terms": {"answer": 1.5}, "rate": 1.0, "norm": 2.0, **more}


def test_numbers_have_names_of_their_groups() -> None:
    event = step(
        "align", 3, by_source={"rsicd": [1.25, 8.0], "empty": [0.0, 0.0]}, by_kind={"count": [2.0, 1.0]}, norms={"connector": 0.5}, rates={"connector": 1e-3}
    )
    event |= {"mfu": None, "memory_gib": float("nan"), "memory_kind": "peak", "tokens_per_second": 100}
    assert dict(numbers_of(event)) == {
        "loss": 1.5,
        "norm": 2.0,
        "rate": 1.0,
        "tokens_per_second": 100.0,
        "loss/answer": 1.5,
        "norm/connector": 0.5,
        "rate/connector": 1e-3,
        "source/rsicd": 1.25,
        "kind/count": 2.0,
    }
    assert dict(numbers_of({"event": "scores", "evaluation": "vqa", "metrics": {"all": 0.5}})) == {"score/vqa/all": 0.5}
    assert dict(numbers_of({"event": "probe", "stage": "align", "step": 1, "answers": [], "repetition": 0.25})) == {"repetition": 0.25}
    assert dict(numbers_of({"event": "resumed", "stage": "align", "step": 1})) == {}


@pytest.mark.parametrize(("config", "name"), [(Wandb(project="p", entity="e", mode="offline"), "wandb"), (Trackio(project="p"), "trackio")])
def test_stages_share_one_axis_of_steps(config: WriterConfig, name: str, logs: dict[str, Log], events: Events) -> None:
    writers = begun([config], events)
    [(_, said)] = logs[name].seen
    assert (said["project"], said["group"], said["config"]) == ("p", "run", SETTINGS)
    assert name == "trackio" or (said["entity"], said["mode"], said["dir"]) == ("e", "offline", str(events.path.parent))
    for stage, first in (("align", 0), ("instruct", 100)):
        events.write({"event": "training", "stage": stage, "steps": 100})
        events.write(step(stage, 7))
        assert logs[name].logged()[-1] == (first + 7, {f"{stage}/{key}": value for key, value in numbers_of(step(stage, 7))})
    events.write({"event": "scores", "evaluation": "vqa", "metrics": {"all": 0.5}})
    writers.close()
    assert logs[name].logged()[-1] == (107, {"score/vqa/all": 0.5}) and logs[name].seen[-1][0] == "finish"
    assert [(one["written"], one["missed"]) for one in events.read() if one["event"] == "writer-ended"] == [(3, 0)]
    begun([config], Events(events.path))(step("instruct", 8))
    assert logs[name].logged()[-1][0] == 108, "the stages that an earlier run did are counted in"


def test_a_writer_that_breaks_is_turned_off_once_and_the_others_go_on(logs: dict[str, Log], events: Events) -> None:
    told: list[str] = []
    writers = begun([Wandb(), Trackio()], events, told)
    events.write(step("align", 0))
    logs["wandb"].broken.add("log")
    for number in range(1, 4):
        events.write(step("align", number))
    logs["trackio"].broken.add("finish")
    writers.close()
    assert [number for number, _ in logs["wandb"].logged()] == [0] and [number for number, _ in logs["trackio"].logged()] == [0, 1, 2, 3]
    found = [(event["event"], event["writer"], event["written"], event.get("missed")) for event in history(events.read()).writers]
    assert found == [
        ("writer-failed", "wandb", 1, None),
        ("writer-failed", "trackio", 4, None),
        ("writer-ended", "wandb", 1, 3),
        ("writer-ended", "trackio", 4, 0),
    ]
    assert [line.split(",")[0].split(":")[0] for line in told] == ["writer wandb is turned off", "writer trackio is turned off", "writer wandb"]
    assert "ConnectionError: network is unreachable" in told[0] and "3 missed" in told[2]
    assert len([event for event in events.read() if event["event"] == "step"]) == 4


def test_a_writer_that_cannot_begin_is_refused_and_those_before_it_are_ended(logs: dict[str, Log], events: Events) -> None:
    logs["trackio"].broken.add("init")
    with pytest.raises(Refused, match="trackio could not begin: ConnectionError"):
        begun([Wandb(), Trackio()], events)
    assert [what for what, _ in logs["wandb"].seen] == ["init", "finish"]


def test_an_absent_package_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wandb, "needs", "absent_tracker")
    (tmp_path / "absent_tracker").mkdir()  # a folder of that name, as an offline run leaves one behind, is no package
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused) as refused:
        run(TINY, tmp_path / "run", ["writers=[wandb]", "stages.see.train={nobody: {learning_rate: 1e-3}}"])
    told = {problem.code: problem for problem in refused.value.problems}
    assert told.keys() == {"run/no-writer", "run/no-such-part"}, "all problems at once"
    assert "the package absent_tracker is not installed" in told["run/no-writer"].found and told["run/no-writer"].fix.endswith("-m pip install absent_tracker")
    assert not (tmp_path / "run").exists()


def test_a_recipe_names_writers(logs: dict[str, Log]) -> None:
    loaded = load(TINY, ["writers=[trackio, {wandb: {project: p}}]"])
    assert [(writer.name, getattr(writer, "project", "")) for writer in loaded.recipe.writers] == [("trackio", "sightline"), ("wandb", "p")]
    assert [*absent_writers(loaded)] == [] and twin(loaded.recipe).writers == [], "a toy is nobody's business"
    with pytest.raises(Refused, match="each kind once, found trackio, trackio"):
        load(TINY, ["writers=[trackio, trackio]"])
    with pytest.raises(Refused, match="tensorboard, trackio, wandb"):
        load(TINY, ["writers=[tensorbord]"])


def test_tensorboard_reads_back_what_was_written(events: Events) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(stage: str, tag: str) -> list[tuple[int, float]]:
        accumulator = accumulators.EventAccumulator(str(events.path.parent / "tensorboard" / stage))
        accumulator.Reload()
        return [(one.step, one.value) for one in accumulator.Scalars(tag)]

    writers = begun([TensorBoard()], events)
    for number in (0, 10, 20, 30):
        events.write(step("align", number, loss=float(number)))
    events.write(step("instruct", 0, by_source={"rsicd": [0.25, 3]}))
    writers.close()
    assert read("align", "loss") == [(0, 0.0), (10, 10.0), (20, 20.0), (30, 30.0)] and read("instruct", "source/rsicd") == [(0, 0.25)]
    writers = begun([TensorBoard()], events)
    events.write(step("align", 20, loss=-1.0))
    events.write({"event": "scores", "evaluation": "vqa", "metrics": {"all": 0.5}})
    writers.close()
    assert read("align", "loss") == [(0, 0.0), (10, 10.0), (20, -1.0)], "a resumed stage keeps what counts"
    assert [value for _, value in read("run", "score/vqa/all")] == [0.5]
