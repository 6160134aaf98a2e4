"""The answerer that scores given text: the log-probability of each token of a sample's last turn, by teacher forcing.

Texts about the same pictures become independent pairs of one sample, which the processor makes branches of one trunk: what their prompts share, pictures first of all, is
computed once, in the same forward as training. The head runs at answer places only, and log-softmax is taken in float32 whatever the precision of the rest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from sightline.errors import Problem, Refused
from sightline.evaluate.looked import Looked
from sightline.lineage import sha256_json
from sightline.model.batch import to_device
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Request, answer_key
from sightline.samples.records import turn_record
from sightline.samples.sample import Film, Regions, Sample

TOKENS, CPU_TOKENS = 16384, 2048
"""Decoder positions of a batch, padding included: an accelerator wants many at once, a CPU what its caches hold."""
SHARED = 16
"""Most texts that share one prompt in one sequence: each of them adds columns to the attention of all."""


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """Requests that are one sequence."""

    encoded: Encoded
    requests: tuple[Request, ...]


class TextScorer:
    """Answers `score`: tokens of the last assistant turn, its end included, their log-probabilities, and as `score` the sum of those.

    What cannot be scored (too long, a picture that does not decode, no room on the device) is answered with `finish` refused, no score, and its problems: one text never
    stops the others. `shared=False` computes each text with a prompt of its own.
    """

    def __init__(self, model: Model, processor: Processor, weights: str, precision: str = "float32", tokens: int | None = None, shared: bool = True) -> None:
        self.model, self.processor, self.weights, self.precision = model.eval(), processor, weights, precision
        on_cpu = next(model.parameters()).device.type == "cpu"
        self.tokens, self.texts = tokens or (CPU_TOKENS if on_cpu else TOKENS), SHARED if shared else 1
        self._features = Looked(model, processor, precision)
        said = processor.config.model_dump(mode="json", include={"tiler", "layout", "max_tokens"})
        self._form = {**said, "chat": processor.chat.model_dump(mode="json")}

    def measure(self, sample: Sample) -> int:
        """Tokens of prompt and text together."""
        return self.processor.encode(_scored(sample)).length

    def forget(self) -> None:
        """Let go of what is kept of pictures."""
        self._features.forget()
        self.processor.forget_crops()

    def key(self, request: Request) -> str:
        """The name under which an answer to this request is found again. Nothing is tokenised for it: turns and the form that they are given say the same."""
        turns = [turn_record(turn) for turn in _scored(request.sample).turns]
        pictures = tuple(picture.hash for picture in request.sample.pictures)
        return answer_key(self.weights, sha256_json([turns, self._form]), pictures, {"precision": self.precision}, request.ask)

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Each request once, short sequences first."""
        units: list[_Unit] = []
        for together in self._together(requests):
            for start in range(0, len(together), self.texts):
                for made in self._encoded(together[start : start + self.texts]):
                    if isinstance(made, Answer):
                        yield made
                    else:
                        units.append(made)
        for batch in self._batches(units):
            yield from self._settled(batch)

    def _together(self, requests: Iterable[Request]) -> list[list[Request]]:
        """Requests whose prompts may share a trunk: one question about the same pictures, after the same system turn; others alone."""
        found: dict[object, list[Request]] = {}
        for number, request in enumerate(requests):
            turns = request.sample.turns
            assert turns and turns[-1].role == "assistant", "what is scored is given its text"
            film = any(isinstance(item, Film) for turn in turns for item in turn.items)  # its frames would be counted anew in every pair
            alone = film or len(turns) != 2 + (turns[0].role == "system")
            found.setdefault(number if alone else self._trunk(request.sample), []).append(request)
        return list(found.values())

    def _trunk(self, sample: Sample) -> str:
        """What prompts that share a trunk have in common: pictures and system turn; the question too where nothing is shown, or where the model reads the two together."""
        connector, question = self.processor.config.connector, sample.turns[-2]
        reads = connector is not None and connector.reads_text
        apart = not sample.pictures or reads or any(isinstance(item, Regions) for item in question.items)
        told = [turn_record(turn) for turn in (*sample.turns[:-2], *([question] if apart else []))]
        return sha256_json([[picture.hash for picture in sample.pictures], told])

    def _encoded(self, requests: Sequence[Request]) -> Iterator[_Unit | Answer]:
        """The requests as one sequence, or as two of half of them where one is too long."""
        samples = [_scored(request.sample) for request in requests]
        joined = samples[0]
        if len(samples) > 1:
            pairs = tuple(turn for sample in samples for turn in sample.turns[-2:])
            joined = replace(joined, turns=(*joined.turns[:-2], *pairs), attributes={"turns": "independent"})
        try:
            yield _Unit(encoded=self.processor.encode(joined), requests=tuple(requests))
        except Refused as refused:
            if len(requests) == 1:
                yield self._refused(requests[0], refused.problems)
                return
            middle = len(requests) // 2
            yield from self._encoded(requests[:middle])
            yield from self._encoded(requests[middle:])

    def _batches(self, units: Sequence[_Unit]) -> Iterator[list[_Unit]]:
        """Sequences of like length, as many as the budget of tokens holds, at least one."""
        batch: list[_Unit] = []
        for unit in sorted(units, key=lambda unit: unit.encoded.length):
            if batch and (len(batch) + 1) * unit.encoded.length > self.tokens:
                yield batch
                batch = []
            batch.append(unit)
        if batch:
            yield batch

    def _settled(self, units: Sequence[_Unit]) -> list[Answer]:
        """Answers of a batch; of halves of it where it does not fit on the device or a picture of it is broken."""
        try:
            return self._forced(units)
        except Refused as refused:
            problems = list(refused.problems)
        except torch.OutOfMemoryError as error:
            allowed = f"sequences of {self.tokens} tokens that fit on the device"
            problems = [Problem(code="evaluate/no-room", place=units[0].requests[0].sample.id, found=str(error), allowed=allowed, fix="score in bfloat16")]
        if len(units) == 1:
            return [self._refused(request, problems) for request in units[0].requests]
        middle = len(units) // 2
        return [*self._settled(units[:middle]), *self._settled(units[middle:])]

    @torch.no_grad()
    def _forced(self, units: Sequence[_Unit]) -> list[Answer]:
        began = time.monotonic()
        device = next(self.model.parameters()).device
        encoded = [unit.encoded for unit in units]
        self._features.look(encoded)
        batch = to_device(self.processor.collate([[one] for one in encoded], features=self._features), device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            logp = self.model(batch).logp
        assert logp is not None and logp.dtype == torch.float32
        rows = [row for unit, part in zip(units, logp.cpu().split([len(one.targets) for one in encoded])) for row in _by_request(unit, part.tolist())]
        seconds = (time.monotonic() - began) / len(rows)
        return [replace(self._answer(request), tokens=tokens, logps=logps, score=sum(logps), seconds=seconds) for request, tokens, logps in rows]

    def _answer(self, request: Request) -> Answer:
        text = request.sample.text(len(request.sample.turns) - 1)
        return Answer(key=self.key(request), sample=request.sample.id, weights=self.weights, text=text)

    def _refused(self, request: Request, problems: Iterable[Problem]) -> Answer:
        return replace(self._answer(request), finish="refused", problems=tuple(problems))


def _scored(sample: Sample) -> Sample:
    """The sample as it is scored: only its last turn is learnt, nothing but turns and pictures is left."""
    *before, last = sample.turns
    told = tuple(replace(turn, weight=0.0, alternatives=()) if turn.role == "assistant" else turn for turn in before)
    return replace(sample, turns=(*told, replace(last, weight=1.0, alternatives=())), annotations=(), attributes={})


def _by_request(unit: _Unit, logps: Sequence[float]) -> Iterator[tuple[Request, tuple[int, ...], tuple[float, ...]]]:
    """Each request of a sequence with the tokens of its text and their log-probabilities."""
    pairs, targets = unit.encoded.pair_of.tolist(), unit.encoded.targets.tolist()
    for number, request in enumerate(unit.requests):
        own = [place for place, pair in enumerate(pairs) if pair == number]
        yield request, tuple(targets[place] for place in own), tuple(logps[place] for place in own)
