"""ModelConfig: a whole model as a tree of part Configs. Torch-free: recipes, workers, planner and `--help` touch only this."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from sightline.kinds import Config
from sightline.model.chat import ChatFormat, chat_format
from sightline.model.combines import COMBINE, Combine, UnionCombine
from sightline.model.connector_kinds.by_encoder import ByEncoderConnector
from sightline.model.connector_table import CONNECTOR
from sightline.model.connectors import Connector
from sightline.model.encoder_table import ENCODER
from sightline.model.encoders import VisionEncoder
from sightline.model.fusion import FUSION, Fusion, SequenceFusion
from sightline.model.head_table import Heads
from sightline.model.language import LanguageModel
from sightline.model.language_table import LANGUAGE_MODEL
from sightline.model.layout_table import LAYOUT
from sightline.model.layouts import FlatLayout, Layout, positions
from sightline.model.prompt_vectors import VisualPrompts
from sightline.model.region_samplers import REGIONS, RegionSampler
from sightline.model.text_table import TEXT_ENCODER
from sightline.model.text_tower import TextEncoder
from sightline.model.tiler_table import TILER
from sightline.model.tiling import Grid, Tiler, Tiling
from sightline.samples.codec_table import CODEC, codec_said
from sightline.samples.codecs import Codec

ENCODERS_NEED_TILER = "encoders need a tiler: it says which crops they see"
Control = Callable[[str], int]
"""Id of a control token by its name."""


class TokenizerConfig(Config):
    """Where the tokenizer comes from. Neither field: the language model's checkpoint."""

    train_on: tuple[str, ...] = ()
    """Names of data whose texts a byte-level BPE is trained on."""
    size: int = Field(default=1024, ge=260)
    """Largest vocabulary of a trained tokenizer, control tokens included."""
    path: str | None = None
    """Folder with tokenizer.json."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a picture of a given size costs: its tiling, grids after combine and connector (one per crop), and counts of positions."""

    tiling: Tiling
    grids: tuple[Grid, ...]
    decoder: int
    """Decoder positions: entries, learned vectors and control tokens of the layout; plain text of the layout is not counted."""
    memory: int
    """Memory positions, counted likewise."""
    encoded: Mapping[str, int]
    """Tokens that each encoder computes, by its name."""

    @property
    def patches(self) -> int:
        """Tokens that all encoders compute."""
        return sum(self.encoded.values())

    @property
    def entries(self) -> int:
        """Its lines in the feature table."""
        return sum(grid.count for grid in self.grids)


