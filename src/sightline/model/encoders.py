"""Encoders: transformers vision models behind one door. Configs are torch-free: geometry is arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Config, Family
from sightline.model import hub_layout, open_clip
from sightline.model.tiling import Grid
from sightline.model.towers.tower_table import ALIASES, TOWERS, Rule, Statistics, TowerType, cells, pair, toy_layers
from sightline.samples.bands import COLOURS

if TYPE_CHECKING:
    from torch import nn

    from sightline.model.encoder_modules import TransformersEncoder

ENCODER = Family("encoder", default="transformers")


class Read(Config):
    """Which hidden states of an encoder a consumer takes."""

    layer: int | tuple[int, ...] = -1
    """Index into the hidden states, embedding output first; -2 is the output of the second-last block. Several are joined on the channels."""
    join: Literal["concat", "interleave"] = "concat"
    """Channels of several layers: one layer after another, or c0 of each layer, then c1 of each..."""
    lead: Literal["keep", "drop"] = "drop"
    """Whether class or register tokens before the raster are kept."""
    final_norm: bool = False
    """Apply the encoder's final normalisation (class, register and raster tokens alike)."""

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, in the order in which they are joined."""
        return self.layer if isinstance(self.layer, tuple) else (self.layer,)


class VisionEncoder(Config):
    """What every kind of encoder says and offers. A kind adds `kind`, where its weights come from, and its geometry."""

    name: str = "vision"
    """Its path is `encoders.NAME`."""
    layer: int | tuple[int, ...] = -1
    """Default `read`: the layer or layers for the connector."""
    join: Literal["concat", "interleave"] = "concat"
    """Default `read`: how several layers are joined."""
    tokens: Literal["patches", "all"] = "patches"
    """Default `read`: patches drops class and register tokens."""
    final_norm: bool = False
    """Default `read`: apply the final normalisation."""
    reads: dict[str, Read] = Field(default_factory=dict)
    """What another consumer reads, such as text_encoder; default is the same as the connector's."""
    sees: tuple[Literal["tile", "overview", "detail", "canvas"], ...] = ("tile", "overview", "detail", "canvas")
    """Roles of crops that it encodes."""
    bands: tuple[str, ...] = COLOURS
    """Bands of the pictures, in order. red, green and blue keep the filters of a published tower; every further band starts without effect."""
    mean: tuple[float, ...] | None = None
    """Per band, 0..1; None = the checkpoint's, else the model type's. Needed for bands other than red, green and blue."""
    std: tuple[float, ...] | None = None
    """Per band, 0..1; as for `mean`."""

    @property
    def path(self) -> str:
        """Part path."""
        return f"encoders.{self.name}"

    @property
    def frames(self) -> int:
        """Frames of a film that it takes as one crop, joined on the bands."""
        return 1

    def read(self, consumer: str = "connector") -> Read:
        """What a consumer takes."""
        return self.reads.get(consumer) or Read(layer=self.layer, join=self.join, lead="keep" if self.tokens == "all" else "drop", final_norm=self.final_norm)

    def resolve(self) -> Self:
        """The Config with everything that the checkpoint says copied in; what is saved with a model."""
        raise NotImplementedError

    def channels(self, consumer: str = "connector") -> int:
        """C: width of one token as the consumer reads it (all its layers joined)."""
        raise NotImplementedError

    def grid(self, width: int, height: int, consumer: str = "connector") -> Grid:
        """Tokens of one crop of width x height px, as the consumer sees them."""
        raise NotImplementedError

    def twin(self, side: int | None = None) -> Self:
        """Same structure at toy size, with random weights: patches of 8 px. `side`: px of the tiler's crops where all have one size, for encoders of one size."""
        raise NotImplementedError

    def build(self) -> nn.Module:
        """The module: forward(Pictures, Read) -> Features of the crops whose roles it sees."""
        raise NotImplementedError


def statistics(encoder: VisionEncoder, published: Statistics, problems: list[Problem]) -> Statistics:
    """Mean and standard deviation per band: the Config's own, else the published ones of the same colours. Bands that no number is known for join `problems`."""
    bands = encoder.bands
    unknown = ", ".join(band for band in bands if band not in COLOURS) or "these bands"

    def chosen(name: str, own: tuple[float, ...] | None, known: tuple[float, ...]) -> tuple[float, ...]:
        if own is not None and len(own) == len(bands):
            return own
        if own is None and len(known) == len(COLOURS) and set(bands) <= set(COLOURS):
            return tuple(known[COLOURS.index(band)] for band in bands)
        if own is None and len(known) == len(bands) != len(COLOURS):
            return known
        problems.append(
            Problem(
                code="model/band-statistics",
                place=f"{encoder.path}.{name}",
                found=f"{len(own)} numbers for {len(bands)} bands" if own is not None else f"none for {unknown}",
                allowed=f"one number in 0..1 for each of {', '.join(bands)}",
                fix=f"state {encoder.path}.{name}, measured on your pictures",
            )
        )
        return known

    return chosen("mean", encoder.mean, published[0]), chosen("std", encoder.std, published[1])


