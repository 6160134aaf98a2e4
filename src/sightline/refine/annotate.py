"""A whole scene annotated: its windows one after another, a question for each label and window, and the answers as objects of the scene.

    windows --no data? skipped--> pictures --is it there?--> where is it? --codec--> boxes in px of the scene --merge_pieces--> objects --refiner--> masks

Answers are kept by content (see evaluate/answers.py), pictures of windows never: a killed pass asks nothing twice, and what it writes in the end is the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from sightline.data.tiling_annotations import Window
from sightline.evaluate.answers import AnswerFile, Keyed, answer_all
from sightline.evaluate.yes_no import tolerant
from sightline.kinds import Config
from sightline.lineage import sha256_json
from sightline.progress import Progress
from sightline.refine.annotate_questions import ASK, PRESENCE, question
from sightline.refine.box_masks import Refiner
from sightline.refine.scene_merging import Merge, MergeConfig, Merged, Piece, merge_pieces
from sightline.refine.scene_reading import OpenScene, bounds_of, read_window, step_of, window_picture, windows_of
from sightline.samples.codecs import Codec, regions_in, rotated
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.frames import frame_of
from sightline.samples.geometry import decode_mask
from sightline.samples.sample import Mask, Origin, Picture, Region, Regions, RotatedBox, Sample, Show, Text, Turn

_QUESTIONS = 256
"""Questions that are asked together."""
_BYTES = 32 << 20
"""Bytes of pixels of windows that are asked about together."""
_NOTHING = {"", "none", "nothing", "empty", "[]", "无", "没有", "null"}
"""Answers, without what they end with, that say that nothing is there."""
_EXAMPLES = 5


class AnnotateConfig(Config):
    """How a scene is annotated."""

    labels: tuple[str, ...] = Field(min_length=1, strict=False)
    """What is looked for."""
    window: int = Field(ge=16, le=8192)
    """Side of a window, px of the scaled scene: that of the pictures that the model has learnt."""
    overlap: int = Field(ge=0)
    """What neighbouring windows share, px: more than the largest object, so that each is whole in one of them."""
    rate: float = Field(default=1.0, gt=0, le=8)
    """The scene is scaled by this first, so that a px is as large on the ground as in training."""
    ask: str = ASK
    """Question for a label: {label}, {labels} in the plural, {a_label} with its article."""
    words: dict[str, str] = Field(default_factory=dict)
    """Words for a label in questions, where they are others than the label."""
    presence: float | None = Field(default=None, ge=0, le=1)
    """Ask first whether a label is there, and where it is only from this probability on; absent: do not ask."""
    presence_ask: str = PRESENCE
    """That question."""
    max_tokens: int = Field(default=256, ge=1)
    """Tokens of an answer, at most."""
    grammar: bool = False
    """The model may answer nothing but regions: ask so only with `presence`, or where every window holds the label."""
    nodata: float = Field(default=0.99, ge=0, le=1)
    """Windows of which a larger share holds no data are skipped."""
    merge: MergeConfig = MergeConfig()
    """When two boxes are one object."""

    @model_validator(mode="after")
    def _moves_on(self) -> Self:
        if self.overlap >= self.window:
            raise ValueError(f"overlap {self.overlap}: below the window of {self.window}, or the windows would not move on")
        return self


@dataclass(frozen=True, kw_only=True)
class Patch:
    """The mask of one object: pixels (h, w) whose top left corner lies at px `left`, `top` of the scene."""

    left: int
    top: int
    pixels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class SceneRegion:
    """One object of a scene, px of the scene."""

    label: str
    box: RotatedBox
    score: float | None
    """Probability, 0..1: of a token of the answer that named it (their geometric mean), times that of its being there where that was asked; None where the answerer gives none."""
    cut: bool
    """What a window's edge has left of it: the rest was not found."""
    mask: Patch | None = None


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What was found in a scene, and what became of every window, question and answer."""

    regions: tuple[SceneRegion, ...]
    windows: tuple[Window, ...]
    counts: dict[str, Any]


class _Tally:
    """Counts of windows and answers, and the first of what could not be read."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.examples: list[dict[str, str]] = []

    def read(self, answer: Answer, found: int, codes: Sequence[str]) -> None:
        """Count what an answer about one label and window said."""
        self.errors.update(codes)
        words = answer.text.strip().strip(" .!。").lower()
        said = "regions" if found else "nothing" if words in _NOTHING or tolerant(answer.text) == "no" else "unreadable"
        self.counts[f"answers: {said}"] += 1
        self.counts["answers cut off at max_tokens"] += answer.finish == "length"
        self.counts["answers refused"] += answer.finish == "refused"
        if (said == "unreadable" or codes) and len(self.examples) < _EXAMPLES:
            self.examples.append({"question": answer.sample, "text": answer.text[:200]})


