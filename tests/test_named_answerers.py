"""Who answers, by name: folders, stages and endpoints, in recipes and by themselves; what cannot be asked is refused before any work."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.scripted_endpoint import scripted
from tiny_models import TEXTS, built, picture, turn, writer

from sightline import run_stages
from sightline.data.captioning import Caption
from sightline.data.rewriting import Rewrite
from sightline.data.scoring import Perplexity
from sightline.errors import Refused
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.golden import write_golden
from sightline.lineage import Lineage
from sightline.model import directory
from sightline.model.tokens import train_tokenizer
from sightline.named_answerers import EndpointLimits, answerer_id, named_answerer, unknown_answerer
from sightline.recipe import asked_outside, asked_stages, load
from sightline.run_checks import refuse_early
from sightline.samples.exchange import Request
from sightline.samples.sample import Origin, Sample
from sightline.samples.store import Store
from sightline.twin import twin
from sightline.writing_pass import write_texts

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
SAID = Sample(id="s", pictures=(picture(1),), turns=(turn("user", 0, "Where?"), turn("assistant", "In the harbor.")), origin=Origin(source="t"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a golden request, as a stage leaves it."""
    config = writer()
    tokenizer = train_tokenizer(TEXTS, 330, config.chat_format())
    model, processor = built(config.resolve(tokenizer.size), tokenizer)
    where = tmp_path_factory.mktemp("models") / "model"
    where.mkdir()
    weights = directory.save(where, model, processor)
    asked = Sample(id="g", pictures=SAID.pictures, turns=SAID.turns[:1], origin=SAID.origin)
    [answer] = LocalAnswerer(model, processor, weights).answer([Request(sample=asked)])
    write_golden(where, model, processor, [(asked, answer)])
    Lineage(id="trained-once", kind="model", config="c").write(where)
    return where


def test_a_folder_answers_and_remembers(folder: Path, tmp_path: Path) -> None:
    operator = Perplexity(**{"with": str(folder)})
    requests = operator.ask(SAID, np.random.default_rng(0))
    file = tmp_path / "answers.jsonl"
    [answer] = named_answerer(str(folder), answers=file).answer(requests)
    [again] = named_answerer(str(folder), answers=file).answer(requests)
    assert again == answer and len(file.read_text().splitlines()) == 1 and len(answer.logps) == len(answer.tokens) > 3
    value = operator.each(SAID, np.random.default_rng(0), [answer]).columns["perplexity"]
    assert value == pytest.approx(math.exp(-sum(answer.logps) / len(answer.logps)))
    assert answerer_id(str(folder)) == "trained-once"


def test_a_changed_model_is_not_asked(folder: Path, tmp_path: Path) -> None:
    model, processor, _ = directory.load(folder)
    assert model.language_model is not None
    model.language_model.model.get_output_embeddings().weight.data[3] += 9
    (tmp_path / "model").mkdir()
    directory.save(tmp_path / "model", model, processor)
    shutil.copytree(folder / "golden", tmp_path / "model" / "golden", ignore=shutil.ignore_patterns("checked.json"))
    with pytest.raises(Refused, match="evaluate/golden-differs"):
        named_answerer(str(tmp_path / "model"), answers=tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("filtr", r"data/no-model[^$]*no model 'filtr'\n  allowed: filter, the folder of a run[^$]*\n  fix:     .*'filter'"),
        ("./nowhere", r"no model './nowhere'[^$]*correct the path"),
        ("http://host:8000/v1", r"data/endpoint[^$]*name the model too: http://host:8000/v1#MODEL"),
        ("http://host:99999/v1#m", r"data/endpoint[^$]*correct the address"),
        ("http://me:secret@host/v1#m", r"data/endpoint at with\n  found:   http://host/v1#m\n[^$]*--key-file"),
    ],
)
def test_nobody_of_that_name_is_told(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=message):
        named_answerer(name, answers=tmp_path / "a.jsonl", stages={"filter": tmp_path})


