"""What published image processors are told, as tilers and statistics, and back: one pair of functions per kind of tiler. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from sightline.errors import Problem, Refused
from sightline.model.encoders import VisionEncoder
from sightline.model.native.published_folder import PREPROCESSOR, Published
from sightline.model.tilers.aspect_grids import InternVlTiler
from sightline.model.tilers.canvases import CanvasTiler
from sightline.model.tilers.native import MaxSideTiler, QuadSplitTiler, SmartResizeTiler
from sightline.model.tilers.pinpoints import LlavaNextTiler
from sightline.model.tiling import Filter, Tiler, WholeTiler

Settings = dict[str, Any]
_FILTERS: dict[int, Filter] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's resampling filters, as published settings give them."""
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_ALWAYS = ("do_resize", "do_rescale", "do_normalize")


def whole_picture(said: Settings, side: int) -> WholeTiler:
    """The centre of the picture, the padded picture, or the squeezed one; `side` of the tower where the settings give none."""
    if said.get("do_pad"):
        red, green, blue = (int(mean * 255) for mean in said.get("image_mean", _CLIP_MEAN))
        return WholeTiler(size=_side(said, "crop_size", side), fit="pad", filter=_filter(said), fill=(red, green, blue))
    if said.get("do_center_crop", not said):
        return WholeTiler(size=_side(said, "crop_size", side), fit="crop", filter=_filter(said))
    return WholeTiler(size=_side(said, "size", side), fit="squash", filter=_filter(said))


def _whole_settings(tiler: WholeTiler) -> Settings:
    square = {"height": tiler.size, "width": tiler.size}
    if tiler.fit == "squash":
        return {"size": square}
    pads = {"do_pad": True} if tiler.fit == "pad" else {}
    return {"size": {"shortest_edge": tiler.size}, "crop_size": square, "do_center_crop": True, **pads}


def pinpoints(said: Settings, side: int) -> LlavaNextTiler:
    """Published lists are (height, width)."""
    known = LlavaNextTiler.model_fields["pinpoints"].default
    listed = tuple((width, height) for height, width in said.get("image_grid_pinpoints", ()))
    return LlavaNextTiler(size=_side(said, "crop_size", side), pinpoints=listed or known, filter=_filter(said))


def _pinpoint_settings(tiler: LlavaNextTiler) -> Settings:
    square = {"height": tiler.size, "width": tiler.size}
    listed = [[height, width] for width, height in tiler.pinpoints]
    return {"size": {"shortest_edge": tiler.size}, "crop_size": square, "do_center_crop": True, "do_pad": True, "image_grid_pinpoints": listed}


def smart_resize(said: Settings, cell: int) -> SmartResizeTiler:
    """`cell`: px of a patch times the merge."""
    size = said.get("size", {})
    least, most = said.get("min_pixels", size.get("shortest_edge")), said.get("max_pixels", size.get("longest_edge"))
    bounds = {"min_pixels": least, "max_pixels": most}
    return SmartResizeTiler(factor=cell, filter=_filter(said), **{name: value for name, value in bounds.items() if value is not None})


def _smart_settings(tiler: SmartResizeTiler) -> Settings:
    return {"size": {"shortest_edge": tiler.min_pixels, "longest_edge": tiler.max_pixels}}


def canvas(said: Settings, side: int) -> CanvasTiler:
    """Tiles of a canvas."""
    return CanvasTiler(size=_side(said, "size", side), most=said.get("max_image_tiles", 4), filter=_filter(said, 2))


def _canvas_settings(tiler: CanvasTiler) -> Settings:
    return {"size": {"height": tiler.size, "width": tiler.size}, "max_image_tiles": tiler.most, "do_pad": True}


def quad_split(said: Settings, side: int) -> QuadSplitTiler:
    """Four quarters and the whole, or the whole alone."""
    size = said.get("size", {})
    return QuadSplitTiler(
        longest=size.get("longest_edge", 980), shortest=size.get("shortest_edge", 378), split=said.get("do_image_splitting", False), filter=_filter(said, 2)
    )


def _quad_settings(tiler: QuadSplitTiler) -> Settings:
    return {"size": {"longest_edge": tiler.longest, "shortest_edge": tiler.shortest}, "do_image_splitting": tiler.split, "do_pad": True}


