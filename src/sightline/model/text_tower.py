"""Text encoders: joint vectors of pictures and texts (CLIP, SigLIP), and what a part must offer to be one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.model import hub_layout, open_clip

if TYPE_CHECKING:
    from torch import nn

    from sightline.model.text_tower_modules import TextTower

TEXT_ENCODER = Family("text_encoder", default="transformers")
_TOY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128, "vocab_size": 600}


class TextEncoder(Protocol):
    """What every kind of text encoder offers.

    Its module: embed_pictures(Features) -> (P, Q, E) and embed_texts(SideTexts) -> (X, E), unit vectors; parameters scale (logarithm) and bias | None:
    similarity = scale.exp() * cosine + bias. With the ability match: match(Features, SideTexts, pairs (Y, 2) of picture and text) -> (Y, 2) logits.
    With the ability tell: tell(Features, SideTexts) -> Told. A picture is one crop.
    """

    @property
    def abilities(self) -> tuple[str, ...]:
        """embed, and match and tell where it has them."""
        ...

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> TextEncoder:
        """The Config with everything that the checkpoint says copied in; `control` gives the id of a control token in the side tokenizer."""
        ...

    def twin(self) -> TextEncoder:
        """Same structure at toy size."""
        ...

    def build(self, channels: int) -> nn.Module:
        """The module for picture tokens of C channels."""
        ...


def named_ids(names: Iterable[str], control: Callable[[str], int] | None, known: dict[str, int]) -> dict[str, int]:
    """Ids of control tokens by name, looked up in the side tokenizer where one is given; else those already known."""
    return {name: control(name) for name in names} if control is not None else known


def check_length(max_tokens: int, block: dict[str, Any], place: str) -> None:
    """Refused where side texts may be longer than the positions that were learnt for them."""
    most = block.get("max_position_embeddings", 512)
    if max_tokens > most:
        raise Refused(
            Problem(
                code="model/too-few-positions",
                place=f"{place}.max_tokens",
                found=f"texts of {max_tokens} tokens",
                allowed=f"at most {most}: the positions of this config",
                fix=f"{place}.max_tokens={most}",
            )
        )


@TEXT_ENCODER.add
class SharedTextEncoder(Config):
    """`text_encoder: connector` or `text_encoder: language_model`: that part is the text encoder too, one module that is saved once."""

    kind: Literal["shared"] = "shared"
    part: Literal["connector", "language_model"]
    """Which part."""

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> SharedTextEncoder:
        """Itself: the part is resolved where it stands."""
        return self

    def twin(self) -> SharedTextEncoder:
        """Itself."""
        return self


@TEXT_ENCODER.add
class TextEncoderConfig(Config):
    """A transformers text tower with pooling and both projections."""

    kind: Literal["transformers"] = "transformers"
    checkpoint: str | None = None
    """Folder or cached hub name; None = random weights from `config`."""
    config: dict[str, Any] | None = None
    """Config block such as clip_text_model's; `vocab_size` may be left out when the tokenizer is trained by the recipe."""
    width: int = Field(default=512, ge=1)
    """E, width of the joint space."""
    texts: Literal["last", "mean", "head"] = "last"
    """Pooling of texts: the last token (CLIP's end token), the mean, or the last token through the tower's own linear head, which then is the projection (SigLIP)."""
    pictures: Literal["mean", "first", "mean-max", "attention", "probe"] = "mean"
    """Pooling of picture tokens; mean-max concatenates both. attention: the mean asks all tokens (CLIP's residual networks); probe: a learnt query does (SigLIP); both project."""
    heads: int | None = Field(default=None, ge=1)
    """Attention heads of a pooling by attention or probe; default is one per 64 channels."""
    inner: int | None = Field(default=None, ge=1)
    """Inner width of the perceptron behind a probe; default is four times the channels."""
    grid: tuple[int, int] | None = None
    """Columns and rows of a picture's tokens, for whose places a pooling by attention has positions."""
    begin: str | None = None
    """Control token before each text (CLIP `<|startoftext|>`)."""
    padded: bool = False
    """Whether texts are padded to `max_tokens` with tokens that are read like others (SigLIP)."""
    loss: Literal["softmax", "sigmoid"] = "softmax"
    """Which loss the scale and bias start for: softmax ln(1/0.07), sigmoid ln(10) and -10 (SigLIP)."""
    tags: bool = False
    """Give single tokens a projection of their own, for the token-word tag term."""
    max_tokens: int = Field(default=77, ge=2)
    """Longer texts are cut here; counted where a data set is checked."""

    @model_validator(mode="after")
    def _pools(self) -> TextEncoderConfig:
        if (self.pictures == "attention") != (self.grid is not None):
            raise ValueError("`grid` belongs to pictures: attention, which needs it")
        return self

    @property
    def abilities(self) -> tuple[str, ...]:
        """It compares, and neither matches nor tells."""
        return ("embed",)

    @property
    def controls(self) -> tuple[str, ...]:
        """Tokens that its tokenizer must hold."""
        return (self.begin,) if self.begin else ()

    def block(self) -> dict[str, Any]:
        """The config as plain data (the text part of a composite)."""
        stated = open_clip.open_clip_config(self.checkpoint) if self.checkpoint else None
        return hub_layout.config_block(None if stated else self.checkpoint, stated or self.config, "text_encoder", sub="text_config")

    def resolve(self, vocabulary: int | None = None, control: Callable[[str], int] | None = None) -> TextEncoderConfig:
        """The Config with the checkpoint's block copied in, `vocab_size` from a trained tokenizer where given."""
        block = dict(self.block())
        if vocabulary is not None and not self.checkpoint:
            # ids of a published tokenizer mean nothing in a trained one; pooling does not use them
            block |= {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
        return self.model_copy(update={"config": block})

    def twin(self) -> TextEncoderConfig:
        """Same class at toy size, random weights."""
        joint = 32 if self.pictures == "probe" else min(self.width, 16)
        block = self.block() | _TOY | ({"projection_size": joint} if self.texts == "head" else {})
        toy = {
            "width": joint,
            "heads": 4 if self.heads else None,
            "inner": 64 if self.inner else None,
            "grid": (1, 1) if self.grid else None,
            "max_tokens": min(self.max_tokens, 77),
        }
        return self.model_copy(update={"checkpoint": None, "config": block, **toy})

    def build(self, channels: int) -> TextTower:
        """The module for picture tokens of C channels."""
        from sightline.model.text_tower_modules import TextTower

        return TextTower(self, channels)
