"""/v1/card: what is served, from its parts to where it came from, and questions to begin with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sightline.errors import Problem, Refused
from sightline.evaluate.golden import golden_prompts
from sightline.lineage import Lineage
from sightline.model import directory
from sightline.model.assembly import ModelConfig
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.pictures import open_picture
from sightline.samples.sample import Picture, Sample, Show, Text
from sightline.serve.jobs import Declined
from sightline.serve.settings import ServerSettings

PARTS = ("tiler", "combine", "connector", "prompts", "regions", "layout", "fusion", "language_model", "text_encoder", "codec")
"""Parts besides encoders, in the order in which a picture meets them."""
SHOWN = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp"}
"""Formats that browsers show."""


@dataclass(kw_only=True)
class Card:
    """What is told of a model that is served from a folder. All of it reads files: call it outside of the event loop."""

    settings: ServerSettings
    processor: Processor
    model: Model
    weights: str
    folder: Path | None
    notes: list[str] = field(default_factory=list)
    """What could not be read; it names no folder of this machine."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def record(self) -> dict[str, Any]:
        """The card as JSON."""
        with self._lock:
            return {**self._standing, "report": self.report is not None}

    @property
    def report(self) -> Path | None:
        """The report of the run that is served, if it has one by now."""
        path = self.folder / "report.html" if self.folder is not None else None
        return path if path is not None and path.is_file() else None

    def picture(self, name: str) -> tuple[bytes, str]:
        """A picture of the examples, by its number, and its media type. Raises Declined where there is none."""
        with self._lock:
            pictures = {str(number): picture for number, picture in enumerate(self._examples[1])}
        if name not in pictures:
            allowed = f"0..{len(pictures) - 1}" if pictures else "none: this model has no examples with pictures"
            raise Declined(404, Problem(code="serve/no-picture", place="path", found=name[:40], allowed=allowed, fix="ask /v1/card for the examples"))
        return pictures[name]

    @cached_property
    def _standing(self) -> dict[str, Any]:
        """What does not change while the server runs."""
        config, settings = self.processor.config, self.settings
        limits = settings.media
        parts = list(_parts(config, self.model))
        examples, _, left_out = self._examples
        return {
            "name": settings.served_model_name[0],
            "names": list(settings.served_model_name),
            "weights": self.weights,
            "abilities": list(config.abilities),
            "sees": config.tiler is not None,
            "parameters": sum(part["parameters"] for part in parts),
            "parts": parts,
            "codec": config.codec.model_dump(mode="json") if config.codec is not None else None,
            "precision": settings.engine.precision,
            "max_model_len": settings.engine.max_model_len,
            "max_tokens": settings.max_tokens,
            "images_per_prompt": limits.images_per_prompt,
            "max_image_pixels": limits.max_image_pixels,
            "max_media_bytes": limits.max_media_bytes,
            "lineage": self._lineage(),
            "examples": examples,
            "examples_left_out": left_out,
            "notes": list(self.notes),
        }

    @cached_property
    def _model_folder(self) -> Path | None:
        if self.folder is None:
            return None
        try:
            return directory.model_folder(self.folder)
        except Refused as refused:
            self.notes.append(f"folder: {refused.problems[0].found}")
        except (OSError, ValueError) as error:
            self.notes.append(f"folder: {error}")
        return None

    @cached_property
    def _examples(self) -> tuple[list[dict[str, Any]], list[tuple[bytes, str]], int]:
        """Golden requests that are one question, their pictures, and how many requests are of another form."""
        folder = self._model_folder
        if folder is None or not (folder / "golden" / "requests.jsonl").is_file():
            return [], [], 0
        try:
            prompts, pairs = golden_prompts(folder)
        except Refused as refused:
            self.notes.append(f"golden: {refused.problems[0].found}")
            return [], [], 0
        examples: list[dict[str, Any]] = []
        pictures: list[tuple[bytes, str]] = []
        for sample in prompts:
            shown = [_media(picture) for picture in _shown(sample)]
            if _is_question(sample) and all(kind for _, kind in shown):
                places = [f"/v1/card/pictures/{len(pictures) + number}" for number in range(len(shown))]
                examples.append({"question": sample.text(0).strip(), "pictures": places})
                pictures += shown
        return examples, pictures, len(prompts) + len(pairs) - len(examples)

    def _lineage(self) -> dict[str, Any]:
        """Of the model and, where one is served, of its run with its steps; null where there is no record."""
        run = self.folder
        steps = self._read(run / "graph.json") if run is not None and (run / "graph.json").is_file() else None
        told = [
            {"name": step["name"], "state": step.get("state"), "seconds": step.get("seconds"), "id": step.get("id"), "inputs": step.get("inputs", [])}
            for step in (steps if isinstance(steps, list) else [])
        ]
        names = {step["id"]: step["name"] for step in told}
        found: dict[str, Any] = {"model": None, "run": None, "steps": told}
        for key, folder in (("model", self._model_folder), ("run", run)):
            if folder is None or not (folder / "lineage.json").is_file():
                continue
            try:
                own = Lineage.read(folder)
            except (OSError, ValueError, TypeError) as error:
                self.notes.append(f"lineage.json of the {key}: {error}")
                continue
            if own.kind != key:
                continue
            parents = [{"id": parent["id"], "name": names.get(parent["id"], parent["kind"])} for parent in own.inputs]
            found[key] = {"id": own.id, "created": own.created, "seed": own.seed, "rows": own.rows, "parents": parents, "software": own.software}
        return found

    def _read(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.notes.append(f"{path.name}: {error}")
            return None


def _parts(config: ModelConfig, model: Model) -> Iterator[dict[str, Any]]:
    """Path, kind, architecture and number of parameters of each part."""
    told: list[tuple[str, Any]] = [(f"encoders.{encoder.name}", encoder) for encoder in config.encoders]
    told += [(name, part) for name in PARTS if (part := getattr(config, name)) is not None]
    told += [(f"heads.{name}", head) for name, head in config.heads.named().items()]
    modules = model.parts()
    for path, part in told:
        own = [module for name, module in modules.items() if name == path or name.startswith(f"{path}.")]
        architecture = part.config.get("model_type") if isinstance(getattr(part, "config", None), dict) else None
        checkpoint = str(getattr(part, "checkpoint", None) or "")
        checkpoint = Path(checkpoint).name if Path(checkpoint).is_absolute() else checkpoint  # where it lies is nobody's business
        count = sum(weight.numel() for module in own for weight in module.parameters())
        yield {"path": path, "kind": part.kind, "architecture": architecture, "checkpoint": checkpoint or None, "parameters": count}


def _shown(sample: Sample) -> list[Picture]:
    """Its pictures, in the order in which they are shown."""
    return [sample.pictures[item.picture] for turn in sample.turns for item in turn.items if isinstance(item, Show)]


def _is_question(sample: Sample) -> bool:
    """Whether all that is asked is one user turn of pictures and words."""
    [first, *more] = sample.turns
    return not more and first.role == "user" and all(isinstance(item, Show | Text) for item in first.items)


def _media(picture: Picture) -> tuple[bytes, str]:
    """Bytes and media type of a picture; no type where browsers do not show it."""
    assert isinstance(picture.data, bytes)
    with open_picture(picture.data, picture.name) as opened:
        return picture.data, SHOWN.get(opened.format or "", "")