class ModelConfig(Config):
    """Parts of one model; every part is optional, what is there decides what it can do."""

    encoders: list[Annotated[VisionEncoder, ENCODER]] = Field(default_factory=list)
    """Vision encoders, paths `encoders.NAME`."""
    tiler: Annotated[Tiler, TILER] | None = None
    """How pictures are cut into crops."""
    combine: Annotated[Combine, COMBINE] | None = None
    """How the tokens of several encoders become one set; default is `union`: each crop from the encoder that sees its role."""
    connector: Annotated[Connector, CONNECTOR] | None = None
    """From encoder tokens to language-model tokens."""
    prompts: VisualPrompts | None = None
    """Trained vectors beside a picture's tokens."""
    regions: Annotated[RegionSampler, REGIONS] | None = None
    """Makes one vector of a region that a question names."""
    codec: Annotated[Codec, CODEC, BeforeValidator(codec_said)] | None = None
    """How regions are written in questions and answers and read out of answers: a kind, its name alone, or `xyhwt-pad` or `xyhwt-axis`. Without it answers hold no regions,
    and questions only those that `regions` makes vectors of."""
    heads: Heads = Heads()
    """What reads hidden states besides the words that are written: `mask` draws the masks that answers name."""
    layout: Annotated[Layout, LAYOUT] = FlatLayout()
    """Order of entries and what stands around them."""
    fusion: Annotated[Fusion, FUSION] = SequenceFusion()
    """How entries reach the language model."""
    language_model: Annotated[LanguageModel, LANGUAGE_MODEL] | None = None
    """The decoder that writes."""
    text_encoder: (
        Annotated[TextEncoder, TEXT_ENCODER, BeforeValidator(lambda value: {"kind": "shared", "part": value} if isinstance(value, str) else value)] | None
    ) = None
    """The second tower of a dual-tower model; `connector` or `language_model` names a part that is also the text encoder."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Where the tokenizer comes from."""
    side_tokenizer: TokenizerConfig | None = None
    """Where the tokenizer of side texts comes from: those of a text encoder, or of a connector that reads text; default is the model's own."""
    chat: str | ChatFormat = "turns"
    """Chat format: its name in the table, or the format itself."""
    pictures: Literal["in-place", "turn-start", "before-all", "first"] | None = None
    """Overrides where the chat format puts pictures."""
    max_tokens: int = Field(default=2048, ge=8)
    """Longest sample in decoder positions; longer ones are refused, pictures are never cut."""

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.encoders and self.tiler is None:
            raise ValueError(ENCODERS_NEED_TILER)
        if self.connector is not None and not self.encoders:
            raise ValueError("a connector stands behind encoders: add one")
        if self.connector is not None and self.language_model is None and self.text_part != "connector":
            raise ValueError("a connector stands between encoders and a language model: both are needed")
        names = [encoder.name for encoder in self.encoders]
        if len(set(names)) < len(names):
            raise ValueError(f"encoders need different names, found {names}")
        unseen = sorted(set(self.tiler.roles if self.tiler else ()) - {role for encoder in self.encoders for role in encoder.sees}) if self.encoders else []
        if unseen:
            raise ValueError(f"no encoder sees {', '.join(unseen)}: add the role to `sees`")
        if self.encoders:
            self.combined.check(names)
        if self.text_encoder is not None and not self.encoders:
            raise ValueError("a text_encoder is compared with encoders: add one")
        if self.regions is not None and (not self.encoders or self.language_model is None):
            raise ValueError("regions are read from encoders and said to a language model: both are needed")
        if self.regions is not None and getattr(self.connector, "merge_order", None) == "columns":
            raise ValueError("regions are read from a raster: this connector hands its tokens out column by column")
        if self.prompts is not None:
            self._prompts_fit(self.prompts)
        if self.codec is not None:
            self._codec_fits(self.codec)
        if self.heads.mask is not None and (self.codec is None or "tap" not in self.codec.marks or not self.encoders):
            raise ValueError("heads.mask draws the masks of pictures that a codec has tokens for: add encoders, and such a codec, such as `seg`")
        if self.heads.mask is not None and (faults := self.heads.mask.faults(self.encoders)):
            raise ValueError("; ".join(faults))
        if self.text_part is not None and getattr(self, self.text_part) is None:
            raise ValueError(f"text_encoder: there is no {self.text_part} to share")
        return self

    def _prompts_fit(self, prompts: VisualPrompts) -> None:
        if not self.encoders or (prompts.place == "text" and self.language_model is None):
            raise ValueError("prompts stand beside a picture's tokens: add encoders, and for `place: text` a language model")
        if prompts.place == "text" and self.fusion.route("overview") == "memory" and self.fusion.prompt == "decoder":
            raise ValueError("prompts after a picture stand in the decoder, and this fusion leaves pictures out of it: use `place: encoder`")

    def _codec_fits(self, codec: Codec) -> None:
        if self.language_model is None:
            raise ValueError("a codec writes and reads regions as text: add a language model")
        if self.regions is None and "feature" in codec.marks:
            raise ValueError("this codec asks for vectors of regions: add a sampler under `regions`, or set `feature: false`")
        if self.regions is not None and "feature" not in codec.marks:
            raise ValueError("this codec asks for no vectors of regions: drop `regions`, or choose a codec with `feature: true`")
        if "tap" in codec.marks and self.heads.mask is None:
            raise ValueError("this codec writes a token for each mask: add a head that draws them under `heads.mask`")

    @property
    def text_part(self) -> Literal["connector", "language_model"] | None:
        """The part that is also the text encoder, where one is."""
        return getattr(self.text_encoder, "part", None)

    @property
    def combined(self) -> Combine:
        """How tokens of encoders are put together."""
        return self.combine or UnionCombine()

    @property
    def vectors(self) -> int:
        """Learnt vectors in the feature table: the layout's, then prompts."""
        return len(self.layout.vectors) + (self.prompts.entries if self.prompts is not None else 0)

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of which crops consist: all that its encoders take, in the order in which they name them."""
        return tuple(dict.fromkeys(band for encoder in self.encoders for band in encoder.bands))

    @property
    def band_means(self) -> tuple[float, ...]:
        """The mean of each of `bands`, 0..1, as the first encoder that takes it says; 0 where the Config is not resolved and says none."""
        said = {
            band: mean for encoder in reversed(self.encoders) for band, mean in zip(encoder.bands, encoder.mean or (0.0,) * len(encoder.bands), strict=True)
        }
        return tuple(said[band] for band in self.bands)

    @property
    def prompted_encoders(self) -> bool:
        """Whether prompts stand inside the encoders: what these say of a picture is then not theirs alone, and no feature cache holds it."""
        return self.prompts is not None and self.prompts.place == "encoder"

    @property
    def abilities(self) -> tuple[str, ...]:
        """write with a language model; embed with a text encoder, and match and tell where it can; mask with the head of this name."""
        told = self._text_abilities() if self.text_encoder is not None else ()
        return (*(("write",) if self.language_model is not None else ()), *told, *self.heads.named())

    def _text_abilities(self) -> tuple[str, ...]:
        part = getattr(self, self.text_part) if self.text_part else self.text_encoder
        return tuple(getattr(part, "abilities", ("embed",)))

    @property
    def side_part(self) -> Any:
        """The part that takes side texts: the text encoder, the part that is also one, or a connector that reads text."""
        return getattr(self, self.text_part) if self.text_part else self.text_encoder or self.connector

    @property
    def reads_padding(self) -> bool:
        """Whether texts are padded with tokens that are read, and nothing is written: pad and end token may then be the same."""
        return self.language_model is None and bool(getattr(self.side_part, "padded", False))

    def chat_format(self) -> ChatFormat:
        """The format with this model's choice of where pictures stand."""
        found = chat_format(self.chat) if isinstance(self.chat, str) else self.chat
        return found.model_copy(update={"pictures": self.pictures}) if self.pictures else found

    def controls(self) -> tuple[str, ...]:
        """Control tokens that chat format, layout and codec write, apart from the end token; those of side texts too where one tokenizer serves both."""
        told = self.codec.control if self.codec is not None else ()
        own = (*self.chat_format().controls, *self.layout.controls, *getattr(self.language_model, "controls", ()), *told)
        return tuple(dict.fromkeys(own if self.side_tokenizer else (*own, *self.side_controls())))

    def side_controls(self) -> tuple[str, ...]:
        """Control tokens of side texts: those of the text encoder and of a connector that reads text."""
        parts = (self.side_part, self.connector)
        return tuple(dict.fromkeys(token for part in parts for token in getattr(part, "controls", ())))

    def resolve(
        self, vocabulary: int | None = None, side: int | None = None, control: Control | None = None, side_control: Control | None = None
    ) -> ModelConfig:
        """Everything that checkpoints say copied in once; what is saved with a model.

        `vocabulary`, `side`: sizes of trained tokenizers, the model's and that of side texts; `control`, `side_control`: id of a control token in them.
        Where side texts have no tokenizer of their own, the model's serves both.
        """
        text, side_control = vocabulary if side is None else side, side_control or control
        encoders = [encoder.resolve() for encoder in self.encoders]
        return self.model_copy(
            update={
                "encoders": encoders,
                "heads": Heads(mask=self.heads.mask.resolve(encoders) if self.heads.mask else None),
                "language_model": self.language_model.resolve(vocabulary, control) if self.language_model else None,
                "text_encoder": self.text_encoder.resolve(text, side_control) if self.text_encoder else None,
                "connector": self.connector.resolve(text, side_control) if self.connector else None,
            }
        )

    def twin(self) -> ModelConfig:
        """The same structure at toy size, with random weights."""
        tiler = self.tiler.twin() if self.tiler else None
        sides: dict[str, set[int]] = {}
        for size in ((96, 96), (200, 120), (64, 160)) if tiler else ():
            for crop in tiler.tile(*size).crops if tiler else ():
                sides.setdefault(crop.role, set()).update(crop.window[2:])
        encoders = []
        for encoder in self.encoders:
            seen = {side for role in encoder.sees for side in sides.get(role, ())}
            encoders.append(encoder.twin(seen.pop() if len(seen) == 1 else None))
        return self.model_copy(
            update={
                "tiler": tiler,
                "encoders": encoders,
                "combine": self.combine.twin() if self.combine else None,
                "connector": self.connector.twin() if self.connector else None,
                "regions": self.regions.twin() if self.regions else None,
                "heads": Heads(mask=self.heads.mask.twin() if self.heads.mask else None),
                "layout": self.layout.twin(),
                "fusion": self.fusion.twin(),
                "language_model": self.language_model.twin() if self.language_model else None,
                "text_encoder": self.text_encoder.twin() if self.text_encoder else None,
            }
        )

    def measure(self, width: int, height: int, among: int = 1) -> Measure:
        """THE token count of a picture of width x height px: expander, planner and limits all call this."""
        assert self.tiler is not None, ENCODERS_NEED_TILER
        tiling = self.tiler.tile(width, height, among)
        raw: dict[str, Sequence[Grid | None]] = {
            encoder.name: [encoder.grid(crop.window[2], crop.window[3]) if crop.role in encoder.sees else None for crop in tiling.crops]
            for encoder in self.encoders
        }
        grids = self._grids(tiling, raw)
        pieces = self.layout.pieces(0, tiling, grids, self.fusion.route) if self.language_model is not None else []
        pieces += self.prompts.slots(0, len(self.layout.vectors), self.fusion.prompt) if self.prompts is not None and self.language_model is not None else []
        return Measure(
            tiling=tiling,
            grids=grids,
            decoder=positions(pieces, "decoder"),
            memory=positions(pieces, "memory"),
            encoded={name: sum(grid.count for grid in own if grid is not None) for name, own in raw.items()},
        )

    def _grids(self, tiling: Tiling, raw: dict[str, Sequence[Grid | None]]) -> tuple[Grid, ...]:
        """Grids of every crop behind combine and connector; a crop that others consumed has none of its own."""
        crops = list(tiling.crops)
        if self.combined.place == "before":
            return tuple(self._connected(grid) for grid in self.combined.grids(raw, crops))
        connected: dict[str, Sequence[Grid | None]] = {
            name: [None if grid is None else self._connected(grid, name) for grid in own] for name, own in raw.items()
        }
        return tuple(self.combined.grids(connected, crops))

    def _connected(self, grid: Grid, encoder: str | None = None) -> Grid:
        if self.connector is None or not grid.count:
            return grid
        if isinstance(self.connector, ByEncoderConnector) and encoder is not None:
            return self.connector.grid_of(encoder, grid)
        return self.connector.grid(grid)
