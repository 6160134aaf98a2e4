"""Made scenes as a store, small enough to learn from in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.data.readers.label_masks import LabelMasks
from sightline.data.reading import read_sets, sets_of
from sightline.data.scenes import GROUNDS, Scenes, make
from sightline.refine.objects import ObjectChoice
from sightline.samples.store import Store

CHOICE = ObjectChoice(leave_out=GROUNDS)
"""Everything but the ground."""


@pytest.fixture(scope="session")
def scenes_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve made scenes with masks and instances."""
    folder: Path = tmp_path_factory.mktemp("scenes")
    make(Scenes(count=12, seed=5, size=64), folder / "made", workers=1)
    read_sets(sets_of([(LabelMasks(), folder / "made")]), folder / "store", on_problem="refuse")
    return Store.open(folder / "store")
