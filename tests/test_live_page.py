"""The page of a run that is going on: drawn from its events alone, from old and torn ones too, and what it says of silence, faults and resumed stages."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.errors import Refused
from sightline.live_page import LivePage, page, status, thinned
from sightline.run import run
from sightline.run_events import EventReader, Events
from sightline.run_history import counted, history

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
Event = dict[str, Any]


def said(at: float, event: str, /, **more: Any) -> Event:
    return {"time": (START + timedelta(seconds=at)).isoformat(), "event": event, **more}


def stepped(step: int, stage: str = "align", **more: Any) -> Event:
    whole = {
        "loss": 2.0 - step / 100,
        "terms": {"answer": 2.0 - step / 100},
        "rate": 0.5,
        "norm": 1.5,
        "norms": {"connector": 1.25},
        "rates": {"connector": 1e-3},
        "by_source": {"rsicd": [1.5, 40.0], "dota": [2.5, 4.0], "empty": [0.0, 0]},
        "by_kind": {"count": [1.0, 10.0]},
        "samples_per_second": 8.0,
        "tokens_per_second": 5432.1,
        "answers_per_second": 99.0,
        "mfu": None,
        "memory_gib": 1.5,
        "memory_kind": "peak resident",
    }
    return said(100 + 2 * step, "step", stage=stage, step=step, **{**whole, **more})


def probed(step: int, answer: str) -> Event:
    asked = {"row": "r1", "source": "rsicd", "pictures": ["stages/01-align/probes/a.png"], "question": "how many?", "wanted": "3", "answer": answer}
    return said(100 + 2 * step, "probe", stage="align", step=step, answers=[asked], repetition=0.25)


def begun(*more: Event, steps: int = 100) -> list[Event]:
    return [
        said(0, "run", recipe="toy", version="0", software={}, stages=["align", "instruct"]),
        said(1, "start", node="data/captions"),
        said(9, "done", node="data/captions", seconds=8.0),
        said(10, "start", node="stages/align"),
        said(90, "table", stage="align", table=[]),
        said(91, "training", stage="align", steps=steps),
        *more,
    ]


def laid(folder: Path, events: Sequence[Event], tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events) + tail)
    return folder


def drawn(events: Sequence[Event], folder: Path, now: float = 200.0, refresh: int | None = None) -> str:
    page(history(events, START + timedelta(seconds=now)), folder, refresh).write(folder / "live.html")
    return (folder / "live.html").read_text()


def test_what_is_at_work_and_how_long_it_takes(tmp_path: Path) -> None:
    events = begun(*(stepped(step) for step in range(0, 50, 10)))
    found = history(events, START + timedelta(seconds=184))
    [stage] = found.stages
    assert (found.state, found.node, stage.step, stage.steps, stage.rate, stage.seconds_left, found.silent) == (
        "running",
        "stages/align",
        41,
        100,
        0.5,
        118.0,
        4.0,
    )
    assert status(found) == "training align: step 41 of 100, 0.5 steps/s, 1m58s left; last event 4s ago"
    text = drawn(events, tmp_path, 184)
    for words in (
        "step 41 of 100",
        "41% of 100",
        "1m58s",
        "5,432",
        "loss by source",
        "gradient norm",
        "tokens per second",
        "memory, GiB",
        "data/captions",
        "waits",
    ):
        assert words in text, words
    assert ">mfu<" not in text, "what was not measured has no chart"
    assert "loss by kind" not in text, "one kind is the whole"
    assert stage.curves["loss by source"] == {"rsicd": [(step, 1.5) for step in range(0, 50, 10)], "dota": [(step, 2.5) for step in range(0, 50, 10)]}, (
        "a source without an answer has no mean"
    )


def test_silence_is_told_once_it_is_not_ordinary() -> None:
    events = begun(stepped(0), stepped(10))
    last = 120
    assert not history(events, START + timedelta(seconds=last + 119)).stale
    found = history(events, START + timedelta(seconds=last + 720))
    assert found.stale and "no event for 12m00s" in status(found) and "left" not in status(found)
    slow = begun(stepped(0), {**stepped(10), "time": (START + timedelta(seconds=500)).isoformat()})
    assert not history(slow, START + timedelta(seconds=500 + 1100)).stale, "three times the longest gap is ordinary"
    idle = [said(-90_000, "ended", state="stopped", seconds=1.0), *events]
    assert history(idle, START + timedelta(seconds=last + 720)).stale, "the time before the run began is no gap of it"
    assert not history([*events, said(130, "ended", state="done", seconds=130.0)], START + timedelta(days=3)).stale


def test_a_resumed_stage_keeps_the_steps_before_its_checkpoint() -> None:
    first = [stepped(step, loss=1.0) for step in (0, 10, 20, 30)]
    second = [stepped(step, loss=2.0) for step in (20, 30, 40)]
    events = [*begun(*first), *begun(said(300, "resumed", stage="align", step=20, checkpoint="step-000020"), *second)]
    assert [(event["step"], event["loss"]) for event in counted(events)["align"]] == [(0, 1.0), (10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]
    assert counted([*begun(*first), *begun(stepped(0, loss=3.0))])["align"][0]["loss"] == 3.0, "without a checkpoint it starts again"
    assert history(events).nodes[1].state == "running"
    cut = history([*begun(*first), said(300, "run", recipe="toy")], START)
    assert [node.state for node in cut.nodes] == ["done", "cut off"] and cut.node is None


def test_a_line_in_the_making_is_read_when_it_is_whole(tmp_path: Path) -> None:
    laid(tmp_path, begun(), tail='{"event": "step", "text": "\u00e9')
    path = tmp_path / "events.jsonl"
    path.write_bytes(path.read_bytes()[:-1])  # in the middle of a character
    reader = EventReader(path)
    assert len(reader.read()) == 6
    with path.open("ab") as stream:
        stream.write(b'\xa9"}\n{"event": "x"}\n{"ev')
    assert [event.get("text") for event in reader.read()[6:]] == ["\u00e9", None]
    path.write_text('{"event": "anew"}\n')
    assert reader.read() == [{"event": "anew"}]
    path.write_bytes(b'{"event": "a"}\n{"event": "torn \xc3')
    assert Events(path).read() == [{"event": "a"}]


def test_probe_answers_stand_side_by_side_with_their_pictures(tmp_path: Path) -> None:
    picture = tmp_path / "stages" / "01-align" / "probes" / "a.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8), (10, 200, 30)).save(picture)
    answers = [*(f"answer-{step}-" for step in range(0, 90, 10)), "<script>alert(1)</script>", "3"]
    events = begun(*(event for number, answer in enumerate(answers) for event in (stepped(10 * number), probed(10 * number, answer))))
    text = drawn(events, tmp_path)
    assert re.findall(r"answer-(\d+)-", text) == ["0", "20", "30", "50", "70", "80"], "seven steps, the first and the last among them"
    assert '<span class="good">3</span>' in text and "how many?" in text and "repetition" in text
    assert "<script" not in text and len(re.findall(r'src="data:image/png;base64,', text)) == 1
    assert set(re.findall(r'(?:src|href)="([a-z]+)', text)) == {"data"}, "nothing is fetched"
    picture.unlink()
    assert "a.png is gone" in drawn(events, tmp_path)
    assert "lies outside the run" in drawn(json.loads(json.dumps(events).replace("stages/01-align/probes/a.png", "../secret.png")), tmp_path)


def test_a_fault_shows_its_rows(tmp_path: Path) -> None:
    folder = tmp_path / "stages" / "01-align" / "faults" / "step-000020"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    Image.new("RGB", (900, 700)).save(folder / "b.tif")
    (folder / "c.tif").write_bytes(b"II no picture")
    rows = [{"source": "rsicd", "id": f"row-{name}", "pictures": [f"step-000020/{name}"]} for name in ("a.png", "b.tif", "c.tif")]
    rows += [{"source": "rsicd", "id": f"more-{number}", "pictures": []} for number in range(50)]
    fault = said(150, "fault", stage="align", step=20, code="train/non-finite-loss", found="loss nan", rows=rows)
    problem = {"code": "train/non-finite-loss", "place": "stage align, step 20", "found": "loss nan on rows", "allowed": "a finite loss", "fix": "look"}
    failed = [said(151, "failed", node="stages/align", problems=[problem]), said(152, "ended", state="failed", seconds=152.0)]
    events = begun(stepped(0), stepped(10), fault, *failed)
    text = drawn(events, tmp_path, refresh=None)
    assert "failed in stages/align" in text and "Fault in stage align at step 20<" in text and "fix: look" in text
    assert text.count("data:image/png") == 1 and text.count("data:image/jpeg") == 1 and "c.tif cannot be shown" in text
    assert "row-a.png" in text and "more-32" in text and "more-33" not in text and "36 of 53 rows" in text
    again = drawn([*events, *begun(stepped(0))], tmp_path)
    assert "Fault in stage align at step 20, in an earlier attempt" in again and "What ended it" not in again


def test_checkpoints_and_writers_are_told(tmp_path: Path) -> None:
    told = [
        said(110, "checkpoint-written", stage="align", step=20),
        said(111, "checkpoint-failed", stage="align", step=40, why="disk full"),
        said(112, "resumed", stage="align", step=20, checkpoint="step-000020"),
        said(113, "writer-failed", writer="wandb", written=3, why="no network"),
        said(114, "writer-ended", writer="wandb", written=3, missed=7),
        said(115, "scores", evaluation="questions", metrics={"all": 0.75}),
    ]
    text = drawn(begun(stepped(0), *told), tmp_path)
    for words in (
        "step 20 written",
        "step 40 could not be saved: disk full",
        "went on after step 20",
        "turned off after 3 events: no network",
        "7 missed",
        "0.750",
    ):
        assert words in text, words


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_is_not_recorded_is_left_out(data: st.DataObject) -> None:
    optional = [name for name in stepped(0) if name not in ("event", "stage", "step")]
    steps = []
    for step in range(0, 30, 10):
        event = stepped(step, loss=data.draw(st.sampled_from([1.0, float("nan"), float("inf"), None])))
        for name in data.draw(st.sets(st.sampled_from(optional))):
            del event[name]
        steps.append(event)
    gone = data.draw(st.sets(st.integers(0, 5)))
    events = [event for number, event in enumerate(begun()) if number not in gone] + steps
    found = history(events)
    page(found, Path("nowhere"))
    json.loads(json.dumps(found.record(), allow_nan=False))
    assert status(found)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300), st.integers(2, 50))
def test_a_thinned_curve_keeps_its_ends_and_its_spikes(values: list[float], limit: int) -> None:
    curve = list(enumerate(values))
    kept = thinned(curve, limit)
    assert len(kept) <= max(limit, 2) and kept == sorted(set(kept)) and set(kept) <= set(curve)
    assert (kept[0], kept[-1]) == (curve[0], curve[-1])
    if limit >= 4:
        assert {max(values), min(values)} <= {value for _, value in kept}


def test_a_watched_page_refreshes_itself_until_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laid(tmp_path, begun(stepped(0)))
    later = [[stepped(10)], [said(190, "done", node="stages/align", seconds=9.0), said(191, "ended", state="done", seconds=191.0)]]
    seen: list[str] = []

    def wait(seconds: float) -> None:
        assert seconds == 7 and 'http-equiv="refresh" content="7"' in (tmp_path / "live.html").read_text()
        with (tmp_path / "events.jsonl").open("a") as stream:
            stream.writelines(json.dumps(event) + "\n" for event in later.pop(0))

    monkeypatch.setattr(time, "sleep", wait)
    found = LivePage(tmp_path).watch(7, lambda now: seen.append(status(now)))
    assert found.state == "done" and [text.partition(" of")[0] for text in seen] == ["training align: step 1", "training align: step 11"]
    assert "http-equiv" not in (tmp_path / "live.html").read_text() and "report.html has the scores" in (tmp_path / "live.html").read_text()
    laid(tmp_path, begun(stepped(0)))
    monkeypatch.setattr(time, "sleep", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        LivePage(tmp_path).watch(7, lambda now: None)
    assert "http-equiv" not in (tmp_path / "live.html").read_text(), "nobody draws it any more"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first stage is done, for tests that end the second."""
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("runs") / "tiny"
    run(TINY, out, until="see")
    torch.set_num_threads(threads)
    return out


