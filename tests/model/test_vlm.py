"""Model: packing, padding and branches change no number; decoding in batches, in steps and from a shared prefix is the same decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from torch import Tensor

from sightline.evaluate.generation import generate
from sightline.model import vlm
from sightline.model.batch import Batch, Stream, empty_pictures
from sightline.model.chat import CHAT_FORMATS
from sightline.model.lines import conversations
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.exchange import Decoding
from sightline.samples.sample import Sample

PICTURES = [tiny.picture(seed, 10 + 7 * seed, 30 - 5 * seed) for seed in range(3)]
PAIRS = (("How many ships?", "Three ships."), ("How many?", "no"), ("Where?", "In the harbor."))
SAMPLES = [
    tiny.sample(tiny.turn("user", 0, "How many ships?"), tiny.turn("assistant", "Three ships."), pictures=PICTURES[:1]),
    tiny.sample(tiny.turn("user", "Where?"), tiny.turn("assistant", "In the harbor.", weight=0.5), tiny.turn("user", "yes?"), tiny.turn("assistant", "no")),
    tiny.sample(tiny.turn("user", 0, "yes", 1, "no"), tiny.turn("assistant", "none"), pictures=PICTURES[1:]),
    tiny.sample(tiny.turn("user", 0), tiny.turn("assistant", "A curious user"), pictures=PICTURES[:1]),
]
INDEPENDENT = tiny.sample(
    tiny.turn("system", "assistant answers"),
    *(turn for asked, told in PAIRS for turn in (tiny.turn("user", 0, asked), tiny.turn("assistant", told))),
    pictures=PICTURES[:1],
    independent=True,
)


@pytest.fixture(scope="module", params=[("llama", "eager"), ("llama", "sdpa"), ("qwen2", "eager"), ("qwen2", "sdpa")], ids=lambda pair: "-".join(pair))
def made(request: pytest.FixtureRequest) -> tuple[Model, Processor]:
    """A whole small model of each family and attention backend."""
    return tiny.built(tiny.writer(*request.param), tiny.byte_level(CHAT_FORMATS["turns"], Path()))


def logps(model: Model, processor: Processor, bins: Sequence[Sequence[Encoded]]) -> Tensor:
    logp = model(processor.collate(bins)).logp
    assert logp is not None
    return logp


def gradients(model: Model, processor: Processor, collated: Sequence[Sequence[Sequence[Encoded]]]) -> dict[str, Tensor]:
    """Gradients of the summed, weighted loss over several batches."""
    model.zero_grad()
    for bins in collated:
        batch = processor.collate(bins)
        (-(model(batch).logp * batch.weights).sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and any("tower" in name for name in found)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-2
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-5 * largest, msg=name)


def test_packed_and_padded_bins_say_what_separate_samples_say(made: tuple[Model, Processor]) -> None:
    model, processor = made
    rows = [processor.encode(sample) for sample in SAMPLES]
    alone = torch.cat([logps(model, processor, [[row]]) for row in rows])
    a, b, c, d = rows
    for bins in ([[a, b, c, d]], [[a, b], [c, d]], [[a], [b], [c], [d]], [[a, b, c], [d]]):
        torch.testing.assert_close(logps(model, processor, bins), alone, rtol=0, atol=1e-5)
    assert alone.std().item() > 0.1  # the test means something: tokens differ in likelihood
    other = torch.cat([logps(model, processor, [[row]]) for row in (d, b, c, a)])
    torch.testing.assert_close(logps(model, processor, [[d, b, c], [a]]), other, rtol=0, atol=1e-5)


def test_packing_keeps_gradients(made: tuple[Model, Processor]) -> None:
    model, processor = made
    a, b, c, d = (processor.encode(sample) for sample in SAMPLES)
    expected = gradients(model, processor, [[[row]] for row in (a, b, c, d)])
    assert any("connector" in name for name in expected)
    assert_same_gradients(gradients(model, processor, [[[a, b, c], [d]]]), expected)


def test_branches_of_one_trunk_say_what_separate_conversations_say(made: tuple[Model, Processor]) -> None:
    model, processor = made
    branched = processor.encode(INDEPENDENT)
    separate = [processor.encode(replace(INDEPENDENT, turns=turns, attributes={})) for turns in conversations(INDEPENDENT)]
    assert branched.length < sum(row.length for row in separate)
    alone = torch.cat([logps(model, processor, [[row]]) for row in separate])
    torch.testing.assert_close(logps(model, processor, [[branched]]), alone, rtol=0, atol=1e-5)
    first = processor.encode(SAMPLES[1])
    beside = logps(model, processor, [[first, branched], [first]])
    torch.testing.assert_close(beside[len(first.targets) : -len(first.targets)], alone, rtol=0, atol=1e-5)
    assert_same_gradients(gradients(model, processor, [[[branched]]]), gradients(model, processor, [[[row]] for row in separate]))


def test_a_picture_reaches_its_own_segment_only(made: tuple[Model, Processor]) -> None:
    model, processor = made
    a, b, c, _ = (processor.encode(sample) for sample in SAMPLES)
    changed = processor.encode(replace(SAMPLES[0], pictures=(PICTURES[2],)))
    before, after = (logps(model, processor, [[b, row, c]]) for row in (a, changed))
    owner = processor.collate([[b, a, c]]).owners
    assert (before - after).abs()[owner == 1].min().item() > 1e-4
    torch.testing.assert_close(before[owner != 1], after[owner != 1], rtol=0, atol=2e-5)


def test_log_probabilities_are_those_of_the_whole_vocabulary(made: tuple[Model, Processor], monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = made
    batch = processor.collate([[processor.encode(SAMPLES[0]), processor.encode(SAMPLES[1])]])
    assert batch.decoder is not None and model.language_model is not None and model.fusion is not None
    output = model(batch)
    hidden = model.hidden(batch)
    scores = model.language_model.logits(hidden.flatten(0, 1)[batch.answers])
    assert output.logp is not None and output.lse is not None
    torch.testing.assert_close(output.logp, scores.log_softmax(-1)[torch.arange(len(scores)), batch.targets])
    torch.testing.assert_close(output.lse, scores.logsumexp(-1))
    monkeypatch.setattr(vlm, "HEAD_BYTES", 3 * 4 * 400)
    chunked = model(batch)
    torch.testing.assert_close(chunked.logp, output.logp, rtol=0, atol=1e-6)


def test_a_batch_without_supervision_has_no_log_probabilities(made: tuple[Model, Processor]) -> None:
    model, processor = made
    output = model(processor.collate([[processor.encode(SAMPLES[0], answer=True)]]))
    assert output.logp is not None and len(output.logp) > 0
    prompt = model(processor.collate([[processor.encode(tiny.sample(tiny.turn("user", "Where?")), answer=False)]]))
    assert prompt.logp is not None and prompt.lse is not None and len(prompt.logp) == len(prompt.lse) == 0


# Decoding

PROMPTS: list[Sample] = [replace(sample, turns=sample.turns[:-1]) for sample in SAMPLES]


def prompts(processor: Processor) -> list[Encoded]:
    return [processor.encode(sample, answer=False) for sample in PROMPTS]


def step(tokens: Sequence[int], counts: Sequence[int] = ()) -> Batch:
    """One bin per token; or, with counts, bins of several tokens padded at the end."""
    counts = counts or [1] * len(tokens)
    ids, segments = torch.zeros(len(counts), max(counts), dtype=torch.int64), torch.zeros(len(counts), max(counts), dtype=torch.int32)
    rest = list(tokens)
    for row, count in enumerate(counts):
        ids[row, :count], segments[row, :count] = torch.tensor(rest[:count]), 1
        rest = rest[count:]
    none = torch.zeros(0, dtype=torch.int64)
    positions = torch.arange(max(counts)).expand(len(counts), -1)
    stream = Stream(ids=ids, positions=positions, segments=segments, branches=torch.zeros_like(segments), slots=none, sources=none)
    return Batch(decoder=stream, answers=none, targets=none, weights=none.float(), owners=none, rows=(), pictures=empty_pictures())


def test_batched_generation_is_single_generation(made: tuple[Model, Processor]) -> None:
    model, processor = made
    rows = prompts(processor)
    assert len({row.length for row in rows}) == len(rows)
    # the last one asks for less: bins leave the batch one after another
    decodings = [Decoding(max_tokens=limit) for limit in (12, 5, 9, 1)]
    with torch.no_grad():
        together = generate(model, processor.collate([[row] for row in rows]), decodings, processor.ended)
        alone = [generate(model, processor.collate([[row]]), [decoding], processor.ended)[0] for row, decoding in zip(rows, decodings)]
    assert [tokens for tokens, _ in together] == [tokens for tokens, _ in alone]
    assert [len(tokens) for tokens, _ in together] == [12, 5, 9, 1]
    for (_, found), (_, expected) in zip(together, alone):
        assert found == pytest.approx(expected, abs=1e-4)


def test_generation_stops_at_the_end_token_and_agrees_with_a_forced_forward(made: tuple[Model, Processor]) -> None:
    model, processor = made
    row = prompts(processor)[0]
    with torch.no_grad():
        [(tokens, drawn)] = generate(model, processor.collate([[row]]), [Decoding(max_tokens=8)], lambda ids: False)
        end = tokens[4]
        [(stopped, _)] = generate(model, processor.collate([[row]]), [Decoding(max_tokens=8)], lambda ids: ids[-1] == end)
        assert stopped == tokens[: tokens.index(end) + 1]
        forced = processor.collate([[row]])
        assert forced.decoder is not None
        h, state = model.extend(None, forced)
        assert model.language_model is not None
        for token, logp in zip(tokens, drawn):
            assert float(model.language_model.logits(h).log_softmax(-1)[0, token]) == pytest.approx(logp, abs=1e-4)
            h, state = model.extend(state, step([token]))


def test_a_prefix_continued_is_a_prompt_read_in_one_go(made: tuple[Model, Processor]) -> None:
    model, processor = made
    rows = prompts(processor)
    tail = [processor.tokenizer.encode(text) for text in ("How many ships", "no", "In the harbor.", "Where?")]
    joined = [
        replace(
            row,
            ids=torch.cat([torch.from_numpy(row.ids), torch.tensor(more)]).numpy(),
            positions=torch.arange(row.length + len(more)).numpy(),
            branches=torch.zeros(row.length + len(more), dtype=torch.int32).numpy(),
        )
        for row, more in zip(rows, tail)
    ]
    with torch.no_grad():
        whole, expected = model.extend(None, processor.collate([[row] for row in joined]))
        _, state = model.extend(None, processor.collate([[row] for row in rows]))
        h, state = model.extend(state, step([token for more in tail for token in more], [len(more) for more in tail]))
        torch.testing.assert_close(h, whole, rtol=0, atol=1e-5)
        assert state.next.tolist() == expected.next.tolist() == [row.length for row in joined]
        assert state.valid.sum(1).tolist() == state.next.tolist()
        # and one more token after columns of padding in the middle of the cache
        after, _ = model.extend(state, step([7] * 4))
        straight, _ = model.extend(expected, step([7] * 4))
        torch.testing.assert_close(after, straight, rtol=0, atol=1e-5)


def test_forked_states_go_their_own_ways(made: tuple[Model, Processor]) -> None:
    model, processor = made
    rows = prompts(processor)[:2]
    with torch.no_grad():
        _, state = model.extend(None, processor.collate([[row] for row in rows]))
        forked = state.fork([2, 3])
        columns = state.cache.get_seq_length()
        h, forked = model.extend(forked, step([5, 6, 5, 6, 7]))
        assert state.cache.get_seq_length() == columns  # the parent is untouched and can be forked again
        for number, (bin_, token) in enumerate([(0, 5), (0, 6), (1, 5), (1, 6), (1, 7)]):
            _, alone = model.extend(None, processor.collate([[rows[bin_]]]))
            expected, _ = model.extend(alone, step([token]))
            torch.testing.assert_close(h[number], expected[0], rtol=0, atol=1e-5)
        again, _ = model.extend(state.fork([1, 1]), step([5, 7]))
    torch.testing.assert_close(again, h[[0, 4]], rtol=0, atol=1e-5)


def test_selected_bins_stand_in_the_order_asked_for(made: tuple[Model, Processor]) -> None:
    model, processor = made
    rows = prompts(processor)
    with torch.no_grad():
        _, state = model.extend(None, processor.collate([[row] for row in rows]))
        kept = state.select(torch.tensor([2, 0]))
        assert kept.next.tolist() == [rows[2].length, rows[0].length]
        h, _ = model.extend(kept, step([5, 6]))
        for number, (row, token) in enumerate([(rows[2], 5), (rows[0], 6)]):
            _, alone = model.extend(None, processor.collate([[row]]))
            expected, _ = model.extend(alone, step([token]))
            torch.testing.assert_close(h[number], expected[0], rtol=0, atol=1e-5)


def test_parts_are_named_by_their_paths_and_abilities_follow() -> None:
    model, _ = tiny.built(tiny.writer(), tiny.byte_level(CHAT_FORMATS["turns"], Path()))
    assert list(model.parts()) == ["encoders.vision", "connector", "language_model"]
    assert model.abilities == ("write",)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"encoders", "connector", "language_model"}
