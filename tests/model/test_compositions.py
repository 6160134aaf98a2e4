"""The laws that every composition keeps: counts, packing, batching, going on from a prefix, gradients everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tiny_models as tiny
import torch
from compositions import COMPOSITIONS, composition
from hypothesis import given, settings
from hypothesis import strategies as st
from test_vlm import INDEPENDENT, SAMPLES, assert_same_gradients, gradients, logps

from sightline.errors import Refused
from sightline.evaluate.generation import generate
from sightline.evaluate.golden import forced
from sightline.model.lines import conversations
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.exchange import Decoding
from sightline.samples.sample import Box, Film, Region, Regions, Sample, Show, Text, Turn

SIZES = ((40, 30), (90, 30), (33, 120), (8, 8), (200, 64))


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


def test_counts_are_slots_are_features(made: tuple[Model, Processor]) -> None:
    model, processor = made
    for width, height in SIZES:
        picture = tiny.picture(width, width, height)
        measure = processor.measure(width, height)
        encoded = processor.encode(tiny.sample(tiny.turn("user", 0, "Where?"), tiny.turn("assistant", "no"), pictures=[picture]))
        places = len(encoded.slots) + (len(encoded.memory.slots) if encoded.memory else 0)
        framing = (getattr(processor.config.layout, "begin", ""), getattr(processor.config.layout, "end", "")) if processor.config.layout.kind == "flat" else ()
        known = {processor.tokenizer.control(control) for control in processor.config.layout.controls if control not in framing}
        controls = sum(token in known for stream in (encoded, encoded.memory) if stream for token in stream.ids.tolist())
        if processor.config.fusion.prompt == "decoder":
            assert places + controls == measure.decoder + measure.memory
        table = model.see(processor.collate([[encoded]]))
        assert table is not None and len(table) == measure.entries + processor.config.vectors


def test_packing_and_branches_change_nothing(made: tuple[Model, Processor]) -> None:
    model, processor = made
    rows = [processor.encode(sample) for sample in SAMPLES]
    alone = torch.cat([logps(model, processor, [[row]]) for row in rows])
    assert alone.std().item() > 0.05
    for bins in ([rows], [rows[:2], rows[2:]], [[row] for row in rows]):
        torch.testing.assert_close(logps(model, processor, bins), alone, rtol=0, atol=2e-5)
    branched = processor.encode(INDEPENDENT)
    separate = [processor.encode(replace(INDEPENDENT, turns=turns, attributes={})) for turns in conversations(INDEPENDENT)]
    torch.testing.assert_close(logps(model, processor, [[branched]]), torch.cat([logps(model, processor, [[row]]) for row in separate]), rtol=0, atol=2e-5)


def test_gradients_reach_every_part_and_do_not_depend_on_packing(made: tuple[Model, Processor]) -> None:
    model, processor = made
    rows = [processor.encode(sample) for sample in SAMPLES]
    found = gradients(model, processor, [[rows[:3], rows[3:]]])
    assert {path for path, module in model.parts().items() if any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())} == {
        path
        for path in model.parts()
        if path != "regions"  # no question of these samples names one
    }
    assert_same_gradients(found, gradients(model, processor, [[[row]] for row in rows]))


def test_batched_answers_are_single_answers(made: tuple[Model, Processor]) -> None:
    model, processor = made
    prompts = [processor.encode(replace(sample, turns=sample.turns[:1]), answer=False) for sample in SAMPLES]
    decoding = Decoding(max_tokens=6)
    with torch.no_grad():
        together = generate(model, processor.collate([[prompt] for prompt in prompts]), [decoding] * len(prompts), processor.ended)
        for prompt, (tokens, scores) in zip(prompts, together):
            [(own, own_scores)] = generate(model, processor.collate([[prompt]]), [decoding], processor.ended)
            assert own == tokens
            assert own_scores == pytest.approx(scores, abs=1e-4)


def test_decoding_says_what_one_forward_says(made: tuple[Model, Processor]) -> None:
    model, processor = made
    sample = replace(SAMPLES[2], turns=SAMPLES[2].turns[:1])
    prompt = processor.encode(sample, answer=False)
    with torch.no_grad():
        [(tokens, scores)] = generate(model, processor.collate([[prompt]]), [Decoding(max_tokens=5)], processor.ended)
        assert forced(model, processor, prompt, tokens, "float32").tolist() == pytest.approx(scores, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(sorted(COMPOSITIONS)), st.integers(1, 400), st.integers(1, 400))
def test_slots_equal_the_count_for_any_size(name: str, width: int, height: int) -> None:
    if max(width, height) > 150 * min(width, height):
        return
    config = composition(name)
    measure = config.measure(width, height)
    pieces = config.layout.pieces(0, measure.tiling, measure.grids, config.fusion.route)
    entries = [entry for piece in pieces for entry in getattr(piece, "entries", ()) if entry >= 0]
    assert len(entries) == len(set(entries)) and set(entries) <= set(range(measure.entries))


def test_closed_gates_are_the_text_model(made: tuple[Model, Processor]) -> None:
    model, processor = made
    gates = [p for name, p in model.named_parameters() if "_gate" in name and p.numel() == 1]
    if not gates or processor.config.fusion.route("overview") == "decoder":
        return
    text = processor.encode(SAMPLES[1])
    with torch.no_grad():
        kept = [gate.clone() for gate in gates]
        for gate in gates:
            gate.zero_()
        seen = processor.encode(SAMPLES[0])
        blind = replace(seen, memory=None, sees=None, pictures=(), measures=())
        torch.testing.assert_close(logps(model, processor, [[seen], [text]]), logps(model, processor, [[blind], [text]]), rtol=0, atol=0)
        for gate, value in zip(gates, kept):
            gate.copy_(value)


def test_a_film_is_pairs_of_frames_in_one_block() -> None:
    config = composition("grid")
    model, processor = tiny.built(config, train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls()))
    frames = [tiny.picture(seed, 32, 32) for seed in range(3)]
    film = Film(pictures=(0, 1, 2), times=(0.0, 0.5, 1.0))
    asked = tiny.sample(Turn(role="user", items=(Text(text="Where?"), film)), tiny.turn("assistant", "no"), pictures=frames)
    encoded = processor.encode(asked)
    assert [view.hash for view in encoded.pictures] == [f"{frames[0].hash}+{frames[1].hash}", f"{frames[2].hash}+{frames[2].hash}"]
    batch = processor.collate([[encoded]])
    assert batch.pictures.pixels is not None and [tuple(crop.shape) for crop in batch.pictures.pixels] == [(6, 32, 32)] * 2
    assert len(encoded.slots) == 8
    first = encoded.positions[:, encoded.slots[0]]
    assert (encoded.positions[:, encoded.slots] - first[:, None]).T.tolist() == [[t, r, c] for t in (0, 1) for r in (0, 1) for c in (0, 1)]
    still = processor.encode(tiny.sample(tiny.turn("user", 0), tiny.turn("assistant", "no"), pictures=[frames[2]]))
    with torch.no_grad():
        last = model.see(batch)[4:]
        torch.testing.assert_close(last, model.see(processor.collate([[still]])), rtol=0, atol=1e-6)
        assert logps(model, processor, [[encoded], [still]]).isfinite().all()


def test_a_question_may_name_regions() -> None:
    config = composition("roles")
    model, processor = tiny.built(config, train_tokenizer(tiny.TEXTS, 340, config.chat_format(), config.controls()))
    picture = tiny.picture(1, 60, 40)

    def asked(*boxes: Box, **changes: Any) -> Sample:
        named = Regions(regions=tuple(Region(picture=0, shape=box) for box in boxes), label="ship")
        return tiny.sample(
            Turn(role="user", items=(Show(picture=0), Text(text="What is "), named)), tiny.turn("assistant", "no"), pictures=[picture], **changes
        )

    left, right = Box(x0=2, y0=3, x1=20, y1=30), Box(x0=30, y0=5, x1=58, y1=36)
    rows = [processor.encode(asked(left)), processor.encode(asked(right, left)), processor.encode(asked(right))]
    assert [row.regions for row in rows] == [((0, left),), ((0, right), (0, left)), ((0, right),)]
    batch = processor.collate([[row] for row in rows])
    assert len(batch.regions) == 4
    with torch.no_grad():
        table = model.see(batch)
        assert len(table) == rows[0].measures[0].entries + 4
        torch.testing.assert_close(table[-1], table[-3], rtol=0, atol=1e-6)
    alone = torch.cat([logps(model, processor, [[row]]) for row in rows])
    torch.testing.assert_close(logps(model, processor, [rows]), alone, rtol=0, atol=2e-5)
    assert (alone[: len(rows[0].targets)] - alone[-len(rows[2].targets) :]).abs().max() > 1e-4
    with pytest.raises(Refused, match=r"model/region-outside at test:7, "):
        processor.encode(asked(Box(x0=70, y0=0, x1=90, y1=10)))