def test_a_run_that_ends_early_says_so(prepared: Path) -> None:
    found = LivePage(prepared).draw()
    assert (found.state, found.planned, [stage.name for stage in found.stages]) == ("done", ["see"], ["see"])
    assert found.stages[0].step == found.stages[0].steps == 3
    assert {node.name: node.state for node in found.nodes}["stages/see"] == "done"


def test_a_stage_with_a_fault_leaves_a_page(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = Path(shutil.copytree(prepared, tmp_path / "run"))
    with pytest.raises(Refused, match="train/non-finite"):
        run(TINY, out, ["stages.see.train.encoders.learning_rate=1e38", "stages.see.steps=6"], until="see")
    assert f"look at {out / 'live.html'}" in capsys.readouterr().err
    text = (out / "live.html").read_text()
    [fault] = [event for event in Events(out / "events.jsonl").read() if event["event"] == "fault"]
    assert f"Fault in stage see at step {fault['step']}" in text and all(row["id"] in text for row in fault["rows"])
    shown = text.partition("Fault in stage")[2].partition("<h2>")[0]
    assert shown.count('src="data:image/') == len(fault["rows"])
    assert [event["state"] for event in Events(out / "events.jsonl").read() if event["event"] == "ended"] == ["done", "failed"]


@pytest.mark.parametrize("ended", [KeyboardInterrupt(), SystemExit(143)])
def test_a_run_that_is_asked_to_end_is_stopped_not_failed(ended: BaseException, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Path(shutil.copytree(prepared, tmp_path / "run", ignore=shutil.ignore_patterns("live.html")))

    def stop(*given: object) -> None:
        raise ended

    monkeypatch.setattr("sightline.run_stages._train", stop)
    with pytest.raises(type(ended)):
        run(TINY, out, ["stages.see.steps=2"], until="see")
    assert {node["name"]: node["state"] for node in json.loads((out / "graph.json").read_text())}["stages/see"] == "stopped"
    found = history(Events(out / "events.jsonl").read())
    assert (found.state, found.node) == ("stopped", "stages/see") and "the same command goes on from there" in status(found)
    assert not any(event["event"] == "failed" for event in Events(out / "events.jsonl").read()) and not (out / "live.html").exists()
