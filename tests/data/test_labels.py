"""The table of labels in two languages."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.data.labels import NEVER_SAID, LabelTable, singular, spelled
from sightline.errors import Refused


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("small_vehicle", "small-vehicle"), ("StorageTanks", "storage-tank"), ("Store_Tank", "storage-tank"), ("ships", "ship"), ("建筑", "building"), ("aircraft", "plane"),
        ("buses", "bus"), ("Bus", "bus"), ("飞机", "plane"), ("golffield", "golf-field"), ("Expressway-Service-area", "expressway-service-area"),
    ],
)  # fmt: skip
def test_every_spelling_is_one_label(name: str, known: str) -> None:
    assert LabelTable.load().canonical(name) == known


def test_unknown_names_stay_and_are_never_guessed() -> None:
    table = LabelTable.load()
    assert table.find("vehicel") is None and table.canonical("Sail_Boat") == "sail boat" and table.said("SailBoat", "zh") == "sail boat"


def test_labels_are_said_in_both_languages() -> None:
    table = LabelTable.load()
    assert (table.said("large-vehicle"), table.said("large-vehicle", "zh")) == ("large vehicle", "大型车辆")
    assert set(table.labels) >= NEVER_SAID


def test_a_car_is_a_vehicle_and_a_ship_is_none() -> None:
    table = LabelTable.load()
    assert table.within("car", "vehicle") and table.within("cars", "car") and not table.within("vehicle", "car") and not table.within("ship", "vehicle")
    assert table.within("gizmo", "Gizmo") and not table.within("gizmo", "ship")


def test_merges_are_proposed_and_not_made() -> None:
    proposed = LabelTable.load().proposals({"vehicel": 3, "Sail Boat": 2, "sail-boat": 5, "plane": 9, "baseketball court": 4})
    assert [(one.name, one.label) for one in proposed] == [("baseketball court", "basketball-court"), ("vehicel", "vehicle"), ("Sail Boat", "sail-boat")]


@pytest.mark.parametrize(
    ("words", "one"),
    [
        ("tanks", "tank"),
        ("bodies", "body"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("glass", "glass"),
        ("churches", "church"),
        ("tennis", "tennis"),
        ("boxes", "box"),
    ],
)
def test_plurals(words: str, one: str) -> None:
    assert singular(words) == one


def test_keys_split_camel_case() -> None:
    assert spelled("DenseResidential") == spelled("dense_residential") == spelled(" Dense-Residential ") == "dense residential"


def test_a_wrong_table_is_refused_with_every_row(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("id,en,zh,countable\nship,ship,船,yes\nship,boat,艇,\ntank,tank,,\nroad,road,路,perhaps\n", encoding="utf-8")
    with pytest.raises(Refused) as refused:
        LabelTable.load(file)
    assert [problem.place.rpartition(":")[2] for problem in refused.value.problems] == ["3", "4", "5"]
    assert "yes, no or nothing" in str(refused.value)
    file.write_text("id,en,zh,aliases,parent\nship,ship,船,vessel,\nboat,boat,艇,Vessels,craft\n", encoding="utf-8")
    with pytest.raises(Refused, match="'Vessels' is a name of ship and of boat") as refused:
        LabelTable.load(file)
    assert "has the parent 'craft'" in str(refused.value)
    file.write_text("name\nship\n", encoding="utf-8")
    with pytest.raises(Refused, match="no column id and no en and no zh"):
        LabelTable.load(file)
    with pytest.raises(Refused, match=r"absent\.csv"):
        LabelTable.load(tmp_path / "absent.csv")
