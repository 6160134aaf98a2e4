"""Published checkpoints of systems that write: read, computed with, written back, byte for byte."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import native_models
import pytest
import torch
from native_models import CASES, Case, Checkpoint
from safetensors.torch import load_file
from tiny_models import sample, turn

from sightline.checkpoint_import import import_checkpoint
from sightline.model import directory
from sightline.model.native import native_directory
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.verification import verify


@dataclass(frozen=True)
class Trip:
    """A checkpoint, the model directory that it became, and the checkpoint that this became."""

    case: Case
    checkpoint: Checkpoint
    model: Model
    processor: Processor
    back: Path
    folder: Path


@pytest.fixture(scope="module", params=CASES)
def trip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trip:
    case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
    checkpoint = native_models.published(case, folder / "published")
    import_checkpoint(checkpoint.folder, folder / "model")
    native_directory.export(folder / "model", folder / "back")
    model, processor, _ = directory.load(folder / "model")
    return Trip(case, checkpoint, model, processor, folder / "back", folder / "model")


def test_logits_are_those_of_transformers(trip: Trip) -> None:
    pictures = [native_models.photo(number, *size) for number, size in enumerate(trip.case.sizes)]
    asked = [turn("user", number, "Where?") if number else turn("user", number, "How many ships?") for number in range(len(pictures))]
    turns = [one for question in asked for one in (question, turn("assistant", "In the harbor."))]
    encoded = trip.processor.encode(sample(*turns, pictures=pictures))
    batch, ours = native_models.our_logits(trip.model, trip.processor, encoded)
    theirs = native_models.their_logits(trip.case, trip.checkpoint, trip.checkpoint.reference, batch, pictures)
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() <= 1e-5


def test_weights_come_back_bit_for_bit(trip: Trip) -> None:
    before, after = (load_file(folder / "model.safetensors") for folder in (trip.checkpoint.folder, trip.back))
    assert before.keys() == after.keys()
    assert [name for name in before if before[name].dtype != after[name].dtype or not torch.equal(before[name], after[name])] == []


def test_settings_and_tokenizer_come_back(trip: Trip) -> None:
    before, after = ({path.relative_to(folder) for path in folder.rglob("*.*")} for folder in (trip.checkpoint.folder, trip.back))
    assert before == after
    for name in before - {Path("model.safetensors")}:
        assert json.loads((trip.back / name).read_text()) == json.loads((trip.checkpoint.folder / name).read_text()), name


def test_transformers_loads_what_was_written(trip: Trip) -> None:
    loaded, info = type(trip.checkpoint.reference).from_pretrained(trip.back, output_loading_info=True)
    assert {key: value for key, value in info.items() if value} == {}
    state = trip.checkpoint.reference.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_both_folders_are_whole_and_golden_answers_hold(trip: Trip) -> None:
    own, published = verify(trip.folder), verify(trip.back)
    assert (own.problems, published.problems) == ([], [])
    assert {check.name for check in own.checks if check.state == "ok"} == {"weights", "golden"}
    assert {check.name for check in published.checks if check.state == "ok"} == {"settings", "code", "weights", "tokens"}
    rows = [json.loads(line) for line in (trip.folder / "golden" / "requests.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert all(row["ask"] == "write" and row["tokens"] for row in rows)
