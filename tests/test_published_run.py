"""A recipe asks a published benchmark of a stage's model, with controls and with a judge; what does not fit is told before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from published_files import coded, mme_folder, tsv, vet_file
from scripted_endpoint import scripted
from sightline.errors import Refused
from sightline.recipe import load
from sightline.run import run
from sightline.twin import twin

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """One short stage, and the files of three benchmarks beside it."""
    head, rest = TINY.read_text(encoding="utf-8").split("data:\n", 1)
    model = head.split("  text_encoder:")[0] + "  tokenizer: {train_on: [questions], size: 400}\n"
    scenes = rest.split("  held-out:")[0].replace("count: 12", "count: 4") + "  questions: {source: scenes, then: [{questions: {per_picture: 2}}]}\n"
    stage = "stages: [{name: align, objective: answer-likelihood, data: {questions: 1.0}, train: {connector: {learning_rate: 1.0e-3}}, batch: 4, steps: 1}]\n"
    benchmarks = (
        "evaluate:\n  mme: {benchmark: {mme: {path: MME, max_tokens: 2}}, precision: float32}\n"
        "  star: {benchmark: {mmstar: {path: star.tsv, max_tokens: 2}}, controls: false, precision: float32}\n"
    )
    mme_folder(tmp_path / "MME")
    tsv(tmp_path / "star.tsv", "index image question A B answer category l2-category", *([k, coded(k), "q", "x", "y", "A", "c", "l"] for k in range(2)))
    vet_file(tmp_path)
    (tmp_path / "recipe.yaml").write_text(f"{model}data:\n{scenes}{stage}{benchmarks}", encoding="utf-8")
    return tmp_path / "recipe.yaml"


@pytest.mark.slow
def test_a_run_asks_published_benchmarks(recipe: Path, tmp_path: Path) -> None:
    with scripted(lambda asked, number: "0.5") as endpoint:
        judged = f"evaluate.vet={{benchmark: {{mm-vet: {{path: {tmp_path / 'mm-vet.json'}, pictures: {tmp_path / 'images'}, max_tokens: 2}}}}, controls: false, judge: '{endpoint.url}#m'}}"
        result = run(recipe, tmp_path / "out", [judged])
    assert set(result.controls["mme"]) == {"shuffled pictures", "no picture"} and result.scores["vet"]["all"] == 0.5
    assert {"all", "count score", "scene acc+"} <= set(result.scores["mme"]) and "macro" in result.scores["star"]
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["benchmarks"]["mme"]["metrics"]["count score"]["n"] == 4
    assert len((tmp_path / "out" / "evaluate" / "vet" / "verdicts.jsonl").read_text(encoding="utf-8").splitlines()) >= 1
    (tmp_path / "MME" / "count" / "0.txt").write_text("Is it else?\tYes\nIs it 9?\tNo\n", encoding="utf-8")
    again = {node.name: node.state for node in run(recipe, tmp_path / "out").nodes}
    assert (again["stages/align"], again["evaluate/mme"], again["evaluate/star"]) == ("skipped", "done", "skipped")


def test_what_does_not_fit_is_told_before_any_work(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"evaluate\.vet\.judge"):
        load(recipe, ["evaluate.vet={benchmark: {mm-vet: {path: mm-vet.json}}}"])
    with pytest.raises(Refused, match=r"evaluate\.mme\.thumbnails"):
        load(recipe, ["evaluate.mme.thumbnails=questions"])
    with pytest.raises(Refused) as refused:
        run(recipe, tmp_path / "out", ["evaluate.mme.benchmark.mme.path=nowhere", "evaluate.star.judge=nobody"])
    assert [problem.code for problem in refused.value.problems] == ["run/absent-data", "data/no-model"] and not (tmp_path / "out").exists()


def test_a_twin_leaves_published_files_out(recipe: Path) -> None:
    loaded = load(recipe).recipe
    assert set(loaded.evaluate) == {"mme", "star"} and not twin(loaded).evaluate
    assert loaded.evaluate["mme"].benchmark.path == str(recipe.parent / "MME")  # pyright: ignore[reportAttributeAccessIssue]
