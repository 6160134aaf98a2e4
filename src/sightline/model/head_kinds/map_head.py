"""A light mask head over the maps of a vision tower, which learns from nothing. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.model.encoders import EncoderConfig
from sightline.model.heads import Encoders

if TYPE_CHECKING:
    from sightline.model.head_kinds.map_head_modules import MapMaskHead

CONSUMER = "heads.mask"
"""Under this name an encoder may say in `reads` what the head reads of it."""


class MapHead(Config):
    """The tower's maps, the picture itself at half its resolution, and the tap: it says where to look (products with the joined maps) and what to keep (scale and shift).

    The decoder is that of refiners (docs/refine.md); the projection of the tap that of LISA, section 3.2: two linear layers with a ReLU between.
    """

    kind: Literal["maps"] = "maps"
    encoder: str | EncoderConfig = "vision"
    """Name of one of the model's encoders, whose maps it shares, or a tower of its own. `reads: {heads.mask: ..}` of an encoder says which layers."""
    size: int = Field(default=96, ge=16, le=2048, multiple_of=4)
    """Side in px of the square in which it sees the picture; one that the tower takes."""
    told: int = Field(default=64, ge=1)
    """Numbers that the projection makes of a hidden state."""
    looks: int = Field(default=8, ge=1)
    """Maps of products with the projected state."""
    width: int = Field(default=48, ge=8, multiple_of=8)
    """Channels of the decoder at a quarter of the resolution."""
    stem: int = Field(default=24, ge=8, multiple_of=8)
    """Channels at half of the resolution, where the picture itself comes in."""
    depth: int = Field(default=2, ge=1)
    """Residual blocks at a quarter of the resolution."""

    @property
    def side(self) -> int:
        """See MaskHead."""
        return self.size

    @property
    def stride(self) -> int:
        """One place for each px."""
        return 1

    def tower(self, encoders: Encoders) -> EncoderConfig:
        """The encoder whose maps it reads."""
        found = self.encoder if isinstance(self.encoder, EncoderConfig) else next(one for one in encoders if one.name == self.encoder)
        assert isinstance(found, EncoderConfig), "faults tells encoders without maps"
        return found

    def bands(self, encoders: Encoders) -> tuple[str, ...]:
        """See MaskHead."""
        return self.tower(encoders).bands

    def fill(self, encoders: Encoders) -> tuple[float, ...]:
        """See MaskHead."""
        return self.tower(encoders).mean or (0.0,) * len(self.bands(encoders))

    def tokens(self, encoders: Encoders) -> int:
        """See MaskHead."""
        return self.tower(encoders).grid(self.size, self.size, CONSUMER).count

    def faults(self, encoders: Encoders) -> list[str]:
        """See MaskHead."""
        if isinstance(self.encoder, EncoderConfig):
            return []
        named = {encoder.name: encoder for encoder in encoders}
        if self.encoder not in named:
            return [f"heads.mask.encoder: one of {', '.join(named) or 'the encoders (there are none)'}, or a tower of its own"]
        return (
            []
            if isinstance(named[self.encoder], EncoderConfig)
            else [f"heads.mask.encoder: {self.encoder} gives no maps: only encoders of kind transformers do"]
        )

    def resolve(self, encoders: Encoders) -> MapHead:
        """See MaskHead. Refused: a size that the tower does not take."""
        made = self.model_copy(update={"encoder": self.encoder.resolve()}) if isinstance(self.encoder, EncoderConfig) else self
        try:
            made.tokens(encoders)
        except Refused as refused:
            [said] = refused.problems
            raise Refused(
                Problem(
                    code="model/head-size",
                    place="heads.mask.size",
                    found=f"a square of {self.size} px",
                    allowed=f"what its tower takes: {said.allowed}",
                    fix="change heads.mask.size, or let the tower interpolate its positions",
                )
            ) from None
        return made

    def weightless(self) -> MapHead:
        """See MaskHead."""
        own = isinstance(self.encoder, EncoderConfig) and self.encoder.checkpoint is not None
        return self.model_copy(update={"encoder": self.encoder.model_copy(update={"checkpoint": None})}) if own else self  # pyright: ignore[reportAttributeAccessIssue]

    def twin(self) -> MapHead:
        """See MaskHead."""
        size = min(self.size, 32)
        small = {"size": size, "told": min(self.told, 16), "looks": min(self.looks, 2), "width": 16, "stem": 8, "depth": 1}
        return self.model_copy(update={**small, "encoder": self.encoder.twin(size) if isinstance(self.encoder, EncoderConfig) else self.encoder})

    def build(self, width: int, encoders: Encoders) -> MapMaskHead:
        """See MaskHead."""
        from sightline.model.head_kinds.map_head_modules import MapMaskHead

        return MapMaskHead(self, width, self.tower(encoders))
