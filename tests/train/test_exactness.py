"""Machinery changes no mathematics: loss and gradient of every tensor are the same packed or padded, in one piece or several, cached or not, for every composition."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sightline.data.mixture import Mixture, Share
from sightline.errors import Refused
from sightline.model.packing import Encoded, FeatureSource
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.store import Store
from sightline.train.feature_cache import build_cache
from sightline.train.feeding import Feed
from sightline.train.objectives import AnswerLikelihood
from sightline.train.stage import StageConfig

sys.path.append(str(Path(__file__).parent.parent / "model"))
import tiny_models as tiny
from compositions import COMPOSITIONS, composition
from test_vlm import SAMPLES

Found = tuple[float, dict[str, torch.Tensor]]


@pytest.fixture(scope="module", params=sorted(COMPOSITIONS))
def made(request: pytest.FixtureRequest) -> tuple[Model, Processor]:
    """A tiny model of each composition, its gates open."""
    config = composition(request.param)
    tokenizer = train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls())
    model, processor = tiny.built(config.resolve(400, control=tokenizer.control), tokenizer)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "_gate" in name and p.numel() == 1:
                p.fill_(0.5)
    return model, processor


def learnt(model: Model, processor: Processor, batches: Sequence[Sequence[Sequence[Encoded]]], features: FeatureSource | None = None) -> Found:
    """Loss over all batches and the gradient of every tensor, each term divided once by its global count, as the loop does."""
    objective = AnswerLikelihood(z_loss=1e-3).build()
    made = [processor.collate(bins, features=features) for bins in batches]
    counts = {term: sum(objective.counts(batch)[term] for batch in made) for term in ("answer", "z")}
    model.zero_grad()
    total = 0.0
    for batch in made:
        loss = torch.stack([value / counts[term] for term, value in objective(model, batch).sums.items()]).sum()
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: Found, expected: Found) -> None:
    """Loss within 1e-5, gradients within 1e-5 of the norm of each tensor; those that are rounding themselves within that of the largest."""
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1].keys() == expected[1].keys() and found[1]
    largest = max(gradient.norm().item() for gradient in expected[1].values())
    for name, gradient in expected[1].items():
        allowed = 1e-5 * max(gradient.norm().item(), 1e-2 * largest)
        assert (found[1][name] - gradient).norm().item() <= allowed, name


def test_packed_padded_and_accumulated_are_one(made: tuple[Model, Processor]) -> None:
    model, processor = made
    rows = [processor.encode(sample) for sample in SAMPLES]
    whole = learnt(model, processor, [[[row] for row in rows]])
    assert_same(learnt(model, processor, [[rows]]), whole)
    assert_same(learnt(model, processor, [[[row]] for row in rows]), whole)
    assert_same(learnt(model, processor, [[rows[2:]], [rows[:1], rows[1:2]]]), whole)


def test_cached_features_are_bit_equal(made: tuple[Model, Processor], tmp_path: Path) -> None:
    model, processor = made
    if model.connector is None:
        return  # the decoder's cross-attention reads the encoder itself
    if model.config.prompted_encoders:
        with pytest.raises(Refused, match="train/cache-of-prompts"):
            build_cache(tmp_path / "features", model, "these", processor, [], "float32", "features")
        return
    samples = [sample for sample in SAMPLES if sample.pictures]
    rows = [processor.encode(sample) for sample in samples]
    model.encoders.requires_grad_(False)
    pictures = [(picture, tmp_path, len(sample.pictures)) for sample in samples for picture in sample.pictures]
    features = build_cache(tmp_path / "features", model, "these", processor, pictures, "float32", "features")
    found, expected = (learnt(model, processor, [[[row]] for row in rows], source) for source in (features, None))
    model.encoders.requires_grad_(True)
    assert_same(found, expected)


@pytest.mark.parametrize("said", [{"pack": False}, {"pack": True}, {"tokens": 40}, {"tokens": 1}, {"micro_batch": 3}, {"tokens": 90, "pack": False}])
def test_a_stage_cut_in_any_way_is_the_same_step(said: dict[str, object], tmp_path: Path) -> None:
    config = composition("flat")
    tokenizer = train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls())
    model, processor = tiny.built(config.resolve(400, control=tokenizer.control), tokenizer)
    with Store.writer(tmp_path / "rows") as writer:
        for number, sample in enumerate(SAMPLES):
            writer.add(replace(sample, id=str(number)))
    objective = AnswerLikelihood().build()

    def step(**changes: object) -> Found:
        rate = {"connector": {"learning_rate": 1e-3}, "language_model": {"learning_rate": 1e-3}}
        whole = {"name": "a", "objective": "answer-likelihood", "data": {"rows": 1.0}, "batch": 8, "steps": 1, "train": rate, **changes}
        stage = StageConfig.model_validate_json(json.dumps(whole))
        feed = Feed(Mixture([Share(name="rows", store=Store.open(tmp_path / "rows"), weight=4.0)]), processor, objective, stage, 0, None)
        batches = feed.micro_batches(0)
        assert sorted(row for batch in batches for row in batch.rows) == sorted(row for batch in step_of(feed) for row in batch)
        sizes = [batch.decoder.ids.numel() for batch in batches if batch.decoder is not None]
        assert sizes == sorted(sizes, reverse=True)
        total = sum(objective.counts(batch)["answer"] for batch in batches)
        model.zero_grad()
        losses = [objective(model, batch).sums["answer"] / total for batch in batches]
        torch.stack(losses).sum().backward()
        return sum(loss.item() for loss in losses), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def step_of(feed: Feed) -> list[list[tuple[str, str, str]]]:
        return [list(processor.collate([[feed._encoded(*visit)]]).rows) for visit in feed.visits(0)]

    assert_same(step(**said), step(pack=False))
