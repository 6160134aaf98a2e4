"""`sightline data show`: what the model will really eat. Picture with regions, crops, and the prompt with its answer tokens coloured."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sightline.errors import Problem, Refused
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.tiling import cut
from sightline.model.tokens import TextTokenizer
from sightline.page import Html, Page, escape, picture
from sightline.recipe import load
from sightline.run_checks import tokenizer_folder
from sightline.samples.codecs import regions_in
from sightline.samples.drawing import draw_regions
from sightline.samples.pictures import rgb_pixels
from sightline.samples.records import origin_record, picture_record, region_record, turn_record
from sightline.samples.sample import Sample, Text
from sightline.samples.store import Store

SHOWN = 24
_SIDE = 640
"""Longest side of a picture on the page, px."""


@dataclass(frozen=True, kw_only=True)
class Preview:
    """What was shown."""

    store: str
    rows: int
    kept: int
    page: str | None
    samples: list[dict[str, Any]] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The preview as JSON."""
        return {"store": self.store, "rows": self.rows, "kept": self.kept, "page": self.page, "samples": self.samples}

    def __str__(self) -> str:
        return f"{self.store}: {self.kept} of {self.rows} rows kept" + (f"; look at {self.page}" if self.page else "")


def show(path: Path, recipe: str | None = None, model: str | None = None, page: Path | None = None, limit: int = SHOWN) -> Preview:
    """Write an HTML page of the first kept rows; with a recipe, as its model gets them. `model` is a name of the recipe's models or the folder of a finished model."""
    store = Store.open(path)
    rows = [store[int(row)] for row in store.kept[:limit]]
    processor = processor_of(recipe, model)
    page = page or path / "show.html"
    made = Page(
        f"{path.name}: {len(store.kept)} of {len(store)} rows kept",
        "Green: what is learnt. Blue: places of the picture's entries. Grey: control tokens." if processor else "",
    )
    for sample in rows:
        made.section(sample.id, *_blocks(sample, store, processor), note=f"{sample.origin.source}, written by {sample.origin.maker}")
    made.write(page)
    return Preview(store=str(path), rows=len(store), kept=len(store.kept), page=str(page), samples=[_record(sample) for sample in rows])


def _record(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.id,
        "pictures": [picture_record(one) for one in sample.pictures],
        "turns": [turn_record(turn) for turn in sample.turns],
        "annotations": [region_record(region) for region in sample.annotations],
        "attributes": dict(sample.attributes),
        "origin": origin_record(sample.origin),
    }


def processor_of(recipe: str | None, model: str | None) -> Processor | None:
    """The processor of a finished model's folder, or of a recipe whose tokenizer is at hand."""
    if model is not None and recipe is None:
        from sightline.model import directory

        return directory.load(directory.model_folder(Path(model)))[1]
    if recipe is None:
        return None
    loaded = load(recipe).recipe
    name = model or next(iter(loaded.all_models()), None)
    if name not in loaded.all_models():
        raise Refused(
            Problem(
                code="usage/no-model",
                place="--model",
                found=repr(name),
                allowed=", ".join(loaded.all_models()) or "a recipe with a model",
                fix="name a model of the recipe",
            )
        )
    config = loaded.all_models()[name]
    folder = tokenizer_folder(config)
    if folder is None:
        raise Refused(
            Problem(
                code="usage/no-tokenizer",
                place="--recipe",
                found="a tokenizer that is trained by the run",
                allowed="a tokenizer at hand",
                fix="give a finished model instead: --model RUN",
            )
        )
    tokenizer = TextTokenizer.load(folder, config.chat_format().end, config.controls())
    return Processor(config.resolve(tokenizer.size), tokenizer)


def _blocks(sample: Sample, store: Store, processor: Processor | None) -> list[Html]:
    cards = [card for number in range(len(sample.pictures)) for card in _cards(sample, number, store, processor)]
    blocks = [Html('<div class="cards">' + "".join(f'<div class="card">{card}</div>' for card in cards) + "</div>")] if cards else []
    if processor is not None and sample.turns:
        blocks.append(_tokens(sample, processor))
    else:
        blocks.append(Html("".join(f"<p><b>{escape(turn.role)}</b> {escape(sample.text(number))}</p>" for number, turn in enumerate(sample.turns))))
    others = ["".join(item.text for item in items if isinstance(item, Text)) for turn in sample.turns for items in turn.alternatives]
    return [*blocks, *([Html(f"<p class=small>also right: {escape(' / '.join(others))}</p>")] if others else [])]


def _cards(sample: Sample, number: int, store: Store, processor: Processor | None) -> list[str]:
    """A picture as it is, with what is annotated, and as the crops that an encoder sees."""
    one = sample.pictures[number]
    array = rgb_pixels(one, store.path)
    cards = [_card(array, f"{one.name} {one.width}x{one.height}")]
    said = [region for turn in sample.turns for region in regions_in(turn.items)]
    regions = [region for region in (*sample.annotations, *said) if region.picture == number]
    if regions:
        labels = sorted({region.label for region in regions if region.label})
        cards.append(_card(draw_regions(array, regions), f"annotated: {', '.join(labels)}"))
    if processor is not None and processor.config.tiler is not None:
        tiling = processor.measure(one.width, one.height, len(sample.pictures)).tiling
        seen = zip(tiling.crops, cut(array, tiling))
        cards += [_card(cropped.transpose(1, 2, 0), f"seen as {crop.role} {crop.window[2]}x{crop.window[3]}") for crop, cropped in seen]
    return cards


def _card(array: np.ndarray, caption: str) -> str:
    return f"{picture(_png(array), alt=caption)}<p class=small>{escape(caption)}</p>"


def _tokens(sample: Sample, processor: Processor) -> Html:
    """The very ids of the sample, coloured: learnt, slot, control, context; branches on lines of their own."""
    encoded = processor.encode(sample, answer=sample.turns[-1].role == "assistant")
    learnt, slots = _learnt(encoded), set(encoded.slots.tolist())
    parts: list[str] = []
    branch, run = 0, 0
    for place, token in enumerate(encoded.ids.tolist()):
        if place in slots:
            run += 1
            continue
        if run:
            parts.append(f'<span class="tok slot">[{run} entries]</span>')
            run = 0
        if int(encoded.branches[place]) != branch:
            branch = int(encoded.branches[place])
            parts.append("<br>")
        text = processor.tokenizer.piece(token)
        kind = "answer" if place in learnt else "control" if text.startswith("<|") else ""
        parts.append(f'<span class="tok {kind}">{escape(text)}</span>')
    if run:
        parts.append(f'<span class="tok slot">[{run} entries]</span>')
    return Html(f"<p>{''.join(parts)}</p><p class=small>{encoded.length} tokens, {len(encoded.targets)} learnt</p>")


def _learnt(encoded: Encoded) -> set[int]:
    """Places of the tokens that are learnt: each stands after the place that predicts it, or at the start of its branch when the end of the trunk does."""
    trunk = int(np.count_nonzero(encoded.branches == 0))
    places = set()
    for place, pair in zip(encoded.answers.tolist(), encoded.pair_of.tolist()):
        at_fork = place == trunk - 1 and trunk < encoded.length
        places.add(int(np.argmax(encoded.branches == pair + 1)) if at_fork else place + 1)
    return places


def _png(array: np.ndarray) -> bytes:
    shown = Image.fromarray(array)
    shown.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    shown.save(stream, "PNG")
    return stream.getvalue()