def annotate(
    scene: OpenScene,
    answerer: Keyed,
    file: AnswerFile,
    config: AnnotateConfig,
    *,
    codec: Codec | None = None,
    refiner: Refiner | None = None,
    forget: Callable[[], None] | None = None,
) -> Annotated:
    """Ask about every window of a scene and merge what is said. What is in `file` is not asked again.

    `codec` reads answers that come as text alone, as those of an endpoint do. `forget` is called between batches: an answerer may let go of what it keeps of pictures.
    Raises Refused as the answerer and the scene's file do.
    """
    windows = windows_of(scene, config.window, config.overlap, config.rate)
    work = _Pass(scene, windows, answerer, file, config, codec)
    progress = Progress(f"annotate {scene.name}", len(windows), "windows")
    pieces: list[Piece] = []
    for batch in _batches(windows, config, scene):
        before = len(file)
        pieces += work.ask(batch)
        if forget is not None:
            forget()
        progress.advance(len(batch), f"{len(pieces)} boxes" if len(file) > before else "answered before")
    progress.close()
    tally = work.tally
    merge = merge_pieces(pieces, [bounds_of(scene, window) for window in windows], scene.size, config.merge)
    regions = [SceneRegion(label=one.label, box=one.box, score=one.score, cut=one.cut) for one in merge.regions]
    if refiner is not None:
        regions = _masked(scene, windows, pieces, merge, refiner, file, tally)
    return Annotated(regions=tuple(regions), windows=tuple(windows), counts=_record(tally, merge, regions, pieces))


def _record(tally: _Tally, merge: Merge, regions: Sequence[SceneRegion], pieces: Sequence[Piece]) -> dict[str, Any]:
    labels = Counter(region.label for region in regions)
    return {
        **dict(tally.counts),
        "format errors": dict(sorted(tally.errors.items())),
        "examples": tally.examples,
        "boxes named": len(pieces),
        "merging": dict(merge.counts),
        "fragments without the rest": sum(region.cut for region in regions),
        "regions": len(regions),
        "labels": dict(sorted(labels.items())),
    }


