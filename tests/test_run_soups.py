"""Soups of a recipe: the pool is trained beside the stages it shares, the search is recorded and goes on, its model is one like any other, and nothing is chosen by what is reported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from sightline.cli.main import main
from sightline.errors import Refused
from sightline.evaluate.answering import load_checked
from sightline.lineage import Lineage
from sightline.model import directory
from sightline.plan_soups import plan_soups
from sightline.plan_text import soup_text
from sightline.plan_time import hardware
from sightline.recipe import load
from sightline.run import RunResult, run
from sightline.run_soups import Evaluation
from sightline.train.soup import average, mix, open_ingredient
from sightline.twin import twin

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
POOL = ["stages/instruct-more", "stages/instruct-notes"]


def recipe_file(folder: Path) -> Path:
    """One stage, a pool of two, a greedy soup chosen on one split and reported on another, and a stage that starts from it."""
    tree = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    del tree["model"]["text_encoder"]
    tree["model"]["tokenizer"] = {"train_on": ["questions"], "size": 300}
    scenes = {"count": 6, "val_share": 0.0, "test_share": 0.0, "size": 64}
    read = [{"format": "karpathy-captions"}, {"format": "label-masks"}, {"format": "dota"}]
    tree["data"] = {
        **{name: {"make": {"scenes": {**scenes, "seed": seed}}, "read": read} for name, seed in (("scenes", 1), ("dev-scenes", 2), ("test-scenes", 3))},
        "questions": {"source": "scenes", "then": [{"questions": {"per_picture": 2}}]},
        "more": {"source": "scenes", "then": [{"questions": {"per_picture": 1}}]},
        "notes": {"source": "scenes", "then": [{"questions": {"per_picture": 1, "kinds": {"count": 1.0}}}]},
        **{name: {"source": f"{name}-scenes", "then": [{"questions": {"per_picture": 2}}]} for name in ("dev", "test")},
    }
    train = {"connector": {"learning_rate": 1.0e-2}, "language_model": {"learning_rate": 1.0e-2}}
    stage = {"objective": "answer-likelihood", "data": {"questions": 1.0}, "train": train, "batch": 4, "steps": 3}
    parts = {"connector": "mean", "language_model": "mean"}
    tree["stages"] = [
        {"name": "align", **stage},
        {"name": "instruct", **stage},
        {"name": "after", **stage, "init": parts, "steps": 3, "train": {"connector": train["connector"]}},
    ]
    tree["soups"] = {"mean": {"method": "greedy", "ingredients": ["instruct"], "pool": {"stage": "instruct", "add": ["more", "notes"]}, "select_on": "dev"}}
    asked = {"controls": False, "precision": "float32"}
    tree["evaluate"] = {
        "test": {"benchmark": {"questions": {"data": "test", "max_tokens": 3}}, "stage": "mean", **asked},
        "dev": {"benchmark": {"questions": {"data": "dev", "max_tokens": 3}}, "stage": "after", **asked},
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(tree), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunResult, Path]]:
    """A whole run, once."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("soups")
    yield run(recipe_file(folder), folder / "run"), folder
    torch.set_num_threads(threads)


def test_the_pool_shares_what_comes_before_it(finished: tuple[RunResult, Path]) -> None:
    result, folder = finished
    names = [node.name for node in result.nodes]
    assert [name for name in names if name.startswith(("stages", "soups"))] == ["stages/align", "stages/instruct", *POOL, "soups/mean", "stages/after"]
    inputs = {node.name: node.inputs for node in result.nodes}
    assert all({"stages/align", "data/questions"} <= set(inputs[name]) and "stages/instruct" not in inputs[name] for name in POOL)
    assert "soups/mean" in inputs["stages/after"] and inputs["evaluate/test"] == ["soups/mean", "data/test"]
    assert set(inputs["soups/mean"]) == {"stages/instruct", *POOL, "data/dev", "data/test"}
    models = [folder / "run" / "stages" / name / "model" for name in ("02-instruct", "02-instruct-more", "02-instruct-notes")]
    assert len({directory.load(model)[2] for model in models}) == 3