def aspect_grid(said: Settings, side: int) -> WholeTiler | InternVlTiler:
    """Tiles on a grid of the picture's shape, or the squeezed picture where the settings switch them off."""
    if said and not said.get("crop_to_patches", False):
        return WholeTiler(size=_side(said, "size", side), fit="squash", filter=_filter(said))
    return InternVlTiler(size=_side(said, "size", side), least=said.get("min_patches", 1), most=said.get("max_patches", 12), filter=_filter(said))


def _grid_settings(tiler: InternVlTiler) -> Settings:
    square = {"height": tiler.size, "width": tiler.size}
    return {"size": square, "crop_to_patches": True, "min_patches": tiler.least, "max_patches": tiler.most}


def max_side(said: Settings, patch: int) -> MaxSideTiler:
    """`patch`: px of a patch."""
    size = said.get("size", {})
    return MaxSideTiler(size=size.get("longest_edge", 1024) if isinstance(size, dict) else size, patch=patch, filter=_filter(said))


def _max_side_settings(tiler: MaxSideTiler) -> Settings:
    return {"size": {"longest_edge": tiler.size}, "patch_size": {"height": tiler.patch, "width": tiler.patch}}


_WRITERS: dict[type[Any], Callable[[Any], Settings]] = {
    WholeTiler: _whole_settings,
    LlavaNextTiler: _pinpoint_settings,
    SmartResizeTiler: _smart_settings,
    CanvasTiler: _canvas_settings,
    QuadSplitTiler: _quad_settings,
    InternVlTiler: _grid_settings,
    MaxSideTiler: _max_side_settings,
}


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Mean and standard deviation per band, 0..1; None where the settings say nothing."""

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def statistics(published: Published) -> Statistics:
    """What pixels are normalised by. Raises Refused (model/native-preprocessor) where a step is switched off that is always taken here."""
    said = published.preprocessor
    off = [name for name in _ALWAYS if not said.get(name, True)]
    factor = said.get("rescale_factor", 1 / 255)
    if off or abs(factor * 255 - 1) > 1e-6:
        raise Refused(
            Problem(
                code="model/native-preprocessor",
                place=str(published.folder / PREPROCESSOR),
                found=", ".join([*(f"{name}: false" for name in off), f"rescale_factor: {factor}"]),
                allowed="pixels that are resized, divided by 255 and normalised",
                fix="state tiler, mean and std in a recipe instead",
            )
        )
    mean, std = said.get("image_mean"), said.get("image_std")
    return Statistics(mean=tuple(mean) if mean else None, std=tuple(std) if std else None)


def settings_of(tiler: Tiler, encoder: VisionEncoder, processor_class: str) -> Settings:
    """What an image processor is told to do the same."""
    assert encoder.mean is not None and encoder.std is not None, "a resolved encoder has both"
    numbers = {name: number for number, name in _FILTERS.items()}
    return {
        "image_processor_type": processor_class,
        "do_convert_rgb": True,
        **dict.fromkeys(_ALWAYS, True),
        "rescale_factor": 1 / 255,
        "resample": numbers[cast(Any, tiler).filter],
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
        **_WRITERS[type(tiler)](tiler),
    }


def _filter(said: Settings, otherwise: int = 3) -> Filter:
    number = said.get("resample", otherwise)
    if number not in _FILTERS:
        raise Refused(
            Problem(
                code="model/native-preprocessor",
                place=PREPROCESSOR,
                found=f"resample: {number}",
                allowed=", ".join(f"{number} {name}" for number, name in _FILTERS.items()),
                fix="state the tiler in a recipe instead",
            )
        )
    return _FILTERS[number]


def _side(said: Settings, key: str, otherwise: int) -> int:
    """The side of a square that settings give as one number, as height and width, or by its shortest edge. Refused for other shapes."""
    size = said.get(key, said.get("size", otherwise))
    sides = {size} if isinstance(size, int) else {size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge"))}
    if len(sides) > 1 or None in sides:
        raise Refused(
            Problem(
                code="model/native-preprocessor",
                place=PREPROCESSOR,
                found=f"{key}: {size}",
                allowed="a square",
                fix="state the tiler in a recipe instead",
            )
        )
    return sides.pop()
