"""Scenes in, files out: one scene or all pictures below a folder, each with its objects in the forms that are wanted, a picture to look at, and a record of what became of everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sightline.errors import Problem, Refused
from sightline.evaluate.answers import AnswerFile, Keyed
from sightline.lineage import sha256_file, software, sweep, write_json
from sightline.progress import say
from sightline.refine.annotate import AnnotateConfig, Annotated, annotate
from sightline.refine.box_masks import Refiner
from sightline.refine.scene_outputs import Form, check_forms, write_forms
from sightline.refine.scene_quicklook import draw_scene, write_quicklook
from sightline.refine.scene_reading import OpenScene, bounds_of, opened_scene, scenes_in
from sightline.samples.codecs import Codec


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is written for a scene."""

    forms: tuple[Form, ...] = ("geojson",)
    crs: Literal["wgs84", "file"] = "wgs84"
    """Coordinates of GeoJSON: longitude and latitude, or the system of the scene."""
    quicklook: Literal["webp", "png"] = "webp"
    seams: bool = False
    """Draw the windows too."""


def annotate_into(
    source: Path,
    out: Path,
    answerer: Keyed,
    file: AnswerFile,
    config: AnnotateConfig,
    *,
    wanted: Wanted | None = None,
    model: Mapping[str, str] | None = None,
    bands: Sequence[str] = (),
    codec: Codec | None = None,
    refiner: Refiner | None = None,
    forget: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Annotate the scene at `source`, or all below it, and write NAME.scene.json, the quick-look picture and the wanted forms below `out`. Returns the records.

    `model` says who answered, in the record. The same scenes, model and settings give the same bytes, whether the pass was killed or not.
    Raises Refused before anything is asked where a scene cannot be opened or written as wanted.
    """
    wanted = wanted or Wanted()
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        allowed = "a folder outside of the scenes: its pictures would be scenes themselves"
        raise Refused(Problem(code="refine/out-in-scenes", place=str(out), found=f"below {source}", allowed=allowed, fix="--out another folder"))
    scenes = scenes_in(source)
    problems: list[Problem] = []
    for path, name in scenes:
        try:
            with opened_scene(path, name, bands) as scene:
                check_forms(scene, wanted.forms, wanted.crs)
        except Refused as refused:
            problems += refused.problems
    if problems:
        raise Refused(problems)
    for leftover in sweep(out):
        say(f"removed {leftover.name}, left by a stopped run")
    records = []
    for path, name in scenes:
        with opened_scene(path, name, bands) as scene:
            found = annotate(scene, answerer, file, config, codec=codec, refiner=refiner, forget=forget)
            records.append(_written(scene, found, config, wanted, dict(model or {}), refiner, out))
    return records


def _written(
    scene: OpenScene, found: Annotated, config: AnnotateConfig, wanted: Wanted, model: dict[str, str], refiner: Refiner | None, out: Path
) -> dict[str, Any]:
    files = write_forms(scene, found.regions, config.labels, wanted.forms, wanted.crs, out)
    seams = [bounds_of(scene, window) for window in found.windows] if wanted.seams else []
    files.append(write_quicklook(draw_scene(scene, found.regions, config.labels, seams), out / f"{scene.name}.quicklook", wanted.quicklook))
    geo = {"crs": scene.geo.crs, "affine": list(scene.geo.affine)} if scene.geo is not None else None
    record = {
        "scene": {
            "file": scene.path.name,
            "sha256": sha256_file(scene.path),
            "width": scene.width,
            "height": scene.height,
            "bands": list(scene.bands),
            "geo": geo,
        },
        "model": model,
        "refiner": refiner.id if refiner is not None else None,
        "settings": {**config.model_dump(mode="json"), "crs": wanted.crs},
        "counts": found.counts,
        "files": [file.relative_to(out).as_posix() for file in files],
        "software": software(),
    }
    write_json(out / f"{scene.name}.scene.json", record)
    return record
