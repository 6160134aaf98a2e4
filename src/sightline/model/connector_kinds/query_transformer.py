"""The Q-Former: learned queries that read a picture, and text with it (BLIP-2, https://arxiv.org/abs/2301.12597, section 3; InstructBLIP, https://arxiv.org/abs/2305.06500)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.kinds import Config
from sightline.model import hub_layout
from sightline.model.text_tower import check_length, named_ids
from sightline.model.tiling import Grid

if TYPE_CHECKING:
    from sightline.model.connector_kinds.query_transformer_modules import QueryTransformer

MODEL_TYPES = ("blip_2_qformer", "instructblip_qformer")
_TOY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128, "vocab_size": 600}


class QueryTransformerConnector(Config):
    """`queries` vectors per crop: self-attention among them, cross-attention to the crop in every few layers, then a linear layer to the language model's width.

    With `reads_text` the text beside the picture stands among the queries (InstructBLIP, figure 3). With `text` it is a text encoder too: it compares, matches and
    tells texts of pictures (BLIP-2, figure 2), and `text_encoder: connector` uses it as that. Queries and text have feed-forward layers of their own.
    """

    kind: Literal["q-former"] = "q-former"
    config: dict[str, Any]
    """The published config block, of model type blip_2_qformer or instructblip_qformer; the width of its cross-attention follows from the encoder."""
    queries: int = Field(default=32, ge=1)
    """Q, vectors per crop."""
    reads_text: bool = False
    """Whether the text beside the picture enters."""
    text: bool = False
    """Whether it is a text encoder too."""
    project: bool = True
    """Whether a linear layer leads to the language model's width; without a language model none does."""
    joint: int = Field(default=256, ge=1)
    """E, width of the joint space of pictures and texts."""
    begin: str = "[CLS]"
    """First token of a text by itself, of a text that is matched, and of one that is read with the picture."""
    decode: str = "[DEC]"
    """First token of a text that is told."""
    ids: dict[str, int] = Field(default_factory=dict)
    """Ids of these tokens; filled in where the side tokenizer is known."""
    max_tokens: int = Field(default=32, ge=3)
    """Longer side texts are cut here, first and end token included."""

    @property
    def abilities(self) -> tuple[str, ...]:
        """What it offers as a text encoder."""
        return ("embed", "match", "tell") if self.text else ()

    @property
    def controls(self) -> tuple[str, ...]:
        """Tokens that the side tokenizer must hold."""
        return (self.begin, self.decode) if self.text else (self.begin,) if self.reads_text else ()

    def block(self) -> dict[str, Any]:
        """The config as plain data, with a text side where one is asked for. Refused where it is of another class."""
        block = hub_layout.config_block(None, self.config, "connector", sub="qformer_config")
        if block["model_type"] not in MODEL_TYPES:
            raise Refused(
                Problem(
                    code="model/unknown-q-former",
                    place="connector.config",
                    found=repr(block["model_type"]),
                    allowed=" or ".join(MODEL_TYPES),
                    fix="use the qformer_config of a published model, with its model_type",
                )
            )
        return block | ({"use_qformer_text_input": self.text or self.reads_text} if block["model_type"] == "blip_2_qformer" else {})

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> QueryTransformerConnector:
        """The Config with `vocab_size` from a trained side tokenizer where given; `control` gives the id of a control token in it."""
        block = self.block()
        if self.text or self.reads_text:
            check_length(self.max_tokens, block, "connector")
            block |= {"vocab_size": vocabulary, "pad_token_id": None} if vocabulary is not None else {}
        return self.model_copy(update={"config": block, "ids": named_ids(self.controls, control, self.ids)})

    def grid(self, grid: Grid) -> Grid:
        """Q vectors without a place, whatever the crop's tokens."""
        return Grid(columns=0, rows=0, lead=self.queries)

    def twin(self) -> QueryTransformerConnector:
        """Same structure at toy size: two layers, cross-attention as often as before."""
        return self.model_copy(update={"config": self.block() | _TOY, "queries": min(self.queries, 4), "joint": min(self.joint, 16)})

    def build(self, channels: int, width: int) -> QueryTransformer:
        """The module for C channels in, width D out; width 0 = no language model."""
        from sightline.model.connector_kinds.query_transformer_modules import QueryTransformer

        return QueryTransformer(self, channels, width)
