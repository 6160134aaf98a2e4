"""`sightline show tiles`: how a recipe's model cuts pictures up, in numbers and drawn over a picture."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.tilers.windows import source_box
from sightline.model.tiling import Crop, Tiling, cut
from sightline.recipe import load
from sightline.samples.pictures import MAX_PIXELS

SIZES = ((336, 336), (640, 480), (1000, 600), (600, 1000), (1920, 1080))
"""Sizes that are shown where none is asked for."""
COLOURS = {"tile": (214, 69, 65), "canvas": (214, 69, 65), "overview": (31, 119, 210), "detail": (32, 145, 92)}
"""Of outlines, by role."""
_PANEL, _CROP, _EDGE = 560, 132, 16
_TITLE = 30
_INK, _PAPER = (40, 44, 50), (255, 255, 255)


@dataclass(frozen=True, kw_only=True)
class TileRow:
    """What becomes of a picture of one size (w, h)."""

    size: tuple[int, int]
    grid: tuple[int, int]
    """Columns and rows of tiles."""
    resized: tuple[int, int]
    """Size of the picture as the model sees it, px, padding apart (`resized_picture`)."""
    tiles: int
    """Crops in all, overview and detail included."""
    boxes: list[tuple[float, float, float, float]]
    """Per crop in reading order: what it shows (x0, y0, x1, y1), px of the picture."""
    roles: list[str]
    """Per crop."""
    tokens: int
    """Positions in the language model, the layout's texts apart."""

    def record(self) -> dict[str, Any]:
        """The row as JSON."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        roles = ", ".join(f"{self.roles.count(role)} {role}" for role in dict.fromkeys(self.roles))
        return _by(self.size), _by(self.grid), _by(self.resized), f"{self.tiles} ({roles})", str(self.tokens)


def _by(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def chosen_model(recipe: str | Path, overrides: Sequence[str] = (), name: str | None = None) -> ModelConfig:
    """The model of a recipe that sees pictures; without a `name`, of several the one that the last stage trains. Raises Refused where there is none, or no such one."""
    loaded = load(recipe, overrides)
    seeing = {key: model for key, model in loaded.recipe.all_models().items() if model.encoders}
    if name is None and seeing:
        trained = loaded.recipe.model_of(loaded.recipe.stages[-1]) if loaded.recipe.stages else ""
        name = trained if trained in seeing else next(iter(seeing)) if len(seeing) == 1 else None
    if name in seeing:
        return seeing[name]
    found = f"no model {name!r} that sees pictures" if name else f"{len(seeing)} models that see pictures"
    allowed = ", ".join(seeing) or "a model with encoders and a tiler"
    raise Refused(Problem(code="usage/model", place=str(recipe), found=found, allowed=allowed, fix="name one with --model" if seeing else ""))


def read_sizes(words: Sequence[str], file: Path | None = None) -> list[tuple[int, int]]:
    """Sizes from words `WxH`, then from a JSON list of [W, H] or "WxH". Raises Refused with every one that is none."""
    said: list[tuple[str, Any]] = [("--size", word) for word in words]
    if file is not None:
        said += [(f"{file}:{number}", value) for number, value in enumerate(_listed(file))]
    found = [(place, value, _size(value)) for place, value in said]
    wrong = [
        Problem(
            code="usage/size", place=place, found=json.dumps(value), allowed=f"WIDTHxHEIGHT or [WIDTH, HEIGHT], whole numbers above 0, at most {MAX_PIXELS} px"
        )
        for place, value, size in found
        if size is None
    ]
    if wrong:
        raise Refused(wrong)
    return [size for _, _, size in found if size is not None]


def _listed(file: Path) -> list[Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(Problem(code="usage/sizes", place=str(file), found=str(error), allowed="a JSON list of sizes")) from error
    if not isinstance(value, list) or not value:
        raise Refused(Problem(code="usage/sizes", place=str(file), found=json.dumps(value)[:60], allowed="a JSON list of sizes"))
    return value


def _size(value: Any) -> tuple[int, int] | None:
    if isinstance(value, str) and (match := re.fullmatch(r"(\d{1,7})[xX](\d{1,7})", value)):
        value = [int(match[1]), int(match[2])]
    if isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value) and value[0] * value[1] <= MAX_PIXELS:
        return value[0], value[1]
    return None


def tile_rows(model: ModelConfig, sizes: Sequence[tuple[int, int]]) -> list[TileRow]:
    """One row per size, in order. Raises Refused with every size that the model cannot take."""
    rows: list[TileRow] = []
    problems: list[Problem] = []
    for size in sizes:
        try:
            measure = model.measure(*size)
        except Refused as refused:
            problems += [problem for problem in refused.problems if problem not in problems]
            continue
        tiling = measure.tiling
        boxes = [tuple(round(edge, 2) for edge in source_box(tiling, crop)) for crop in tiling.crops]
        rows.append(
            TileRow(
                size=size,
                grid=tiling.grid,
                resized=resized_picture(tiling),
                tiles=len(tiling.crops),
                boxes=[(x0, y0, x1, y1) for x0, y0, x1, y1 in boxes],
                roles=[crop.role for crop in tiling.crops],
                tokens=measure.decoder,
            )
        )
    if problems:
        raise Refused(problems)
    return rows


def resized_picture(tiling: Tiling) -> tuple[int, int]:
    """Size (w, h) of the picture in the frame "seen", px, padding apart; to the nearest where it was padded before it was resized."""
    (width, height), (across, down) = tiling.size, tiling.seen.scale
    return max(1, round(width * across)), max(1, round(height * down))


def write_drawing(file: Path, models: Sequence[tuple[str, ModelConfig]], size: tuple[int, int], picture: np.ndarray | None) -> None:
    """Write `draw_tiles` of a picture of `size` (w, h), plain grey where there is none, as a PNG; of several models side by side under their names.

    Raises Refused where it cannot be written.
    """
    if picture is None:
        picture = np.full((size[1], size[0], 3), 200, np.uint8)
    boards = [draw_tiles(picture, model.measure(*size).tiling) for _, model in models]
    drawn = boards[0] if len(boards) == 1 else _together([name for name, _ in models], boards)
    try:
        drawn.save(file, "PNG")
    except OSError as error:
        raise Refused(Problem(code="usage/out", place=str(file), found=str(error), allowed="a file that can be written")) from error


def _together(names: Sequence[str], boards: Sequence[Image.Image]) -> Image.Image:
    """Boards in rows of two, each under its name."""
    rows = [list(zip(names, boards))[start : start + 2] for start in range(0, len(boards), 2)]
    widths = [max(row[column][1].width for row in rows if column < len(row)) for column in range(min(2, len(boards)))]
    heights = [max(board.height for _, board in row) + _TITLE for row in rows]
    sheet = Image.new("RGB", (sum(widths), sum(heights)), _PAPER)
    pen, y = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights):
        x = 0
        for (name, board), width in zip(row, widths):
            pen.text((x + _EDGE, y + 8), name, fill=_INK, font=_font(18))
            sheet.paste(board, (x, y + _TITLE))
            x += width
        y += height
    return sheet


def draw_tiles(picture: np.ndarray, tiling: Tiling) -> Image.Image:
    """Left: the picture with every tile's box, its overlaps and the reading order. Right: all crops as the encoder gets them, in that order."""
    left = _boxes(picture, tiling)
    right = _sheet(cut(picture, tiling), tiling)
    board = Image.new("RGB", (left.width + right.width + 3 * _EDGE, max(left.height, right.height) + 2 * _EDGE), _PAPER)
    board.paste(left, (_EDGE, _EDGE))
    board.paste(right, (left.width + 2 * _EDGE, _EDGE))
    return board


