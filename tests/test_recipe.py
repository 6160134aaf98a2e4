"""The typed recipe: what it may say, and that all its faults are told at once with their lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sightline import recipe_source
from sightline.errors import Refused
from sightline.recipe import Recipe, load

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"


def line(text: str) -> int:
    """Number of the line of tiny.yaml that holds `text`."""
    return next(number for number, said in enumerate(TINY.read_text().splitlines(), 1) if text in said)


def refused(*overrides: str) -> list[tuple[str, str]]:
    """(place, what is allowed) of every problem."""
    with pytest.raises(Refused) as caught:
        load(TINY, overrides)
    return [(problem.place, problem.allowed) for problem in caught.value.problems]


def test_a_recipe_is_read_and_written_back_equal() -> None:
    recipe = load(TINY).recipe
    assert [stage.name for stage in recipe.stages] == ["see", "read", "align", "instruct"]
    assert list(recipe.all_models()) == ["model"]
    assert recipe.model_of(recipe.stages[0]) == "model"
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert "kind: answer-likelihood" in recipe_source.dump(recipe)


def test_every_fault_is_told_at_once_with_its_place() -> None:
    found = refused(
        "data.captions.source=scene",
        "data.notes.source=questions",
        "data.questions.source=notes",
        "model.tokenizer.train_on=[captions, nothing]",
        "stages.see.data={caption: 1.0}",
        "stages.read.model=other",
        "evaluate.questions.stage=teach",
        "evaluate.questions.thumbnails=nowhere",
    )
    there = "; there is captions, held-out, notes, questions, scenes, test-questions"
    assert found == [
        ("override: data.captions.source", f"no data 'scene'{there}"),
        ("override: model.tokenizer.train_on", "no data 'nothing'"),
        ("override: stages.see.data", f"no data 'caption'{there}"),
        ("override: stages.read.model", "no model 'other'; there is model"),
        ("override: evaluate.questions.thumbnails", f"no data 'nowhere'{there}"),
        ("override: evaluate.questions.stage", "no stage 'teach'; there is see, read, align, instruct"),
        ("override: data.notes.source", "goes round in a circle: notes -> questions -> notes"),
        ("override: data.questions.source", "goes round in a circle: questions -> notes -> questions"),
    ]


def test_places_are_lines_of_the_file(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(TINY.read_text().replace("data: {captions: 1.0}, train", "data: {caption: 1.0}, train").replace("thumbnails: questions}", "stage: no}"))
    with pytest.raises(Refused) as caught:
        load(broken)
    places = [problem.place for problem in caught.value.problems]
    assert places == [f"{broken}:{line('name: see')}", f"{broken}:{line('  questions: {benchmark')}"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.captions={then: [{captions: {}}]}", "give either `read`"),
        ("data.captions={source: scenes, make: {scenes: {count: 4}}}", "what is made must be read"),
        ("data.captions={read: {format: dota}}", "`read` needs a path where nothing is made"),
        ("data.captions={read: {path: x, images: y}}", "options .'images'. need a format"),
        ("data.captions={read: {path: x, format: doto}}", "did you mean 'dota'|dota"),
        ("data.captions.then=[{captoins: {}}]", "captions"),
        ("stages=[]", "there is no stage whose model could answer"),
        ("stages.see.name=read", "names must differ, found read, read, align, instruct"),
        ("stages.see.data={captions: -1.0}", "greater than 0"),
        ("models={other: {}}", "name a model, one of model, other"),
        ("data={UPPER: {source: scenes}}", "name 'UPPER' is not allowed"),
        ("model.connector=null", ""),
    ],
)
def test_what_does_not_fit(override: str, words: str) -> None:
    if not words:
        assert load(TINY, [override]).recipe.model is not None
        return
    assert any(re.search(words, allowed) for _, allowed in refused(override)), refused(override)


def test_relative_paths_start_where_they_were_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    recipe = tmp_path / "there" / "mine.yaml"
    recipe.write_text(f"extends: {TINY}\ndata:\n  more: {{read: {{path: pictures}}}}\n")
    monkeypatch.chdir(tmp_path)
    assert load("there/mine.yaml").recipe.data["more"].read[0].path == "there/pictures"
    monkeypatch.chdir(tmp_path / "there")
    assert Path(load(recipe).recipe.data["more"].read[0].path or "") == tmp_path / "there" / "pictures"
    assert load("mine.yaml", ["data.more.read.path=here"]).recipe.data["more"].read[0].path == "here"


def test_a_model_may_be_built_like_another(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text("name: two\nmodels:\n  first: {language_model: {config: {model_type: llama}}}\n  second: first\n  third: second\n", encoding="utf-8")
    with pytest.raises(Refused, match=r"two.yaml:5[^$]*no model 'second' with parts of its own; there is first, second"):
        load(file)
    file.write_text(file.read_text(encoding="utf-8").replace("  third: second\n", ""), encoding="utf-8")
    models = load(file).recipe.all_models()
    assert list(models) == ["first", "second"] and models["first"] == models["second"]


def test_a_stage_may_have_its_own_format_and_tiler() -> None:
    recipe = load(TINY, ["stages.align.chat=turns", "stages.align.tiler={kind: whole, size: 16, fit: squash}"]).recipe
    align, instruct = (recipe.config_of(stage) for stage in recipe.stages[2:])
    assert align.tiler is not None and instruct.tiler is not None
    assert (align.tiler.model_dump()["size"], instruct.tiler.model_dump()["size"]) == (16, 32)
    assert any("no format 'turn'" in allowed for _, allowed in refused("stages.align.chat=turn"))
    assert any("one tokenizer has one end token" in allowed for _, allowed in refused("stages.align.chat=chatml"))


def test_what_a_mixture_and_held_out_data_name_must_be_there() -> None:
    found = refused("stages.instruct.mix={method: square-root, most: {question: 0.5}}")
    assert [allowed for _, allowed in found] == ["mix names question; the stage has the data questions and the groups (none)"]
    found = refused("held_out=[scen-*, caption*]")
    assert ("override: held_out", "no data is called 'scen-*'") in found
    assert any(allowed == "held out by 'caption*'; evaluate on it, or take it out of `held_out`" for _, allowed in found)
