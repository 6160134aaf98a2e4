"""Parts: what names them, one process at a time, rows and pictures that come back."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.data import parts as parts_module
from sightline.data.operators import Count, Judged, Take
from sightline.data.parts import Entry, Part, Parts, counts_of, digest, index_of, state, work_folder, write
from sightline.data.readers.llava_json import LlavaJson
from sightline.data.readers.reader import Row
from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Picture, Sample
from sightline.samples.store import Store


def picture(shade: int) -> Picture:
    stream = io.BytesIO()
    Image.new("RGB", (12, 10), (shade, 0, 0)).save(stream, "PNG")
    return describe(stream.getvalue(), f"{shade}.png", "made")


def sample(name: str, *shades: int) -> Sample:
    return Sample(id=name, pictures=tuple(map(picture, shades)), attributes={"split": "train"}, origin=Origin(source="made", licence="CC0"))


BAD = Problem(code="data/bad", place="f:1", found="bad")
ODD = Problem(code="data/odd", place="f:2", found="odd", severity="warn")


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [Judged(sample=sample("a", 1, 2), scores={"x": 0.1}, group="g"), Judged(sample=sample("b", 2), verdict="quarantined", rule="dull")]
    path = tmp_path / "p.parquet"
    write(
        path, [Entry(row=rows[0], problems=(ODD,)), Entry(row=None, problems=(BAD,)), Entry(row=rows[1])], counts=[Count(operator="x", rows_in=3)], index=True
    )
    assert counts_of(path) == [Count(operator="x", rows_in=3)]
    assert index_of(path).to_pylist() == [{"id": "a", "source": "made", "licence": "CC0", "split": "train", "x": 0.1}]
    with Store.writer(tmp_path / "s") as writer:
        assert list(Part(path).write(writer, repeated="refuse")) == [[], [BAD], []]
        problems = list(Part(path).write(writer, repeated="refuse"))
        assert [[problem.code for problem in one] for one in problems] == [["samples/duplicate-id"], ["data/bad"], ["samples/duplicate-id"]]
        with pytest.raises(Refused, match="samples/duplicate-id"):
            list(Part(path).write(writer, repeated="raise"))
    store = Store.open(tmp_path / "s")
    assert list(store) == [row.sample for row in rows] and store.quarantined() == [(1, "dull")]
    assert store.warnings() == [ODD, ODD, ODD] and len(store.refusals()) == 4


def test_a_picture_is_once_in_a_part_and_found_when_its_row_was_not_written(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    write(path, [Entry(row=Judged(sample=sample(name, 5))) for name in ("a", "b")])
    assert path.stat().st_size < 2 * 10_000
    assert [image["bytes"] is None for row in Part(path)._lines() for image in row["images"]] == [False, True]
    with Store.writer(tmp_path / "s") as writer:
        writer.add(sample("a"))
        list(Part(path).write(writer, repeated="refuse"))
    assert Store.open(tmp_path / "s")[1] == sample("b", 5), "row a is refused, its picture is still needed"
    held: dict[str, str] = {}
    assert [row.sample for row in Part(path).judged(held)] == [sample("a", 5), sample("b", 5)] and held == {}


def test_pictures_of_the_store_are_named_and_carried_on(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s") as writer:
        writer.add(sample("a", 1))
    held = {picture(1).hash: "row:0:0"}
    write(tmp_path / "p.parquet", [Entry(row=Judged(sample=sample("b", 1, 2)))], held=dict(held))
    again: dict[str, str] = {}
    (row,) = Part(tmp_path / "p.parquet", Store.open(tmp_path / "s")).judged(again)
    assert row.sample == sample("b", 1, 2) and again == held


def test_a_part_is_named_after_all_that_decides_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass
    class Knows:
        what: Any

    values: list[Any] = [
        *(1, "1", None, True, b"1", [1], {"a": 1}, {"b": 1}, {("a", 1): 1}, Path("a"), Knows(1), Knows("1"), Take(), Take(first=1)),
        *(LlavaJson(), LlavaJson(licence="CC0"), Row(id="a", place="p", number="0"), Row(id="a", place="p", number="0", data={"x": 1})),
    ]
    names = [digest(value) for value in values]
    assert len(set(names)) == len(values) and names == [digest(value) for value in values]
    assert digest(1, 2) != digest([1, 2]) != digest(2, 1)
    monkeypatch.setattr(parts_module, "__version__", "other")
    assert not set(names) & {digest(value) for value in values}


def test_the_state_of_files_tells_a_change(tmp_path: Path) -> None:
    file = tmp_path / "a"
    absent = state([str(file), "\0"])
    file.write_text("a")
    first = state([str(file), "\0"])
    file.write_text("ab")
    assert absent == [str(file), "\0"] and len({str(absent), str(first), str(state([str(file), "\0"]))}) == 3


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module, "PATIENCE", 0.1)
    with Parts(tmp_path / "o") as parts:
        assert parts.folder == work_folder(tmp_path / "o")
        with pytest.raises(Refused, match=r"data/busy (.|\n)*another process writes this store"):
            Parts(tmp_path / "o")
        with Parts(tmp_path / "other") as other:
            other.remove()
    with Parts(tmp_path / "o") as parts:
        parts.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_removed_and_its_parts_stay(tmp_path: Path) -> None:
    for name in (".tmp-o-0123", ".tmp-other-0123", ".parts-o/.tmp-half"):
        (tmp_path / name).mkdir(parents=True)
    with Parts(tmp_path / "o") as parts:
        path = parts.path("read", 3, digest(np.float64(1.0)))
        write(path, [Entry(row=Judged(sample=sample("a")))])
    assert sorted(file.name for file in tmp_path.iterdir()) == [".parts-o", ".tmp-other-0123"]
    with Parts(tmp_path / "o") as parts:
        assert path.is_file()
    with Parts(tmp_path / "o", fresh=True) as parts:
        assert not path.exists()
