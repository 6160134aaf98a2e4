"""A published checkpoint made a model directory, with golden requests of its own: what it says about a drawn picture."""

from __future__ import annotations

import io
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

QUESTION = "What does the picture show?"
GOLDEN_TOKENS = 16
"""Longest golden answer."""
_SIDE = 96


def import_checkpoint(folder: Path, out: Path) -> Native:
    """Write the model directory `out` of a published folder. Raises Refused as `native_weights.load` does."""
    return native_directory.import_(folder, out, _golden)


def _golden(folder: Path, model: Model, processor: Processor, weights: str) -> None:
    asked = Sample(id="golden", pictures=(_rings(),), origin=Origin(source="golden"))
    told: list[tuple[Sample, Answer]] = []
    if "write" in model.abilities:
        prompt = Sample(id="golden", pictures=asked.pictures, turns=(Turn(role="user", items=(Show(picture=0), Text(text=QUESTION))),), origin=asked.origin)
        told = [(prompt, one) for one in LocalAnswerer(model, processor, weights).answer([Request(sample=prompt, decoding=Decoding(max_tokens=GOLDEN_TOKENS))])]
    pairs = [(asked, "Coloured rings on a dark ground.")] if "embed" in model.abilities else []
    write_golden(folder, model, processor, told, pairs)


def _rings() -> Picture:
    """Coloured rings, smooth enough that resampling does not alias."""
    across, down = np.meshgrid(np.linspace(-1, 1, _SIDE), np.linspace(-1, 1, _SIDE))
    radius = np.hypot(across, down)[..., None]
    values = 127.5 + 127.5 * np.cos(radius * np.array([6.0, 8.0, 10.0]) + np.array([0.0, 1.0, 2.0]))
    stream = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stream, "PNG")
    data = stream.getvalue()
    return Picture(hash=sha256_bytes(data), width=_SIDE, height=_SIDE, data=data)
