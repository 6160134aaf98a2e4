"""The module of a transformers vision model. Letters: K crops, C channels (see batch.py)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sightline.errors import Problem, Refused
from sightline.model.batch import Features, Pictures
from sightline.model.encoders import EncoderConfig, Read
from sightline.model.towers.crop_groups import CropsOfSize, by_size
from sightline.model.towers.feature_pyramids import FeaturePyramid
from sightline.model.towers.patch_filters import inflate
from sightline.model.towers.tower_table import TOWERS, Rule, cells
from sightline.model.towers.tower_weights import build_tower
from sightline.model.towers.vision_transformers import VisionTransformer
from sightline.samples.bands import COLOURS


class TransformersEncoder(nn.Module):
    """Normalises by its own mean and std, runs the tower once for all crops, and hands out the layers that are read."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config.resolve()
        self._block = self.config.block()
        self._rule: Rule = self.config.rule(self._block)
        self.tower = build_tower(self.config, self._block)
        pyramid = TOWERS[self._block["model_type"]].adapter == "pyramid"
        self._run = FeaturePyramid(self.tower, self._block) if pyramid else VisionTransformer(self.tower, self._block, self._rule)
        if self._run.first.in_channels == len(COLOURS):
            inflate(self.tower, self._run.first, self.config.bands)
        assert self.config.mean is not None and self.config.std is not None
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(self.config.mean).view(1, -1, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(self.config.std).view(1, -1, 1, 1) * 255.0, persistent=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """Repeated layers that run for the reads of the Config, in depth order."""
        return self._run.blocks[: self._run.deepest(self._reads)]

    @property
    def spare(self) -> list[str]:
        """Names of the parameters that no read of the Config depends on: kept for the round trip, not run, nothing to train."""
        return self.spare_for(self._reads)

    def spare_for(self, reads: Iterable[Read]) -> list[str]:
        """Names of the parameters that these reads do not depend on."""
        return [f"tower.{name}" for name in self._run.spare(list(reads))]

    @property
    def takes_prompts(self) -> bool:
        """Whether learnt vectors can stand among its tokens."""
        return isinstance(self._run, VisionTransformer)

    @property
    def first_filters(self) -> Tensor:
        """Weight of the convolution that makes patches, (C, bands, h, w)."""
        return self._run.first.weight

    @property
    def _reads(self) -> list[Read]:
        return [self.config.read(), *self.config.reads.values()]

    def forward(self, pictures: Pictures, read: Read, prompts: Tensor | None = None) -> Features:
        """Features of the crops whose roles it sees, (sum of counts, C). Refused: crops of other bands or of a size that the tower does not take.

        `prompts` (blocks or 1, Q, C): vectors that stand among the tokens of every crop, and of which no features are handed out.

        Where it sees none, one blank crop runs through it and nothing is handed out: its blocks run equally often on every rank.
        """
        assert pictures.pixels is not None, "a batch with cached features does not pass through the encoder"
        everything = set(self.config.sees) >= {"tile", "overview", "detail", "canvas"}
        numbers = range(len(pictures.pixels)) if everything else pictures.seen(self.config.sees)
        groups = by_size([pictures.crop(number, self.config.bands) for number in numbers] or [self._blank()])
        self._refuse_misfits(groups)
        mean, std = self.mean.float(), self.std.float()
        normalised = [CropsOfSize(places=group.places, crops=(group.crops.float() - mean) / std) for group in groups]
        values, grids = self._run(normalised, read, prompts) if isinstance(self._run, VisionTransformer) else self._run(normalised, read)
        if not numbers:
            values, grids = values[:0], []
        return Features(values=values, grids=tuple(grids), crops=tuple(numbers))

    def maps(self, crops: Tensor, consumer: str = "connector") -> list[Tensor]:
        """Feature maps (K, C, rows, columns) of unnormalised crops (K, bands, h, w) of one size: of each layer that the consumer reads, in its order, or of each stage of a pyramid, finest first.

        Class and register tokens are left out. Refused: as for `forward`.
        """
        self._refuse_misfits([CropsOfSize(places=list(range(len(crops))), crops=crops)])
        return self._run.maps((crops.float() - self.mean.float()) / self.std.float(), self.config.read(consumer))

    def _blank(self) -> Tensor:
        side = self._block.get("image_size", 64)  # every pyramid has a cell for 64 px
        height, width = (side, side) if isinstance(side, int) else side
        return torch.zeros(len(self.config.bands), height, width, device=self.mean.device)

    def _refuse_misfits(self, groups: list[CropsOfSize]) -> None:
        bands = self.config.bands
        sizes = sorted(tuple(group.crops.shape[1:]) for group in groups)
        problems = []
        if any(found != len(bands) for found, _, _ in sizes):
            problems.append(
                Problem(
                    code="model/bands",
                    place=self.config.path,
                    found=f"crops of {', '.join(str(found) for found in sorted({size[0] for size in sizes}))} bands",
                    allowed=f"{len(bands)}: {', '.join(bands)}",
                    fix=f"set {self.config.path}.bands to the bands of your pictures",
                )
            )
        if len(sizes) > 1 and isinstance(self._run, FeaturePyramid):
            problems.append(
                Problem(
                    code="model/crop-sizes",
                    place=self.config.path,
                    found=f"crops of {sizes}",
                    allowed="one size per batch",
                    fix="use a tiler that makes crops of one size",
                )
            )
        if problems:
            raise Refused(problems)
        for _, height, width in sizes:
            cells(self._block, self._rule, width, height, self.config.path)