def test_the_soup_is_a_model_and_says_what_is_in_it(finished: tuple[RunResult, Path]) -> None:
    _, folder = finished
    model = folder / "run" / "soups" / "mean" / "model"
    said = json.loads((model / "soup.json").read_text())
    _, _, weights = load_checked(model)  # golden requests are its own
    assert weights == said["weights"]
    scores = {one["name"]: one["score"] for one in said["ingredients"]}
    assert list(scores) == sorted(scores, key=lambda name: (-scores[name], name))
    assert [step["ingredient"] for step in said["search"]["steps"]] == list(scores)[1:] and all(step["why"] for step in said["search"]["steps"])
    chosen = [one["name"] for one in said["ingredients"] if one["chosen"]]
    lineage = Lineage.read(model)
    assert lineage.maker == {"soup": "greedy", "ingredients": ", ".join(chosen)} and said["stamp"] == ""
    stages = {Lineage.read(path.parent).id for path in (folder / "run" / "stages").glob("02-*/model/lineage.json")}
    assert {one["id"] for one in lineage.inputs} <= stages and len(lineage.inputs) == len(chosen)
    encoder = "encoders.vision-00001-of-00001.safetensors"
    assert (model / encoder).samefile(folder / "run" / "stages" / "01-align" / "model" / encoder)
    assert not list((folder / "run").rglob(".tmp-*"))


def test_the_table_has_singles_and_soups_with_intervals(finished: tuple[RunResult, Path]) -> None:
    result, folder = finished
    table = json.loads((folder / "run" / "soups" / "mean" / "table.json").read_text())
    assert [line["name"] for line in table["lines"]] == [*["single"] * 3, "single, mean of 3", "single, best in each column", "maximum", "average", "greedy"]
    assert all(line["scores"].keys() == {"dev", "test"} for line in table["lines"])
    assert all(value["low"] <= value["value"] <= value["high"] for line in table["lines"] for value in line["scores"].values())
    assert table["lines"][-1]["scores"]["test"]["value"] == result.scores["test"]["all"]
    page = (folder / "run" / "soups" / "mean" / "table.md").read_text()
    assert "dev (selected on)" in page and "| greedy |" in page and "selected on what is reported" not in page


def test_the_report_has_the_same_table(finished: tuple[RunResult, Path]) -> None:
    _, folder = finished
    table = json.loads((folder / "run" / "soups" / "mean" / "table.json").read_text())
    told = json.loads((folder / "run" / "report.json").read_text())["soups"]["mean"]
    assert told["lines"] == table["lines"] and told["gains"] == table["gains"]
    page = (folder / "run" / "report.html").read_text()
    assert "Soup: mean" in page and "dev (selected on)" in page and "single, best in each column" in page
    value = table["lines"][-1]["scores"]["test"]
    assert f"{100 * value['value']:.1f} ({100 * value['low']:.1f}..{100 * value['high']:.1f})" in page


def test_a_stage_starts_from_the_soup(finished: tuple[RunResult, Path]) -> None:
    _, folder = finished
    after = folder / "run" / "stages" / "03-after" / "model"
    ids = [json.loads((path / directory.INDEX).read_text())["metadata"]["parts"] for path in (folder / "run" / "soups" / "mean" / "model", after)]
    assert ids[0]["language_model"] == ids[1]["language_model"] and ids[0]["connector"] != ids[1]["connector"]
    assert directory.model_folder(folder / "run") == after


