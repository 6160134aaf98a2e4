"""The harnesses of `make bench` and `make soak`: they pass what is good, fail what is bad, and say what they found. The long lines are tried with fakes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench
import figures
import hostile_json
import hostile_pictures
import hostile_recipes
import killed_runs
import run_bars
import soak
import task_bars
from figures import Circumstances, Figure, Unmeasured
from hostile_pictures import Outcome

from sightline.data.readers import files
from sightline.errors import Problem, Refused
from sightline.samples import pictures

NOW = Circumstances(date="2000-01-01", machine="a machine", software={"python": "3"}, revision="abc")


def value(score: float, low: float | None = None) -> dict[str, Any]:
    """One metric of scores.json."""
    return {"value": score, "low": score - 0.01 if low is None else low, "high": score + 0.01, "n": 100}


def question_scores(pictures: int = 500, **changed: float) -> dict[str, Any]:
    """Scores of a run that passes; `KIND=score` changes the model's, `blind_KIND=low` the low end of a blind control's."""
    kinds = ["presence", "labels", "count", "at", "where"]
    metrics = {kind: value(0.99) for kind in [*kinds, "count-not-one"]} | {
        kind: value(score) for kind, score in changed.items() if not kind.startswith("blind_")
    }
    blind = {kind: value(0.3) for kind in kinds} | {"count-not-one": value(0.6)}
    blind |= {kind.removeprefix("blind_"): value(0.9, low) for kind, low in changed.items() if kind.startswith("blind_")}
    majority = {kind: value(0.35) for kind in kinds} | {"count-not-one": value(0.0)}
    asked = [{"request": f"{number}#{pair}", "kind": kinds[(number + pair) % 5]} for number in range(pictures) for pair in range(2)]
    names = {"shuffled pictures": blind, "no picture": blind, "commonest answer": majority, "thumbnail probe": {**majority, "presence": value(0.7)}}
    return {"model": {"metrics": metrics, "per_request": asked}, "controls": {name: {"metrics": table} for name, table in names.items()}}


def caption_scores(bleu: float = 0.25, named: float = 0.5, shuffled: float = 0.1) -> dict[str, Any]:
    """Scores of a captioning run."""
    controls = {"shuffled pictures": {"bleu-4": value(shuffled), "class": value(0.03)}, "caption of another": {"bleu-4": value(0.08), "class": value(0.02)}}
    model = {"metrics": {"bleu-4": value(bleu), "class": value(named)}, "per_request": []}
    return {"model": model, "controls": {name: {"metrics": table} for name, table in controls.items()}}


def failed(found: Iterator[Figure] | list[Figure]) -> list[str]:
    """Names of the figures that failed."""
    return [figure.name for figure in found if not figure.passed]


# figures


@pytest.mark.parametrize(
    ("figure", "passed", "text"),
    [
        (Figure(name="a", values=(0.3, 0.1, 0.2), unit="s", most=0.2), True, "0.2 s (median of 3, 0.1 to 0.3)"),
        (Figure(name="a", values=(0.3, 0.1, 0.2), unit="s", most=0.19), False, "at most 0.19 s"),
        (Figure(name="a", values=(0.3, 0.1), take="least", least=0.2), False, "0.1 (least of 2, 0.1 to 0.3)"),
        (Figure(name="a", values=(0.3, 0.1), take="largest", most=0.2), False, "0.3 (largest of 2"),
        (Figure(name="a", values=(20000.0,), least=20000), True, "at least 20,000"),
        (Figure(name="a", values=(0.5,)), True, "no bar"),
        (Figure(name="a", values=(), note="why"), False, "not measured"),
        (Figure(name="a", values=(float("nan"),), least=0.0), False, "nan"),
    ],
)
def test_a_figure_is_held_against_its_bar(figure: Figure, passed: bool, text: str) -> None:
    assert figure.passed is passed
    assert str(figure).startswith("PASS  a" if passed else "FAIL  a")
    assert text in str(figure)
    json.dumps(figure.record())


def test_what_stops_a_line_does_not_stop_the_others_and_a_bug_is_not_hidden() -> None:
    def absent() -> Iterator[Figure]:
        yield Figure(name="first", values=(1.0,))
        raise Unmeasured("no data")

    def refused() -> Iterator[Figure]:
        raise Refused(Problem(code="a/b", place="there", found="that"))

    def broken() -> Iterator[Figure]:
        raise KeyError("bug")

    found = figures.show(figures.measure({"absent": absent, "refused": refused}))
    assert failed(found) == ["absent", "refused"]
    assert [figure.note for figure in found] == ["", "no data", "a/b at there |   found:   that"]
    with pytest.raises(KeyError):
        list(figures.measure({"broken": broken}))


def test_a_table_is_appended(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    file.write_text("# Results\n\n\n")
    section = figures.table([Figure(name="a", values=(1.0,), most=0.0, note="x|y"), Figure(name="b", values=(1.0,))], NOW, "bench.py --seeds 1")
    figures.append(file, section)
    assert "| **fail** | a | 1 | at most 0 | x/y |\n| pass | b | 1 | no bar |  |" in file.read_text()
    assert file.read_text().startswith("# Results\n\n## 2000-01-01: a machine\n\n`bench.py --seeds 1`, revision abc; python 3.\n")


def test_the_processor_has_a_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Toy 3000\n")
    assert figures.processor(tmp_path / "cpuinfo") == "Toy 3000"
    assert figures.processor(tmp_path / "absent") == "unnamed processor"


# figures of runs


def test_good_answers_pass_and_the_probe_stands_beside() -> None:
    found = list(run_bars.question_figures("q", [question_scores()] * 3))
    assert failed(found) == []
    assert [figure.name for figure in found][-3:] == ["q shuffled pictures", "q no picture", "q pictures"]
    assert found[0].note == "commonest answer 0.350, thumbnail probe 0.700"


@pytest.mark.parametrize(("kind", "bar"), run_bars.QUESTION_BARS.items())
def test_a_kind_below_its_bar_fails_by_the_median(kind: str, bar: float) -> None:
    low, high = question_scores(**{kind: bar - 0.01}), question_scores(**{kind: bar})
    assert failed(run_bars.question_figures("q", [low, low, high])) == [f"q {kind}"]
    assert failed(run_bars.question_figures("q", [low, high, high])) == []


def test_a_blind_control_above_the_commonest_answer_fails_and_names_the_kind() -> None:
    found = list(run_bars.question_figures("q", [question_scores(blind_where=0.36)]))
    assert failed(found) == ["q shuffled pictures", "q no picture"]
    assert "largest in where" in str(found[-3])
    assert failed(run_bars.question_figures("q", [question_scores(blind_where=0.34)])) == []


def test_too_few_pictures_fail() -> None:
    assert failed(run_bars.question_figures("q", [question_scores(), question_scores(pictures=499)])) == ["q pictures"]


def test_scores_without_controls_cannot_be_judged() -> None:
    scores = question_scores()
    del scores["controls"]["no picture"]
    with pytest.raises(Unmeasured, match="no no picture or no commonest answer"):
        list(run_bars.question_figures("q", [scores]))
    with pytest.raises(Unmeasured, match="no labels of the model"):
        run_bars.metric_values([caption_scores()], "labels")


@pytest.mark.parametrize(
    ("scores", "seconds", "wrong"),
    [
        (caption_scores(), 1500.0, []),
        (caption_scores(bleu=0.19), 1.0, ["r bleu-4"]),
        (caption_scores(named=0.34), 1.0, ["r class"]),
        (caption_scores(shuffled=0.12), 1.0, ["r shuffled bleu-4"]),
        (caption_scores(), 1501.0, ["r time"]),
    ],
)
def test_captions_against_their_bars(scores: dict[str, Any], seconds: float, wrong: list[str]) -> None:
    assert failed(run_bars.caption_figures("r", [scores], [seconds])) == wrong


def test_scores_and_seconds_of_a_run_that_was_stopped_once(tmp_path: Path) -> None:
    events = [("start", 0.0), ("done", 5.0), ("done", 7.0)]
    lines = [json.dumps({"event": kind, "node": "stages/a", "seconds": seconds}) for kind, seconds in events]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, json.dumps({"event": "done", "node": "stages/b", "seconds": 1.5})]))
    assert run_bars.seconds_of(tmp_path) == 8.5
    (tmp_path / "evaluate" / "said").mkdir(parents=True)
    (tmp_path / "evaluate" / "said" / "scores.json").write_text(json.dumps(caption_scores()))
    assert run_bars.scores_with(tmp_path, "bleu-4") == run_bars.scores_of(tmp_path, "said")
    with pytest.raises(Unmeasured, match="has presence"):
        run_bars.scores_with(tmp_path, "presence")
    with pytest.raises(Unmeasured, match="is not there"):
        run_bars.scores_of(tmp_path, "asked")


# lines of bench.py

FAKE = """
import json, pathlib, sys
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
for name, scores in (("questions", {questions}), ("captions", {captions})):
    folder = out / "evaluate" / name
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(scores))
(out / "events.jsonl").write_text(json.dumps({{"event": "done", "node": "a", "seconds": 2.0}}) + "\\n")
(out / "words.json").write_text(json.dumps(words))
"""


@pytest.fixture
def place(tmp_path: Path) -> bench.Bench:
    """A bench whose `sightline` is a fake that trains at once."""
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE.format(questions=question_scores(), captions=caption_scores()))
    return bench.Bench(out=tmp_path / "runs", data=tmp_path, seeds=2, overrides=("threads=1",), program=(sys.executable, str(fake)))


def test_the_quickstart_line_runs_every_seed_on_scenes_of_its_own(place: bench.Bench) -> None:
    found = list(bench.quickstart(place))
    assert failed(found) == []
    assert found[-1].values == (2.0, 2.0)
    words = [json.loads((place.out / f"quickstart-{seed}" / "words.json").read_text()) for seed in range(2)]
    assert words[0][4:] == ["seed=0", "data.scenes.make.scenes.seed=1", "data.held-out.make.scenes.seed=2", "threads=1"]
    assert words[1][4:] == ["seed=1", "data.scenes.make.scenes.seed=3", "data.held-out.make.scenes.seed=4", "threads=1"]


def test_the_rsicd_line_names_the_data_or_says_that_it_lacks(place: bench.Bench) -> None:
    with pytest.raises(Unmeasured, match="rsicd is not there: give the folder of the data sets with --data"):
        list(bench.rsicd(place))
    (place.data / "rsicd").mkdir()
    assert failed(bench.rsicd(place)) == []
    assert f"data.captions.read.path={place.data / 'rsicd'}" in json.loads((place.out / "rsicd" / "words.json").read_text())


TASKS = """
import json, pathlib, sys
words, told = sys.argv[1:], {told}
if words[0] == "eval":
    print(json.dumps(told["levir"]))
    raise SystemExit