def _boxes(picture: np.ndarray, tiling: Tiling) -> Image.Image:
    """Where several tiles overlap, the tint is deeper; crops of the whole picture are not boxes and only stand on the sheet."""
    factor = _PANEL / max(tiling.size)
    size = (max(1, round(tiling.size[0] * factor)), max(1, round(tiling.size[1] * factor)))
    drawn = Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)
    parts = [(number, crop, _scaled(source_box(tiling, crop), factor)) for number, crop in enumerate(tiling.crops, 1) if crop.role in ("tile", "canvas")]
    for _, crop, (x0, y0, x1, y1) in parts:
        tint = Image.new("RGBA", size)
        ImageDraw.Draw(tint).rectangle((x0, y0, x1 - 1, y1 - 1), fill=(*COLOURS[crop.role], 46))
        drawn = Image.alpha_composite(drawn.convert("RGBA"), tint).convert("RGB")
    pen = ImageDraw.Draw(drawn)
    for number, crop, (x0, y0, x1, y1) in parts:
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=COLOURS[crop.role], width=2)
        _number(pen, number, ((x0 + x1) / 2, (y0 + y1) / 2), COLOURS[crop.role])
    board = Image.new("RGB", (size[0], size[1] + 22), _PAPER)
    board.paste(drawn, (0, 0))
    said = f"{_by(tiling.size)} px, {_by(tiling.grid)} tiles, main view {_by(resized_picture(tiling))} px"
    ImageDraw.Draw(board).text((0, size[1] + 4), said, fill=_INK, font=_font())
    return board


def _scaled(box: tuple[float, float, float, float], factor: float) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = (round(edge * factor) for edge in box)
    return x0, y0, max(x1, x0 + 2), max(y1, y0 + 2)


def _sheet(crops: Sequence[np.ndarray], tiling: Tiling) -> Image.Image:
    columns = min(len(crops), max(3, math.ceil(math.sqrt(len(crops)))))
    cell = (_CROP + 8, _CROP + 26)
    board = Image.new("RGB", (columns * cell[0], -(-len(crops) // columns) * cell[1]), _PAPER)
    pen = ImageDraw.Draw(board)
    largest = max(max(crop.shape[1:]) for crop in crops)
    for index, (crop, pixels) in enumerate(zip(tiling.crops, crops, strict=True)):
        x, y = index % columns * cell[0], index // columns * cell[1]
        width, height = (max(1, round(side * _CROP / largest)) for side in (pixels.shape[2], pixels.shape[1]))
        board.paste(Image.fromarray(pixels.transpose(1, 2, 0)).resize((width, height), Image.Resampling.BICUBIC), (x, y))
        pen.rectangle((x, y, x + width - 1, y + height - 1), outline=COLOURS[crop.role], width=2)
        pen.text((x, y + height + 3), _caption(index + 1, crop), fill=COLOURS[crop.role], font=_font())
    return board


def _caption(number: int, crop: Crop) -> str:
    return f"{number} {crop.role} {crop.window[2]}x{crop.window[3]}"


def _number(pen: ImageDraw.ImageDraw, number: int, centre: tuple[float, float], colour: tuple[int, int, int]) -> None:
    x, y = centre
    pen.ellipse((x - 13, y - 13, x + 13, y + 13), fill=_PAPER, outline=colour, width=2)
    pen.text((x, y), str(number), fill=_INK, anchor="mm", font=_font(14))


def _font(size: int = 12) -> Any:
    return ImageFont.load_default(size)
