"""Answers whose regions are taps become answers whose regions are masks: the head looks once, after all words are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sightline.errors import Problem
from sightline.model.processor import Processor
from sightline.model.region_words import answered_on
from sightline.model.vlm import Model
from sightline.samples.codecs import FORMAT_ERROR
from sightline.samples.sample import Item, Mask, Region, Regions, Sample, Tap, Text


def with_masks(
    model: Model, processor: Processor, items: Sequence[Item], problems: Sequence[Problem], tokens: Sequence[int], taps: Sequence[Tensor], sample: Sample
) -> tuple[tuple[Item, ...], tuple[Problem, ...]]:
    """The items and problems of an answer to the sample, each tap replaced by the mask that its hidden state (D,) stands for.

    Where the words of an answer spell the token's name, a tap and a token cannot be told apart: its taps become words again, and that is one problem more.
    """
    named = any(isinstance(region.shape, Tap) for item in items if isinstance(item, Regions) for region in item.regions)
    if not named or processor.masks is None:
        return tuple(items), tuple(problems)
    shown = answered_on(sample.turns)
    assert shown is not None, "regions are read on the picture shown last"
    spelled = _spelled(processor, tokens)
    if spelled:
        return (Text(text=processor.decode(tokens)),), (*problems, spelled)
    masks = processor.masks.drawn(model, torch.stack(list(taps)), sample.pictures[shown])
    return tuple(_masked(item, masks) if isinstance(item, Regions) else item for item in items), tuple(problems)


def _masked(item: Regions, masks: Sequence[Mask]) -> Regions:
    def drawn(region: Region) -> Region:
        return replace(region, shape=masks[region.shape.index]) if isinstance(region.shape, Tap) else region

    return replace(item, regions=tuple(drawn(region) for region in item.regions))


def _spelled(processor: Processor, tokens: Sequence[int]) -> Problem | None:
    """The problem of an answer that writes the name of the token in letters."""
    codec = processor.config.codec
    assert codec is not None
    [token] = codec.control
    kept = processor.decode([one for one in tokens if one != processor.tap_id])
    if token not in kept:
        return None
    return Problem(
        code=FORMAT_ERROR,
        place=f"character {kept.index(token)}",
        found=f"{token!r} spelled in letters",
        allowed="the control token",
        fix="count it against the model, or constrain its answers by the codec's grammar",
        severity="warn",
    )
