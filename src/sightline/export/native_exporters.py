"""Exports in the published form of a system, one for each native format, which transformers loads as its own class."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from sightline.errors import Problem
from sightline.export.exporters import RECORD, Proof
from sightline.export.proof import Stock, prove_towers, prove_writer
from sightline.lineage import write_json
from sightline.model.assembly import ModelConfig
from sightline.model.native.native_format import NativeFormat
from sightline.model.native.native_table import NATIVE_FORMATS
from sightline.model.native.served_directory import form, write_served


class AnyTokens:
    """Ids for a model whose tokenizer is not at hand: every token is held."""

    def __init__(self) -> None:
        self.added: dict[str, int] = {}
        self._ids: dict[str, int] = {}

    def id(self, token: str) -> int:
        """A number of its own."""
        return self._ids.setdefault(token, len(self._ids))


class NativeExporter:
    """What the targets of native formats share."""

    target: ClassVar[str]
    native: ClassVar[str]
    """Name of the format."""
    auto: ClassVar[str] = "AutoModelForImageTextToText"
    """The class of transformers that opens it."""
    processor: ClassVar[bool] = True
    """Whether the stock processor is made without torchvision."""
    encoders: ClassVar[tuple[str, ...]] = ()
    """Kinds of encoders, where the format has more than one target."""

    @property
    def format(self) -> NativeFormat:
        """The rules of its settings and names."""
        return NATIVE_FORMATS[self.native]

    def check(self, config: ModelConfig) -> list[Problem]:
        """Parts of other kinds, fields that the published settings cannot say, pictures at another place."""
        problems = form(self.format, config, AnyTokens(), f"export --to {self.target}").problems
        if not self.encoders or len(config.encoders) != 1 or (kind := str(getattr(config.encoders[0], "kind", None))) in self.encoders:
            return problems
        allowed, fix = ", ".join(self.encoders), f"choose another target than {self.target}"
        return [Problem(code="export/encoder", place=f"model.{config.encoders[0].path}", found=kind, allowed=allowed, fix=fix), *problems]

    def write(self, model_dir: Path, out: Path) -> None:
        """Settings, tokenizer, template and weights; what is left out goes into export.json."""
        left_out = write_served(model_dir, out, self.format)
        write_json(out / RECORD, {"left_out": left_out})

    def prove(self, model_dir: Path, out: Path) -> Proof:
        """By the golden requests that ask for answers."""
        return prove_writer(model_dir, out, self.stock())

    def stock(self) -> Stock:
        """Who opens it."""
        return Stock(target=self.target, auto=self.auto, format=self.format, processor=self.processor)


class Llava(NativeExporter):
    """One tower of CLIP or SigLIP, two linear layers, a causal language model."""

    target, native, encoders = "llava", "llava", ("transformers",)


class Pixtral(NativeExporter):
    """Pixtral's tower in the layout of LLaVA."""

    target, native, encoders, processor = "pixtral", "llava", ("pixtral",), False


class LlavaNext(NativeExporter):
    """LLaVA with tiles."""

    target, native = "llava-next", "llava_next"


class Qwen2Vl(NativeExporter):
    """Qwen2-VL."""

    target, native, processor = "qwen2-vl", "qwen2_vl", False


class InternVl(NativeExporter):
    """InternVL in the layout of transformers."""

    target, native, processor = "internvl", "internvl", False


class Mllama(NativeExporter):
    """Llama 3.2 Vision."""

    target, native = "mllama", "mllama"


class Idefics2(NativeExporter):
    """Idefics2."""

    target, native = "idefics2", "idefics2"


class Blip2(NativeExporter):
    """BLIP-2 with a language model; what its Q-Former knows of texts is left out."""

    target, native = "blip-2", "blip-2"


class _Towers(NativeExporter):
    auto = "AutoModel"

    def prove(self, model_dir: Path, out: Path) -> Proof:
        """By the vectors of golden pairs."""
        return prove_towers(model_dir, out, self.stock())


class Clip(_Towers):
    """Two towers of CLIP."""

    target, native = "clip", "clip"


class Siglip(_Towers):
    """Two towers of SigLIP."""

    target, native = "siglip", "siglip"
