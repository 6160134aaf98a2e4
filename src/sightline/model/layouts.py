"""Layouts: in which order a picture's entries stand among the tokens, and what stands around them.

A layout touches no tensors: unpadding, dropped margins and learnt vectors between rows are choices of `Slots.entries`. Entries index the picture's crop tokens,
those of crop 0 first; -1-k is layout vector k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Self

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.model.pieces import Control, Piece, Slots, StreamName, Words
from sightline.model.tiling import Crop, Grid, Tiling

LAYOUT = Family("layout")
Route = Callable[[str], StreamName]
"""From a crop's role to the stream that takes its entries."""


class Layout(Config):
    """What every kind of layout offers. A kind adds `kind`, its fields and `pieces`."""

    frame_text: str = ""
    """Text before each frame of a film; {time} in it becomes the frame's time in seconds, with one decimal."""

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of learnt vectors (width D) that it places among the entries."""
        return ()

    @property
    def controls(self) -> tuple[str, ...]:
        """Control tokens that it writes; a tokenizer trained for it gets them."""
        return ()

    def twin(self) -> Self:
        """Itself: it has no sizes."""
        return self

    def pieces(self, picture: int, tiling: Tiling, grids: Sequence[Grid], route: Route) -> list[Piece]:
        """The pieces of picture number `picture`; `grids` behind combine and connector, one per crop in the tiler's order, empty where others took a crop's tokens."""
        raise NotImplementedError

    def film(self, pictures: Sequence[int], times: Sequence[float], tilings: Sequence[Tiling], grids: Sequence[Sequence[Grid]], route: Route) -> list[Piece]:
        """The pieces of a film: those of each frame, after its text, each with its picture's number. `times` in seconds, one per frame."""
        found: list[Piece] = []
        for picture, time, tiling, own in zip(pictures, times, tilings, grids, strict=True):
            frame = [*texts(self.frame_text.replace("{time}", f"{time:.1f}")), *self.pieces(picture, tiling, own, route)]
            found += [replace(piece, picture=picture) for piece in frame]
        return found


@LAYOUT.add
class FlatLayout(Layout):
    """The entries of one crop after another, between optional tokens and texts.

    No field set: LLaVA (https://arxiv.org/abs/2304.08485), BLIP-2, POINTS, VILA. `before` and `after`: MiniGPT-4's `<Img>`, `</Img>`.
    `begin` and `end`: Qwen2-VL's `<|vision_start|>`, `<|vision_end|>` (https://arxiv.org/abs/2409.12191), InternVL's `<img>`, `</img>`.
    `token`: `<|image|>` of Llama 3.2 Vision (https://arxiv.org/abs/2407.21783, section 7), whose entries are memory.
    """

    kind: Literal["flat"] = "flat"
    order: Literal["tiling", "overview-first", "overview-last"] = "tiling"
    """Order of the crops: the tiler's, or with the overview at one end."""
    before: str = ""
    """Text before all of it."""
    after: str = ""
    """Text after all of it."""
    begin: str = ""
    """Control token before the entries in the decoder; published counts of a picture's tokens leave it out, and so does ours."""
    end: str = ""
    """Control token after the entries in the decoder; not counted either."""
    token: str = ""
    """Control token in the decoder that stands for the entries in memory, right after them."""
    film_as: Literal["pictures", "block"] = "pictures"
    """A film's frames as pictures; or as one block between one `begin` and one `end`, without `frame_text`, whose frames share their places on the grid (Qwen2-VL)."""

    @property
    def controls(self) -> tuple[str, ...]:
        """Its tokens."""
        return named(self.token, self.begin, self.end)

    def pieces(self, picture: int, tiling: Tiling, grids: Sequence[Grid], route: Route) -> list[Piece]:
        """[before] memory [token] [begin] entries [end] [after]."""
        slots = crop_slots(picture, tiling, grids, route)
        if self.order != "tiling":
            overviews, others = parted(tiling, slots)
            slots = [*overviews, *others] if self.order == "overview-first" else [*others, *overviews]
        return self._around(slots)

    def film(self, pictures: Sequence[int], times: Sequence[float], tilings: Sequence[Tiling], grids: Sequence[Sequence[Grid]], route: Route) -> list[Piece]:
        """As pictures, or as one Slots whose entries run on from the first picture into those with the next numbers.

        Raises Refused where the frames of a block have several crops or differ in size.
        """
        if self.film_as == "pictures":
            return super().film(pictures, times, tilings, grids, route)
        assert list(pictures) == list(range(pictures[0], pictures[0] + len(pictures))), "entries of a block run through pictures with consecutive numbers"
        sizes = {tuple(f"{grid.columns}x{grid.rows}" for grid in own) for own in grids}
        if len(sizes) > 1 or len(grids[0]) > 1:
            found = ", ".join(sorted(" + ".join(size) for size in sizes))
            raise misfit("layout.film_as", f"frames of {found} tokens", "frames of one crop each, all of one size", "set layout.film_as: pictures")
        [first] = crop_slots(pictures[0], tilings[0], grids[0], route)
        block = replace(first, entries=range(len(first.entries) * len(pictures)), frames=len(pictures))
        return [replace(piece, picture=pictures[0]) for piece in self._around([block])]

    def _around(self, slots: Sequence[Slots]) -> list[Piece]:
        memory = [one for one in slots if one.stream == "memory"]
        decoder = [one for one in slots if one.stream == "decoder"]
        begin, end = ([replace(token, around=True) for token in tokens(name)] for name in (self.begin, self.end))
        entries = [*memory, *tokens(self.token), *begin, *decoder, *end]
        return [*texts(self.before), *entries, *texts(self.after)]


