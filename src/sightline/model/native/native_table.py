"""All native formats, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sightline.errors import Problem, Refused
from sightline.model.native.blip2_formats import Blip2Format, Blip2RetrievalFormat, InstructBlipFormat
from sightline.model.native.blip_formats import BlipFormat, BlipRetrievalFormat
from sightline.model.native.dual_tower_formats import ClipFormat, SiglipFormat
from sightline.model.native.idefics2_format import Idefics2Format
from sightline.model.native.internvl_format import InternVlFormat
from sightline.model.native.llava_formats import LlavaFormat, LlavaNextFormat
from sightline.model.native.mllama_format import MllamaFormat
from sightline.model.native.native_format import NativeFormat
from sightline.model.native.qwen2_vl_format import Qwen2VlFormat

_FORMATS: tuple[NativeFormat, ...] = (
    ClipFormat(),
    SiglipFormat(),
    LlavaFormat(),
    LlavaNextFormat(),
    Qwen2VlFormat(),
    MllamaFormat(),
    InternVlFormat(),
    Idefics2Format(),
    BlipFormat(),
    BlipRetrievalFormat(),
    Blip2Format(),
    Blip2RetrievalFormat(),
    InstructBlipFormat(),
)
NATIVE_FORMATS: dict[str, NativeFormat] = {format_.name: format_ for format_ in _FORMATS}


def format_of(config: Mapping[str, Any], place: str) -> NativeFormat:
    """The format of a config.json. Raises Refused (model/native-format) where none takes it."""
    found = [format_ for format_ in _FORMATS if format_.recognises(config)]
    assert len(found) < 2, f"{[format_.name for format_ in found]} take the same config"
    if not found:
        raise Refused(
            Problem(
                code="model/native-format",
                place=place,
                found=f"model_type {config.get('model_type')!r}, architectures {config.get('architectures')}",
                allowed=", ".join(NATIVE_FORMATS),
                fix="take its towers as `checkpoint:` of parts in a recipe",
            )
        )
    return found[0]
