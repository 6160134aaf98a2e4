"""What a stage records: losses by source and by kind, norms and rates by part, over the steps since the last record, of all processes."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conftest import ANSWERS, question
from sightline.model.packing import Encoded
from sightline.samples.sample import Origin, Sample, Text, Turn
from sightline.train import watch as watching
from sightline.train.loop import train
from sightline.train.objectives import Losses
from sightline.train.stage import prepare
from sightline.train.watch import OTHERS, LossTally, Watch, means, said_by_all
from sightline.train.world import Alone

RATE = {"learning_rate": 1e-2}
FIELDS = ["event", "stage", "step", "loss", "terms", "rate", "norm", "norms", "rates", "by_source", "by_kind"]
FIELDS += ["samples_per_second", "tokens_per_second", "answers_per_second", "mfu", "memory_gib", "memory_kind"]


def several(source: str, kinds: list[str]) -> Sample:
    """A row of independent pairs, each of a kind."""
    turns = []
    for number in range(len(kinds)):
        turns += [Turn(role="user", items=(Text(text=f"what is here? {number}"),)), Turn(role="assistant", items=(Text(text=ANSWERS[number % 4]),))]
    return Sample(id=",".join(kinds), turns=tuple(turns), attributes={"turns": "independent", "kind": ",".join(kinds)}, origin=Origin(source=source))


ROWS = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.lists(st.sampled_from(["count", "where", "labels"]), min_size=1, max_size=3)), min_size=1, max_size=5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(rows=ROWS, packed=st.booleans())
def test_each_answer_token_goes_to_its_source_and_kind(world, rows: list[tuple[str, list[str]]], packed: bool) -> None:
    encoded: list[Encoded] = [world.processor.encode(several(source, kinds)) for source, kinds in rows]
    batch = world.processor.collate([encoded] if packed else [[one] for one in encoded])
    losses = torch.rand(len(batch.targets), generator=torch.Generator().manual_seed(0))
    wanted, counts = Counter(), Counter()
    pairs = [(one.source, one.kinds[pair]) for one in encoded for pair in one.pair_of.tolist()]
    for group, loss in zip(pairs, losses.tolist()):
        wanted[group] += loss
        counts[group] += 1
    tally = LossTally()
    tally.add(batch, losses)
    found = {(source, kind): (total, count) for source, kind, total, count in tally.take()}
    assert found == {group: (pytest.approx(total), counts[group]) for group, total in wanted.items()}
    assert tally.take() == []


def test_kinds_that_cannot_be_told_apart_go_together(world) -> None:
    sample = several("a", ["where", "count"])
    conversation = replace(sample, attributes={"kind": "where,count"}, turns=(*sample.turns[:1], replace(sample.turns[1], weight=0.0), *sample.turns[2:]))
    batch = world.processor.collate([[world.processor.encode(conversation)]])
    tally = LossTally()
    tally.add(batch, torch.ones(len(batch.targets)))
    assert {kind for _, kind, _, count in tally.take() if count} == {"count,where"}


def test_nothing_is_asked_of_the_device_until_there_is_much(world, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Listening(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            asked.extend(str(func) for one in tree_leaves(args) if one is losses)
            return func(*args, **(kwargs or {}))

    batch = world.processor.collate([[world.processor.encode(question(number)) for number in range(4)]])
    losses, tally = torch.rand(len(batch.targets)), LossTally()
    with Listening():
        tally.add(batch, losses)
        assert asked == []
        monkeypatch.setattr(watching, "_WAITING", len(losses))
        tally.add(batch, losses)
        assert asked
    [(source, kind, total, count)] = tally.take()
    assert (source, kind, count) == ("questions", "", 2 * len(losses))
    assert total == pytest.approx(2 * losses.double().sum().item())


def test_a_stage_records_what_others_draw(world) -> None:
    stage = world.stage(steps=5, every=2, batch=6, micro_batch=4, data={"questions": 1.0, "notes": 1.0}, schedule="constant", warmup=0)
    _, outcome, events = world.train(world.model(), stage)
    assert [event["step"] for event in events] == [0, 2, 4]
    assert all(list(event) == FIELDS for event in events)
    first, second, _ = events
    assert first["by_source"]["questions"][0] == pytest.approx(first["loss"], rel=1e-5)
    assert second["by_source"]["questions"][1] > first["by_source"]["questions"][1]
    feed = world.feed(stage)
    for event, steps in zip(events, ([0], [1, 2], [3, 4])):
        answers = sum(len(batch.targets) for step in steps for batch in feed.micro_batches(step))
        assert event["by_source"]["questions"][1] == answers
        assert event["answers_per_second"] / event["samples_per_second"] == pytest.approx(answers / (6 * len(steps)))
        assert event["memory_gib"] > 0.01
        assert event["mfu"] is None
    assert outcome.curve == [(event["step"], event["loss"]) for event in events]


def test_norms_and_rates_by_part(world) -> None:
    torch.manual_seed(0)
    model, events = world.model(), []
    inner = next(name for name, _ in model.named_parameters() if name.startswith("language_model.") and name.endswith(".norm.weight"))
    stage = world.stage(steps=2, every=1, train={"connector": {"learning_rate": 1e-3}, "language_model": RATE, inner: {"learning_rate": 1e-4}})
    prepared = prepare(model, stage)
    feed = world.feed(stage)
    train(model, prepared, feed.objective, feed, stage, Watch(stage, events.append, table=prepared.table), "try")
    parts = {"connector", "language_model", inner}
    for event in events:
        assert event["norms"].keys() == event["rates"].keys() == parts
        assert sum(norm**2 for norm in event["norms"].values()) ** 0.5 == pytest.approx(event["norm"], rel=1e-6)
        assert event["rates"] == {part: pytest.approx(peak * event["rate"]) for part, peak in zip(event["rates"], (1e-3, 1e-2, 1e-4))}
    assert events[0]["norms"][inner] < events[0]["norms"]["language_model"]


def test_an_objective_without_losses_of_tokens_has_none_by_source(world) -> None:
    _, _, events = world.train(world.model(), world.stage(objective="contrastive", data={"captions": 1.0}, train={"encoders": RATE, "text_encoder": RATE}))
    assert {(str(event["by_source"]), str(event["by_kind"]), event["tokens_per_second"]) for event in events} == {("{}", "{}", 0.0)}
    assert all(event["samples_per_second"] > 0 for event in events)


def test_rare_names_are_taken_together() -> None:
    found = means([*((f"kind {number:02d}", 2.0 * (number + 1), float(number + 1)) for number in range(60)), ("nothing", 0.0, 0.0)])
    assert len(found) == 51
    assert found["kind 59"] == [2.0, 60.0]
    assert found[OTHERS] == [2.0, sum(range(1, 11))]
    assert OTHERS not in means((f"kind {number}", 1.0, 1.0) for number in range(51))


class Threads(Alone):
    """A world of threads of this process, as far as a watch needs it."""

    def __init__(self, rank: int, size: int, gate: threading.Barrier, table: list[torch.Tensor]) -> None:
        self.rank, self.size, self.gate, self.table = rank, size, gate, table

    def sum(self, t: torch.Tensor) -> torch.Tensor:
        self.table[self.rank] = t.clone()
        self.gate.wait()
        total = torch.stack(self.table).sum(0)
        self.gate.wait()
        return total


def test_every_process_records_the_same_of_all(world) -> None:
    rows = [[question(0)], [several("b", ["where", "count"]), question(1, shown=False)]]
    gate, table = threading.Barrier(2), [torch.zeros(0)] * 2
    told: list[list[dict]] = [[], []]

    def run(rank: int) -> None:
        batch = world.processor.collate([[world.processor.encode(sample)] for sample in rows[rank]])
        watch = Watch(world.stage(), told[rank].append, world=Threads(rank, 2, gate, table))
        tokens = torch.full((len(batch.targets),), 1.0 + rank)
        watch.forward(batch, Losses(sums={"answer": tokens.sum()}, tokens=tokens))
        watch.step(0, {"answer": 1.5}, 1.0, {"connector.weight": torch.tensor(2.0)})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, (0, 1)))
    assert told[0] == [{**told[1][0], "memory_gib": told[0][0]["memory_gib"]}]
    counts = [[len(world.processor.encode(sample).targets) for sample in own] for own in rows]
    by_source = told[0][0]["by_source"]
    assert by_source["b"] == [2.0, counts[1][0]]
    assert by_source["questions"] == [pytest.approx((counts[0][0] + 2 * counts[1][1]) / (counts[0][0] + counts[1][1])), counts[0][0] + counts[1][1]]
    assert told[0][0]["answers_per_second"] / told[0][0]["samples_per_second"] == pytest.approx(np.sum([sum(own) for own in counts]) / 3)


def test_what_processes_say_may_differ_in_length() -> None:
    gate, table = threading.Barrier(3), [torch.zeros(0)] * 3
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda rank: said_by_all(Threads(rank, 3, gate, table), {"rank": rank, "text": "\u7530" * rank * 9}), range(3)))
    assert found == [[{"rank": rank, "text": "\u7530" * rank * 9} for rank in range(3)]] * 3