@ENCODER.add
class EncoderConfig(VisionEncoder):
    """A transformers vision model."""

    kind: Literal["transformers"] = "transformers"
    checkpoint: str | None = None
    """Folder or cached hub name in the Hugging Face layout, or an open_clip folder or weights file; None = random weights from `config`."""
    config: dict[str, Any] | None = None
    """The published config block; needed without a checkpoint, and lets a recipe be planned without its weights. Beside a checkpoint its keys win."""
    positions: Literal["fixed", "interpolate", "interpolate-aligned"] | None = None
    """Learnt positions for crops of other sizes than `image_size`, and for an `image_size` other than the checkpoint's. fixed: refused; interpolate: bicubic,
    outer edges of the grids coincide (LLaVA-UHD); interpolate-aligned: bicubic, centres of the outer cells coincide (GeoChat); None: as the model type does."""

    def published(self) -> dict[str, Any] | None:
        """The vision config of the checkpoint as plain data; None where the checkpoint is not at hand, or states none."""
        own = self._stated()
        return self._completed(own) if own else None

    def block(self) -> dict[str, Any]:
        """The vision config as plain data. Refused: a config of another model type than the checkpoint's, or none at all."""
        own = self._stated()
        if own is None:
            self._refuse_nameless_weights()
            return self._completed(hub_layout.config_block(self.checkpoint, self.config, self.path, sub="vision_config"))
        said = (self.config or {}).get("vision_config") or self.config or {}
        block = self._completed(hub_layout.config_block(None, own | said, self.path))
        if block["model_type"] != ALIASES.get(own["model_type"], own["model_type"]):
            raise Refused(
                Problem(
                    code="model/config-not-accepted",
                    place=f"{self.path}.config",
                    found=f"model_type {block['model_type']}",
                    allowed=f"{own['model_type']}, as the checkpoint says",
                    fix="state the config that belongs to the checkpoint, or only the keys that differ from it",
                )
            )
        return block

    def _stated(self) -> dict[str, Any] | None:
        if self.checkpoint is None:
            return None
        whole = open_clip.open_clip_config(self.checkpoint)
        if whole is None and not hub_layout.find(self.checkpoint):
            return None
        return hub_layout.config_block(None if whole else self.checkpoint, whole, self.path, sub="vision_config")

    def _completed(self, block: dict[str, Any]) -> dict[str, Any]:
        block |= {"model_type": ALIASES.get(block["model_type"], block["model_type"])}
        known = TOWERS.get(block["model_type"])
        return hub_layout.completed(block, known.settings, self.path) if known else block

    def _refuse_nameless_weights(self) -> None:
        if self.config is None and self.checkpoint is not None and (file := open_clip.weights_file(self.checkpoint)):
            raise Refused(
                Problem(
                    code="model/no-config",
                    place=self.path,
                    found=f"{file} without open_clip_config.json beside it",
                    allowed="weights and what they are",
                    fix=f"state {self.path}.config, such as {{model_type: clip_vision_model, hidden_size: 768, ..., hidden_act: quick_gelu}}",
                )
            )

    def rule(self, block: dict[str, Any]) -> Rule:
        """What becomes of positions when sizes differ."""
        return self.positions or self._type(block).positions

    def resolve(self) -> EncoderConfig:
        """The Config with everything that the checkpoint says copied in; what is saved with a model. Refused lists all that does not fit the model type."""
        block = self.block()
        problems = [*self._wrong_reads(block), *self._wrong_bands(block), *self._wrong_positions(block)]
        mean, std = statistics(self, self._published_statistics(block), problems)
        if problems:
            raise Refused(problems)
        return self.model_copy(update={"config": block, "mean": mean, "std": std})

    def _published_statistics(self, block: dict[str, Any]) -> Statistics:
        stated = open_clip.open_clip_statistics(self.checkpoint) if self.checkpoint else None
        if stated:
            return tuple(stated[0]), tuple(stated[1])
        folder = hub_layout.find(self.checkpoint) if self.checkpoint else None
        settings = hub_layout.read_json(folder / "preprocessor_config.json") if folder and (folder / "preprocessor_config.json").is_file() else {}
        mean, std = self._type(block).statistics
        return tuple(settings.get("image_mean", mean)), tuple(settings.get("image_std", std))

    def _wrong_reads(self, block: dict[str, Any]) -> list[Problem]:
        reads, kind, name = [self.read(), *self.reads.values()], self._type(block), block["model_type"]
        depth = block.get("num_hidden_layers", 0)
        normless = block.get("use_mean_pooling", False)  # InternVL: the norm is then part of the pooling, which towers here do not have
        wrong = []
        for read in reads:
            said = f"layer {read.layer}, final_norm {read.final_norm} of a {name}"
            if kind.adapter == "pyramid":
                if read.layer != -1 or read.final_norm:
                    wrong.append((said, "layer -1 without final_norm: its other layers have other grids", "remove layer and final_norm"))
            elif not read.layers or not all(-depth - 1 <= layer <= depth for layer in read.layers):
                wrong.append((said, f"layers {-depth - 1}..{depth}: the input of the first of {depth} blocks, then the output of each", "change layer"))
            elif read.final_norm and normless:
                wrong.append((said, "final_norm False: with use_mean_pooling the tower ends without one", "remove final_norm"))
        return [Problem(code="model/layer-not-read", place=self.path, found=found, allowed=allowed, fix=fix) for found, allowed, fix in wrong]

    def _wrong_bands(self, block: dict[str, Any]) -> list[Problem]:
        found = []
        filters = block.get("num_channels", len(COLOURS))
        if not self.bands or len(set(self.bands)) < len(self.bands):
            found.append((", ".join(self.bands) or "no bands", "different bands", "name each band of the pictures once"))
        if filters not in (len(COLOURS), len(self.bands)):
            found.append((f"{len(self.bands)} bands: {', '.join(self.bands)}", f"the {filters} bands that the checkpoint was trained with", "name them"))
        return [Problem(code="model/bands", place=f"{self.path}.bands", found=said, allowed=allowed, fix=fix) for said, allowed, fix in found]

    def _wrong_positions(self, block: dict[str, Any]) -> list[Problem]:
        found = []
        kind, name, own = self._type(block), block["model_type"], self.published()
        if self.positions and kind.positions in ("buckets", "none"):
            found.append(
                Problem(
                    code="model/positions",
                    place=f"{self.path}.positions",
                    found=self.positions,
                    allowed=f"nothing: a {name} takes crops of any size",
                    fix="remove positions",
                )
            )
        if own and kind.adapter == "transformer" and self.rule(block) in ("fixed", "buckets") and pair(own["image_size"]) != pair(block["image_size"]):
            found.append(
                Problem(
                    code="model/image-size",
                    place=f"{self.path}.config",
                    found=f"image_size {block['image_size']}, the checkpoint has {own['image_size']}",
                    allowed=f"{own['image_size']}, or positions that are resized",
                    fix=f"{self.path}.positions: interpolate" if kind.positions == "fixed" else "remove image_size",
                )
            )
        return found

    def _type(self, block: dict[str, Any]) -> TowerType:
        name = block["model_type"]
        if name not in TOWERS:
            raise Refused(
                Problem(
                    code="model/unknown-encoder",
                    place=self.path,
                    found=repr(name),
                    allowed=", ".join(TOWERS),
                    fix=nearest(name, list(TOWERS)) or "choose one of these model types",
                )
            )
        return TOWERS[name]

    def channels(self, consumer: str = "connector") -> int:
        """C: width of one token as the consumer reads it, all its layers joined."""
        block = self.block()
        width = block[self._type(block).width]
        return (width[-1] if isinstance(width, list) else width) * len(self.read(consumer).layers)

    def map_widths(self, consumer: str = "connector") -> list[int]:
        """Channels of each map that the module's `maps` gives."""
        block = self.block()
        kind = self._type(block)
        return list(block[kind.width]) if kind.adapter == "pyramid" else [block[kind.width]] * len(self.read(consumer).layers)

    def grid(self, width: int, height: int, consumer: str = "connector") -> Grid:
        """Tokens of one crop of width x height px, as the consumer sees them."""
        block = self.block()
        lead = self._type(block).lead + block.get("num_register_tokens", 0)
        columns, rows = cells(block, self.rule(block), width, height, self.path)
        return Grid(columns=columns, rows=rows, lead=lead if self.read(consumer).lead == "keep" else 0)

    def twin(self, side: int | None = None) -> EncoderConfig:
        """Same tower at toy size with random weights: width 32, patches of 8 px, as many blocks as the layers that are read need."""
        block = self.block()
        kind = self._type(block)
        reads = {"": self.read(), **self.reads}
        toy, moved = dict(kind.toy), {-1: -1}
        if kind.adapter == "transformer":
            depth, moved = toy_layers([layer for read in reads.values() for layer in read.layers], block["num_hidden_layers"])
            toy |= {"num_hidden_layers": depth, "image_size": side or 32}

        def there(read: Read) -> int | tuple[int, ...]:
            return tuple(moved[layer] for layer in read.layers) if isinstance(read.layer, tuple) else moved[read.layer]

        return self.model_copy(
            update={
                "checkpoint": None,
                "config": block | toy,
                "layer": there(self.read()),
                "reads": {name: read.model_copy(update={"layer": there(read)}) for name, read in self.reads.items()},
            }
        )

    def build(self) -> TransformersEncoder:
        """The module; random weights, or the checkpoint's where it is at hand."""
        from sightline.model.encoder_modules import TransformersEncoder

        return TransformersEncoder(self)
