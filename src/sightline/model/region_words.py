"""Regions inside turns as pieces, and out of answers: what a model's codec writes, in the frame of the picture that they lie on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from sightline.errors import Problem, Refused
from sightline.model.pieces import Control, Piece, Slots, Words
from sightline.model.tiling import Tiling
from sightline.samples.codecs import Codec, ControlToken, round_trip_iou, text_of
from sightline.samples.frames import Frame, frame_of
from sightline.samples.sample import Film, Item, Mask, Regions, Show, Text, Turn


def frame(codec: Codec, tiling: Tiling) -> Frame:
    """The frame that a codec writes in, for the picture of this tiling."""
    return frame_of(codec.frame, *tiling.size, tiling.seen)


def region_pieces(codec: Codec, item: Regions, tilings: Sequence[Tiling], question: bool) -> list[Piece]:
    """What is written for one item. Vectors of regions stand in questions only: an answer cannot write one. Refused as the codec refuses."""
    picture = item.regions[0].picture if item.regions else 0
    found: list[Piece] = []
    for part in codec.render(item, frame(codec, tilings[picture])):
        if isinstance(part, str):
            found.append(Words(text=part))
        elif isinstance(part, ControlToken):
            found.append(Control(token=part.token))
        elif part.kind == "tap":
            token = found.pop()
            assert isinstance(token, Control), "a tap follows its token"
            found.append(replace(token, tap=(picture, item.regions[part.index].shape)))
        elif question:
            found += [Words(text=" "), Slots(picture=picture, entries=(), region=(picture, item.regions[part.index].shape))]
    return found


def turn_text(codec: Codec | None, turn: Turn, tilings: Sequence[Tiling]) -> str:
    """The words of a turn as one text, regions as the codec writes them; without a codec they are left out."""
    return "".join(_words(codec, item, tilings) for item in turn.items)


def _words(codec: Codec | None, item: Item, tilings: Sequence[Tiling]) -> str:
    if codec is None or not isinstance(item, Regions) or not item.regions:
        return item.text if isinstance(item, Text) else ""
    return text_of(codec.render(item, frame(codec, tilings[item.regions[0].picture])))


def answered_on(turns: Sequence[Turn]) -> int | None:
    """The picture that regions of an answer to these turns lie on: the one shown last; None where none is, or where a film is shown."""
    shown = [item.picture if isinstance(item, Show) else None for turn in turns for item in turn.items if isinstance(item, Show | Film)]
    return None if None in shown or not shown else shown[-1]


def unsayable(codec: Codec, turns: Sequence[Turn], tilings: Sequence[Tiling], place: str) -> list[Problem]:
    """Everything about the regions of a conversation that would not be learnt or read as it is meant."""
    said = [(number, turn, item) for number, turn in enumerate(turns) for item in turn.items if isinstance(item, Regions)]
    film = any(isinstance(item, Film) for turn in turns for item in turn.items)
    problems: list[Problem] = []
    for number, turn, item in said:
        if film:
            faults = [_refusal("regions-in-film", "regions where a film is shown", "regions on pictures", "show the frames as pictures")]
        else:
            faults = list(_faults(codec, item, tilings, turn, answered_on(turns[:number])))
        problems += [replace(problem, place=f"{place}, turn {number}, {problem.place}") for problem in faults]
    return problems


def _faults(codec: Codec, item: Regions, tilings: Sequence[Tiling], turn: Turn, on: int | None) -> Iterator[Problem]:
    pictures = sorted({region.picture for region in item.regions})
    masks = [region.shape for region in item.regions if isinstance(region.shape, Mask)]
    if len(pictures) > 1:
        yield _refusal(
            "regions-apart",
            f"one phrase with regions on pictures {pictures}",
            "one picture a phrase",
            "say the regions of each picture in an item of their own",
        )
        return
    if turn.role == "assistant" and pictures and pictures != [on]:
        allowed = "regions on the picture shown last before the answer: the text does not say which one it means"
        yield _refusal(
            "regions-elsewhere",
            f"regions on picture {pictures[0]}, with {'none' if on is None else f'picture {on}'} shown last",
            allowed,
            "ask about one picture at a time",
        )
        return
    if "tap" in codec.marks and turn.role != "assistant":
        allowed = "regions in answers: what stands in a question is text, and the token of a mask says nothing of where it is"
        yield _refusal("regions-asked", f"{len(item.regions)} regions in a {turn.role} turn", allowed, "ask in words, or choose a codec that writes places")
        return
    if "tap" in codec.marks and (misfits := [one for one in masks if (one.width, one.height) != tilings[pictures[0]].size]):
        allowed = "masks of the picture's size, {}x{}".format(*tilings[pictures[0]].size)
        fix = "draw them on the picture as it is stored, after EXIF rotation"
        yield _refusal("mask-size", f"masks of {', '.join(f'{one.width}x{one.height}' for one in misfits)} px", allowed, fix)
        return
    try:
        kept = round_trip_iou(codec, item, frame(codec, tilings[pictures[0] if pictures else 0]))
    except Refused as refused:
        yield from refused.problems
        return
    lost = [str(region.shape) for region, share in zip(item.regions, kept, strict=True) if share == 0]
    if lost:
        allowed = "regions of which something is left when the text is read back"
        yield _refusal(
            "regions-lost",
            f"{len(lost)} of {len(kept)}: {'; '.join(lost)[:160]}",
            allowed,
            "tile the picture, or drop what is outside or too small for the codec's grid",
        )


def _refusal(code: str, found: str, allowed: str, fix: str) -> Problem:
    return Problem(code=f"model/{code}", place="regions", found=found, allowed=allowed, fix=fix)


def read_items(codec: Codec, text: str, picture: int, tiling: Tiling) -> tuple[tuple[Item, ...], tuple[Problem, ...]]:
    """Text and regions of an answer, regions in px of the picture, which is number `picture` of its sample."""
    items, problems = codec.parse(text, frame(codec, tiling))
    return tuple(
        replace(item, regions=tuple(replace(region, picture=picture) for region in item.regions)) if isinstance(item, Regions) else item for item in items
    ), problems
