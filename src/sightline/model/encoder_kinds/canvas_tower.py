"""A tower that sees all tiles of a picture at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from sightline.errors import Problem, Refused
from sightline.model.encoder_kinds.towers import PublishedTower

if TYPE_CHECKING:
    from sightline.model.encoder_kinds.canvas_tower_modules import MllamaTower

_TOY_LAYERS = 4
_TOY_SIDE = 32


class MllamaEncoder(PublishedTower):
    """The tower of Llama 3.2 Vision: local layers, then gated global layers, over the tiles of a canvas (https://arxiv.org/abs/2407.21783, section 7.1).

    It sees the crops of the tiler `canvas`. Its layers are joined as published: all channels of the global output, then of each channel one number per local layer that
    the config names. Its class tokens are kept.
    """

    LEAD: ClassVar[int] = 1
    MODEL_TYPE: ClassVar[str] = "mllama_vision_model"
    SETTINGS: ClassVar[tuple[str, ...]] = (
        "hidden_size",
        "image_size",
        "patch_size",
        "max_num_tiles",
        "supported_aspect_ratios",
        "intermediate_layers_indices",
    )

    kind: Literal["mllama"] = "mllama"
    tokens: Literal["patches", "all"] = "all"
    """Default `read`: all keeps the class token of each tile, patches drops it."""

    @property
    def least(self) -> int:
        """One tile."""
        return self.block()["image_size"]

    def places(self, width: int, height: int) -> tuple[int, int]:
        """Patches of a tile. Raises Refused for other sizes: model/crop-size."""
        block = self.block()
        side = block["image_size"]
        if (width, height) != (side, side):
            raise Refused(
                Problem(
                    code="model/crop-size",
                    place=self.path,
                    found=f"crops of {width}x{height} px",
                    allowed=f"{side}x{side}: its positions are learnt",
                    fix=f"tiler.size: {side}",
                )
            )
        return (side // block["patch_size"],) * 2

    def aspect_id(self, columns: int, rows: int) -> int:
        """Row of the tile embeddings for a canvas, counted from 1 in the published order. Raises Refused for other canvases: model/canvas."""
        known = [tuple(ratio) for ratio in self.block()["supported_aspect_ratios"]]
        if (rows, columns) not in known:
            raise Refused(
                Problem(
                    code="model/canvas",
                    place=self.path,
                    found=f"a canvas of {columns}x{rows} tiles",
                    allowed=", ".join(f"{across}x{down}" for down, across in known),
                    fix=f"tiler: {{kind: canvas, most: {self.block()['max_num_tiles']}}}",
                )
            )
        return known.index((rows, columns)) + 1

    def channels(self, consumer: str = "connector") -> int:
        """C: channels of the global output and of every local layer that the config names."""
        block = self.block()
        return block["hidden_size"] * (1 + len(block["intermediate_layers_indices"]))

    def twin(self, side: int | None = None) -> Self:
        """Patches of 8 px, 4 local layers, of which up to 3 are joined, and 1 global layer of 32 channels, on tiles of `side` px, else of 32."""
        named = list(range(min(len(self.block()["intermediate_layers_indices"]), _TOY_LAYERS - 1)))
        return self._toy(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=_TOY_LAYERS,
            num_global_layers=1,
            attention_heads=2,
            patch_size=8,
            image_size=side or _TOY_SIDE,
            intermediate_layers_indices=named,
            vision_output_dim=32 * (1 + len(named)),
        )

    def build(self) -> MllamaTower:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.encoder_kinds.canvas_tower_modules import MllamaTower

        return MllamaTower(self)