def _batches(windows: Sequence[Window], config: AnnotateConfig, scene: OpenScene) -> Iterator[range]:
    """Numbers of windows that are asked about together."""
    size = max(window.width * window.height for window in windows) * len(scene.bands) * 4
    together = max(1, min(_QUESTIONS // len(config.labels), _BYTES // size))
    return (range(start, min(start + together, len(windows))) for start in range(0, len(windows), together))


class _Pass:
    """Questions about the windows of one scene."""

    def __init__(self, scene: OpenScene, windows: Sequence[Window], answerer: Keyed, file: AnswerFile, config: AnnotateConfig, codec: Codec | None) -> None:
        self.scene, self.windows, self.answerer, self.file, self.config, self.codec = scene, windows, answerer, file, config, codec
        self.tally = _Tally()
        self.tally.counts["windows"] = len(windows)

    def ask(self, batch: Iterable[int]) -> list[Piece]:
        """The boxes that some windows hold, in px of the scene."""
        shown: dict[int, Picture] = {}
        for number in batch:
            pixels, nodata = read_window(self.scene, self.windows[number])
            if nodata > self.config.nodata:
                self.tally.counts["windows without data, skipped"] += 1
            else:
                shown[number] = window_picture(self.scene, self.windows[number], pixels)
        asked = [(number, label, 1.0) for number in shown for label in self.config.labels]
        return self._located(shown, asked if self.config.presence is None else self._present(shown, self.config.presence))

    def _present(self, shown: Mapping[int, Picture], least: float) -> list[_Asked]:
        """The labels of each window that are likely there."""
        config, counts = self.config, self.tally.counts
        pairs = [(number, label) for number in shown for label in config.labels]
        requests = [self._request(number, label, shown[number], question(config.presence_ask, label, config.words), choose=True) for number, label in pairs]
        found: list[_Asked] = []
        for (number, label), answer in zip(pairs, self._answers(requests), strict=True):
            yes, no = answer.vector or (0.0, 0.0)
            share = 1 / (1 + math.exp(min(no - yes, 700.0)))
            counts["questions whether it is there"] += 1
            counts["answers refused"] += answer.finish == "refused"
            if share >= least:
                found.append((number, label, share))
            else:
                counts["labels not there, not asked further"] += 1
        return found

    def _located(self, shown: Mapping[int, Picture], asked: Sequence[_Asked]) -> list[Piece]:
        """The boxes that each question found."""
        config = self.config
        requests = [self._request(number, label, shown[number], question(config.ask, label, config.words)) for number, label, _ in asked]
        pieces: list[Piece] = []
        for (number, label, share), answer in zip(asked, self._answers(requests), strict=True):
            self.tally.counts["questions where it is"] += 1
            window, items, problems = self.windows[number], answer.items, answer.problems
            if self.codec is not None:
                items, problems = self.codec.parse(answer.text, frame_of(self.codec.frame, window.width, window.height))
            found = regions_in(items)
            self.tally.read(answer, len(found), [problem.code for problem in problems])
            score = share * math.exp(sum(answer.logps) / len(answer.logps)) if answer.logps else None
            boxes = [box for region in found if (box := rotated(region.shape)) is not None and min(box.w, box.h) > 0]
            self.tally.counts["regions without an area, left out"] += len(found) - len(boxes)
            pieces += [Piece(label=label, box=_placed(self.scene, window, box), window=number, score=score) for box in boxes]
        return pieces

    def _request(self, number: int, label: str, picture: Picture, text: str, choose: bool = False) -> Request:
        """A question about a window; with `choose` one of yes or no."""
        window, name = self.windows[number], self.scene.name
        identity = f"{name}__{window.rate:g}__{window.left}___{window.top}#{label}{'?' if choose else ''}"
        turn = Turn(role="user", items=(Show(), Text(text=text)))
        options = {"options": ["yes", "no"]} if choose else {}
        attributes = {"scene": name, "left": window.left, "up": window.top, "rate": window.rate, "label": label, **options}
        sample = Sample(id=identity, pictures=(picture,), turns=(turn,), attributes=attributes, origin=Origin(source=name))
        decoding = Decoding(max_tokens=self.config.max_tokens, grammar="regions" if self.config.grammar else None)
        return Request(sample=sample, ask="choose") if choose else Request(sample=sample, decoding=decoding)

    def _answers(self, requests: Sequence[Request]) -> list[Answer]:
        return answer_all(requests, self.answerer, [self.answerer.key(request) for request in requests], self.file)


_Asked = tuple[int, str, float]
"""Number of a window, a label, and the probability that it is there."""


def _placed(scene: OpenScene, window: Window, box: RotatedBox) -> RotatedBox:
    """A box of a window in px of the scene."""
    across, down = step_of(scene, window)
    return RotatedBox(cx=(box.cx + window.left) * across, cy=(box.cy + window.top) * down, w=box.w * across, h=box.h * across, theta=box.theta)


# masks


def _masked(
    scene: OpenScene, windows: Sequence[Window], pieces: Sequence[Piece], merge: Merge, refiner: Refiner, file: AnswerFile, tally: _Tally
) -> list[SceneRegion]:
    """The objects with masks: of each box in the window that named it, those of joined fragments as one. What has an empty mask keeps its box alone."""
    wanted: dict[int, list[int]] = {}
    for one in merge.regions:
        for number in one.pieces:
            wanted.setdefault(pieces[number].window, []).append(number)
    progress = Progress(f"refine {scene.name}", len(wanted), "windows")
    patches: dict[int, Patch] = {}
    for place, numbers in sorted(wanted.items()):
        window = windows[place]
        across, down = step_of(scene, window)
        boxes = [
            replace(box, cx=box.cx / across - window.left, cy=box.cy / down - window.top, w=box.w / across, h=box.h / across)
            for number in numbers
            for box in [pieces[number].box]
        ]
        regions = [Region(label=pieces[number].label, shape=box) for number, box in zip(numbers, boxes, strict=True)]
        for number, region in zip(numbers, _refined(scene, window, regions, refiner, file), strict=True):
            patch = _patch(scene, window, region)
            if patch is not None:
                patches[number] = patch
        progress.advance()
    progress.close()
    found = [_with_mask(one, [patches[number] for number in one.pieces if number in patches]) for one in merge.regions]
    tally.counts["masks"] = sum(one.mask is not None for one in found)
    tally.counts["masks that are empty: box alone"] = sum(one.mask is None for one in found)
    return found


def _refined(scene: OpenScene, window: Window, regions: Sequence[Region], refiner: Refiner, file: AnswerFile) -> Sequence[Region]:
    """Masks of a window's boxes, kept beside the answers."""
    picture = window_picture(scene, window, read_window(scene, window)[0])
    boxes = [[region.label, *vars(region.shape).values()] for region in regions]
    key = sha256_json({"refine": refiner.id, "picture": picture.hash, "boxes": boxes})
    if (known := file.found(key)) is None:
        known = Answer(key=key, sample=picture.name, weights=refiner.id, text="", items=(Regions(regions=tuple(refiner.refine(picture, regions))),))
        file.append(known)
    return regions_in(known.items)


def _patch(scene: OpenScene, window: Window, region: Region) -> Patch | None:
    """A mask of a window where it lies in the scene: each px of the scene takes the px of the window under its centre."""
    assert isinstance(region.shape, Mask)
    pixels = decode_mask(region.shape)
    across, down = step_of(scene, window)
    x0, y0, x1, y1 = bounds_of(scene, window)
    columns = np.arange(math.floor(x0), min(math.ceil(x1), scene.width))
    rows = np.arange(math.floor(y0), min(math.ceil(y1), scene.height))
    from_left = np.floor((columns + 0.5) / across).astype(int) - window.left
    from_top = np.floor((rows + 0.5) / down).astype(int) - window.top
    inside_x, inside_y = (from_left >= 0) & (from_left < window.width), (from_top >= 0) & (from_top < window.height)
    columns, rows = columns[inside_x], rows[inside_y]
    found = pixels[np.ix_(from_top[inside_y], from_left[inside_x])]
    high, wide = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    if not len(high):
        return None
    own = found[high[0] : high[-1] + 1, wide[0] : wide[-1] + 1]
    return Patch(left=int(columns[wide[0]]), top=int(rows[high[0]]), pixels=own)


def _with_mask(one: Merged, patches: Sequence[Patch]) -> SceneRegion:
    """A merged object with the union of the masks of its pieces."""
    found = SceneRegion(label=one.label, box=one.box, score=one.score, cut=one.cut)
    if not patches:
        return found
    left, top = min(patch.left for patch in patches), min(patch.top for patch in patches)
    right = max(patch.left + patch.pixels.shape[1] for patch in patches)
    bottom = max(patch.top + patch.pixels.shape[0] for patch in patches)
    whole = np.zeros((bottom - top, right - left), bool)
    for patch in patches:
        rows, columns = patch.pixels.shape
        whole[patch.top - top : patch.top - top + rows, patch.left - left : patch.left - left + columns] |= patch.pixels
    return replace(found, mask=Patch(left=left, top=top, pixels=whole))