def test_a_second_run_does_nothing_and_a_broken_off_search_goes_on(finished: tuple[RunResult, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(finished[1], tmp_path / "copy", copy_function=shutil.copy2))
    assert {node.state for node in run(copy / "recipe.yaml", copy / "run").nodes} == {"skipped"}
    shutil.rmtree(copy / "run" / "soups" / "mean" / "model")
    asked: list[str] = []
    real = Evaluation.measure
    monkeypatch.setattr(Evaluation, "measure", lambda self, answerer, label: asked.append(label) or real(self, answerer, label))
    lost = sorted((copy / "run" / "soups" / "mean" / "scores").iterdir())[0]
    label = json.loads(lost.read_text())["models"]
    lost.unlink()
    states = {node.name: node.state for node in run(copy / "recipe.yaml", copy / "run").nodes}
    assert states["soups/mean"] == "done" and states["stages/after"] == "skipped"  # the same soup: nothing follows
    assert asked == [label]


def test_what_is_reported_does_not_choose(finished: tuple[RunResult, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished[1], tmp_path / "copy", copy_function=shutil.copy2))
    same = ["data.dev.source=test-scenes"]
    with pytest.raises(Refused, match=r"soup/test-selection at soups.mean.select_on\n  found:   dev and test share 6 pictures and 6 rows"):
        run(copy / "recipe.yaml", copy / "run", same)
    result = run(copy / "recipe.yaml", copy / "run", [*same, "soups.mean.allow_test_selection=true"], until="instruct")
    assert "soups/mean" not in {node.name for node in result.nodes}
    run(copy / "recipe.yaml", copy / "run", [*same, "soups.mean.allow_test_selection=true"])
    soup = copy / "run" / "soups" / "mean"
    stamp = "selected on what is reported"
    assert stamp in (soup / "table.md").read_text() and stamp in Lineage.read(soup / "model").maker["stamp"]
    assert stamp in json.loads((soup / "model" / "soup.json").read_text())["stamp"] and stamp in (copy / "run" / "report.html").read_text()


def test_a_soup_is_an_ingredient_of_another(finished: tuple[RunResult, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished[1], tmp_path / "copy", copy_function=shutil.copy2))
    both = ["soups.both.method=average", "soups.both.ingredients=[mean, align]", "soups.both.weights={mean: 3}"]
    result = run(copy / "recipe.yaml", copy / "run", both)
    made = {node.name: node for node in result.nodes}
    assert [name for name, node in made.items() if node.state == "done" and not name.startswith("evaluate")] == ["soups/both"]
    assert made["soups/both"].inputs == ["soups/mean", "stages/align"]
    folders = [copy / "run" / path / "model" for path in ("soups/mean", "stages/01-align", "soups/both")]
    mean, align, found = (directory.read_tensors(folder) for folder in folders)
    assert all(torch.equal(found[name], ((3 * mean[name].double() + align[name].double()) / 4).float()) for name in found)
    assert {one["id"] for one in Lineage.read(folders[2]).inputs} == {Lineage.read(folder).id for folder in folders[:2]}
    recipe = load(copy / "recipe.yaml", both).recipe
    [_, planned] = plan_soups(recipe, hardware("H100"), "none", None, {})
    assert planned.disk["model"] > 0 and twin(recipe).soups["both"].ingredients == ("mean", "align")
    chosen = ["soups.both.method=maximum", "soups.both.ingredients=[mean, align]", "soups.both.select_on=test", "soups.both.report_on=dev"]
    with pytest.raises(Refused, match=r"soup/test-selection at soups.both.select_on\n  found:   dev and dev share 6 pictures"):
        run(copy / "recipe.yaml", copy / "run", chosen)  # `mean` was chosen on dev


def test_a_circle_of_soups_is_refused(tmp_path: Path) -> None:
    circle = ["soups.mean.ingredients=[instruct, both]", "soups.both.method=average", "soups.both.ingredients=[mean]"]
    with pytest.raises(Refused, match="is made of itself, through both"):
        load(recipe_file(tmp_path), circle)


def test_the_mean_of_model_directories_is_that_of_their_tensors(finished: tuple[RunResult, Path], tmp_path: Path) -> None:
    stages = finished[1] / "run" / "stages"
    folders = [stages / name / "model" for name in ("02-instruct", "02-instruct-more", "02-instruct-notes")]
    (tmp_path / "soup").mkdir()
    mixed = average(folders, tmp_path / "soup")
    model, processor, weights = directory.load(tmp_path / "soup")
    assert weights == mixed.weights and mixed.linked == ("encoders.vision",)
    read = [directory.read_tensors(folder) for folder in folders]
    found = directory.read_tensors(tmp_path / "soup")
    assert all(torch.equal(found[name], torch.stack([one[name].double() for one in read]).mean(0).float()) for name in found)
    (tmp_path / "saved").mkdir()
    directory.save(tmp_path / "saved", model, processor)
    files = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {path.name for path in (tmp_path / "soup").iterdir()} == files
    assert all((tmp_path / "soup" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes() for name in files)


def test_adapters_are_merged_before_they_are_mixed(finished: tuple[RunResult, Path], tmp_path: Path) -> None:
    base = finished[1] / "run" / "stages" / "01-align" / "model"
    tensors = directory.read_tensors(base)
    layer = "model.model.layers.0.self_attn.q_proj"
    weight = tensors[f"language_model.{layer}.weight"]
    factors = [(torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)) for _ in range(2)]
    for number, (a, b) in enumerate(factors):
        (tmp_path / f"adapter{number}").mkdir()
        save_file({f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}, tmp_path / f"adapter{number}" / "language_model.safetensors")
        (tmp_path / f"adapter{number}" / "language_model.json").write_text('{"rank": 2, "alpha": 4, "dora": false}')
    (tmp_path / "out").mkdir()
    folders = [tmp_path / "adapter0", tmp_path / "adapter1"]
    with pytest.raises(Refused, match="train/adapter-alone"):
        average(folders, tmp_path / "out")
    origin = open_ingredient(base)
    mix([open_ingredient(folder, origin) for folder in folders], tmp_path / "out", {"": [1, 1]})
    found = directory.read_tensors(tmp_path / "out")
    wanted = weight + sum(2 * b @ a for a, b in factors) / 2
    assert torch.allclose(found[f"language_model.{layer}.weight"], wanted, atol=1e-5) and not torch.allclose(wanted, weight)
    assert all(torch.equal(found[name], tensors[name]) for name in found if name != f"language_model.{layer}.weight")
    directory.load(tmp_path / "out")
    said = tmp_path / "adapter0" / "language_model.json"
    said.write_text('{"rank": 16, "alpha": 4, "rank_stabilized": true, "alphas": {}}')  # the layer has a rank of its own, 2
    alone = Path(tmp_path / "alone")
    alone.mkdir()
    mix([open_ingredient(folders[0], origin)], alone, {"": [1]})
    a, b = factors[0]
    assert torch.allclose(directory.read_tensors(alone)[f"language_model.{layer}.weight"], weight + 4 / 2**0.5 * b @ a, atol=1e-5)
    for more, code in (('"dora": true', "dora"), ('"quantize": "nf4"', "rounded"), ('"alphas": {"q_proj": 8}', "alphas")):
        said.write_text(f'{{"rank": 2, "alpha": 4, {more}}}')
        with pytest.raises(Refused, match=f"train/adapter-{code}"):
            open_ingredient(folders[0], origin)


def test_one_command_ends_in_a_table(finished: tuple[RunResult, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = finished[1] / "run"
    models = [str(out / "stages" / name) for name in ("02-instruct", "02-instruct-more")]
    asked = ["--select-on", str(out / "data" / "dev"), "--max-tokens", "3", "--limit", "3", "--precision", "float32"]
    assert main(["soup", "greedy", *models, *asked, "--report-on", str(out / "data" / "test"), "--out", str(tmp_path / "best")]) == 0
    page = capsys.readouterr().out
    assert all(f"| {name} |" in page for name in ("single", "single, mean of 2", "maximum", "average", "greedy")) and "dev (selected on)" in page
    load_checked(tmp_path / "best")
    assert main(["soup", "greedy", *models, *asked, "--report-on", str(out / "data" / "dev"), "--out", str(tmp_path / "worse")]) == 1
    assert "soup/test-selection" in capsys.readouterr().err
    assert main(["soup", "average", *models, "--weights", "1,2", "--out", str(tmp_path / "mean"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"] == [] and (tmp_path / "mean" / "model" / "golden" / "requests.jsonl").is_file()
    assert main(["soup", "average", models[0], models[0], "--weights", "1", "--parts", "x", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("usage/soup") == 3


def test_the_plan_and_the_twin_have_the_soup(tmp_path: Path) -> None:
    file = recipe_file(tmp_path)
    recipe = load(file).recipe
    [soup] = plan_soups(recipe, hardware("H100"), "none", None, {})
    assert [stage.name for stage in soup.pool] == ["instruct-more", "instruct-notes"] and soup.scored == 11 and soup.hours > 0
    assert soup.disk["model"] > 0 and "soup mean (greedy of 3: instruct, instruct-more, instruct-notes)" in soup_text(soup, hardware("H100"))
    small = twin(recipe)
    assert small.soups["mean"].allow_test_selection and [stage.name for stage in small.pool_of("mean")] == ["instruct-more", "instruct-notes"]
    assert small.data["more"].then == small.data["questions"].then and small.stages[2].init == {"connector": "mean", "language_model": "mean"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"select_on": "tset"}, "no evaluation 'tset'; there is test, dev"),
        ({"select_on": []}, "greedy chooses by scores"),
        ({"ingredients": ["instrukt"]}, "no stage 'instrukt'"),
        ({"pool": {"stage": "instruct", "add": ["questions"]}}, "questions is among the data of stage instruct already"),
        ({"pool": {"stage": "instruct", "add": {"nope": 1.0}}}, "no data 'nope'"),
        ({"parts": ["connector"]}, "`parts` and `base` belong together"),
        ({"ingredients": ["after"]}, "soup mean is made after stage after, which comes no earlier"),
        ({"weights": {"instruct": 2.0}}, "`weights` are those of an average"),
        ({"by_part": True}, "`by_part` needs"),
        ({"method": "average", "weights": {"other": 1.0}}, "'other' is no ingredient"),
    ],
)
def test_soups_that_cannot_be_are_refused(change: dict[str, object], said: str, tmp_path: Path) -> None:
    tree = yaml.safe_load(recipe_file(tmp_path).read_text(encoding="utf-8"))
    tree["soups"]["mean"] |= change
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(Refused) as refused:
        load(tmp_path / "recipe.yaml")
    assert said in str(refused.value)
