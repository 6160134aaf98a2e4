"""Losses against the classes of transformers, against numpy, and against the formulas of their papers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from sightline.errors import Refused
from sightline.model.batch import Batch, Output
from sightline.model.vlm import Model
from sightline.samples.sample import Origin, Sample, Text, Turn
from sightline.train.objectives import AnswerLikelihood, Contrastive, ContrastiveObjective, Tags, TextLikelihood, choose_alternative

PAIRS, WIDTH, WORDS, PLACES = 5, 16, 3, 7


class Given(torch.nn.Module):
    """Stands in for a model: asked about pictures it gives this output, asked about words alone their vectors."""

    def __init__(
        self, output: Output, scale: float, bias: float | None = None, tag_scale: float = 1.5, tag_bias: float = -2.0, words: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.output = output
        self.words = Output(texts=words)
        self.text_encoder = torch.nn.Module()
        self.text_encoder.scale = torch.nn.Parameter(torch.tensor(scale))
        self.text_encoder.bias = None if bias is None else torch.nn.Parameter(torch.tensor(bias))
        self.text_encoder.tag_scale = torch.nn.Parameter(torch.tensor(tag_scale))
        self.text_encoder.tag_bias = torch.nn.Parameter(torch.tensor(tag_bias))

    def forward(self, batch: Batch, ask: str) -> Output:
        return self.output if batch.pictures.tilings else self.words


def unit(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def pair_batch(world, rows: int = PAIRS, picture_of: list[int] | None = None) -> Batch:
    """A batch of pairs as the processor makes it, of the first rows."""
    samples = [world.stores["captions"][row] for row in (picture_of or range(rows))]
    objective = Contrastive().build()
    return world.processor.collate([[objective.encode(sample, world.processor, np.random.default_rng(0))] for sample in samples])


def loss(config: Contrastive, model: Any, batch: Batch) -> dict[str, float]:
    """Each term divided by its count."""
    objective = config.build()
    sums, counts = objective(model, batch).sums, objective.counts(batch)
    assert sums.keys() == counts.keys()
    return {term: sums[term].item() / counts[term] for term in sums}


def test_softmax_contrast_is_clip_s(world) -> None:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": WIDTH}
    torch.manual_seed(1)
    clip = CLIPModel(CLIPConfig(text_config={**tower, "vocab_size": 50}, vision_config={**tower, "image_size": 32, "patch_size": 16}, projection_dim=WIDTH))
    clip = clip.eval()
    with torch.no_grad():
        told = clip(input_ids=torch.randint(3, 49, (PAIRS, 6)), pixel_values=torch.randn(PAIRS, 3, 32, 32), return_loss=True)
        output = Output(pictures=told.image_embeds[:, None], texts=told.text_embeds)
        found = loss(Contrastive(), Given(output, clip.logit_scale.item()), pair_batch(world))
    assert found["contrastive"] == pytest.approx(told.loss.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_contrast_by_hand(world, kind: str) -> None:
    generator = torch.Generator().manual_seed(2)
    output = Output(pictures=unit(generator, PAIRS, 2, WIDTH), texts=unit(generator, PAIRS, WIDTH))
    scale, bias = np.log(12.0), -3.0
    assert output.pictures is not None and output.texts is not None
    # the best of the two vectors of a picture counts
    scores = np.exp(scale) * np.einsum("pqe,xe->pxq", output.pictures.double(), output.texts.double()).max(-1)
    if kind == "softmax":
        rows = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        columns = scores - np.log(np.exp(scores).sum(0, keepdims=True))
        wanted = -(np.trace(rows) + np.trace(columns)) / 2 / PAIRS
    else:
        wanted = sum(np.log1p(np.exp(-(1 if i == j else -1) * (scores[i, j] + bias))) for i in range(PAIRS) for j in range(PAIRS)) / PAIRS
    model = Given(output, float(scale), bias if kind == "sigmoid" else None)
    assert loss(Contrastive(loss=kind), model, pair_batch(world))["contrastive"] == pytest.approx(wanted, rel=1e-5)  # pyright: ignore[reportArgumentType]


def test_a_picture_that_two_pairs_show_is_encoded_once_and_compared_twice(world) -> None:
    batch = pair_batch(world, picture_of=[0, 1, 0])
    assert (len(batch.pictures.tilings), Contrastive().build().counts(batch)) == (2, {"contrastive": 3.0})
    generator = torch.Generator().manual_seed(3)
    pictures, texts = unit(generator, 2, 1, WIDTH), unit(generator, 3, WIDTH)
    found = loss(Contrastive(), Given(Output(pictures=pictures, texts=texts), 1.0), batch)
    alone = loss(Contrastive(), Given(Output(pictures=pictures[[0, 1, 0]], texts=texts), 1.0), pair_batch(world, 3))
    assert found == alone


def test_tag_term_by_hand(world) -> None:
    generator = torch.Generator().manual_seed(4)
    tokens, words = unit(generator, PAIRS, PLACES, WIDTH), unit(generator, WORDS, WIDTH)
    output = Output(pictures=unit(generator, PAIRS, 1, WIDTH), texts=unit(generator, PAIRS, WIDTH), tokens=tokens)
    named = torch.randint(0, 2, (PAIRS, WORDS), generator=generator).to(torch.uint8)
    objective = Contrastive(tags=Tags(words=("tank", "road", "pond"), weight=2.5)).build()
    objective.prepare([], world.processor)
    batch = replace(pair_batch(world), tags=named)
    logits = np.einsum("pne,we->pnw", tokens.double(), words.double()).max(1) * np.exp(1.5) - 2.0
    wanted = 2.5 * np.mean(np.where(named.numpy() == 1, np.log1p(np.exp(-logits)), np.log1p(np.exp(logits))))
    found = objective(Given(output, 1.0, words=words), batch)  # pyright: ignore[reportArgumentType]
    assert found.sums["tags"].item() / objective.counts(batch)["tags"] == pytest.approx(wanted, rel=1e-5)


def told(*captions: str) -> Sample:
    first, *others = captions
    answer = Turn(role="assistant", items=(Text(text=first),), alternatives=tuple((Text(text=other),) for other in others))
    return Sample(id=first, turns=(Turn(role="user", items=(Text(text=""),)), answer), origin=Origin(source="test"))


def test_words_are_found_in_every_caption_and_in_the_plural(world) -> None:
    objective = Contrastive(tags=Tags(words=("tank", "road", "bus", "pond"))).build()
    picture = world.stores["captions"][0].pictures
    for seed in range(6):
        sample = replace(told("Two TANKS, seen from above.", "buses beside a road-side field", "a broad thing"), pictures=picture)
        objective.prepare([sample], world.processor)
        encoded = objective.encode(sample, world.processor, np.random.default_rng(seed))
        assert encoded.tags == (0, 1, 2), "whichever caption is drawn; `broad` names no road"
    drawn = {objective.encode(sample, world.processor, np.random.default_rng(seed)).texts for seed in range(20)}
    assert len(drawn) == 3


def test_the_most_frequent_words_leave_out_those_that_stand_nearly_everywhere(world) -> None:
    samples = [
        replace(told(text), pictures=world.stores["captions"][0].pictures) for text in ("there is a pond", "there is a road", "there is a road by it", "there")
    ]
    samples += [replace(told("there stands something"), pictures=samples[0].pictures)]
    objective = Contrastive(tags=Tags(most_frequent=2)).build()
    objective.prepare(samples, world.processor)
    assert objective.words == ["road", "pond"], "`there` stands in all captions; equal counts in order of the alphabet"


@pytest.mark.parametrize("said", [{}, {"words": ["parking lot"]}, {"words": ["Tank"]}])
def test_words_that_could_never_be_found_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"most_frequent|\^\[a-z\]\+\$"):
        Tags.model_validate_json(json.dumps(said))


def test_rows_of_another_form_are_refused_at_once(world) -> None:
    notes, questions = world.stores["notes"], world.stores["questions"]
    with pytest.raises(Refused, match="3 other rows: questions:q0, questions:q1, questions:q2") as refused:
        TextLikelihood().build().prepare([notes[0], *(questions[row] for row in range(3))], world.processor)
    assert refused.value.problems[0].allowed == "rows without pictures"
    with pytest.raises(Refused, match="1 other rows: questions:q1"):
        Contrastive().build().prepare([questions[0], notes[1]], world.processor)


def likelihood_batch(world, rows: range, weight: float = 1.0) -> Batch:
    objective = AnswerLikelihood().build()
    samples = [world.stores["notes"][row] for row in rows]
    samples = [replace(sample, turns=(sample.turns[0], replace(sample.turns[1], weight=weight))) for sample in samples]
    return world.processor.collate([[objective.encode(sample, world.processor, np.random.default_rng(0))] for sample in samples])


def test_answer_likelihood_is_the_cross_entropy_of_transformers(world) -> None:
    model: Model = world.model()
    batch = likelihood_batch(world, range(4))
    assert batch.decoder is not None and model.language_model is not None
    labels = torch.full_like(batch.decoder.ids, -100).reshape(-1)
    labels[batch.answers + 1] = batch.targets
    told = model.language_model.model(
        input_ids=batch.decoder.ids, attention_mask=(batch.decoder.segments > 0).long(), labels=labels.view_as(batch.decoder.ids), use_cache=False
    )
    objective = AnswerLikelihood().build()
    found = objective(model, batch)
    assert objective.counts(batch) == {"answer": float(len(batch.targets))}
    assert found.sums["answer"].item() / len(batch.targets) == pytest.approx(told.loss.item(), rel=1e-5)


def test_z_loss_and_weights(world) -> None:
    model: Model = world.model()
    plain, halved = likelihood_batch(world, range(3)), likelihood_batch(world, range(3), weight=0.5)
    objective = AnswerLikelihood(z_loss=0.25).build()
    with torch.no_grad():
        found, lse = objective(model, plain).sums, model(plain).lse
        scaled = objective(model, halved).sums
    assert found["z"].item() == pytest.approx(0.25 * lse.double().square().sum().item(), rel=1e-5)
    assert objective.counts(plain) == {"answer": len(plain.targets), "z": len(plain.targets)}
    assert objective.counts(halved) == {"answer": len(plain.targets) / 2, "z": len(plain.targets) / 2}
    assert [scaled[term].item() for term in scaled] == pytest.approx([found[term].item() / 2 for term in found], rel=1e-5)


def test_one_of_the_right_answers_is_drawn_evenly() -> None:
    sample = told("one", "two", "three")
    rng = np.random.default_rng(5)
    drawn = [choose_alternative(sample, rng).text(1) for _ in range(300)]
    assert all(80 <= drawn.count(text) <= 120 for text in ("one", "two", "three"))
    plain = told("alone")
    assert choose_alternative(plain, rng) is plain


def test_the_contrast_needs_the_whole_batch() -> None:
    assert (ContrastiveObjective.splits, AnswerLikelihood().build().splits) == (False, True)