out = pathlib.Path(words[words.index("--out") + 1])
for name, scores in told["runs"].items():
    folder = out / "evaluate" / name
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(scores))
(out / "events.jsonl").write_text(json.dumps({{"event": "done", "node": "a", "seconds": 2.0}}) + "\\n")
"""


def task_scores(**changed: float) -> dict[str, Any]:
    """Scores of runs that pass, but for what is changed."""

    def scores(*metrics: str, **more: Any) -> dict[str, Any]:
        return {"metrics": {metric: value(changed.get(metric.replace(" ", "_").replace("-", "_"), 0.9)) for metric in metrics}, **more}

    asked = [("blur", 1.0), ("模糊", 0.0), ("no fault", 1.0)]
    rows = [{"request": f"{number}#1", "kind": "quality-kind", "expected": [word], "score": score} for number, (word, score) in enumerate(asked)]
    controls = {"no picture": {"metrics": {"f1": value(0.1), "quality": value(0.4)}}}
    quality = {
        "model": scores(
            "quality", "quality-kind", "quality-choice", per_request=[*rows, {"request": "0#0", "kind": "quality", "expected": ["Yes"], "score": 1.0}]
        )
    }
    change = {"model": scores("changed f1", "f1", "changed accuracy")}
    runs = {"quality": quality, "change": change, "questions": {"model": scores("change-kind")}}
    return {"runs": {name: {**told, "controls": controls} for name, told in runs.items()}, "levir": scores("changed f1", "f1")}


def test_the_tasks_lines_hold_figures_against_their_bars(place: bench.Bench, tmp_path: Path) -> None:
    with pytest.raises(Unmeasured, match="rsicd is not there"):
        list(bench.tasks(place))
    for name in ("rsicd", "levir_cd"):
        (place.data / name).mkdir()
    found: list[Figure] = []
    for number, (changed, broken) in enumerate([({}, []), ({"quality_kind": 0.8, "f1": 0.6}, ["tasks quality-kind", "tasks change f1 of pixels"])]):
        fake = tmp_path / f"tasks-{number}.py"
        fake.write_text(TASKS.format(told=task_scores(**changed)), encoding="utf-8")
        found = list(bench.tasks(bench.Bench(out=tmp_path / f"out-{number}", data=place.data, program=(sys.executable, str(fake)))))
        assert failed(found) == broken
    named = {figure.name: figure for figure in found}
    assert (
        named["tasks quality of blur"].values == (0.5,) and "1 of 2" in named["tasks quality of blur"].note and named["tasks quality of clean"].values == (1.0,)
    )
    assert "no picture 0.400" in named["tasks quality"].note and named["tasks LEVIR-CD f1"].least is None


def test_task_bars_end_with_one_line_of_json(place: bench.Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(task_bars, "quality_figures", lambda *told: iter([Figure(name="tasks quality", values=(0.9,), least=0.85)]))
    assert task_bars.main(["--only", "quality", "--out", str(tmp_path), "--data", str(tmp_path)]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out.splitlines()[-1])] == ["tasks quality"]


def test_a_command_that_fails_or_is_absent_is_told(place: bench.Bench, tmp_path: Path) -> None:
    for program, message in (((sys.executable, "-c", "raise SystemExit(3)"), "sightline plan ended with 3"), ((str(tmp_path / "none"),), "No such file")):
        with pytest.raises(Unmeasured, match=message):
            list(bench.plan_time(bench.Bench(out=place.out, data=place.data, seeds=1, program=program)))


def test_short_lines_measure(place: bench.Bench) -> None:
    rates = list(bench.reading(place, count=1))
    assert [figure.name for figure in rates] == ["reading make", "reading read", "reading visit"]
    assert all(len(figure.values) == 2 and min(figure.values) > 0 for figure in rates)
    assert list(place.out.iterdir()) == []
    assert failed(bench.scores(place, count=20)) == []
    assert failed(bench.read_write(place, rows=40)) == []
    assert [figure.name for figure in bench.data_check(place, photos=8)] == ["check speed, photos"]


def test_bench_main_measures_writes_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench.Circumstances, "now", classmethod(lambda cls: NOW))
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "RESULTS.md")
    monkeypatch.setitem(bench.LINES, "scores", lambda bench: iter([Figure(name="scores", values=(2.0,), most=1.0)]))
    (tmp_path / "RESULTS.md").write_text("# Results\n")
    assert bench.main(["--only", "help-time", "--only", "scores", "--json", str(tmp_path / "a.json"), "--record", "--out", str(tmp_path)]) == 1
    written = json.loads((tmp_path / "a.json").read_text())
    assert [(each["name"], each["passed"]) for each in written["figures"]] == [("help-time", True), ("scores", False)]
    assert len(written["figures"][0]["values"]) == 5
    assert "`bench.py --only help-time --only scores --seeds 3`" in (tmp_path / "RESULTS.md").read_text()
    assert "2 figures, 1 failed" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        bench.main(["--record", "--set", "seed=1"])
    assert "not those of the shipped recipes" in capsys.readouterr().err


# lines of soak.py


def test_hostile_inputs_are_judged() -> None:
    def refuse() -> None:
        raise Refused(Problem(code="a/b", place="x", found="that"))

    assert hostile_pictures.tried("a", refuse).fault == ""
    assert hostile_pictures.tried("a", refuse, refused=False).fault == "was refused: a/b, that"
    assert hostile_pictures.tried("a", lambda: None, refused=True).fault == "was not refused"
    assert hostile_pictures.tried("a", lambda: {}["key"]).fault == "KeyError came through: 'key'"


def test_faults_are_counted_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    figure = soak.judged("line", [Outcome(name="good", seconds=0.5), *(Outcome(name=f"bad {number}", fault="boom") for number in range(12))])
    assert (figure.value, figure.passed) == (12, False)
    assert "13 tried, the slowest took 0.5 s" in str(figure)
    assert capsys.readouterr().out.count("boom") == soak.SHOWN
    assert soak.judged("line", [Outcome(name="good")]).passed
    with pytest.raises(AssertionError, match="line tried nothing"):
        soak.judged("line", [])


def test_pictures_hold_and_a_decoder_that_does_not_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    checks = [
        *hostile_pictures.check_bombs(),
        *hostile_pictures.check_strips(),
        *hostile_pictures.check_orientations(rng, 5),
        *hostile_pictures.check_torn(rng, 5),
    ]
    assert [outcome for outcome in checks if outcome.fault] == []
    assert [outcome.fault for outcome in hostile_pictures.check_large(300) if outcome.fault] == []
    monkeypatch.setattr(pictures.ImageOps, "exif_transpose", lambda image, in_place: None)
    wrong = [outcome for outcome in hostile_pictures.check_orientations(rng, 0) if outcome.fault]
    assert {outcome.name for outcome in wrong} >= {f"{form} orientation {turn}" for form in ("PNG", "WEBP", "JPEG") for turn in range(2, 9)}
    monkeypatch.setattr(hostile_pictures, "BOMB_SECONDS", 0.0)
    assert all("took 0.0 s" in outcome.fault or "took 0.1 s" in outcome.fault for outcome in hostile_pictures.check_bombs())


@pytest.mark.slow
def test_json_holds_and_a_reader_that_does_not_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [hostile_json.CASES[0], hostile_json.CASES[-1]]
    monkeypatch.setattr(hostile_json, "values", lambda: [None, [], 10**30, "\ud800"])
    for number, case in enumerate(few):
        (tmp_path / str(number)).mkdir()
        assert [outcome for outcome in hostile_json.check_case(case, tmp_path / str(number), 3) if outcome.fault] == []
    monkeypatch.setattr(files, "parse_json", json.loads)
    (tmp_path / "sabotaged").mkdir()
    faults = " ".join(outcome.fault for outcome in hostile_json.check_case(few[0], tmp_path / "sabotaged", 2))
    assert "RecursionError came through" in faults
    assert "UnicodeEncodeError came through" in faults


def test_hostile_places_are_all_visited() -> None:
    tree = {"a": [1, {"b": 2}]}
    assert list(hostile_json.paths(tree)) == [(), ("a",), ("a", 0), ("a", 1), ("a", 1, "b")]
    assert hostile_json.put(tree, ("a", 1, "b"), 3) == {"a": [1, {"b": 3}]}
    assert hostile_json.without(tree, ("a", 0)) == {"a": [{"b": 2}]}
    assert tree == {"a": [1, {"b": 2}]}


def test_recipes_hold_and_one_that_is_let_through_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = hostile_recipes.texts()
    chosen = {name: whole[name] for name in ("alias bomb", "tag that calls", "deep flow lists", "stage that leads out", "extends itself")}
    monkeypatch.setattr(hostile_recipes, "texts", lambda: {**chosen, "harmless": "extends: quickstart\nseed: 3\n"})
    found = list(hostile_recipes.check_all(tmp_path, tries=1))
    assert [(outcome.name, outcome.fault) for outcome in found if outcome.fault] == [("recipe: harmless", "was not refused")]


SLOW = """
import json, os, pathlib, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
for old in out.glob(".tmp-*"):
    old.unlink()
