"""The answerer that compares: how similar a picture and a text are, and whether they match. Beside those that write and score text, behind one door."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from sightline.errors import Problem, Refused
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.choosing import Chooser
from sightline.evaluate.scoring_answers import TextScorer
from sightline.model.batch import Given, to_device
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Request, answer_key
from sightline.samples.sample import Sample

_BATCH = 64
_NEEDS = {"write": "write", "score": "write", "choose": "write", "match": "match", "embed": "embed"}


class ModelAnswerer:
    """Answers whatever its model is able to: write (text), score (log-probabilities of the given text), choose (the likeliest of given options), match (score: probability that the given text is that of the picture),
    embed (score: cosine of picture and text; where the last turn is the user's, so that no text is given: the picture's vector, of unit length; where the sample has no picture: the text's).
    """

    def __init__(self, model: Model, processor: Processor, weights: str, precision: str = "float32") -> None:
        self.model, self.processor, self.weights, self.precision = model.eval(), processor, weights, precision

    @cached_property
    def _writer(self) -> LocalAnswerer:
        return LocalAnswerer(self.model, self.processor, self.weights, self.precision)

    @cached_property
    def _scorer(self) -> TextScorer:
        return TextScorer(self.model, self.processor, self.weights, self.precision)

    @cached_property
    def _chooser(self) -> Chooser:
        return Chooser(self._scorer)

    def forget(self) -> None:
        """Let go of what is kept of pictures: where each is asked about once, it would only fill the memory."""
        for made in ("_writer", "_scorer"):
            if made in vars(self):
                getattr(self, made).forget()

    def measure(self, sample: Sample) -> int:
        """Tokens of the prompt."""
        return self._writer.measure(sample)

    def key(self, request: Request) -> str:
        """The name under which an answer to this request is found again."""
        if request.ask == "write":
            return self._writer.key(request)
        if request.ask in ("score", "choose"):
            return (self._scorer if request.ask == "score" else self._chooser).key(request)
        return answer_key(self.weights, _told(request), tuple(p.hash for p in request.sample.pictures), {"precision": self.precision}, request.ask)

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Each request once. Refused where the model is not able to answer one."""
        asked = list(requests)
        unable = sorted({request.ask for request in asked if _NEEDS.get(request.ask) not in self.model.abilities})
        if unable:
            raise Refused(
                Problem(
                    code="evaluate/cannot-answer",
                    place="model",
                    found=f"asked to {', '.join(unable)}",
                    allowed=f"what this model is able to: {', '.join(self.model.abilities)}",
                    fix="name a stage whose model can",
                )
            )
        for ask, answerer in (("write", "_writer"), ("score", "_scorer"), ("choose", "_chooser")):  # made when first asked: a dual tower has neither
            texts = [request for request in asked if request.ask == ask]
            yield from getattr(self, answerer).answer(texts) if texts else ()
        texts = [request for request in asked if request.ask == "embed" and not request.sample.pictures]
        for start in range(0, len(texts), _BATCH):
            yield from self._say(texts[start : start + _BATCH])
        for ask in ("match", "embed"):
            pairs = [request for request in asked if request.ask == ask and (request.sample.pictures or ask == "match")]
            for start in range(0, len(pairs), _BATCH):
                yield from self._compare(pairs[start : start + _BATCH])

    @torch.no_grad()
    def _say(self, requests: Sequence[Request]) -> Iterator[Answer]:
        """Vectors of texts."""
        began = time.monotonic()
        device = next(self.model.parameters()).device
        empty = self.processor.collate([])
        texts = self.processor.side_texts([_told(request) for request in requests], [-1] * len(requests))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            said = self.model(to_device(replace(empty, texts=texts), device), ask="embed").texts
        looks = torch.nn.functional.normalize(said.float(), dim=-1).tolist()
        seconds = (time.monotonic() - began) / len(requests)
        for request, look in zip(requests, looks):
            yield Answer(key=self.key(request), sample=request.sample.id, weights=self.weights, text="", seconds=seconds, vector=tuple(look))

    @torch.no_grad()
    def _compare(self, requests: Sequence[Request]) -> Iterator[Answer]:
        began = time.monotonic()
        device = next(self.model.parameters()).device
        batch = to_device(self.processor.collate([[self.processor.encode_pair(request.sample, _told(request))] for request in requests]), device)
        assert batch.texts is not None
        owners = batch.texts.picture_of
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            seen = self.model(batch, ask="embed")
            if requests[0].ask == "match":
                pairs = torch.stack([owners, torch.arange(len(owners), device=device)], 1)
                scores = self.model(batch, ask="match", given=Given(features=seen.features, texts=batch.texts, pairs=pairs)).match.float().softmax(1)[:, 1]
            else:
                scores = torch.einsum("xqe,xe->xq", seen.pictures[owners], seen.texts).amax(1).float()
        looks = torch.nn.functional.normalize(seen.pictures[owners].float().mean(1), dim=-1).tolist()  # several query vectors: their mean
        seconds = (time.monotonic() - began) / len(requests)
        for request, score, look in zip(requests, scores.tolist(), looks):
            said: dict[str, Any] = {"vector": tuple(look)} if _wordless(request) else {"score": score}
            yield Answer(key=self.key(request), sample=request.sample.id, weights=self.weights, text="", seconds=seconds, **said)


def _wordless(request: Request) -> bool:
    """Whether only the picture is asked about."""
    return request.ask == "embed" and request.sample.turns[-1].role == "user"


def _told(request: Request) -> str:
    """The text that is compared: that of the last turn, which is the assistant's; nothing where only the picture is asked about."""
    assert _wordless(request) or request.sample.turns[-1].role == "assistant", "a comparison is given its text"
    return "" if _wordless(request) else request.sample.text(len(request.sample.turns) - 1)