def recipe(folder: Path, step: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(f"extends: {TINY}\ndata:\n  chosen: {{source: captions, then: [{step}]}}\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("step", ["{perplexity: {with: ./models/a, keep: 0.5}}", "{kind: perplexity, with: ./models/a, keep: 0.5}"])
def test_a_folder_in_a_recipe_starts_from_its_file(step: str, tmp_path: Path) -> None:
    loaded = load(recipe(tmp_path, step))
    data = loaded.recipe.data["chosen"]
    assert asked_outside(data) == [str(tmp_path / "models/a")] and asked_stages(data) == [] and loaded.recipe.awaited()["chosen"] == []
    with pytest.raises(Refused, match=r"data/no-model at .*recipe\.yaml:\d+\n  found:   data\.chosen: no model .*models/a"):
        refuse_early(loaded)
    assert [operator.kind for operator in twin(loaded.recipe).data["chosen"].then] == [], "a toy needs no weights"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_folder_with_a_model_is_taken(folder: Path, tmp_path: Path) -> None:
    refuse_early(load(recipe(tmp_path, f"{{perplexity: {{with: {folder}}}}}")))


def test_a_folder_beside_the_working_directory_stays_a_folder(tmp_path: Path) -> None:
    loaded = load(recipe(tmp_path, "{perplexity: {with: instruct}}"), ["data.chosen.then.0.perplexity.with=./models"])
    assert asked_outside(loaded.recipe.data["chosen"]) == ["./models"]


def test_endpoints_are_left_as_they_are(tmp_path: Path) -> None:
    loaded = load(recipe(tmp_path, "{perplexity: {with: 'http://host:8000/v1#tiny'}}"))
    assert asked_outside(loaded.recipe.data["chosen"]) == ["http://host:8000/v1#tiny"] and unknown_answerer("http://host:8000/v1#tiny", {}) is None


def test_a_stage_is_awaited_and_a_misspelt_one_is_told(tmp_path: Path) -> None:
    assert load(recipe(tmp_path, "{perplexity: {with: instruct}}")).recipe.awaited()["chosen"] == ["instruct"]
    with pytest.raises(Refused, match=r"no stage 'instrct'; there is see, read, align, instruct; a folder is written with a `/`"):
        load(recipe(tmp_path, "{perplexity: {with: instrct}}"))


def test_steps_of_a_run_ask_stages_and_folders(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(TINY).recipe
    state = SimpleNamespace(recipe=loaded, out=tmp_path, ids={"stages/instruct": "done"})
    monkeypatch.setattr(run_stages, "stage_folder", lambda run, number, stage: folder)
    answerers = run_stages.stage_answerers(state, "chosen")  # pyright: ignore[reportArgumentType]
    by_stage, by_folder = (Perplexity(**{"with": name}) for name in ("instruct", str(folder)))
    requests = by_stage.ask(SAID, np.random.default_rng(0))
    scores = [next(iter(answerers(operator).answer(requests))).score for operator in (by_stage, by_folder)]
    assert scores[0] == pytest.approx(scores[1]) and answerers(by_stage) is answerers(by_stage)
    assert {file.name.partition("-")[0] for file in (tmp_path / "answers").iterdir()} == {"chosen"} and len(list((tmp_path / "answers").iterdir())) == 2


def test_an_endpoint_is_asked_with_the_key_of_a_file_within_limits(tmp_path: Path) -> None:
    asked = [Request(sample=replace(SAID, id=name, turns=(turn("user", 0, f"Where is {name}?"),))) for name in "ab"]
    (tmp_path / "key").write_text("sesame\n")
    with scripted(lambda asked, number: "In the harbor.") as endpoint:
        name, file = f"{endpoint.url}#teller", tmp_path / "a.jsonl"
        limits = EndpointLimits(key_file=tmp_path / "key", concurrency=1, most_requests=1)
        with pytest.raises(Refused, match="evaluate/budget-spent"):
            list(named_answerer(name, answers=file, limits=limits).answer(asked))
        answers = list(named_answerer(name, answers=file, limits=EndpointLimits(key_file=tmp_path / "key")).answer(asked))
    assert set(endpoint.keys) == {"Bearer sesame"} and len(endpoint.asked) == 2 and [answer.text for answer in answers] == ["In the harbor."] * 2
    assert "sesame" not in file.read_text()


@pytest.mark.parametrize(("content", "found"), [(b"", "nothing"), (b"a\r\nHost: b", "several lines"), (b"\xff", "UnicodeDecodeError"), (None, "No such file")])
def test_a_key_that_cannot_be_is_refused(content: bytes | None, found: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(Refused, match=rf"data/key-file[^$]*{found}"):
        named_answerer("http://host/v1#m", answers=tmp_path / "a.jsonl", limits=EndpointLimits(key_file=tmp_path / "key"))


def test_a_model_of_ours_captions_and_polishes(folder: Path, tmp_path: Path) -> None:
    with Store.writer(tmp_path / "rows") as writer:
        writer.add(SAID)
    operators = (
        Caption.model_validate({"with": str(folder), "max_tokens": 4, "known_only": True, "rejected": "keep"}),
        Rewrite.model_validate({"with": str(folder), "style": "polish", "max_tokens": 4}),
    )
    for number, operator in enumerate(operators):
        answerer = named_answerer(str(folder), answers=tmp_path / f"{number}.jsonl")
        said = write_texts(tmp_path / "rows", operator, tmp_path / f"out{number}", answerer, seed=0, refused=tmp_path / "refused.jsonl")
        [made] = Store.open(tmp_path / f"out{number}")
        assert said["texts"] == 1 and said["taken"] + sum(said["rejected"].values()) == 1 and "requests" not in said
        assert made.pictures[0].hash == SAID.pictures[0].hash and made.attributes.get("rewrite", "polish").startswith(("polish", "rejected: "))
        assert len((tmp_path / "refused.jsonl").read_bytes().splitlines()) == sum(said["rejected"].values())
