"""The Config of the refiner that is trained here: an encoder of pictures and a light decoder that sees the box. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.model.encoders import EncoderConfig
from sightline.model.towers.tower_table import TOWERS

if TYPE_CHECKING:
    from sightline.refine.crop_decoder_modules import CropSegmenter

SMALL_TOWER: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 24,
    "hidden_sizes": [32, 48, 64],
    "depths": [1, 1, 1],
    "layer_type": "basic",
    "downsample_in_first_stage": False,
}
"""A tower that learns from nothing in minutes on one core: strides 4, 8 and 16, 0.16 million parameters."""


class CropDecoder(Config):
    """A refiner: the box is turned upright and shown with its surroundings; a decoder joins the encoder's maps, the box as further channels, and the picture itself."""

    encoder: EncoderConfig = EncoderConfig(config=SMALL_TOWER)
    """What sees the crop. `bands` are those of the pictures; `layer` of a vision transformer may name several, such as [3, 6, 9, 12]."""
    size: int = Field(default=96, ge=16, le=1024, multiple_of=4)
    """Side of a crop in px; a multiple of the encoder's patch."""
    context: float = Field(default=1.5, ge=1, le=4)
    """Side of the crop by the longer side of the box."""
    finest: float = Field(default=0.25, gt=0)
    """Least px of the picture in one px of the crop: smaller boxes fill less of it."""
    coarsest: float = Field(default=2.0, gt=0)
    """Most px of the picture in one px of the crop: larger boxes are seen in several crops."""
    width: int = Field(default=48, ge=8, multiple_of=8)
    """Channels of the decoder at a quarter of the crop's resolution."""
    stem: int = Field(default=24, ge=8, multiple_of=8)
    """Channels at half of the resolution, where the picture itself comes in."""
    depth: int = Field(default=2, ge=1)
    """Residual blocks at a quarter of the resolution."""
    predicts: Literal["box", "classes"] = "box"
    """box: what belongs to the box that is shown. classes: the label of every pixel, without being shown the box: a plain segmentation model, to compare with."""
    classes: tuple[str, ...] = ()
    """Labels of `predicts: classes`; those of the training data where none are named."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that it sees, in order."""
        return self.encoder.bands

    def widths(self) -> list[int]:
        """Channels of each map that the encoder gives."""
        return self.encoder.map_widths()

    def resolve(self) -> CropDecoder:
        """With everything that the encoder's checkpoint says copied in. Refused: a size that the patches do not divide, and what the encoder refuses."""
        encoder = self.encoder.resolve()
        block = encoder.block()
        patch = block.get("patch_size", 1) if TOWERS[block["model_type"]].adapter == "transformer" else 1
        if not isinstance(patch, int) or self.size % patch:
            found, allowed = f"{self.size} px with patches of {patch} px", "a multiple of 4 and of the encoder's patch"
            raise Refused(Problem(code="refine/crop-size", place="model.size", found=found, allowed=allowed, fix=f"size: {self._fitting(patch)}"))
        encoder.grid(self.size, self.size)
        return self.model_copy(update={"encoder": encoder})

    def _fitting(self, patch: int) -> int:
        return (
            next((size for size in range(self.size, self.size + 4 * patch + 1) if size % 4 == 0 and size % patch == 0), self.size)
            if isinstance(patch, int)
            else self.size
        )

    def build(self) -> CropSegmenter:
        """The module, with the checkpoint's weights where it is at hand, else random ones."""
        from sightline.refine.crop_decoder_modules import CropSegmenter

        return CropSegmenter(self)
