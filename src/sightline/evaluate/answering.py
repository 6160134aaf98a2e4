"""The local answerer: batched greedy and sampled generation with a KV cache."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.evaluate.golden import check_golden
from sightline.lineage import sha256_json, software, write_json
from sightline.model import directory, hub_layout
from sightline.model.batch import Batch, Features, Pictures, Stream, empty_pictures, to_device
from sightline.model.packing import Encoded, FeatureSource, pictured
from sightline.model.processor import Processor
from sightline.model.tiling import Tiling
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Decoding, Request, answer_key
from sightline.samples.pictures import read_picture
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn
from sightline.train.feature_cache import encode

_LOOKED_AT = 4096


class LocalAnswerer:
    """Answers with a model in this process. Each picture is encoded once; requests are batched by prompt length."""

    def __init__(self, model: Model, processor: Processor, weights: str, precision: str = "float32", batch: int = 128) -> None:
        if "write" not in model.abilities:
            raise Refused(
                Problem(
                    code="evaluate/cannot-write",
                    place="model",
                    found=f"abilities {list(model.abilities)}",
                    allowed="a model with a language model",
                    fix="choose a later stage",
                )
            )
        self.model, self.processor, self.weights, self.precision, self.batch = model.eval(), processor, weights, precision, batch
        self._features = Looked(model, processor, precision)
        codec = processor.config.codec
        self._reading = {"codec": codec.model_dump(mode="json")} if codec is not None else {}  # the same text may say other regions

    def measure(self, sample: Sample) -> int:
        """Tokens of the prompt."""
        return self.processor.encode(sample, answer=False).length

    def key(self, request: Request) -> str:
        """The name under which an answer to this request is found again."""
        encoded = self.processor.encode(request.sample, answer=False)
        return self._key(request, encoded)

    def _key(self, request: Request, encoded: Encoded) -> str:
        return answer_key(
            self.weights,
            self.processor.prompt(encoded),
            tuple(p.hash for p in encoded.pictures),
            {**asdict(request.decoding), "precision": self.precision, **self._reading},
            request.ask,
        )

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Answers in order of prompt length and number of tokens asked for. Asks other than write belong to other answerers and are refused."""
        asked = list(requests)
        wrong = sorted({request.ask for request in asked} - {"write"})
        if wrong:
            raise Refused(Problem(code="evaluate/ask", place="request", found=", ".join(wrong), allowed="write", fix="this answerer only writes"))
        encoded = [self.processor.encode(request.sample, answer=False) for request in asked]
        order = sorted(range(len(asked)), key=lambda i: (asked[i].decoding.max_tokens, encoded[i].length))
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            yield from self._batch([asked[i] for i in chosen], [encoded[i] for i in chosen])

    @torch.no_grad()
    def _batch(self, requests: Sequence[Request], encoded: Sequence[Encoded]) -> list[Answer]:
        began = time.monotonic()
        device = next(self.model.parameters()).device
        self._features.look(encoded)
        batch = to_device(self.processor.collate([[one] for one in encoded], features=self._features), device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            drawn = generate(self.model, batch, [request.decoding for request in requests], self.processor.ended)
        seconds = (time.monotonic() - began) / len(requests)
        return [self._finish(request, one, tokens, logps, seconds) for request, one, (tokens, logps) in zip(requests, encoded, drawn)]

    def _finish(self, request: Request, encoded: Encoded, tokens: list[int], logps: list[float], seconds: float) -> Answer:
        ended = self.processor.ended(tokens)
        text = self.processor.decode(tokens)
        for stop in request.decoding.stop:
            if stop in text:
                text, ended = text[: text.index(stop)], True
        items, problems = self.processor.items(text, request.sample)
        return Answer(
            key=self._key(request, encoded),
            sample=request.sample.id,
            weights=self.weights,
            text=text,
            items=items,
            tokens=tuple(tokens),
            logps=tuple(logps),
            finish="stop" if ended else "length",
            problems=problems,
            seconds=seconds,
        )

    def ask(self, pictures: Sequence[Path | Picture], history: Sequence[tuple[str, str]], question: str, decoding: Decoding | None = None) -> Answer:
        """One question about pictures, after earlier (question, answer) pairs of the same conversation."""
        sample = conversation(pictures, history, question)
        return next(self.answer([Request(sample=sample, decoding=decoding or Decoding())]))


def conversation(pictures: Sequence[Path | Picture], history: Sequence[tuple[str, str]], question: str) -> Sample:
    """A sample whose last user turn is the question; the pictures are shown in the first user turn."""
    known = tuple(p if isinstance(p, Picture) else read_picture(p) for p in pictures)
    turns: list[Turn] = []
    for user, assistant in (*history, (question, None)):
        shown = tuple(Show(picture=i) for i in range(len(known))) if not turns else ()
        turns.append(Turn(role="user", items=(*shown, Text(text=user))))
        if assistant is not None:
            turns.append(Turn(role="assistant", items=(Text(text=assistant),)))
    return Sample(id="chat", pictures=known, turns=tuple(turns), origin=Origin(source="chat"))


class Looked(FeatureSource):
    """Features of pictures that were looked at, forgotten oldest first."""

    def __init__(self, model: Model, processor: Processor, precision: str) -> None:
        self.model, self.processor, self.precision = model, processor, precision
        self._known: dict[tuple[str, Tiling], dict[str, Features]] = {}

    def look(self, encoded: Iterable[Encoded]) -> None:
        """Encode the pictures of these samples that are not known yet."""
        asked = {(picture.hash, measure.tiling): (picture, measure) for one in encoded for picture, measure in zip(one.pictures, one.measures)}
        self._known |= {key: self._known.pop(key) for key in asked if key in self._known}  # now the youngest: what this batch needs is not forgotten below
        items = [(key, asked[key]) for key in asked if key not in self._known]
        device = next(self.model.parameters()).device
        for start in range(0, len(items), 64):
            chunk = items[start : start + 64]
            pictures = self.processor.collate([[pictured(picture, measure)] for _, (picture, measure) in chunk]).pictures
            assert pictures.pixels is not None
            features = encode(self.model, replace(pictures, pixels=tuple(p.to(device) for p in pictures.pixels)), self.precision)
            self._known |= dict(zip((key for key, _ in chunk), _by_picture(features, pictures)))
        while len(self._known) > _LOOKED_AT:
            self._known.pop(next(iter(self._known)))

    def __call__(self, pictures: Sequence[tuple[str, Tiling]]) -> dict[str, Features]:
        firsts, total = [], 0
        for _, tiling in pictures:
            firsts.append(total)
            total += len(tiling.crops)
        found = {}
        for encoder in self.model.config.encoders:
            parts = [self._known[key][encoder.name] for key in pictures]
            found[encoder.name] = Features(
                values=torch.cat([part.values for part in parts]),
                grids=tuple(grid for part in parts for grid in part.grids),
                crops=tuple(first + crop for first, part in zip(firsts, parts) for crop in part.crops),
            )
        return found


def _by_picture(features: dict[str, Features], pictures: Pictures) -> list[dict[str, Features]]:
    """Features of a batch taken apart by picture; crops are counted from 0 in each."""
    owners = pictures.picture_of.tolist()
    found: list[dict[str, Features]] = [{} for _ in pictures.tilings]
    for name, own in features.items():
        parts = dict(zip(own.crops, zip(own.split(), own.grids)))
        for number, tiling in enumerate(pictures.tilings):
            first = owners.index(number)
            crops = [crop for crop in range(first, first + len(tiling.crops)) if crop in parts]
            values = torch.cat([parts[crop][0] for crop in crops]) if crops else own.values[:0]
            found[number][name] = Features(values=values, grids=tuple(parts[crop][1] for crop in crops), crops=tuple(crop - first for crop in crops))
    return found


def generate(model: Model, batch: Batch, decodings: Sequence[Decoding], ended: Callable[[list[int]], bool]) -> list[tuple[list[int], list[float]]]:
    """Tokens and their log-probabilities per bin, what ends an answer included; bins that `ended` (asked after every token) leave the batch."""
    assert model.language_model is not None
    bins = len(decodings)
    drawn: list[tuple[list[int], list[float]]] = [([], []) for _ in range(bins)]
    active = list(range(bins))
    generators = {i: torch.Generator().manual_seed(d.seed) for i, d in enumerate(decodings) if d.temperature > 0}
    h, state = model.extend(None, batch)
    while active:
        logps = model.language_model.logits(h).log_softmax(-1)
        tokens = [_draw(logps[row], decodings[b], generators.get(b)) for row, b in enumerate(active)] if generators else logps.argmax(-1).tolist()
        chosen = logps.gather(1, torch.tensor(tokens, device=logps.device)[:, None])[:, 0].tolist()
        going = []
        for row, b in enumerate(active):
            drawn[b][0].append(tokens[row])
            drawn[b][1].append(chosen[row])
            if len(drawn[b][0]) < decodings[b].max_tokens and not ended(drawn[b][0]):
                going.append(row)
        if not going:
            break
        if len(going) < len(active):
            state = state.select(torch.tensor(going, device=h.device))
        active = [active[row] for row in going]
        h, state = model.extend(state, one_token([tokens[row] for row in going], h.device))
    return drawn


def one_token(tokens: Sequence[int], device: torch.device) -> Batch:
    """A batch of one new token per bin."""
    count = len(tokens)
    ones = torch.ones(count, 1, dtype=torch.int32, device=device)
    none = torch.zeros(0, dtype=torch.int64, device=device)
    stream = Stream(
        ids=torch.tensor(tokens, device=device)[:, None],
        positions=torch.zeros(count, 1, dtype=torch.int64, device=device),
        segments=ones,
        branches=ones * 0,
        slots=none,
        sources=none,
    )
    return Batch(decoder=stream, answers=none, targets=none, weights=none.float(), owners=none, rows=(), pictures=empty_pictures())


def _draw(logps: Tensor, decoding: Decoding, generator: torch.Generator | None) -> int:
    """One token: greedy at temperature 0, else nucleus sampling (Holtzman et al. 2020) from logps / temperature."""
    if decoding.temperature <= 0 or generator is None:
        return int(logps.argmax())
    probabilities = (logps / decoding.temperature).softmax(-1).cpu()
    if decoding.top_p < 1:
        ordered, index = probabilities.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= decoding.top_p] = 0
        return int(index[torch.multinomial(ordered, 1, generator=generator)])
    return int(torch.multinomial(probabilities, 1, generator=generator))


def load_checked(path: Path, precision: str = "float32", check: bool = True) -> tuple[Model, Processor, str]:
    """Model, processor and weights id of a run, a model directory or a published checkpoint. Golden requests are checked once per (weights, software, device) and the result is
    remembered in `golden/checked.json`.
    """
    folder = directory.model_folder(path)
    model, processor, weights = directory.load(folder)
    published = directory.is_published(hub_layout.read_json(folder / "config.json"))
    if check and not (published and not (folder / "golden").is_dir()):  # nobody publishes golden requests: `checkpoint read` makes them
        state = sha256_json([weights, software(), precision, next(model.parameters()).device.type])
        memo = folder / "golden" / "checked.json"
        known = json.loads(memo.read_text(encoding="utf-8")) if memo.is_file() else {}
        if state not in known:
            known[state] = check_golden(folder, model, processor, precision)
            if os.access(folder / "golden", os.W_OK):
                write_json(memo, known)
    return model, processor, weights


def load_answerer(path: Path, precision: str = "float32", check: bool = True) -> LocalAnswerer:
    """The answerer that writes, of a run, a model directory or a published checkpoint."""
    return LocalAnswerer(*load_checked(path, precision, check), precision)
