"""Retrieval and zero-shot classes: ranks, ties, and a tiny dual tower that is asked for real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from published_files import values
from sightline.errors import Refused
from sightline.evaluate.benchmark_kinds.caption_set import CaptionSet
from sightline.evaluate.benchmark_kinds.dual_towers import Retrieval, ZeroShot, ranks
from sightline.evaluate.comparing import ModelAnswerer
from sightline.evaluate.embedding_benchmarks import EmbeddingBenchmark
from sightline.evaluate.meteor import meteor_scores
from sightline.evaluate.metrics import tokenize
from sightline.evaluate.read_sets import samples_at
from sightline.model.assembly import ModelConfig
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "initializer_range": 0.3}
TOWERS = {
    "encoders": [{"config": {"model_type": "blip_vision_model", "image_size": 32, "patch_size": 16, **SIZES}, "tokens": "all", "final_norm": True}],
    "tiler": {"kind": "whole", "size": 32},
    "fusion": {"kind": "cross-attention"},
    "language_model": {
        "kind": "med",
        "joint": 16,
        "config": {"model_type": "blip_text_model", "vocab_size": 400, "encoder_hidden_size": 32, "max_position_embeddings": 64, **SIZES},
    },
    "text_encoder": "language_model",
}


def captions(folder: Path) -> Path:
    images: list[dict[str, Any]] = []
    for number, texts in enumerate((["a ship", "one ship"], ["a road"], ["many trees"])):
        Image.new("RGB", (32, 32), (80 * number, 20, 200 - 60 * number)).save(folder / f"{number}.png")
        sentences = [{"raw": text, "tokens": text.split(), "imgid": number, "sentid": k} for k, text in enumerate(texts)]
        images.append({"filename": f"{number}.png", "imgid": number, "split": "test", "sentences": sentences})
    path = folder / "dataset.json"
    path.write_text(json.dumps({"images": images, "dataset": "t"}), encoding="utf-8")
    return path


def classes(folder: Path) -> Path:
    for number, name in enumerate(("BareLand", "Pond")):
        (folder / name).mkdir()
        for k in range(2):
            Image.new("RGB", (32, 32), (90 * number, 40 * k, 9)).save(folder / name / f"{name.lower()}_{k}.png")
    return folder


def told(benchmark: EmbeddingBenchmark, vectors: Any) -> list[Answer]:
    names = [question.request.sample.id for question in benchmark.questions]
    return [Answer(key=name, sample=name, weights="t", text="", vector=tuple(vector)) for name, vector in zip(names, vectors, strict=True)]


def test_an_equal_candidate_stands_before_the_right_one() -> None:
    near = np.array([[0.9, 0.9, 0.1], [0.2, 0.5, 0.4]])
    own = np.array([[True, False, False], [False, False, True]])
    assert ranks(near, own).tolist() == [1, 1]
    assert ranks(near, np.array([[True, True, False], [False, True, True]])).tolist() == [0, 0]


def test_retrieval_of_captions(tmp_path: Path) -> None:
    benchmark = Retrieval(path=str(captions(tmp_path))).build()
    assert len(benchmark.pictures) == 3 and benchmark.texts == ["a ship", "one ship", "a road", "many trees"]
    axes = np.eye(3)
    scores = benchmark.score(told(benchmark, [*axes, axes[0], axes[1], axes[1], axes[2]]))
    assert values(scores, "text R@1", "picture R@1", "picture R@5") == {"text R@1": 0.6667, "picture R@1": 0.75, "picture R@5": 1.0}
    assert scores.metrics["mean R"].value == pytest.approx((2 / 3 + 2 + 2.75) / 6)
    assert scores.per_request[1].given in ("one ship", "a road")
    nothing = benchmark.score(told(benchmark, np.ones((7, 3))))
    assert nothing.metrics["text R@1"].value == nothing.metrics["picture R@1"].value == 0
    with pytest.raises(Refused, match="vector"):
        benchmark.score([Answer(key=q.request.sample.id, sample=q.request.sample.id, weights="t", text="x") for q in benchmark.questions])


def test_classes_by_templates(tmp_path: Path) -> None:
    benchmark = ZeroShot(path=str(classes(tmp_path)), templates=("a {}.", "the {}."), names={"pond": "small lake"}).build()
    assert benchmark.texts == ["a bare land.", "the bare land.", "a small lake.", "the small lake."]
    land, pond = np.eye(2)
    scores = benchmark.score(told(benchmark, [land, pond, pond, pond, land, land, pond, pond]))
    assert values(scores) == {"top-1": 0.75, "macro": 0.75, "bare land": 0.5, "pond": 1.0}
    for wrong in ({"templates": ("no place",)}, {"names": {"sea": "x"}}):
        with pytest.raises(Refused):
            ZeroShot(path=str(tmp_path), **wrong).build()  # pyright: ignore[reportArgumentType]


def test_data_of_a_recipe_is_asked_like_a_set_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "classes").mkdir()
    samples, known = samples_at(captions(tmp_path)), samples_at(classes(tmp_path / "classes"))
    assert Retrieval(data="mine").build(samples).texts == Retrieval(path=str(tmp_path / "dataset.json")).build().texts
    assert ZeroShot(data="mine").build(known).questions == ZeroShot(path=str(tmp_path / "classes")).build().questions
    named, at_path = CaptionSet(data="mine", limit=2).build(samples), CaptionSet(path=str(tmp_path / "dataset.json"), limit=2).build()
    assert named.rows == at_path.rows and len(named.rows) == 2


def test_a_tower_answers(tmp_path: Path) -> None:
    config = ModelConfig.model_validate_json(json.dumps(TOWERS))
    tokenizer = train_tokenizer(["a ship and a road", "many trees, one ship"] * 3, 300, config.chat_format(), config.controls())
    torch.manual_seed(0)
    resolved = config.resolve(400, control=tokenizer.control)
    answerer = ModelAnswerer(Model(resolved), Processor(resolved, tokenizer), "w")
    benchmark = Retrieval(path=str(captions(tmp_path))).build()
    requests = list(benchmark.requests())
    answers = list(answerer.answer(requests))
    assert len({answerer.key(request) for request in requests}) == len(requests) == 7
    seen, said = benchmark.vectors(answers)
    assert np.allclose(np.linalg.norm(said, axis=1), 1, atol=1e-5) and not np.allclose(said[0], said[2])
    sample = requests[0].sample
    batch = answerer.processor.collate([[answerer.processor.encode_pair(sample, benchmark.texts[2])]])
    with torch.no_grad():
        both = answerer.model(batch, ask="embed")
    assert np.allclose(both.texts[0].numpy(), said[2], atol=1e-5) and np.allclose(both.pictures[0, 0].numpy(), seen[0], atol=1e-5)
    assert 0 <= benchmark.score(answers).metrics["mean R"].value <= 1


def test_published_captions_are_scored_against_all_references(tmp_path: Path) -> None:
    benchmark = CaptionSet(path=str(captions(tmp_path))).build()
    answers = [
        Answer(key=row.index, sample=row.index, weights="t", text=text) for row, text in zip(benchmark.rows, ("one ship", "a road", "many"), strict=True)
    ]
    scores = benchmark.score(answers)
    assert scores.per_request[0].score == 1.0 and scores.metrics["bleu-1"].value == pytest.approx(np.exp(1 - 6 / 5))
    with pytest.raises(Refused, match="split val"):
        CaptionSet(path=str(tmp_path / "dataset.json"), split="val").build()


def test_meteor_of_nltk_without_synonyms() -> None:
    pytest.importorskip("nltk")
    references = [
        ["two planes are parked on the runway", "two white airplanes on the tarmac near a building"],
        ["a river runs through dense green forest", "a winding river with trees on both sides"],
        ["many small houses next to a wide road", "a residential area with a road"],
    ]
    captions = ["two planes are parked near a building", "a river with many green trees", "a road next to many houses"]
    found = meteor_scores([tokenize(one) for one in captions], [[tokenize(one) for one in several] for several in references])
    assert found == pytest.approx([0.566964, 0.404647, 0.546652], abs=1e-6)
    assert meteor_scores([tokenize("河边有树")], [[tokenize("河边有树木")]])[0] > 0.7


def test_meteor_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nltk.translate", None)
    with pytest.raises(Refused, match="nltk"):
        meteor_scores([["a"]], [[["a"]]])
