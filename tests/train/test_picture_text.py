"""Comparing, matching and telling against numpy, with and without a copy that follows and its queue; negatives that are none; going on from a checkpoint."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import normalize

from sightline.errors import Refused
from sightline.model.batch import Batch, Features, Given, Output, Pictures, SideTexts
from sightline.model.connector_kinds.query_transformer import QueryTransformerConnector
from sightline.model.encoders import EncoderConfig
from sightline.model.fusion import CrossAttention
from sightline.model.text_kinds.med import MedText
from sightline.model.text_tower import SharedTextEncoder
from sightline.model.tiling import Grid
from sightline.train.picture_text import PictureText, PictureTextObjective, pair_keys

C, E, V, Q, LONGEST = 6, 5, 20, 3, 4


class Toy(nn.Module):
    """A model of a few matrices: a picture is its tokens, a text the mean of its words; matching and telling add what both say."""

    def __init__(self, seed: int = 0, drop: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(drop)
        generator = torch.Generator().manual_seed(seed)
        made = {"words": (V, C), "see": (C, E), "say": (C, E), "same": (C, 2), "next": (C, V)}
        for name, shape in made.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator)))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("steps", torch.zeros(()))
        self.asked: list[str] = []

    @property
    def texts(self) -> Toy:
        return self

    def told(self, texts: SideTexts) -> Tensor:
        there = (torch.arange(texts.ids.shape[1]) < texts.lengths[:, None]).float()
        return self.dropout((self.words[texts.ids] * there[..., None]).sum(1) / texts.lengths[:, None])

    def forward(self, batch: Batch, ask: str, given: Given | None = None) -> Output:
        self.asked.append(ask)
        if ask == "embed":
            assert batch.pictures.features is not None and batch.texts is not None
            features = batch.pictures.features["vision"]
            tokens = torch.stack(features.split())
            return Output(pictures=normalize(tokens @ self.see, dim=-1), texts=normalize(self.told(batch.texts) @ self.say, dim=-1), features=features)
        assert given is not None
        seen, told = torch.stack(given.features.split()).mean(1), self.told(given.texts)
        if ask == "match":
            return Output(match=(seen[given.pairs[:, 0]] * told[given.pairs[:, 1]]) @ self.same)
        there = torch.arange(1, given.texts.ids.shape[1]) < given.texts.lengths[:, None]
        logits = ((self.words[given.texts.ids[:, :-1]] + seen[given.texts.picture_of][:, None]) @ self.next)[there].log_softmax(-1)
        targets = given.texts.ids[:, 1:][there]
        return Output(logp=logits.gather(1, targets[:, None])[:, 0], mean_logp=logits.mean(-1), owners=there.nonzero()[:, 0])


def batch(seed: int, said: Sequence[int] | None = None, shown: Sequence[int] | None = None, rows: Sequence[str] | None = None, pairs: int = 4) -> Batch:
    """`said`: which text each pair has, equal numbers are equal texts; `shown`: number of its picture; default: all different."""
    generator = torch.Generator().manual_seed(seed)
    said, shown = said or range(100 * seed, 100 * seed + pairs), shown or range(pairs)
    ids, lengths = torch.zeros(pairs, LONGEST, dtype=torch.int64), []
    for row, text in enumerate(said):
        own = np.random.default_rng(text).integers(1, V, 2 + text % (LONGEST - 1))
        ids[row, : len(own)] = torch.from_numpy(own)
        lengths.append(len(own))
    pictures = max(shown) + 1
    features = Features(values=torch.randn(pictures * Q, C, generator=generator), grids=(Grid(columns=Q, rows=1),) * pictures, crops=tuple(range(pictures)))
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        answers=nothing,
        targets=nothing,
        weights=nothing.float(),
        owners=nothing,
        rows=tuple(("test", row, "pair") for row in (rows or [f"{seed}-{number}" for number in range(pairs)])),
        pictures=Pictures(tilings=(), picture_of=torch.arange(pictures), features={"vision": features}),
        texts=SideTexts(ids=ids, lengths=torch.tensor(lengths), picture_of=torch.tensor(list(shown))),
    )


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: parameter.detach().double().numpy().copy() for name, parameter in model.named_parameters()}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


class Reference:
    """All three losses in numpy, with plain loops."""

    def __init__(self, config: PictureText, first: dict[str, np.ndarray]) -> None:
        self.config, self.copy = config, first
        self.queue: list[tuple[np.ndarray, np.ndarray]] = []

    def follow(self, now: dict[str, np.ndarray]) -> None:
        assert self.config.momentum is not None
        self.copy = {name: self.config.momentum * old + (1 - self.config.momentum) * now[name] for name, old in self.copy.items()}

    def vectors(self, w: dict[str, np.ndarray], b: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        assert b.texts is not None and b.pictures.features is not None
        tokens = [part.double().numpy() for part in b.pictures.features["vision"].split()]
        pictures = [unit(tokens[picture] @ w["see"]) for picture in b.texts.picture_of.tolist()]
        texts = [unit(w["words"][ids[:length]].mean(0) @ w["say"]) for ids, length in zip(b.texts.ids.numpy(), b.texts.lengths.tolist())]
        return pictures, texts

    def losses(self, w: dict[str, np.ndarray], b: Batch, step: int, seed: int, alpha: float) -> dict[str, float]:
        pictures, texts = self.vectors(w, b)
        scale, count = np.exp(w["scale"]), len(texts)
        past = list(zip(*self.vectors(self.copy, b))) if self.config.momentum else []
        others = [*past, *self.queue] if past else list(zip(pictures, texts))
        rows = [[(picture @ text).max() * scale for _, text in others] for picture in pictures]
        columns = [[(picture @ text).max() * scale for picture, _ in others] for text in texts]
        even = self.config.contrastive_smoothing
        contrastive = 0.0
        for pair in range(count):
            target = np.full(len(others), even / len(others))
            target[pair] += 1 - even
            for scores, one in ((rows, 0), (columns, 1)):
                own = target
                if past:
                    soft = [(past[pair][0] @ other[1]).max() if one == 0 else (other[0] @ past[pair][1]).max() for other in others]
                    own = alpha * np.exp(log_softmax(scale * np.array(soft))) + (1 - alpha) * target
                contrastive -= (log_softmax(np.array(scores[pair])) * own).sum() / 2
        self.queue = [*past, *self.queue][: self.config.queue]
        noise = np.random.default_rng([seed, step, 2]).gumbel(size=(2, count, count))
        chosen = [(pair, pair, 1) for pair in range(count)]
        for pair in range(count):
            wrong = [number for number in range(count) if number != pair]
            chosen.append((pair, max(wrong, key=lambda other: rows[pair][other] + noise[0, pair, other]), 0))
            chosen.append((max(wrong, key=lambda other: columns[pair][other] + noise[1, pair, other]), pair, 0))
        return {"contrastive": contrastive, "match": self.match(w, b, chosen), "tell": self.tell(w, b)}

    def match(self, w: dict[str, np.ndarray], b: Batch, chosen: list[tuple[int, int, int]]) -> float:
        assert b.texts is not None and b.pictures.features is not None
        seen = [part.double().numpy().mean(0) for part in b.pictures.features["vision"].split()]
        told = [w["words"][ids[:length]].mean(0) for ids, length in zip(b.texts.ids.numpy(), b.texts.lengths.tolist())]
        return -sum(log_softmax((seen[picture] * told[text]) @ w["same"])[label] for picture, text, label in chosen)

    def tell(self, w: dict[str, np.ndarray], b: Batch) -> float:
        assert b.texts is not None and b.pictures.features is not None
        seen = [part.double().numpy().mean(0) for part in b.pictures.features["vision"].split()]
        total, even = 0.0, self.config.tell_smoothing
        for ids, length, picture in zip(b.texts.ids.tolist(), b.texts.lengths.tolist(), b.texts.picture_of.tolist()):
            for place in range(1, length):
                logp = log_softmax((w["words"][ids[place - 1]] + seen[picture]) @ w["next"])
                total -= (1 - even) * logp[ids[place]] + even * logp.mean()
        return total


def step(model: Toy, objective: PictureTextObjective, b: Batch, number: int, seed: int = 11) -> dict[str, float]:
    """One optimizer step; its losses."""
    objective.at(number, seed)
    sums = objective(model, b).sums  # pyright: ignore[reportArgumentType]
    model.zero_grad()
    torch.stack([value / objective.counts(b)[term] for term, value in sums.items()]).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.5 * parameter.grad)
    objective.after_step(model)  # pyright: ignore[reportArgumentType]
    return {term: value.item() for term, value in sums.items()}


def test_three_steps_with_a_copy_and_its_queue_are_those_of_numpy() -> None:
    config = PictureText(momentum=0.9, queue=6, alpha=0.4, ramp_steps=2, contrastive=1.0)
    model, objective = Toy(), config.build()
    reference = Reference(config, weights(model))
    for number, b in enumerate(batch(seed) for seed in (1, 2, 3)):
        wanted = reference.losses(weights(model), b, number, 11, 0.4 * min(1.0, number / 2))
        assert step(model, objective, b, number) == pytest.approx(wanted, rel=1e-5)
        reference.follow(weights(model))
        assert len(reference.queue) == min(6, 4 * (number + 1))
    kept = objective.state_dict()
    assert kept["queue"]["pictures"].shape == (6, Q, E)
    for name, wanted_copy in reference.copy.items():
        np.testing.assert_allclose(kept["copy"][name].numpy(), wanted_copy, rtol=1e-5, atol=1e-6)


def test_stage_1_of_blip_2_is_that_of_numpy() -> None:
    config = PictureText(contrastive_smoothing=0.1, contrastive=0.5, match=2.0, tell=3.0)
    model, objective = Toy(), config.build()
    for number, b in enumerate(batch(seed) for seed in (1, 2, 3)):
        wanted = Reference(config, {}).losses(weights(model), b, number, 11, 0.0)
        factors = {"contrastive": 0.5, "match": 2.0, "tell": 3.0}
        assert step(model, objective, b, number) == pytest.approx({term: factors[term] * value for term, value in wanted.items()}, rel=1e-5)
    assert model.asked == ["embed", "match", "tell"] * 3, "encoders run once a step"
    assert objective.state_dict() == {"copy": None, "queue": None}


def test_gradients_reach_the_model_and_not_the_copy() -> None:
    model, objective = Toy(), Watched(PictureText(momentum=0.9, queue=8, alpha=0.4, match=0, tell=0))
    step(model, objective, batch(1), 0)
    before = copy.deepcopy(objective.state_dict()["copy"])
    objective.at(1, 11)
    objective(model, batch(2)).sums["contrastive"].backward()  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.state_dict()["copy"].items())
    read = {name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert {"see", "say", "words", "scale"} <= read
    assert not any(target.requires_grad for target in objective.targets)


def test_counts_are_known_before_any_forward() -> None:
    b = batch(1, said=(0, 1, 2, 5), shown=(0, 1, 2, 3))
    assert b.texts is not None and b.texts.lengths.tolist() == [2, 3, 4, 4]
    assert PictureText().build().counts(b) == {"contrastive": 4.0, "match": 12.0, "tell": 1 + 2 + 3 + 3}
    assert PictureText(match=0, tell=0).build().counts(b) == {"contrastive": 4.0}
    alike = batch(1, said=(7, 7, 7, 7))
    assert PictureText().build().counts(alike)["match"] == 4.0, "no negative can be drawn"
    assert PictureText(same_text="negative").build().counts(alike)["match"] == 12.0


class Watched(PictureTextObjective):
    """Remembers what it drew and against what it compared."""

    def _choose(self, *args: Any) -> tuple[Tensor, Tensor]:
        self.chosen, self.labels = super()._choose(*args)
        return self.chosen, self.labels

    def _targets(self, *args: Any) -> list[Tensor]:
        self.targets = super()._targets(*args)
        return self.targets


@settings(max_examples=40, deadline=None)
@given(said=st.lists(st.integers(0, 3), min_size=5, max_size=5), shown=st.lists(st.integers(0, 3), min_size=5, max_size=5), number=st.integers(0, 50))
def test_a_negative_is_never_right(said: list[int], shown: list[int], number: int) -> None:
    objective = Watched(PictureText(tell=0))
    objective.at(number, 3)
    b = batch(1, said=said, shown=shown, pairs=5)
    losses = objective(Toy(), b)  # pyright: ignore[reportArgumentType]
    assert objective.counts(b)["match"] == len(objective.labels)
    assert all(value.isfinite() for value in losses.sums.values())
    right = list(zip(shown, range(5)))
    drawn = [(int(picture), int(text)) for picture, text in objective.chosen]
    assert drawn[:5] == right and objective.labels.tolist() == [1] * 5 + [0] * (len(drawn) - 5)
    known = set(zip(shown, said))
    assert not known & {(picture, said[text]) for picture, text in drawn[5:]}


def test_negatives_are_drawn_by_the_softmax_of_similarity() -> None:
    objective, b = PictureText().build(), batch(1)
    scores = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(2))
    right = torch.eye(4, dtype=torch.bool)
    draws: list[tuple[int, int]] = []
    for number in range(800):
        objective.at(number, 5)
        chosen, _ = objective._choose(b, list(scores), (right, right))
        draws.append((int(chosen[4, 1]), int(chosen[8, 0])))
    for side in (0, 1):
        found = torch.tensor([sum(draw[side] == other for draw in draws) / len(draws) for other in (1, 2, 3)])
        torch.testing.assert_close(found, scores[side, 0, 1:].softmax(0), rtol=0, atol=0.055)


def test_draws_are_a_function_of_seed_and_step() -> None:
    def drawn(seed: int, number: int) -> list[list[int]]:
        objective = Watched(PictureText(tell=0))
        objective.at(number, seed)
        objective(Toy(), batch(1, pairs=16))  # pyright: ignore[reportArgumentType]
        return objective.chosen.tolist()

    assert drawn(1, 7) == drawn(1, 7)
    assert drawn(1, 7) != drawn(1, 8) and drawn(1, 7) != drawn(2, 7)


def test_pairs_that_say_or_show_the_same_share_the_target() -> None:
    b = batch(1, said=(0, 1, 0, 2, 3), shown=(0, 1, 2, 1, 3), pairs=5)
    objective = Watched(PictureText(match=0, tell=0))
    objective(Toy(), b)  # pyright: ignore[reportArgumentType]
    half = [[0.5, 0, 0.5, 0, 0], [0, 0.5, 0, 0.5, 0], [0.5, 0, 0.5, 0, 0], [0, 0.5, 0, 0.5, 0], [0, 0, 0, 0, 1]]
    assert objective.targets[0].tolist() == half and objective.targets[1].tolist() == half
    apart = Watched(PictureText(match=0, tell=0, same_text="negative"))
    apart(Toy(), b)  # pyright: ignore[reportArgumentType]
    assert apart.targets[0][0].tolist() == [1, 0, 0, 0, 0] and apart.targets[0][1].tolist() == [0, 0.5, 0, 0.5, 0]


def test_an_older_pair_of_the_same_row_or_text_is_no_negative() -> None:
    objective = Watched(PictureText(momentum=0.5, queue=8, match=0, tell=0))
    model = Toy()
    objective(model, batch(1, said=(1, 2, 3, 4), rows=("a", "b", "c", "d")))  # pyright: ignore[reportArgumentType]
    objective(model, batch(2, said=(9, 5, 3, 6), rows=("a", "e", "f", "g")))  # pyright: ignore[reportArgumentType]
    wanted = torch.zeros(4, 8)
    wanted[range(4), range(4)] = 1
    wanted[0, [0, 4]], wanted[2, [2, 6]] = 0.5, 0.5
    assert torch.equal(objective.targets[0], wanted)


def test_keys_do_not_depend_on_padding_or_on_the_batch() -> None:
    one, other = batch(1, said=(0, 1, 2, 5)), batch(2, said=(5, 0, 1, 1), rows=("1-3", "x", "y", "z"))
    assert other.texts is not None
    wide = SideTexts(ids=torch.nn.functional.pad(other.texts.ids, (0, 3), value=9), lengths=other.texts.lengths, picture_of=other.texts.picture_of)
    keys, others = pair_keys(one), pair_keys(replace(other, texts=wide))
    assert keys[3].tolist() == others[0].tolist()
    assert keys[0, 1] == others[1, 1] and keys[1, 1] == others[2, 1] == others[3, 1]
    assert len(set(keys[:, 0].tolist()) | set(others[:, 0].tolist())) == 7


def test_a_run_goes_on_from_its_checkpoint() -> None:
    config = PictureText(momentum=0.8, queue=6, alpha=0.4, ramp_steps=4)
    model, objective = Toy(), config.build()
    for number in range(2):
        step(model, objective, batch(number + 1), number)
    again, resumed = copy.deepcopy(model), config.build()
    resumed.load_state_dict(copy.deepcopy(objective.state_dict()))
    assert resumed.state_dict()["copy"].keys() == objective.state_dict()["copy"].keys(), "also before the first step"
    for number in range(2, 4):
        assert step(model, objective, batch(number + 1), number) == step(again, resumed, batch(number + 1), number)
    for name, tensor in objective.state_dict()["copy"].items():
        assert torch.equal(tensor, resumed.state_dict()["copy"][name])
    fresh = config.build()
    assert step(copy.deepcopy(model), fresh, batch(5), 4) != step(model, objective, batch(5), 4), "the queue and the copy matter"


def test_the_temperature_stays_in_its_bounds() -> None:
    model, objective = Toy(), PictureText().build()
    for value, wanted in ((9.0, 1000.0), (-3.0, 2.0), (2.0, float(np.exp(2.0)))):
        with torch.no_grad():
            model.scale.fill_(value)
        objective.after_step(model)  # pyright: ignore[reportArgumentType]
        assert float(model.scale.detach().exp()) == pytest.approx(wanted)
    model.scale.requires_grad_(False).fill_(9.0)
    objective.after_step(model)  # pyright: ignore[reportArgumentType]
    assert float(model.scale) == 9.0, "a frozen part stays as it is"


def test_the_copy_drops_nothing() -> None:
    model, objective = Toy(drop=0.5).train(), PictureText(momentum=0.9, queue=8, match=0, tell=0).build()
    for _ in range(2):
        objective(model, batch(1))  # pyright: ignore[reportArgumentType]
    told = objective.state_dict()["queue"]["texts"]
    assert torch.equal(told[:4], told[4:]) and model.training


def test_the_copy_takes_running_statistics_as_they_are() -> None:
    model, objective = Toy(), PictureText(momentum=0.9).build()
    step(model, objective, batch(1), 0)
    model.steps.fill_(7.0)
    step(model, objective, batch(2), 1)
    assert float(objective.state_dict()["copy"]["steps"]) == 7.0


def test_abilities_follow_from_the_terms() -> None:
    assert PictureText().build().needs == ("embed", "match", "tell")
    assert PictureText(match=0).build().needs == ("embed", "tell")
    assert PictureTextObjective.splits is False


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"queue": 8}, "queue and alpha need momentum"),
        ({"alpha": 0.4}, "queue and alpha need momentum"),
        ({"contrastive": 0}, "greater than 0"),
        ({"temperature": [0.5, 0.1]}, "a lower and an upper bound"),
    ],
)
def test_settings_that_mean_nothing_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PictureText.model_validate_json(json.dumps(said))


def test_rows_of_another_form_are_refused_at_once(world: Any) -> None:
    notes, captions = world.stores["notes"], world.stores["captions"]
    with pytest.raises(Refused, match="2 other rows: questions:q0, questions:q1") as refused:
        PictureText().build().prepare([captions[0], notes[0], notes[1]], world.processor)
    assert refused.value.problems[0].place == "objective picture-text"


BERT = {"num_hidden_layers": 12, "num_attention_heads": 12, "hidden_size": 768, "initializer_range": 0.1}
VIT = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def queries_of_blip_2() -> dict[str, Any]:
    connector = QueryTransformerConnector(config={"model_type": "blip_2_qformer", **BERT, "hidden_dropout_prob": 0.0}, text=True, ids={"[CLS]": 1, "[DEC]": 2})
    return {"connector": connector.twin(), "text_encoder": SharedTextEncoder(part="connector"), "language_model": None}


def mixture_of_blip() -> dict[str, Any]:
    config = MedText(config={"model_type": "blip_text_model", **BERT}, ids={"[CLS]": 1, "[DEC]": 2, "[ENC]": 3})
    encoder = EncoderConfig(config=VIT, tokens="all", final_norm=True).resolve()
    return {
        "encoders": [encoder],
        "connector": None,
        "language_model": config.twin(),
        "text_encoder": SharedTextEncoder(part="language_model"),
        "fusion": CrossAttention(),
    }


@pytest.mark.parametrize(
    ("parts", "config", "learnt"),
    [
        (queries_of_blip_2, PictureText(contrastive_smoothing=0.1), ("contrastive", "tell")),
        (mixture_of_blip, PictureText(momentum=0.9, queue=8, alpha=0.4, ramp_steps=10), ("tell",)),
    ],
)
def test_a_model_learns_to_compare_match_and_tell(world: Any, parts: Any, config: PictureText, learnt: tuple[str, ...]) -> None:
    model = world.model(**parts()).train()
    objective = config.build()
    samples = [world.stores["captions"][row] for row in range(4)]
    b = world.processor.collate([[objective.encode(sample, world.processor, np.random.default_rng(0))] for sample in samples])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    seen: list[dict[str, float]] = []
    for number in range(16):
        objective.at(number, 1)
        losses = objective(model, b)
        counts = objective.counts(b)
        assert counts == {"contrastive": 4.0, "match": 12.0, "tell": float((b.texts.lengths - 1).sum())}
        optimizer.zero_grad()
        torch.stack([value / counts[term] for term, value in losses.sums.items()]).sum().backward()
        optimizer.step()
        objective.after_step(model)
        seen.append({term: value.item() / counts[term] for term, value in losses.sums.items()})
        if number == 2:
            unmoved = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
            assert not unmoved, unmoved
    assert all(seen[-1][term] < 0.75 * seen[0][term] for term in learnt), (seen[0], seen[-1])