def positions(pieces: Sequence[Piece], stream: StreamName = "decoder") -> int:
    """Positions of a stream that pieces of a layout take: entries, vectors and control tokens, merging ones once, those that only frame a picture not.

    Plain text is not counted: that needs a tokenizer.
    """
    count, last = 0, None
    for piece in pieces:
        merged = (
            isinstance(piece, Control) and isinstance(last, Control) and piece.merge and last.merge and (last.token, last.stream) == (piece.token, piece.stream)
        )
        framing = isinstance(piece, Control) and piece.around
        if piece.stream == stream and not merged and not framing and not isinstance(piece, Words):
            count += len(piece.entries) if isinstance(piece, Slots) else 1
        last = piece
    return count


def crop_slots(picture: int, tiling: Tiling, grids: Sequence[Grid], route: Route) -> list[Slots]:
    """Slots of each crop that has tokens, all of them, in the tiler's order. `grid` is set where the tokens are a raster and nothing else."""
    found, start = list[Slots](), 0
    for number, (crop, grid) in enumerate(zip(tiling.crops, grids, strict=True)):
        raster = grid if grid.columns and not grid.lead else None
        if grid.count:
            found.append(Slots(picture=picture, entries=range(start, start + grid.count), grid=raster, crop=number, stream=route(crop.role)))
        start += grid.count
    return found


def parted(tiling: Tiling, slots: Sequence[Slots]) -> tuple[list[Slots], list[Slots]]:
    """Those of overviews, and all others."""
    wholes = [one for one in slots if crop_of(tiling, one).role == "overview"]
    return wholes, [one for one in slots if one not in wholes]


def crop_of(tiling: Tiling, slots: Slots) -> Crop:
    """The crop whose entries these are."""
    assert slots.crop is not None, "these are entries of several crops"
    return tiling.crops[slots.crop]


def texts(text: str, stream: StreamName = "decoder", sees: int | None = None) -> list[Piece]:
    """Plain text, none where it is empty."""
    return [Words(text=text, stream=stream, sees=sees)] if text else []


def tokens(token: str, stream: StreamName = "decoder") -> list[Piece]:
    """A control token, none where it is empty."""
    return [Control(token=token, stream=stream)] if token else []


def named(*controls: str) -> tuple[str, ...]:
    """Control tokens that are set, each once."""
    return tuple(dict.fromkeys(filter(None, controls)))


def misfit(place: str, found: str, allowed: str, fix: str) -> Refused:
    """What a layout raises when a tiling does not fit it."""
    return Refused(Problem(code="model/layout-misfit", place=place, found=found, allowed=allowed, fix=fix))
