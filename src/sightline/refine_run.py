"""A run that trains a refiner: its file, and the graph data -> refiner. Data are said, made, read and skipped as in a recipe."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from sightline import recipe_source
from sightline.kinds import Config, located
from sightline.lineage import Lineage, artifact, sha256_json, sweep, write_text
from sightline.progress import say
from sightline.recipe import DataConfig, Recipe, load_as
from sightline.refine.crop_decoder import CropDecoder
from sightline.refine.mask_training import STAGE, MaskTraining
from sightline.refine.objects import counts_by_label, find_objects
from sightline.run import Run

_PARTS = ("encoder", "decoder")


class RefineRecipe(Config):
    """A file of `sightline refine train`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)
    """Name of the run."""
    seed: int = Field(default=0, ge=0)
    """Everything random follows from it."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads for training; default is one per core."""
    model: CropDecoder = CropDecoder()
    """The refiner."""
    data: dict[str, DataConfig] = Field(min_length=1)
    """Data sets by name, as in a recipe."""
    train: MaskTraining
    """What is learnt from, how, and for how long."""

    @model_validator(mode="after")
    def _whole(self) -> RefineRecipe:
        faults = [f"train.data.{name}: a data set of this file: {', '.join(self.data)}" for name in self.train.data if name not in self.data]
        parts = [path.partition(".")[0] for path in self.train.train]
        faults += [f"train.train.{path}: a path in {' or '.join(_PARTS)}" for path, part in zip(self.train.train, parts) if part not in _PARTS]
        try:
            Recipe(name=self.name, seed=self.seed, data=self.data)
        except ValueError as error:
            faults += [f"data: {one['msg']}" for one in getattr(error, "errors", list)()] or [str(error)]
        if faults:
            raise located(faults)
        return self


@dataclass(frozen=True, kw_only=True)
class RefineResult:
    """What a run did."""

    out: Path
    steps: int
    objects: dict[str, Any]
    skipped: bool
    seconds: float


def run_refine(path: str | Path, out: Path, overrides: Sequence[str] = ()) -> RefineResult:
    """Make the data, train the refiner, save it to `out`/model. Run again, it skips what is done; stopped, it goes on from its last checkpoint.

    Raises Refused before any work where the file is wrong.
    """
    started = time.monotonic()
    recipe = load_as(RefineRecipe, path, overrides).recipe
    model = recipe.model.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for leftover in sweep(out):
        say(f"removed {leftover.name}, left by a stopped run")
    write_text(out / "refine.yaml", recipe_source.dump(recipe))
    run = Run(Recipe(name=recipe.name, seed=recipe.seed, data=recipe.data), out)
    for name in recipe.data:
        run.data(name)
    names = list(recipe.train.data)
    told: dict[str, Any] = {}

    def work(fingerprint: str) -> None:
        told.update(_train(run, recipe, model, names, fingerprint))

    said = [recipe.train.model_dump(mode="json", exclude={"checkpoints", "every"}), recipe.model.model_dump(mode="json"), recipe.seed]
    run.node("refiner", said, [f"data/{name}" for name in names], out / "model", work, lambda: Lineage.read(out / "model").id)
    for made in ("checkpoints", "faults"):
        shutil.rmtree(out / made, ignore_errors=True)
    objects = told.get("objects", {})
    return RefineResult(out=out, steps=told.get("steps", 0), objects=objects, skipped=not told, seconds=time.monotonic() - started)


def _train(run: Run, recipe: RefineRecipe, config: CropDecoder, names: Sequence[str], fingerprint: str) -> dict[str, Any]:
    import torch

    from sightline.refine.crop_feed import CropFeed
    from sightline.refine.mask_training import train_refiner
    from sightline.refine.refiner_directory import save_refiner
    from sightline.train.checkpoints import Checkpoints
    from sightline.train.stage import prepare, table_text

    torch.set_num_threads(recipe.threads or torch.get_num_threads())
    seed = int(np.random.SeedSequence([recipe.seed, 1]).generate_state(1)[0])
    stores = [run.store(name) for name in names]
    objects = find_objects(stores, recipe.train.objects)
    counts = counts_by_label(objects)
    say(
        f"{STAGE}: {len(objects.found)} objects ({', '.join(f'{count} {label}' for label, count in counts['objects'].items())}); left out: {counts['left out']}"
    )
    if config.predicts == "classes" and not config.classes:
        config = config.model_copy(update={"classes": _labels(run, names)})
    torch.manual_seed(seed)
    model = config.build()
    stage = recipe.train.stage(config.predicts)
    prepared = prepare(model, stage)  # pyright: ignore[reportArgumentType]
    say(table_text(prepared.table))
    run.events.write({"event": "table", "stage": STAGE, "table": [asdict(row) for row in prepared.table]})
    run.events.write({"event": "objects", "stage": STAGE, **counts})
    feed = CropFeed(stores, names, objects, config, model.fill, recipe.train, seed)
    checkpoints = Checkpoints(run.out / "checkpoints", fingerprint, stage, run.events.write, say)
    outcome = train_refiner(model, prepared, feed, recipe.train, run.events.write, checkpoints, run.out / "faults")
    run.events.write({"event": "trained", "stage": STAGE, "steps": outcome.steps, "rows": outcome.rows, "seconds": outcome.seconds, "unread": outcome.unread})
    for tensor in outcome.unread:
        say(f"  nothing reads {tensor}: it stayed as it was")
    with artifact(run.out / "model") as folder:
        weights = save_refiner(folder, model.eval())
        inputs = [{"id": run.ids[f"data/{name}"], "kind": "store"} for name in names]
        Lineage(id=sha256_json([fingerprint, weights]), kind="refiner", config=fingerprint, inputs=inputs, seed=recipe.seed).write(folder)
    return {"steps": outcome.steps, "objects": counts}


def _labels(run: Run, names: Sequence[str]) -> tuple[str, ...]:
    """Labels of all annotations, in order of their first occurrence: those of the ground too."""
    found: dict[str, None] = {}
    for name in names:
        store = run.store(name).aside()
        for row in store.kept.tolist():
            found.update(dict.fromkeys(region.label for region in store[row].annotations if region.label))
    return tuple(found)
