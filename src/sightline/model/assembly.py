"""ModelConfig: a whole model as a tree of part Configs. Torch-free: recipes, workers, planner and `--help` touch only this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sightline.kinds import Config
from sightline.model.chat import ChatFormat, chat_format
from sightline.model.connectors import CONNECTOR, MlpConnector
from sightline.model.encoders import ENCODER, EncoderConfig
from sightline.model.fusion import FUSION, SequenceFusion
from sightline.model.language import LANGUAGE_MODEL, LanguageModelConfig
from sightline.model.layouts import LAYOUT, FlatLayout
from sightline.model.text_tower import TEXT_ENCODER, TextEncoderConfig
from sightline.model.tiler_table import TILER
from sightline.model.tiling import Grid, Tiler, Tiling

ENCODERS_NEED_TILER = "encoders need a tiler: it says which crops they see"


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
    """What a picture of a given size costs: its tiling, grids after the connector (one per crop), decoder positions and encoder patches."""

    tiling: Tiling
    grids: tuple[Grid, ...]
    decoder: int
    patches: int


class ModelConfig(Config):
    """Parts of one model; every part is optional, what is there decides what it can do."""

    encoders: list[Annotated[EncoderConfig, ENCODER]] = Field(default_factory=list)
    """Vision encoders, paths `encoders.NAME`."""
    tiler: Annotated[Tiler, TILER] | None = None
    """How pictures are cut into crops."""
    connector: Annotated[MlpConnector, CONNECTOR] | None = None
    """From encoder tokens to language-model tokens."""
    layout: Annotated[FlatLayout, LAYOUT] = FlatLayout()
    """Order of entries and what stands around them."""
    fusion: Annotated[SequenceFusion, FUSION] = SequenceFusion()
    """How entries reach the language model."""
    language_model: Annotated[LanguageModelConfig, LANGUAGE_MODEL] | None = None
    """The decoder that writes."""
    text_encoder: Annotated[TextEncoderConfig, TEXT_ENCODER] | None = None
    """The second tower of a dual-tower model."""
    tokenizer: TokenizerConfig = TokenizerConfig()
    """Where the tokenizer comes from."""
    chat: str = "turns"
    """Chat format, by its name in the table."""
    pictures: Literal["in-place", "turn-start", "before-all"] | None = None
    """Overrides where the chat format puts pictures."""
    max_tokens: int = Field(default=2048, ge=8)
    """Longest sample in decoder positions; longer ones are refused, pictures are never cut."""

    @model_validator(mode="after")
    def _fits(self) -> ModelConfig:
        if self.encoders and self.tiler is None:
            raise ValueError(ENCODERS_NEED_TILER)
        if self.connector is not None and (not self.encoders or self.language_model is None):
            raise ValueError("a connector stands between encoders and a language model: both are needed")
        names = [encoder.name for encoder in self.encoders]
        if len(set(names)) < len(names):
            raise ValueError(f"encoders need different names, found {names}")
        if len(names) > 1:
            raise ValueError("several encoders need a combine part, which this version does not have")
        unseen = sorted(set(self.tiler.roles if self.tiler else ()) - {role for encoder in self.encoders for role in encoder.sees}) if self.encoders else []
        if unseen:
            raise ValueError(f"no encoder sees {', '.join(unseen)}: add the role to `sees`")
        if self.text_encoder is not None and not self.encoders:
            raise ValueError("a text_encoder is compared with encoders: add one")
        return self

    @property
    def abilities(self) -> tuple[str, ...]:
        """write with a language model, embed with a text encoder."""
        return tuple(name for name, part in (("write", self.language_model), ("embed", self.text_encoder)) if part is not None)

    def chat_format(self) -> ChatFormat:
        """The format with this model's choice of where pictures stand."""
        found = chat_format(self.chat)
        return found.model_copy(update={"pictures": self.pictures}) if self.pictures else found

    def resolve(self, vocabulary: int | None = None) -> ModelConfig:
        """Everything that checkpoints say copied in once; what is saved with a model."""
        return self.model_copy(
            update={
                "encoders": [encoder.resolve() for encoder in self.encoders],
                "language_model": self.language_model.resolve(vocabulary) if self.language_model else None,
                "text_encoder": self.text_encoder.resolve(vocabulary) if self.text_encoder else None,
            }
        )

    def measure(self, width: int, height: int, among: int = 1) -> Measure:
        """THE token count of a picture of width x height px: expander, planner and limits all call this. Texts of the layout are not counted here."""
        assert self.tiler is not None, ENCODERS_NEED_TILER
        tiling = self.tiler.tile(width, height, among)
        encoder = self.encoders[0]
        raw = [encoder.grid(crop.window[2], crop.window[3]) for crop in tiling.crops if crop.role in encoder.sees]
        grids = tuple(self.connector.grid(grid) if self.connector else grid for grid in raw)
        return Measure(tiling=tiling, grids=grids, decoder=sum(grid.count for grid in grids), patches=sum(grid.count for grid in raw))
