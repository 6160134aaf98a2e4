"""Encoders: transformers vision models behind one door. Configs are torch-free: geometry is arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Config, Family
from sightline.model import hub_layout
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline.model.encoder_modules import TransformersEncoder

ENCODER = Family("encoder", default="transformers")

_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_VIT = ("hidden_size", "patch_size", "image_size")


class Read(Config):
    """Which hidden states of an encoder a consumer takes."""

    layer: int = -1
    """Index into the hidden states, embedding output first; -2 is the output of the second-last block."""
    lead: Literal["keep", "drop"] = "drop"
    """Whether class or register tokens before the raster are kept."""
    final_norm: bool = False
    """Apply the encoder's final normalisation (class, register and raster tokens alike)."""


def _patches(block: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    patch = block["patch_size"]
    return width // patch, height // patch


def _resnet(block: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    halvings = 2 + len(block["hidden_sizes"]) - (0 if block.get("downsample_in_first_stage", False) else 1)
    for _ in range(halvings):
        width, height = (width + 1) // 2, (height + 1) // 2
    return width, height


def _convnext(block: dict[str, Any], width: int, height: int) -> tuple[int, int]:
    stride = block.get("patch_size", 4) * 2 ** (len(block["depths"]) - 1)
    return width // stride, height // stride


@dataclass(frozen=True, kw_only=True)
class _Geometry:
    """What a model type's tokens look like."""

    lead: int
    """Class tokens before the raster."""
    width: str
    """Key of the config that holds C, or a list whose last number is C."""
    grid: Callable[[dict[str, Any], int, int], tuple[int, int]]
    """(columns, rows) of a crop of (width, height) px."""
    mean_std: tuple[tuple[float, float, float], tuple[float, float, float]] = _HALF
    """Normalisation where neither recipe nor checkpoint states one, per band, 0..1."""
    settings: tuple[str, ...] = ("hidden_size", "patch_size")
    """Keys of the config that the geometry is made from."""
    one_size: bool = False
    """Crops must have the config's `image_size`: the positions are learnt for it."""
    layers: bool = True
    """Whether layers before the last have the last one's grid, and a final normalisation follows them."""


GEOMETRY: dict[str, _Geometry] = {
    "clip_vision_model": _Geometry(lead=1, width="hidden_size", grid=_patches, mean_std=_CLIP, settings=_VIT, one_size=True),
    "siglip_vision_model": _Geometry(lead=0, width="hidden_size", grid=_patches, settings=_VIT, one_size=True),
    "dinov2": _Geometry(lead=1, width="hidden_size", grid=_patches, mean_std=_IMAGENET),
    "resnet": _Geometry(lead=0, width="hidden_sizes", grid=_resnet, settings=("hidden_sizes",), layers=False),
    "convnext": _Geometry(lead=0, width="hidden_sizes", grid=_convnext, mean_std=_IMAGENET, settings=("hidden_sizes", "depths"), layers=False),
}
"""Model types whose token grid is known from sizes alone."""


@ENCODER.add
class EncoderConfig(Config):
    """A transformers vision model."""

    kind: Literal["transformers"] = "transformers"
    name: str = "vision"
    """Its path is `encoders.NAME`."""
    checkpoint: str | None = None
    """Folder or cached hub name in the Hugging Face layout; None = random weights from `config`."""
    config: dict[str, Any] | None = None
    """The published config block; needed without a checkpoint, and lets a recipe be planned without its weights."""
    layer: int = -1
    """Default `read`: the layer for the connector."""
    tokens: Literal["patches", "all"] = "patches"
    """Default `read`: patches drops class and register tokens."""
    final_norm: bool = False
    """Default `read`: apply the final normalisation."""
    reads: dict[str, Read] = Field(default_factory=dict)
    """What another consumer reads, such as text_encoder; default is the same as the connector's."""
    sees: tuple[Literal["tile", "overview", "detail", "canvas"], ...] = ("tile", "overview", "detail", "canvas")
    """Roles of crops that it encodes."""
    bands: tuple[str, ...] = ("red", "green", "blue")
    """Input bands, in order."""
    mean: tuple[float, ...] | None = None
    """Per band, 0..1; None = the checkpoint's, else the model type's."""
    std: tuple[float, ...] | None = None
    """Per band, 0..1."""

    @property
    def path(self) -> str:
        """Part path."""
        return f"encoders.{self.name}"

    def read(self, consumer: str = "connector") -> Read:
        """What a consumer takes."""
        return self.reads.get(consumer) or Read(layer=self.layer, lead="keep" if self.tokens == "all" else "drop", final_norm=self.final_norm)

    def block(self) -> dict[str, Any]:
        """The vision config as plain data."""
        block = hub_layout.config_block(self.checkpoint, self.config, self.path, sub="vision_config")
        known = GEOMETRY.get(block["model_type"])
        return hub_layout.completed(block, known.settings, self.path) if known else block

    def resolve(self) -> EncoderConfig:
        """The Config with everything that the checkpoint says copied in; what is saved with a model."""
        block = self.block()
        folder = hub_layout.find(self.checkpoint) if self.checkpoint else None
        settings = hub_layout.read_json(folder / "preprocessor_config.json") if folder and (folder / "preprocessor_config.json").is_file() else {}
        geometry = self._geometry(block)
        mean, std = geometry.mean_std
        partial = [read for read in (self.read(), *self.reads.values()) if read.layer != -1 or read.final_norm]
        if partial and not geometry.layers:
            raise Refused(
                Problem(
                    code="model/layer-not-read",
                    place=self.path,
                    found=f"layer {partial[0].layer}, final_norm {partial[0].final_norm} of a {block['model_type']}",
                    allowed="layer -1 without final_norm: its other layers have other grids",
                    fix="remove layer and final_norm",
                )
            )
        return self.model_copy(
            update={
                "config": block,
                "mean": self.mean or tuple(settings.get("image_mean", mean)),
                "std": self.std or tuple(settings.get("image_std", std)),
            }
        )

    def _geometry(self, block: dict[str, Any]) -> _Geometry:
        kind = block["model_type"]
        if kind not in GEOMETRY:
            raise Refused(
                Problem(
                    code="model/unknown-encoder",
                    place=self.path,
                    found=repr(kind),
                    allowed=", ".join(GEOMETRY),
                    fix=nearest(kind, list(GEOMETRY)) or "choose one of these model types",
                )
            )
        return GEOMETRY[kind]

    def channels(self) -> int:
        """C: width of one token."""
        block = self.block()
        width = block[self._geometry(block).width]
        return width[-1] if isinstance(width, list) else width

    def grid(self, width: int, height: int, consumer: str = "connector") -> Grid:
        """Tokens of one crop of width x height px, as the consumer sees them."""
        block = self.block()
        geometry = self._geometry(block)
        if geometry.one_size and (width, height) != (block["image_size"],) * 2:
            raise Refused(
                Problem(
                    code="model/crop-size",
                    place=self.path,
                    found=f"crops of {width}x{height} px",
                    allowed=f"{block['image_size']}x{block['image_size']}: a {block['model_type']} has learnt positions",
                    fix=f"tiler.size: {block['image_size']}",
                )
            )
        columns, rows = geometry.grid(block, width, height)
        registers = block.get("num_register_tokens", 0)
        return Grid(columns=columns, rows=rows, lead=geometry.lead + registers if self.read(consumer).lead == "keep" else 0)

    def build(self) -> TransformersEncoder:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.encoder_modules import TransformersEncoder

        return TransformersEncoder(self)
