"""`sightline data show`: what the model will really eat. Picture with regions, crops, and the prompt with its answer tokens coloured."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sightline.errors import Problem, Refused
from sightline.model.processor import Processor
from sightline.model.tiling import cut
from sightline.model.tokens import TextTokenizer
from sightline.page import Html, Page, escape, picture
from sightline.recipe import load
from sightline.samples.drawing import draw_regions
from sightline.samples.pictures import pixels
from sightline.samples.records import origin_record, picture_record, region_record, turn_record
from sightline.samples.sample import Sample
from sightline.samples.store import Store

SHOWN = 24


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
    processor = _processor(recipe, model)
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


def _processor(recipe: str | None, model: str | None) -> Processor | None:
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
    from sightline.model import hub_layout

    checkpoint = config.language_model.checkpoint if config.language_model else None
    folder = Path(config.tokenizer.path) if config.tokenizer.path else hub_layout.find(checkpoint) if checkpoint else None
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
    tokenizer = TextTokenizer.load(folder, config.chat_format().end)
    return Processor(config.resolve(tokenizer.size), tokenizer)


def _blocks(sample: Sample, store: Store, processor: Processor | None) -> list[Html]:
    cards: list[str] = []
    for index, one in enumerate(sample.pictures):
        array = pixels(one, store.path)
        drawn = draw_regions(array, [region for region in sample.annotations if region.picture == index])
        cards.append(f"{picture(_png(drawn), alt=one.name)}<p class=small>{escape(one.name)} {one.width}x{one.height}</p>")
        if processor is not None and processor.config.tiler is not None:
            tiling = processor.measure(one.width, one.height, len(sample.pictures)).tiling
            for crop, cropped in zip(tiling.crops, cut(array, tiling)):
                cards.append(
                    f"{picture(_png(cropped.transpose(1, 2, 0)), alt=crop.role)}<p class=small>{escape(crop.role)} {crop.window[2]}x{crop.window[3]}</p>"
                )
    blocks = [Html('<div class="cards">' + "".join(f'<div class="card">{card}</div>' for card in cards) + "</div>")] if cards else []
    if processor is not None and sample.turns:
        return [*blocks, _tokens(sample, processor)]
    said = [f"<p><b>{escape(turn.role)}</b> {escape(sample.text(number))}</p>" for number, turn in enumerate(sample.turns)]
    labels = sorted({region.label for region in sample.annotations if region.label})
    return [*blocks, Html("".join(said) + (f"<p class=small>annotated: {escape(', '.join(labels))}</p>" if labels else ""))]


def _tokens(sample: Sample, processor: Processor) -> Html:
    """The very ids of the sample, coloured: learnt, slot, control, context; branches on lines of their own."""
    encoded = processor.encode(sample, answer=sample.turns[-1].role == "assistant")
    learnt = {int(place) + 1 for place in encoded.answers}
    slots = set(encoded.slots.tolist())
    parts: list[str] = []
    branch, run = 0, 0
    for place, token in enumerate(encoded.ids.tolist()):
        if int(encoded.branches[place]) != branch:
            branch = int(encoded.branches[place])
            parts.append("<br>")
        if place in slots:
            run += 1
            continue
        if run:
            parts.append(f'<span class="tok slot">[{run} entries]</span>')
            run = 0
        text = processor.tokenizer.piece(token)
        kind = "answer" if place in learnt else "control" if text.startswith("<|") else ""
        parts.append(f'<span class="tok {kind}">{escape(text)}</span>')
    if run:
        parts.append(f'<span class="tok slot">[{run} entries]</span>')
    return Html(f"<p>{''.join(parts)}</p><p class=small>{encoded.length} tokens, {len(encoded.targets)} learnt</p>")


def _png(array: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()
