"""CLIP's residual networks (https://arxiv.org/abs/2103.00020, section 2.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, field_validator

from sightline.errors import Problem, Refused
from sightline.model.encoder_kinds.towers import TowerConfig

if TYPE_CHECKING:
    from sightline.model.encoder_kinds.modified_resnet_modules import ModifiedResNetTower

EXPANSION = 4
"""Channels of a bottleneck's output per channel inside."""


class ModifiedResNetEncoder(TowerConfig):
    """A residual network with a stem of three convolutions and strides that average first, up to its last map; attention pooling is its own module.

    RN50: depths 3, 4, 6, 3 and width 64. RN101: 3, 4, 23, 3 and 64. RN50x4: 4, 6, 10, 6 and 80. RN50x16: 6, 8, 18, 8 and 96. RN50x64: 3, 15, 36, 10 and 128.
    Weights carry open_clip's names, `visual.conv1.weight` and so on.
    """

    kind: Literal["modified-resnet"] = "modified-resnet"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Bottlenecks of each stage; every stage but the first halves the map."""
    width: int = Field(default=64, ge=2, multiple_of=2)
    """Channels after the stem. A token has 4 * width * 2^(stages - 1)."""

    @field_validator("depths")
    @classmethod
    def _filled(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        if not depths or min(depths) < 1:
            raise ValueError("at least one stage, each of at least one bottleneck")
        return depths

    @property
    def least(self) -> int:
        """Px of one place of the last map: the stem takes 4, each later stage twice as many."""
        return 4 * 2 ** (len(self.depths) - 1)

    def places(self, width: int, height: int) -> tuple[int, int]:
        """Size of the last map. Raises Refused where there is none: model/crop-size."""
        columns, rows = (-(-side // 2) // (self.least // 2) for side in (width, height))
        if not (columns and rows):
            raise Refused(
                Problem(
                    code="model/crop-size",
                    place=self.path,
                    found=f"crops of {width}x{height} px",
                    allowed=f"sides of at least {self.least - 1} px: its strides",
                    fix="choose a tiler of larger crops",
                )
            )
        return columns, rows

    def channels(self, consumer: str = "connector") -> int:
        """C: channels of the last map."""
        return self.width * EXPANSION * 2 ** (len(self.depths) - 1)

    def twin(self, side: int | None = None) -> Self:
        """Two stages of one bottleneck each: places of 8 px with 32 channels."""
        return self.resolve().model_copy(update={"checkpoint": None, "depths": (1, 1), "width": 4})

    def build(self) -> ModifiedResNetTower:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.encoder_kinds.modified_resnet_modules import ModifiedResNetTower

        return ModifiedResNetTower(self)
