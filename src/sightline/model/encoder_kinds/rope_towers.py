"""Towers of rotary positions: crops of any size, packed one after another into one call, each seeing itself alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from sightline.model.encoder_kinds.towers import PublishedTower
from sightline.model.encoders import Read
from sightline.model.towers.tower_table import toy_layers

if TYPE_CHECKING:
    from sightline.model.encoder_kinds.rope_tower_modules import PixtralTower, Qwen2VlTower


class RopeTower(PublishedTower):
    """Crops may have any size; where a side is no multiple of the patch, the last patch is filled with the mean colour."""

    WIDTH: ClassVar[str]
    """Key of the config for the channels of one layer."""
    DEPTH: ClassVar[str]
    """Key of the config for the number of blocks."""
    TOY: ClassVar[dict[str, Any]]
    """What the twin's config says otherwise."""

    @property
    def least(self) -> int:
        """One patch."""
        return self.block()["patch_size"]

    def places(self, width: int, height: int) -> tuple[int, int]:
        """Patches that are begun in each direction."""
        patch = self.block()["patch_size"]
        return -(-width // patch), -(-height // patch)

    def depth(self) -> int:
        """Blocks: hidden state 0 is their input, hidden state i the output of block i."""
        return self.block()[self.DEPTH]

    def channels(self, consumer: str = "connector") -> int:
        """C: width of one token with all its layers."""
        return self.block()[self.WIDTH] * len(self.read(consumer).layers)

    def twin(self, side: int | None = None) -> Self:
        """Patches of 8 px, 32 channels, and as many blocks as the layers that are read need."""
        toy = self._toy(**self.TOY)
        reads = [Read(layer=self.layer), *self.reads.values()]
        depth, moved = toy_layers([layer for read in reads for layer in read.layers], self.depth())

        def there(layer: int | tuple[int, ...]) -> int | tuple[int, ...]:
            return tuple(moved[one] for one in layer) if isinstance(layer, tuple) else moved[layer]

        return toy.model_copy(
            update={
                "config": {**toy.block(), self.DEPTH: depth},
                "layer": there(self.layer),
                "reads": {name: read.model_copy(update={"layer": there(read.layer)}) for name, read in self.reads.items()},
            }
        )


class PixtralEncoder(RopeTower):
    """Pixtral's tower: gated feed-forward layers under root-mean-square norms, no biases (https://arxiv.org/abs/2410.07073, section 2.2)."""

    MODEL_TYPE: ClassVar[str] = "pixtral"
    WIDTH: ClassVar[str] = "hidden_size"
    DEPTH: ClassVar[str] = "num_hidden_layers"
    SETTINGS: ClassVar[tuple[str, ...]] = ("hidden_size", "num_hidden_layers", "patch_size", "hidden_act")
    TOY: ClassVar[dict[str, Any]] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "head_dim": 16,
        "patch_size": 8,
        "image_size": 64,
    }

    kind: Literal["pixtral"] = "pixtral"

    def build(self) -> PixtralTower:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.encoder_kinds.rope_tower_modules import PixtralTower

        return PixtralTower(self)


class Qwen2VlEncoder(RopeTower):
    """Qwen2-VL's tower up to its merger, which is a connector (https://arxiv.org/abs/2409.12191, section 2.1).

    A crop is a still of 3 bands, which each patch sees at every moment, or as many frames of a film as a patch is long, band after band of the first, then of the next.
    """

    MODEL_TYPE: ClassVar[str] = "qwen2_vl_vision"
    WIDTH: ClassVar[str] = "embed_dim"
    DEPTH: ClassVar[str] = "depth"
    SETTINGS: ClassVar[tuple[str, ...]] = ("embed_dim", "depth", "patch_size", "temporal_patch_size", "spatial_merge_size")
    TOY: ClassVar[dict[str, Any]] = {"embed_dim": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 8, "hidden_size": 64}

    kind: Literal["qwen2-vl"] = "qwen2-vl"

    @property
    def frames(self) -> int:
        """Frames of a film in one crop: as many as a patch is long."""
        return self.block()["temporal_patch_size"]

    def build(self) -> Qwen2VlTower:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.encoder_kinds.rope_tower_modules import Qwen2VlTower

        return Qwen2VlTower(self)
