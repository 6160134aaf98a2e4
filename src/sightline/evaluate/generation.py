"""Greedy and sampled generation with a KV cache, for many questions at once: trunks first, then what each question adds, then a token of each line at a time.

Letters: B bins, T tokens, A lines that are asked, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sightline.evaluate.guided import guided, guides_of, taken
from sightline.evaluate.prefixes import Bin, head, tail
from sightline.evaluate.side_by_side import passes_at_once, side_by_side
from sightline.model.batch import Batch, Stream, empty_pictures, to_device
from sightline.model.packing import Encoded, FeatureSource
from sightline.model.processor import Processor
from sightline.model.token_grammar import Guide
from sightline.model.vlm import Model, State
from sightline.samples.exchange import Decoding

COLDEST = 1e-30
"""Temperature below which numbers of single precision end; all of them take the likeliest token."""
READ, CPU_READ = 32768, 2048
"""Tokens of prompts that go through the model at once: on a CPU what its caches hold, which is several times as fast as memory."""


class Drawn(NamedTuple):
    """An answer, what ends it included."""

    tokens: list[int]
    logps: list[float]
    taps: list[Tensor]
    """Hidden states (D,) that predicted the tokens of masks."""


@dataclass(kw_only=True)
class _Line:
    """A question that is being answered."""

    number: int
    bin: int
    branch: int
    position: int
    """Of its next token, in all streams."""
    sees: tuple[int, int] | None = None


def generate(model: Model, batch: Batch, decodings: Sequence[Decoding], ended: Callable[[list[int]], bool]) -> list[tuple[list[int], list[float]]]:
    """Tokens and log-probabilities of answers to a batch of one question per bin; `ended` is asked after every token."""
    assert batch.decoder is not None and all(one.grammar is None for one in decodings)
    h, state = model.extend(None, batch)
    last = (batch.decoder.segments > 0).sum(1) - 1
    branches = batch.decoder.branches.gather(1, last[:, None])[:, 0].tolist()
    sees = state.sees.tolist() if state.sees is not None else [None] * len(branches)
    known = enumerate(zip(branches, state.next.tolist(), sees))
    lines = [_Line(number=b, bin=b, branch=branch, position=position, sees=seen and tuple(seen)) for b, (branch, position, seen) in known]
    return [(one.tokens, one.logps) for one in _written(model, h, state, lines, decodings, ended, {}, None)]


def answers_of_bins(
    model: Model, processor: Processor, bins: Sequence[Bin], prompts: Sequence[Encoded], decodings: Sequence[Decoding], features: FeatureSource
) -> dict[int, Drawn]:
    """Answers to the prompts whose numbers the bins hold. A trunk goes through the model once; its keys and values are there once, and all lines of its bin read them."""
    guides = guides_of(processor, {number: decodings[number] for one in bins for number in one.lines})
    found: list[tuple[Tensor, State]] = []
    lines: list[_Line] = []
    before = 0
    for h, state, own in side_by_side(model, lambda group: _read(model, processor, group, prompts, features), _groups(model, bins, prompts)):
        lines += [replace(line, bin=line.bin + before) for line in own]
        before += len(state.valid)
        found.append((h, state))
    h, state = torch.cat([h for h, _ in found]), State.join([state for _, state in found])
    del found
    own = {place: guides[line.number] for place, line in enumerate(lines) if line.number in guides}
    drawn = _written(model, h, state, lines, [decodings[line.number] for line in lines], processor.ended, own, processor.tap_id)
    return {line.number: own for line, own in zip(lines, drawn)}


def _groups(model: Model, bins: Sequence[Bin], prompts: Sequence[Encoded]) -> list[list[Bin]]:
    """Bins in groups of like many tokens that go through the model at once, as many groups for each thread that may run it."""
    at_once = CPU_READ if next(model.parameters()).device.type == "cpu" else READ
    tokens = np.asarray([_tokens(one, prompts) for one in bins])
    hands = min(passes_at_once(model), len(bins))
    count = -(-int(tokens.sum()) // (at_once * hands)) * hands
    places = ((tokens.cumsum() - tokens / 2) * (count / tokens.sum())).astype(int)
    return [[bins[number] for number in np.flatnonzero(places == place).tolist()] for place in np.unique(places)]


def _tokens(one: Bin, prompts: Sequence[Encoded]) -> int:
    return one.trunk + sum(prompts[number].length - one.trunk for number in one.lines)


def _read(model: Model, processor: Processor, bins: Sequence[Bin], prompts: Sequence[Encoded], features: FeatureSource) -> tuple[Tensor, State, list[_Line]]:
    """The prompts of bins go through the model: hidden states (A, D) of their last tokens, and all lines."""
    device = next(model.parameters()).device
    state = None
    trunks = [head(prompts[one.lines[0]], one.trunk) for one in bins]
    if any(one.length for one in trunks):
        batch = to_device(processor.collate([[one] for one in trunks], features=features), device)
        _, state = model.extend(None, batch, torch.zeros(0, dtype=torch.int64, device=device))
    tails = [[tail(prompts[number], one.trunk, whole=state is None) for number in one.lines] for one in bins]
    batch, places = _branched(processor.collate(tails, features=features), tails)
    h, state = model.extend(state, to_device(batch, device), places.to(device))
    lines = []
    for b, one in enumerate(bins):
        for branch, number in enumerate(one.lines, 1):
            prompt = prompts[number]
            sees = None if prompt.sees is None else (int(prompt.sees[-1, 0]), int(prompt.sees[-1, 1]))
            own = branch if len(one.lines) > 1 else int(prompt.branches[-1])
            lines.append(_Line(number=number, bin=b, branch=own, position=int(prompt.positions.max()) + 1, sees=sees))
    return h, state, lines


def _branched(batch: Batch, tails: Sequence[Sequence[Encoded]]) -> tuple[Batch, Tensor]:
    """Packed ends of prompts as branches of one segment a bin, and the flat places (A,) of their last tokens. A line that is alone keeps its own branches."""
    stream = batch.decoder
    assert stream is not None
    width = stream.ids.shape[1]
    several = max(len(packed) for packed in tails) > 1
    branches = stream.branches.clone()
    sees = torch.zeros(*stream.ids.shape, 2, dtype=torch.int32) if any(one.sees is not None for packed in tails for one in packed) else None
    places = []
    for b, packed in enumerate(tails):
        start = 0
        for branch, one in enumerate(packed, 1):
            where = slice(start, start + one.length)
            if len(packed) > 1:
                branches[b, where] = branch
            if sees is not None and one.sees is not None:
                sees[b, where] = torch.from_numpy(one.sees)
            start += one.length
            places.append(b * width + start - 1)
    if several:
        stream = replace(stream, segments=(stream.segments > 0).int(), branches=branches, runs=())
    return replace(batch, decoder=stream, sees=sees), torch.tensor(places)


def _written(
    model: Model,
    h: Tensor,
    state: State,
    lines: Sequence[_Line],
    decodings: Sequence[Decoding],
    ended: Callable[[list[int]], bool],
    guides: Mapping[int, Guide],
    tap: int | None,
) -> list[Drawn]:
    """Answers of all lines, in their order, from the hidden states (A, D) of their last tokens; lines that end leave the batch. `tap`: the token of masks."""
    assert model.language_model is not None
    drawn = [Drawn([], [], []) for _ in lines]
    generators = {place: torch.Generator().manual_seed(d.seed) for place, d in enumerate(decodings) if d.temperature > 0}
    active = list(range(len(lines)))
    while active:
        logps = model.language_model.logits(h).log_softmax(-1)
        free = guided(logps, active, guides) if guides else logps
        tokens = [draw(free[row], decodings[one], generators.get(one)) for row, one in enumerate(active)] if generators else free.argmax(-1).tolist()
        chosen = logps.gather(1, torch.tensor(tokens, device=logps.device)[:, None])[:, 0].tolist()
        going = []
        for row, one in enumerate(active):
            own = drawn[one]
            own.tokens.append(tokens[row])
            own.logps.append(chosen[row])
            if tokens[row] == tap:
                own.taps.append(h[row].clone())
            may = one not in guides or taken(guides[one], own.tokens, own.logps)
            if may and len(own.tokens) < decodings[one].max_tokens and not ended(own.tokens):
                going.append(row)
        if not going:
            break
        active = [active[row] for row in going]
        state = _without_idle(state, [lines[one] for one in active])
        batch, places = _step(state, [lines[one] for one in active], [tokens[row] for row in going])
        h, state = model.extend(state, to_device(batch, h.device), places.to(h.device))
    return drawn


def _without_idle(state: State, lines: Sequence[_Line]) -> State:
    """The state without bins of which no line goes on, once they are half of all: leaving copies what stays, so it must be seldom. Lines are given their new bins."""
    used = sorted({line.bin for line in lines})
    if 2 * len(used) > len(state.valid):
        return state
    places = {old: new for new, old in enumerate(used)}
    for line in lines:
        line.bin = places[line.bin]
    return state.select(torch.tensor(used, device=state.valid.device))


def _step(state: State, lines: Sequence[_Line], tokens: Sequence[int]) -> tuple[Batch, Tensor]:
    """A batch of one new token per line, those of a bin beside each other, and their flat places (A,)."""
    bins = len(state.valid)
    beside = np.zeros(bins, np.int64)
    columns = []
    for line in lines:
        columns.append(int(beside[line.bin]))
        beside[line.bin] += 1
    width = int(beside.max())
    at = np.asarray([line.bin for line in lines]), np.asarray(columns)
    ids, positions, segments, branches = np.zeros((4, bins, width), np.int64)
    ids[at], segments[at] = tokens, 1
    positions[at], branches[at] = [line.position for line in lines], [line.branch for line in lines]
    sees = None
    if state.memory is not None:
        sees = np.zeros((bins, width, 2), np.int32)
        sees[at] = [line.sees or (0, 0) for line in lines]
    for line in lines:
        line.position += 1
    none = torch.zeros(0, dtype=torch.int64)
    stream = Stream(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(segments).int(),
        branches=torch.from_numpy(branches).int(),
        slots=none,
        sources=none,
    )
    batch = Batch(decoder=stream, answers=none, targets=none, weights=none.float(), owners=none, rows=(), pictures=empty_pictures())
    return replace(batch, sees=torch.from_numpy(sees) if sees is not None else None), torch.from_numpy(at[0] * width + at[1])


def draw(logps: Tensor, decoding: Decoding, generator: torch.Generator | None) -> int:
    """One token: greedy at temperature 0, else nucleus sampling (Holtzman et al. 2020) from logps / temperature."""
    if decoding.temperature <= 0 or generator is None:
        return int(logps.argmax())
    # the likeliest stays at 0 and alone in the nucleus, however near to 0 temperature and top_p are
    probabilities = ((logps - logps.max()) / max(decoding.temperature, COLDEST)).softmax(-1).cpu()
    if decoding.top_p < 1:
        ordered, index = probabilities.sort(descending=True)
        ordered[1:][(ordered.cumsum(0) - ordered)[1:] >= decoding.top_p] = 0
        return int(index[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))
