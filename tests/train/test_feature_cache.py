"""Cached features are what the encoder gives; the cache is found again, and not where anything that matters has changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sightline.errors import Refused
from sightline.model import directory
from sightline.model.vlm import Model
from sightline.train.feature_cache import FeatureCache, build_cache, predicted_bytes


def cache(world, model: Model, root: Path, precision: str = "float32") -> FeatureCache:
    store = world.stores["questions"]
    pictures = [(picture, store.path, 1) for row in store.kept for picture in store[int(row)].pictures]
    return build_cache(root, model, directory.part_ids(model)["encoders.vision"], world.processor, pictures, precision, "features")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_loss_from_the_cache_is_the_loss_from_the_pictures(world, tmp_path: Path, precision: str) -> None:
    model: Model = world.model()
    stage = world.stage(batch=8, precision=precision)
    features = cache(world, model, tmp_path, precision)
    pictures, cached = world.feed(stage).micro_batches(0)[0], world.feed(stage, features=features).micro_batches(0)[0]
    assert cached.pictures.pixels is None
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        seen, remembered = model.encode(pictures)["vision"], model.encode(cached)["vision"]
        losses = [world.feed(stage).objective(model, batch).sums["answer"].item() for batch in (pictures, cached)]
    assert (remembered.grids, remembered.crops) == (seen.grids, seen.crops)
    assert torch.allclose(remembered.values.float(), seen.values.float(), rtol=1e-5 if precision == "float32" else 1e-2, atol=1e-5)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6 if precision == "float32" else 1e-3)


def test_training_from_the_cache_gives_the_same_weights(world, tmp_path: Path) -> None:
    looked, remembered = world.model(), world.model()
    stage = world.stage(train={"connector": {"learning_rate": 1e-3}})
    world.train(looked, stage)
    world.train(remembered, stage, features=cache(world, remembered, tmp_path))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(looked.state_dict().values(), remembered.state_dict().values()))


def test_a_cache_belongs_to_weights_normalisation_and_precision(world, tmp_path: Path) -> None:
    model: Model = world.model()
    cache(world, model, tmp_path)
    [folder] = tmp_path.iterdir()
    made = (folder / "vision.bin").stat().st_mtime_ns
    cache(world, model, tmp_path)
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("*/vision.bin")] == [made]
    cache(world, model, tmp_path, "bfloat16")
    cache(world, world.model(seed=1), tmp_path)
    brighter = model.config.encoders[0].model_copy(update={"mean": (0.1, 0.1, 0.1)})
    cache(world, world.model(encoders=[brighter]), tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_its_size_is_known_beforehand(world, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Model = world.model()
    store = world.stores["questions"]
    tilings = [world.processor.measure(picture.width, picture.height).tiling for row in store.kept for picture in store[int(row)].pictures]
    predicted = predicted_bytes(model.config, tilings, precision)
    cache(world, model, tmp_path, precision)
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.bin")) == predicted
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=predicted - 1))
    with pytest.raises(Refused, match="train/cache-too-large"):
        cache(world, model, tmp_path / "other", precision)