for name in ("a", "b", "c"):
    (out / "data").mkdir(parents=True, exist_ok=True)
    whole, file = out / "data" / name, out / "{temporary}"
    if whole.exists():
        continue
    with (file if "tmp" in file.name else whole).open("w") as stream:
        for part in range(10):
            stream.write(name * 100)
            stream.flush()
            time.sleep(0.02)
    if file.exists():
        file.rename(whole)
sizes = [{{"name": file.name, "id": str(file.stat().st_size)}} for file in sorted((out / "data").iterdir())]
(out / "graph.json").write_text(json.dumps(sizes))
"""


@pytest.mark.parametrize(("temporary", "torn"), [(".tmp-file", False), ("in-place", True)])
def test_killed_runs_are_told_apart_from_whole_ones(temporary: str, torn: bool, tmp_path: Path) -> None:
    program = tmp_path / "slow.py"
    program.write_text(SLOW.format(temporary=temporary))
    outcomes = list(killed_runs.check_all((sys.executable, str(program)), tmp_path / "no.yaml", tmp_path, seed=1, kills=4))
    assert len(outcomes) == 4
    assert sum(outcome.name.startswith("killed") for outcome in outcomes) >= 2
    faults = [outcome.fault for outcome in outcomes if outcome.fault]
    assert bool(faults) is torn, faults
    assert all("half written: data/" in fault and "other ids: " in fault for fault in faults)


def test_a_run_that_cannot_end_is_unmeasured(tmp_path: Path) -> None:
    with pytest.raises(Unmeasured, match="ended with 4: see"):
        killed_runs.finish((sys.executable, "-c", "raise SystemExit(4)"), tmp_path / "no.yaml", tmp_path / "out")


def test_orphans_are_seen() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], start_new_session=True)
    assert killed_runs.orphans(process.pid, patience=0.2)
    process.kill()
    process.wait()
    start = time.monotonic()
    assert not killed_runs.orphans(process.pid, patience=5.0)
    assert time.monotonic() - start < 5.0


def test_soak_main_reads_many_rows(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(soak.LINES, "read-many", lambda place: soak.read_many(place, rows=50))
    soak.main(["--only", "read-many"])
    assert "PASS  read-many rows                  50 " in capsys.readouterr().out


def test_soak_serves_and_reads_what_came_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A fault of one request and memory that grew fail their figures; without either both pass."""

    def tried(program: Any, folder: Path, seed: int, requests: int, load: Any) -> Iterator[Outcome]:
        load.early, load.late = 100.0, 100.0 + requests
        load.counts.update(given=2, hostile=3)
        yield Outcome(name="stream", fault="broke" if requests == 9 else "")

    monkeypatch.setattr(soak.served_requests, "check_all", tried)
    for requests, wrong in ((4, []), (9, ["serve", "serve memory"])):
        (tmp_path / str(requests)).mkdir()
        assert failed(soak.serve(soak.Soak(scratch=tmp_path / str(requests), requests=requests))) == wrong


@pytest.mark.slow
def test_a_server_is_asked_rightly_wrongly_and_in_vain(tmp_path: Path) -> None:
    """A few requests of the soak, to a server process."""
    load = soak.served_requests.Load()
    outcomes = list(soak.served_requests.check_all((sys.executable, "-m", "sightline"), tmp_path, 3, 30, load))
    assert [outcome.fault for outcome in outcomes if outcome.fault] == [] and len(outcomes) == 30
    assert load.counts["given"] and load.counts["hostile"] and min(load.early, load.late) > 50
