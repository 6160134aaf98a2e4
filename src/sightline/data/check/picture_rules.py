"""Rules about single pictures: how they are stored, and how large they are."""

from __future__ import annotations

from collections.abc import Iterator

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.row_facts import Finding, PictureFacts, RowFacts
from sightline.samples.bands import COLOURS
from sightline.samples.sample import Sample

_LOST = {
    "L": "one grey band, made three equal ones",
    "LA": "grey with alpha, laid on white",
    "RGBA": "alpha, laid on white",
    "PA": "a palette with alpha, laid on white",
    "P": "a palette, turned into RGB",
    "1": "black and white, made grey",
    "CMYK": "print colours, converted without a profile",
    "YCbCr": "YCbCr, turned into RGB",
    "LAB": "LAB, turned into RGB",
}


def _each(rule: str, row: RowFacts, said: list[str | None]) -> Iterator[Finding]:
    """One finding per row, for the first picture concerned."""
    concerned = [(number, text) for number, text in enumerate(said) if text is not None]
    if concerned:
        yield Finding(rule=rule, found="; ".join(dict.fromkeys(text for _, text in concerned)), picture=concerned[0][0])


def exif_rotation(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Pictures that viewers turn: boxes drawn on the stored pixels are then in the wrong place."""
    said = [f"EXIF orientation {picture.orientation}" if picture.orientation not in (0, 1) else None for picture in row.pictures]
    yield from _each("exif-rotation", row, said)


def picture_mode(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Pictures that are stored in another way than three bands of 8 bits and become such; what has other bands keeps them."""
    said = [
        f"{picture.mode}: {_LOST.get(picture.mode, 'turned into RGB')}"
        if picture.mode != "RGB" and picture.bands == COLOURS and picture.depth == "uint8"
        else None
        for picture in row.pictures
    ]
    yield from _each("picture-mode", row, said)


def constant_band(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Bands that say nothing: what a missing band looks like once somebody has filled it with zeros."""
    said = [f"{', '.join(picture.constant)} of {', '.join(picture.bands)}" if picture.constant else None for picture in row.pictures]
    yield from _each("constant-band", row, said)


def no_data(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Pictures of which much lies outside of what was recorded."""
    said = [f"{picture.nodata:.0%} of the px" if picture.nodata > config.nodata else None for picture in row.pictures]
    yield from _each("no-data", row, said)


def grey_picture(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Pictures stored in three bands that are equal everywhere: colour questions have no answer."""
    yield from _each("grey-picture", row, ["three equal bands" if picture.grey else None for picture in row.pictures])


def picture_size(sample: Sample, row: RowFacts, config: CheckConfig) -> Iterator[Finding]:
    """Small, large and long pictures."""
    yield from _each("picture-size", row, [_extreme(picture, config) for picture in row.pictures])


def _extreme(picture: PictureFacts, config: CheckConfig) -> str | None:
    short, long = sorted((picture.width, picture.height))
    if short < config.least_side:
        why = f"a side under {config.least_side} px"
    elif picture.width * picture.height > config.most_pixels:
        why = f"over {config.most_pixels} px"
    elif long >= config.aspect * short:
        why = f"{long / short:.2f} times as long as wide"
    else:
        return None
    return f"{picture.width}x{picture.height}: {why}"
