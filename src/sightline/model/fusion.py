"""Fusions: how picture entries reach the language model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field, model_validator

from sightline.kinds import Config, Family
from sightline.model import hub_layout
from sightline.model.pieces import StreamName

if TYPE_CHECKING:
    from torch import nn


class Fusion(Protocol):
    """What every kind of fusion offers."""

    @property
    def kind(self) -> str:
        """Its name in the table."""
        ...

    @property
    def packs(self) -> bool:
        """Several samples may share a bin."""
        ...

    @property
    def prompt(self) -> StreamName:
        """The stream that takes the conversation before an answer."""
        ...

    def route(self, role: str) -> StreamName:
        """The stream that takes the entries of crops with this role."""
        ...

    def model_copy(self, *, update: dict[str, Any]) -> Fusion:
        """Itself with other fields."""
        ...

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        """Its fields, as pydantic gives them."""
        ...

    def twin(self) -> Fusion:
        """Same structure at toy size."""
        ...

    def build(self, language: dict[str, Any]) -> nn.Module:
        """The module beside a language model of this config block."""
        ...


FUSION = Family("fusion")


class _Fusion(Config):
    @property
    def packs(self) -> bool:
        """Several samples may share a bin: masks keep them apart."""
        return True

    @property
    def prompt(self) -> StreamName:
        """The conversation stands in the decoder."""
        return "decoder"

    def twin(self) -> Any:
        """Itself: it has no sizes of its own."""
        return self


@FUSION.add
class SequenceFusion(_Fusion):
    """Entries stand in the decoder's sequence among the text tokens (LLaVA and most others)."""

    kind: Literal["sequence"] = "sequence"

    def route(self, role: str) -> StreamName:
        """Every role goes to the decoder."""
        return "decoder"

    def build(self, language: dict[str, Any]) -> nn.Module:
        """The module."""
        from sightline.model.fusion_modules import Sequence

        return Sequence()


@FUSION.add
class GatedCrossAttention(_Fusion):
    """Entries are memory; gated blocks between the decoder's layers read it (Alayrac et al. 2022, section 2.2; Llama 3, section 7.2).

    A block is RMSNorm, grouped-query cross-attention with normalised queries and keys and no rotary positions, tanh gate, RMSNorm, SwiGLU, tanh gate. Gates start at 0:
    the model starts equal to its language model.
    """

    kind: Literal["gated-cross-attention"] = "gated-cross-attention"
    layers: tuple[int, ...] = ()
    """Decoder layers before which a block runs, counted from 0; empty = as `every` says."""
    every: int | None = Field(default=None, ge=1)
    """A block before every so many layers: `every` = 8 runs before layers 7, 15..."""
    overview: StreamName = "memory"
    """Where overview crops go: decoder = the hybrid of NVLM-H, which reads the overview as tokens and the tiles as memory."""
    unattended: Literal["nothing", "uniform"] = "nothing"
    """What a token that sees no memory receives: nothing, or the mean of all its sample's memory through the attention branch (what transformers computes for Mllama)."""

    @model_validator(mode="after")
    def _placed(self) -> GatedCrossAttention:
        if bool(self.layers) == (self.every is not None):
            raise ValueError("give either `layers` or `every`")
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError("`layers` ascend, each once")
        return self

    def route(self, role: str) -> StreamName:
        """Crops go to memory, the overview where the recipe says."""
        return self.overview if role == "overview" else "memory"

    def before(self, depth: int) -> tuple[int, ...]:
        """The layers of a decoder of `depth` layers before which a block runs."""
        return self.layers or tuple(range((self.every or 1) - 1, depth, self.every or 1))

    def twin(self) -> GatedCrossAttention:
        """One block before the second layer of two."""
        return self.model_copy(update={"layers": (1,), "every": None})

    def build(self, language: dict[str, Any]) -> nn.Module:
        """The module; its sizes are the language model's."""
        from sightline.model.fusion_modules import GatedCrossAttentionBlocks

        return GatedCrossAttentionBlocks(self, hub_layout.transformers_config(language, "language_model").to_dict())


@FUSION.add
class CrossAttention(_Fusion):
    """Entries are memory of a decoder that has cross-attention of its own (BLIP's captioner); text stands in the decoder."""

    kind: Literal["cross-attention"] = "cross-attention"

    def route(self, role: str) -> StreamName:
        """Every role goes to memory."""
        return "memory"

    def build(self, language: dict[str, Any]) -> nn.Module:
        """The module."""
        from sightline.model.fusion_modules import OwnCrossAttention

        return OwnCrossAttention(encode=False)


@FUSION.add
class EncoderDecoder(_Fusion):
    """Pictures and the conversation pass through the language model's encoder; the answer is written by its decoder (BLIP-2 with Flan-T5)."""

    kind: Literal["encoder-decoder"] = "encoder-decoder"

    @property
    def prompt(self) -> StreamName:
        """The conversation is memory."""
        return "memory"

    def route(self, role: str) -> StreamName:
        """Every role goes to memory."""
        return "memory"

    def build(self, language: dict[str, Any]) -> nn.Module:
        """The module."""
        from sightline.model.fusion_modules import OwnCrossAttention

        return OwnCrossAttention(encode=True)
