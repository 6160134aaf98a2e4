"""A published checkpoint made a model directory, with golden requests of its own: what it says about drawn pictures."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.golden import write_golden
from sightline.lineage import sha256_bytes
from sightline.model.native import native_directory
from sightline.model.native.native_weights import Native
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

QUESTIONS = ("What does the picture show?", "Which colours are there?", "Is there water?")
"""Each is asked of a picture of another shape."""
GOLDEN_TOKENS = 16
"""Longest golden answer."""
_SIZES = ((96, 96), (128, 72), (64, 96))
"""Width and height of the pictures, px."""


def import_checkpoint(folder: Path, out: Path) -> Native:
    """Write the model directory `out` of a published folder. Raises Refused as `native_weights.load` does."""
    return native_directory.import_(folder, out, _golden)


def _golden(folder: Path, model: Model, processor: Processor, weights: str) -> None:
    shown = [Sample(id="golden", pictures=(_rings(*size),), origin=Origin(source="golden")) for size in _SIZES]
    told: list[tuple[Sample, Answer]] = []
    if "write" in model.abilities:
        turns = [(Turn(role="user", items=(Show(picture=0), Text(text=question))),) for question in QUESTIONS]
        prompts = [replace(sample, turns=own) for sample, own in zip(shown, turns, strict=True)]
        answerer = LocalAnswerer(model, processor, weights)
        told = [(one, next(answerer.answer([Request(sample=one, decoding=Decoding(max_tokens=GOLDEN_TOKENS))]))) for one in prompts]
    pairs = [(sample, "Coloured rings on a dark ground.") for sample in shown] if "embed" in model.abilities else []
    write_golden(folder, model, processor, told, pairs)


def _rings(width: int, height: int) -> Picture:
    """Coloured rings, smooth enough that resampling does not alias."""
    across, down = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    radius = np.hypot(across, down)[..., None]
    values = 127.5 + 127.5 * np.cos(radius * np.array([6.0, 8.0, 10.0]) + np.array([0.0, 1.0, 2.0]))
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, "PNG")
    data = stream.getvalue()
    return Picture(hash=sha256_bytes(data), width=width, height=height, data=data)
