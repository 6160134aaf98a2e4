"""`sightline data synthesize`: questions from the annotations of a store, what they do not reach, and a page of examples to look at before anything is trained on them."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sightline.data.operators import apply
from sightline.data.steps import Kept, read_and_apply
from sightline.data.synthesis.reach import Coverage, coverage
from sightline.data.synthesis.synthesize import Synthesize
from sightline.data.tiling_annotations import Tile
from sightline.errors import Problem, Refused
from sightline.lineage import sha256_json
from sightline.page import Html, Page, escape, picture, span
from sightline.page import table as html_table
from sightline.samples.drawing import colour
from sightline.samples.geometry import corners
from sightline.samples.pictures import rgb_pixels
from sightline.samples.sample import Regions, RotatedBox, Sample, Shape, Show, Text, Turn
from sightline.samples.store import Store

SHOWN = 60
"""Examples on a page."""
_BRACES = re.compile(r"\{[^{}]*\}")
_SIDE = 400
"""Longest side of a picture on the page, px."""
_PEN = 4
_MARGIN = 0.6
"""Around boxes so much of their own extent is shown."""
_CLOSEST = 96
"""Shortest side of the part that is shown, px of the picture."""


@dataclass(frozen=True, kw_only=True)
class Synthesised:
    """What was made."""

    store: str
    counts: dict[str, Any]
    coverage: Coverage
    page: str | None

    def record(self) -> dict[str, Any]:
        """The result as JSON."""
        return {"store": self.store, **self.counts, "coverage": self.coverage.record(), "page": self.page}

    def __str__(self) -> str:
        written = self.counts["written"]
        look = f"\nlook at {self.page}" if self.page else ""
        return f"{self.store}: {', '.join(f'{count} {name}' for name, count in written.items())}\n{self.coverage}{look}"


def synthesize(
    source: Path, out: Path, config: Synthesize, *, tile: Tile | None = None, statistics: Path | None = None, seed: int = 0, page: Path | None = None
) -> Synthesised:
    """Write a store of questions about the kept rows of another one.

    `statistics` is read where it is, and written where it is not yet: give the same file again when pictures are added, and no row changes. Raises Refused as the operators do.
    """
    if out.resolve() == source.resolve():
        raise Refused(
            Problem(code="usage/same-folder", place="OUT", found=str(out), allowed="another folder than STORE", fix="choose a folder that does not exist yet")
        )
    store = Store.open(source)
    first = [tile] if tile is not None else []
    if statistics is not None:
        if not statistics.is_file():
            config.learn(made for made, verdict, _ in apply(first, Kept(store), seed) if verdict == "kept").statistics.write(statistics)
        config = config.model_copy(update={"statistics": str(statistics)})
    operators = [*first, config]
    said = sha256_json({"then": [operator.model_dump(mode="json") for operator in operators], "seed": seed})
    counts = read_and_apply([], store, operators, out, on_problem="refuse", seed=seed, config=said)
    made = Store.open(out)
    if page is not None:
        write_page(made, page, config)
    return Synthesised(store=str(out), counts=counts, coverage=coverage(made, config), page=str(page) if page else None)


def write_page(store: Store, path: Path, config: Synthesize, shown: int = SHOWN) -> None:
    """A page of examples: of each kind and source as equally many as there are, always the same for the same store."""
    kept = [store[int(row)] for row in store.kept]
    chosen = chosen_of(kept, shown)
    page = Page(f"{len(chosen)} of {len(kept)} questions", "Made from annotations with templates. Boxes are drawn as the answer, or the question, gives them.")
    page.add(page.cards(_card(sample, store, config) for sample in chosen))
    page.section("What no question reaches", _reach(coverage(store, config)))
    page.write(path)


def chosen_of(samples: Sequence[Sample], shown: int) -> list[Sample]:
    """So many samples: round by round one of each kind and source, by a hash of their ids, grouped by kind in the end."""
    groups: dict[tuple[str, str], list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: zlib.crc32(sample.id.encode())):
        groups.setdefault((_kind(sample), sample.origin.source), []).append(sample)
    turns: Iterator[Sample] = (
        group[place] for place in range(max(map(len, groups.values()), default=0)) for _, group in sorted(groups.items()) if place < len(group)
    )
    chosen = [sample for sample, _ in zip(turns, range(shown), strict=False)]
    return sorted(chosen, key=lambda sample: (_kind(sample), sample.origin.source, sample.id))


def _kind(sample: Sample) -> str:
    return str(sample.attributes.get("kind", "")).partition(",")[0]


def _card(sample: Sample, store: Store, config: Synthesize) -> str:
    """Pictures with the regions of the conversation, then what is asked and said."""
    said = [region for turn in sample.turns for item in turn.items if isinstance(item, Regions) for region in item.regions]
    shown = [
        picture(_jpeg(rgb_pixels(one, store.path), [region.shape for region in said if region.picture == number]), "image/jpeg", alt=one.name)
        for number, one in enumerate(sample.pictures)
    ]
    head = f"{_kind(sample)}, {sample.attributes.get('language', '')}, {sample.origin.source}"
    turns = "".join(f"<p><b>{'Q' if turn.role == 'user' else 'A'}</b> {_words(turn, sample, config)}</p>" for turn in sample.turns)
    return f"{''.join(shown)}<p>{span(head, 'small')}</p>{turns}"


def _jpeg(array: np.ndarray, shapes: Sequence[Shape | None]) -> bytes:
    """A picture with its boxes; of a large one with small boxes only the part around them is shown."""
    outlines = [corners(shape) for shape in shapes if isinstance(shape, RotatedBox)]
    height, width = array.shape[:2]
    left, top, right, bottom = 0, 0, width, height
    if outlines:
        points = np.concatenate(outlines)
        low, high = points.min(0), points.max(0)
        side = float(np.clip((high - low).max() * (1 + 2 * _MARGIN), _CLOSEST, max(width, height)))
        left, top = (int(np.clip((a + b - side) / 2, 0, max(length - side, 0))) for a, b, length in zip(low, high, (width, height)))
        right, bottom = min(left + round(side), width), min(top + round(side), height)
    factor = _SIDE / max(right - left, bottom - top)
    size = (max(round((right - left) * factor), 1), max(round((bottom - top) * factor), 1))
    shown = Image.fromarray(array[top:bottom, left:right]).resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(shown)
    for number, outline in enumerate(outlines):
        pen.polygon([(float(x), float(y)) for x, y in (outline - (left, top)) * factor], outline=colour(str(number)), width=_PEN)
    stream = io.BytesIO()
    shown.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _words(turn: Turn, sample: Sample, config: Synthesize) -> Html:
    """A turn as text; regions as the codec writes them."""
    parts: list[str] = []
    for item in turn.items:
        if isinstance(item, Text):
            parts.append(escape(item.text).replace("\n", "<br>"))
        elif isinstance(item, Regions):
            written = escape(config.written(item, sample))
            parts.append(f"<code>{_BRACES.sub(_whole, written)}</code>")
        else:
            assert isinstance(item, Show), f"a {type(item).__name__} in a synthesised turn"
    return Html("".join(parts))


def _whole(match: re.Match[str]) -> str:
    """Numbers of one box stay on one line."""
    return f'<span style="white-space:nowrap;font-size:12px">{match[0]}</span>'


def _reach(reach: Coverage) -> Html:
    rows = [(row.label, row.size, row.objects, row.reached, f"{1 - row.reached / row.objects:.1%}") for row in reach.rows]
    return html_table(("class", "size", "objects", "reached", "missed"), rows, numeric=(2, 3, 4))
