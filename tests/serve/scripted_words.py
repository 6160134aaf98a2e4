"""A server of a tiny model with a region codec whose words are given, so that a test knows what an answer names."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compositions import composition
from servers import Running, running
from tiny_models import TEXTS, built

from sightline.evaluate.golden import write_golden
from sightline.lineage import Lineage, write_json
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.codec_table import codec_said
from sightline.samples.exchange import Answer
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Sample, Show, Text, Turn


class Script:
    """What a model says: `text`, so many characters a token, and so long a pause before each, s."""

    def __init__(self, text: str = "") -> None:
        self.text, self.step, self.pause = text, 3, 0.0

    def direct(self, processor: Processor) -> None:
        """Make a processor read this text in whatever tokens a model draws."""

        def decode(ids: Sequence[int]) -> str:
            time.sleep(self.pause)
            return self.text[: len(ids) * self.step]

        processor.decode = decode  # type: ignore[method-assign]
        processor.ended = lambda ids: len(ids) * self.step >= len(self.text)  # type: ignore[method-assign]


def tiny(name: str, codec: str | None = "xyhwt-pad") -> tuple[Model, Processor]:
    """A composition with a region codec."""
    said = composition(name).model_dump(mode="json")
    config = ModelConfig.model_validate_json(json.dumps(said | {"codec": None if codec is None else dict(codec_said(codec))}))  # type: ignore[call-overload]
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    return built(config.resolve(400, control=tokenizer.control), tokenizer)


def question(text: str, *pictures: bytes) -> Sample:
    """One question about pictures."""
    known = tuple(describe(data, "", "test") for data in pictures)
    turn = Turn(role="user", items=(*(Show(picture=number) for number in range(len(known))), Text(text=text)))
    return Sample(id="x", pictures=known, turns=(turn,), origin=Origin(source="test"))


def write_run(folder: Path, model: Model, processor: Processor, asked: Sequence[Sample]) -> Path:
    """The folder of a run of one stage with its report; its golden requests ask what is given."""
    inside = folder / "stages" / "01-see" / "model"
    inside.mkdir(parents=True)
    directory.save(inside, model, processor)
    write_golden(inside, model, processor, [(sample, Answer(key="", sample="x", weights="", text="yes", tokens=(1,), logps=(-0.5,))) for sample in asked])
    Lineage(id="m" * 64, kind="model", config="c", inputs=[{"id": "d" * 64, "kind": "input"}], seed=3).write(inside)
    Lineage(id="r" * 64, kind="run", config="c", inputs=[{"id": "m" * 64, "kind": "stages/see"}]).write(folder)
    steps = [("data/scenes", "data/scenes", "d", []), ("stages/see", "stages/01-see/model", "m", ["data/scenes"])]
    told = [{"name": name, "artifact": at, "id": mark * 64, "inputs": of, "state": "done", "seconds": 1.5} for name, at, mark, of in steps]
    write_json(folder / "graph.json", told)
    (folder / "report.html").write_text("<!doctype html><title>report</title><script>document.title = 'taken'</script><p>the report", encoding="utf-8")
    return folder


@contextmanager
def scripted(script: Script, folder: Path | None = None, name: str = "flat", **more: Any) -> Iterator[Running]:
    """A server that says the script."""
    model, processor = tiny(name)
    script.direct(processor)
    with running(model, processor, folder=folder, **more) as server:
        yield server
