"""/v1/embeddings: unit vectors of texts and pictures, for models with a text encoder."""

from __future__ import annotations

import base64
import threading
from typing import Any

import numpy as np

from sightline.errors import Problem, Refused
from sightline.evaluate.comparing import ModelAnswerer
from sightline.evaluate.embedding_benchmarks import asked_alone
from sightline.samples.exchange import Request
from sightline.samples.sample import Sample
from sightline.serve.conversation import refused
from sightline.serve.jobs import Declined
from sightline.serve.media import Media
from sightline.serve.protocol import EmbeddingRequest, ImagePart, TextPart


class Vectors:
    """Answers requests for vectors, one after another: each is a batch of its own."""

    def __init__(self, answerer: ModelAnswerer) -> None:
        self.answerer = answerer
        self._lock = threading.Lock()

    def answer(self, request: EmbeddingRequest, media: Media, model: str) -> dict[str, Any]:
        """The body of the reply. Waits: call it outside of the event loop. Raises Declined."""
        samples = _samples(request, media)
        try:
            with self._lock:
                found = {answer.sample: answer.vector for answer in self.answerer.answer([Request(sample=sample, ask="embed") for sample in samples])}
        except Refused as problems:
            raise refused(problems) from None
        data = [{"object": "embedding", "index": number, "embedding": _told(found[sample.id], request)} for number, sample in enumerate(samples)]
        tokens = sum(len(self.answerer.processor.side.encode(sample.text(1))) for sample in samples if not sample.pictures)
        return {"object": "list", "data": data, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _samples(request: EmbeddingRequest, media: Media) -> list[Sample]:
    if (request.input is None) == (request.messages is None):
        found = "both or neither"
        raise Declined(400, Problem(code="serve/parameter", place="input", found=found, allowed="input or messages", fix="give one of them"))
    if request.input is not None:
        texts = [request.input] if isinstance(request.input, str) else request.input
        return [asked_alone(str(number), None, text, "request") for number, text in enumerate(texts)]
    [message] = request.messages or [None]
    parts = [] if message is None or isinstance(message.content, str) else message.content
    if message is not None and isinstance(message.content, str):
        return [asked_alone("0", None, message.content, "request")]
    if len(parts) == 1 and isinstance(parts[0], ImagePart):
        return [asked_alone("0", media.picture(parts[0].image_url.url, "messages[0].content[0]"), None, "request")]
    if len(parts) == 1 and isinstance(parts[0], TextPart):
        return [asked_alone("0", None, parts[0].text, "request")]
    problem = Problem(code="serve/parameter", place="messages", found=f"{len(parts)} parts", allowed="one text or one picture", fix="ask for each apart")
    raise Declined(400, problem)


def _told(vector: tuple[float, ...] | None, request: EmbeddingRequest) -> list[float] | str:
    assert vector is not None
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode() if request.encoding_format == "base64" else list(vector)
