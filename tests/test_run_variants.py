"""Studies: rows share what they have in common, nothing is made twice, a killed study goes on, and what is wrong with a row is told before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sightline.errors import Refused
from sightline.expansion import expand
from sightline.plan import plan
from sightline.plan_variants import StudyPlan
from sightline.recipe import load
from sightline.run import Run, run
from sightline.run_variants import StudyResult
from sightline.twin import write_twin

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"


def study(folder: Path, vary: object = None, **more: object) -> Path:
    """One model that writes, two stages, two sets that may join, an evaluation that decides and one that is reported."""
    tree = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    del tree["model"]["text_encoder"]
    tree["model"]["tokenizer"] = {"train_on": ["questions"], "size": 300}
    scenes = {"count": 6, "val_share": 0.0, "test_share": 0.0, "size": 64}
    read = [{"format": "karpathy-captions"}, {"format": "label-masks"}, {"format": "dota"}]
    tree["data"] = {
        **{name: {"make": {"scenes": {**scenes, "seed": seed}}, "read": read} for name, seed in (("scenes", 1), ("dev-scenes", 2), ("test-scenes", 3))},
        "questions": {"source": "scenes", "then": [{"questions": {"per_picture": 2}}]},
        "more": {"source": "scenes", "then": [{"questions": {"per_picture": 1}}]},
        **{name: {"source": f"{name}-scenes", "then": [{"questions": {"per_picture": 2}}]} for name in ("dev", "test")},
    }
    train = {"connector": {"learning_rate": 1.0e-2}}
    stage = {"objective": "answer-likelihood", "data": {"questions": 1.0}, "train": train, "batch": 4, "steps": 3}
    tree["stages"] = [{"name": "align", **stage}, {"name": "instruct", **stage, "train": {**train, "language_model": {"learning_rate": 1.0e-2}}}]
    asked = {"controls": False, "precision": "float32"}
    tree["evaluate"] = {name: {"benchmark": {"questions": {"data": name, "max_tokens": 3}}, **asked} for name in ("test", "dev")}
    tree |= {"vary": vary} if vary else {}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(json.loads(json.dumps({**tree, **more})), sort_keys=False), encoding="utf-8")
    return file


ROWS = {
    "rows": {
        "rows": {
            "longer": {"stages.instruct.steps": 4},
            "chosen": {"select": {"stage": "instruct", "candidates": ["more"], "select_on": "dev", "accept": "no-worse"}},
        }
    }
}


def states(result: object) -> list[str]:
    assert isinstance(result, StudyResult)
    return [node.name for node in result.nodes if node.state == "done"]


@pytest.mark.slow
def test_common_work_is_done_once_and_a_killed_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = study(tmp_path, ROWS), tmp_path / "out"
    node, done = Run.node, list[str]()

    def dying(self: Run, name: str, *rest: object, **more: object) -> None:
        work = rest[3]

        def counted(fingerprint: str) -> None:
            work(fingerprint)  # pyright: ignore[reportCallIssue]
            done.append(name)
            if len(done) in (4, 11, 13):  # after the work, before it is recorded: while data is made, between rows, in a trial
                raise KeyboardInterrupt

        node(self, name, *rest[:3], counted, *rest[4:], **more)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(Run, "node", dying)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(file, out)
    result = run(file, out)
    assert isinstance(result, StudyResult)
    assert done.count("made/scenes") == done.count("data/questions") == done.count("tokenizer/model") == done.count("stages/align") == 1
    assert done.count("stages/instruct") == 3, "the base, the longer one, and the one with one more set; base trial and final are found"
    assert states(run(file, out)) == []
    folders = [(out / "variants" / "rows" / row / "stages" / "01-align" / "model").resolve() for row in ("base", "longer", "chosen")]
    assert len(set(folders)) == 1 and (folders[0] / "lineage.json").is_file()
    [table] = result.tables
    assert [row.name for row in table.rows] == ["base", "longer", "chosen"]
    assert [row.spent.steps for row in table.rows] == [6, 7, 9]
    assert table.columns == ("test",), "what was selected on is no column"
    selection = json.loads((out / "select" / "rows" / "chosen" / "selection.json").read_text(encoding="utf-8"))
    assert [trial["candidate"] for trial in selection["trials"]] == ["more"]
    for end in ("md", "tex", "json"):
        assert (out / "tables" / f"rows.{end}").is_file()
    moved = tmp_path / "elsewhere"
    out.rename(moved)
    assert (moved / "variants" / "rows" / "longer" / "data" / "questions" / "lineage.json").is_file(), "links lead there wherever the study lies"


def test_what_is_wrong_with_a_row_is_told_at_its_line(tmp_path: Path) -> None:
    file = study(tmp_path, {"t": {"rows": {"a": {"stages.align.stepz": 4}, "b": {"stages.align.batch": 0}, "c": {"stages.other.steps": 1}}}})
    with pytest.raises(Refused) as refused:
        run(file, tmp_path / "out")
    lines = file.read_text(encoding="utf-8").splitlines()
    told = {problem.place for problem in refused.value.problems}
    assert {f"{file}:{number}" for number, line in enumerate(lines, 1) if "stepz" in line or "batch: 0" in line or "stages.other" in line} <= told
    assert not (tmp_path / "out").exists()


def test_keys_of_the_study_itself_do_not_vary(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="same for all rows"):
        load(study(tmp_path, {"t": {"rows": {"a": {"name": "other"}}}}))


def test_rows_of_a_grid_are_all_combinations(tmp_path: Path) -> None:
    grid = {"rate": {"low": {}, "high": {"stages.align.batch": 2}}, "seed": {"zero": {}, "one": {"seed": 1}}}
    rows = expand(study(tmp_path, {"t": {"grid": grid}}))["t"]
    assert [(row.name, row.loaded.recipe.stages[0].batch, row.loaded.recipe.seed) for row in rows] == [
        ("low-zero", 4, 0),
        ("low-one", 4, 1),
        ("high-zero", 2, 0),
        ("high-one", 2, 1),
    ]
    assert all(not row.loaded.recipe.vary for row in rows)


def test_cumulative_rows_keep_what_was_added(tmp_path: Path) -> None:
    rows = expand(study(tmp_path, {"t": {"cumulative": True, "rows": {"a": {"seed": 5}, "b": {"stages.align.batch": 2}}}}))["t"]
    assert [(row.loaded.recipe.seed, row.loaded.recipe.stages[0].batch) for row in rows] == [(0, 4), (5, 4), (5, 2)]


def test_paths_in_a_row_start_from_its_file(tmp_path: Path) -> None:
    rows = expand(study(tmp_path, {"t": {"rows": {"a": {"data.scenes": {"read": {"format": "auto", "path": "there"}}}}}}))["t"]
    assert rows[1].loaded.recipe.data["scenes"].read[0].path == str(tmp_path / "there")


def test_a_choice_by_what_is_reported_is_refused(tmp_path: Path) -> None:
    select = {"stage": "instruct", "candidates": ["more"], "select_on": "dev"}
    file = study(tmp_path, select=select)
    with pytest.raises(Refused, match="recipe/test-selection") as refused:
        run(file, tmp_path / "out", ["evaluate.dev.benchmark.questions.data=test"])
    assert "share" in str(refused.value)
    assert not list((tmp_path / "out").rglob("stages"))


def test_a_plan_counts_what_rows_share(tmp_path: Path) -> None:
    planned = plan(study(tmp_path, ROWS), model_only=False)
    assert isinstance(planned, StudyPlan)
    assert [row.name for row in planned.rows] == ["base", "longer", "chosen: base", "chosen: base+more", "chosen"]
    assert len(planned.stages) == 4, "one alignment; instruct as it is, longer, and with one more set"
    assert planned.rows[2].shared == planned.rows[2].nodes
    assert planned.hours < sum(row.hours for row in planned.rows)
    assert "3 rows, 2 trials" in str(planned)


def test_the_twin_of_a_study_is_a_study(tmp_path: Path) -> None:
    file = write_twin(study(tmp_path, ROWS), [], tmp_path / "twin")
    [rows] = expand(file).values()
    assert [row.name for row in rows] == ["base", "longer", "chosen"]
    assert rows[2].loaded.recipe.select is not None and rows[2].loaded.recipe.select.allow_test_selection
    assert rows[0].loaded.recipe.data == rows[2].loaded.recipe.data


def test_one_run_has_one_engine(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="run/one-row"):
        run(study(tmp_path), tmp_path / "out", engine="ray")
    assert not (tmp_path / "out").exists()
