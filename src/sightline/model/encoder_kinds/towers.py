"""What the towers of this folder say alike: bands, which layers may be read, the grid of a crop, and where a published config comes from."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from sightline.errors import Problem, Refused
from sightline.model import composite_weights, hub_layout, open_clip
from sightline.model.encoders import Read, VisionEncoder, statistics
from sightline.model.tiling import Grid
from sightline.model.towers.tower_table import Statistics
from sightline.samples.bands import COLOURS

CLIP: Statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class TowerConfig(VisionEncoder):
    """An encoder whose weights are those of a published tower, or random."""

    LEAD: ClassVar[int] = 0
    """Class tokens before the raster."""

    checkpoint: str | None = None
    """Folder, file or cached hub name of safetensors: the tower alone, or a whole model that holds it; None = random weights."""

    @property
    def least(self) -> int:
        """Side in px of the smallest crop that gives a token."""
        raise NotImplementedError

    def places(self, width: int, height: int) -> tuple[int, int]:
        """(columns, rows) of a crop of width x height px."""
        raise NotImplementedError

    def depth(self) -> int | None:
        """Blocks whose outputs may be read; None: the tower gives out its own choice, which is read as layer -1."""
        return None

    def crop_grid(self, width: int, height: int, read: Read) -> Grid:
        """Tokens of one crop of width x height px."""
        columns, rows = self.places(width, height)
        return Grid(columns=columns, rows=rows, lead=self.LEAD if read.lead == "keep" else 0)

    def grid(self, width: int, height: int, consumer: str = "connector") -> Grid:
        """Tokens of one crop of width x height px, as the consumer sees them."""
        return self.crop_grid(width, height, self.read(consumer))

    def resolve(self) -> Self:
        """With mean and std of the checkpoint, else CLIP's. Raises Refused: model/bands, model/band-statistics, model/layer-not-read."""
        problems = [*self._wrong_bands(), *self._wrong_reads()]
        mean, std = statistics(self, self._published_statistics(), problems)
        if problems:
            raise Refused(problems)
        return self.model_copy(update={"mean": mean, "std": std})

    def _published_statistics(self) -> Statistics:
        stated = open_clip.open_clip_statistics(self.checkpoint) if self.checkpoint else None
        if stated:
            return tuple(stated[0]), tuple(stated[1])
        said = composite_weights.beside(self.checkpoint, "preprocessor_config.json") or {}
        return tuple(said.get("image_mean", CLIP[0])), tuple(said.get("image_std", CLIP[1]))

    def _wrong_bands(self) -> list[Problem]:
        if len(set(self.bands)) == len(self.bands) == len(COLOURS):
            return []
        found, allowed = ", ".join(self.bands) or "no bands", f"{len(COLOURS)} different bands: the tower embeds no other number"
        return [
            Problem(code="model/bands", place=f"{self.path}.bands", found=found, allowed=allowed, fix="choose three bands, or the encoder kind `transformers`")
        ]

    def _wrong_reads(self) -> list[Problem]:
        depth = self.depth()
        allowed = "layer -1 without final_norm" if depth is None else f"layers {-depth - 1} to {depth} without final_norm: the tower has none"
        layers = (-1,) if depth is None else range(-depth - 1, depth + 1)
        return [
            Problem(
                code="model/layer-not-read",
                place=self.path,
                found=f"layer {read.layer}, final_norm {read.final_norm}",
                allowed=allowed,
                fix="remove layer and final_norm",
            )
            for read in (self.read(), *self.reads.values())
            if read.final_norm or not set(read.layers) <= set(layers)
        ]


class PublishedTower(TowerConfig):
    """A tower of transformers, described by its published config."""

    MODEL_TYPE: ClassVar[str]
    """The model type of its config in transformers."""
    SETTINGS: ClassVar[tuple[str, ...]]
    """Keys of the config that geometry and twin are made from."""

    config: dict[str, Any] | None = None
    """The published config block; needed without a checkpoint, and lets a recipe be planned without its weights. Beside a checkpoint its keys win."""

    def block(self) -> dict[str, Any]:
        """The vision config as plain data. Raises Refused: model/no-checkpoint, model/unknown-encoder, model/config-not-accepted."""
        own = composite_weights.beside(self.checkpoint, "config.json")
        stated = [part.get("vision_config") or part for part in (own, self.config) if part is not None]
        typed = {key: value for part in ({"model_type": self.MODEL_TYPE}, *stated) for key, value in part.items()} if stated else None
        unknown = self.checkpoint is not None and composite_weights.find(self.checkpoint) is None
        block = hub_layout.config_block(self.checkpoint if unknown else None, typed, self.path)
        if block["model_type"] != self.MODEL_TYPE:
            raise Refused(
                Problem(
                    code="model/unknown-encoder",
                    place=self.path,
                    found=repr(block["model_type"]),
                    allowed=repr(self.MODEL_TYPE),
                    fix="choose the encoder kind of this model type, or another checkpoint",
                )
            )
        return hub_layout.completed(block, self.SETTINGS, self.path)

    def resolve(self) -> Self:
        """With the checkpoint's config, mean and std copied in. Raises Refused as `block` does, and model/bands, model/layer-not-read."""
        return super().resolve().model_copy(update={"config": self.block()})

    def _toy(self, **block: Any) -> Self:
        """Random weights by a toy config; mean, std and what is read stay."""
        return self.resolve().model_copy(update={"checkpoint": None, "config": {**self.block(), **block}})
