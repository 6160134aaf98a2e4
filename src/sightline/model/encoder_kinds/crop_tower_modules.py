"""What the modules of this folder do alike: normalise the crops that an encoder sees, and give out their tokens. Letters: K crops, C channels (see batch.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sightline.errors import Problem, Refused
from sightline.model.batch import Features, Pictures
from sightline.model.encoder_kinds.towers import TowerConfig
from sightline.model.encoders import Read
from sightline.model.tiling import Grid
from sightline.samples.bands import COLOURS


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Normalised crops (frames, 3, h, w) that an encoder sees, the grids that are read from them, and their numbers in the batch."""

    crops: list[Tensor]
    grids: tuple[Grid, ...]
    numbers: tuple[int, ...]

    def features(self, values: Tensor) -> Features:
        """Values (sum of counts, C) as tokens of these crops; those of a blank crop, which has no number, are left out."""
        assert len(values) == sum(grid.count for grid in self.grids), f"{len(values)} tokens for {self.grids}"
        grids = self.grids[: len(self.numbers)]
        return Features(values=values[: sum(grid.count for grid in grids)], grids=grids, crops=self.numbers)


class CropTower(nn.Module):
    """A tower over crops, with its own mean and std."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        resolved = config.resolve()
        assert resolved.mean is not None and resolved.std is not None
        self.config = resolved.model_copy(update={"checkpoint": None})  # read from memory for every crop
        self.register_buffer("mean", torch.tensor(resolved.mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(resolved.std).view(1, -1, 1, 1) * 255.0, persistent=False)

    @property
    def layers(self) -> list[nn.Module]:
        """All repeated layers in depth order."""
        raise NotImplementedError

    def deepest(self, reads: Iterable[Read]) -> int:
        """How many of the layers run for these reads."""
        return len(self.layers)

    @property
    def blocks(self) -> list[nn.Module]:
        """Repeated layers that run for the reads of the Config, in depth order."""
        return self.layers[: self.deepest(self._reads)]

    @property
    def spare(self) -> list[str]:
        """Names of the parameters that no read of the Config depends on: kept for the round trip, not run, nothing to train."""
        return self.spare_for(self._reads)

    def spare_for(self, reads: Iterable[Read]) -> list[str]:
        """Names of the parameters that these reads do not depend on."""
        above = {id(parameter) for layer in self.layers[self.deepest(reads) :] for parameter in layer.parameters()}
        return [name for name, parameter in self.named_parameters() if id(parameter) in above]

    @property
    def _reads(self) -> list[Read]:
        return [self.config.read(), *self.config.reads.values()]

    def seen(self, pictures: Pictures, read: Read) -> Seen:
        """The crops of the roles that are seen; where a batch has none, one blank crop: every block runs whatever the batch holds."""
        numbers = tuple(pictures.seen(self.config.sees))
        crops = [self._normalised(pictures.crop(number, self.config.bands)) for number in numbers]
        crops = crops or [torch.zeros(1, len(COLOURS), self.config.least, self.config.least, device=self.mean.device)]
        return Seen(crops=crops, grids=tuple(self.config.crop_grid(crop.shape[3], crop.shape[2], read) for crop in crops), numbers=numbers)

    def _normalised(self, crop: Tensor) -> Tensor:
        """(frames * 3, h, w) of 0..255 to (frames, 3, h, w), in float32 whatever the tower computes in."""
        if len(crop) not in self._band_counts:
            raise Refused(
                Problem(
                    code="model/bands",
                    place=self.config.path,
                    found=f"a crop of {len(crop)} bands",
                    allowed=" or ".join(map(str, self._band_counts)),
                    fix="choose the bands of the pictures in the recipe",
                )
            )
        return (crop.view(-1, len(COLOURS), *crop.shape[1:]).float() - self.mean.float()) / self.std.float()

    @property
    def _band_counts(self) -> tuple[int, ...]:
        """Bands that a crop may have."""
        return (len(COLOURS),)


def stacked(crops: Sequence[Tensor], place: str) -> Tensor:
    """Crops (1, 3, h, w) as (K, 3, h, w), laid out for convolutions: padding would reach into them, so all have one size. Raises Refused: model/crop-sizes."""
    sizes = sorted({(crop.shape[3], crop.shape[2]) for crop in crops})
    if len(sizes) > 1:
        raise Refused(
            Problem(
                code="model/crop-sizes",
                place=place,
                found=f"crops of {', '.join(f'{width}x{height}' for width, height in sizes)} px",
                allowed="one size per batch",
                fix="use a tiler that makes crops of one size",
            )
        )
    return torch.cat(list(crops)).contiguous(memory_format=torch.channels_last)
