"""The store gives back every row, keeps pictures once, and is whole or absent."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.errors import Problem, Refused
from sightline.lineage import Lineage
from sightline.samples import store as store_module
from sightline.samples.pictures import describe
from sightline.samples.records import pack
from sightline.samples.sample import Box, Origin, Picture, Region, Sample, Show, Text, Turn
from sightline.samples.store import GROUP_ROWS, Store

ROWS = 2 * GROUP_ROWS + 5


def picture(number: int, size: int = 40) -> Picture:
    data = hashlib.sha256(str(number).encode()).digest() * size
    return Picture(hash=hashlib.sha256(data).hexdigest(), width=4, height=5, data=data, name=f"{number}.png")


def sample(number: int, shown: int | None = None) -> Sample:
    said = (Turn(role="user", items=(Show(), Text(text="what?"))), Turn(role="assistant", items=(Text(text=str(number)),)))
    known = (Region(label="ship", shape=Box(x0=0, y0=1, x1=2, y1=3)),)
    pictures = (picture(number if shown is None else shown),)
    return Sample(id=str(number), pictures=pictures, turns=said, annotations=known, attributes={"split": "train"}, origin=Origin(source="made", licence="CC0"))


def test_rows_come_back_in_any_order(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s", config="abc", inputs=[{"id": "p", "kind": "store"}], seed=3) as writer:
        assert [writer.add(sample(number)) for number in range(ROWS)] == list(range(ROWS))
    store = Store.open(tmp_path / "s")
    assert len(store) == ROWS
    assert [store[row] for row in (ROWS - 1, 0, 70, 0)] == [sample(row) for row in (ROWS - 1, 0, 70, 0)]
    assert list(store) == [sample(row) for row in range(ROWS)]
    lineage = Lineage.read(tmp_path / "s")
    assert (lineage.kind, lineage.config, lineage.inputs, lineage.seed, lineage.rows) == ("store", "abc", [{"id": "p", "kind": "store"}], 3, store.id)
    with pytest.raises(IndexError):
        store[ROWS]


def test_the_index_has_no_pictures_but_their_sizes(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s") as writer:
        writer.add(sample(0), scores={"perplexity": 2.5}, group="g")
    index = Store.open(tmp_path / "s").index
    assert index.column_names == ["row", "id", "hash", "shard", "offset", "pictures", "source", "licence", "verdict", "rule", "group", "scores"]
    line = index.to_pylist()[0]
    assert line["pictures"] == [{"hash": picture(0).hash, "width": 4, "height": 5, "bands": ["red", "green", "blue"]}]
    assert (line["source"], line["licence"], line["verdict"], line["group"], line["scores"]) == ("made", "CC0", "kept", "g", [("perplexity", 2.5)])


def test_a_picture_is_stored_once_and_read_everywhere(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "many") as writer:
        for number in range(ROWS):
            writer.add(sample(number, shown=7))
    store = Store.open(tmp_path / "many", cache=1)
    assert store[ROWS - 1] == sample(ROWS - 1, shown=7)
    images = pq.read_table(tmp_path / "many" / "shard-00000.parquet")["images"].to_pylist()
    assert [image[0]["bytes"] is None for image in images] == [False] + [True] * (ROWS - 1)
    assert images[3] == [{"bytes": None, "path": "row:0:0"}]


def test_two_equal_pictures_in_one_sample(tmp_path: Path) -> None:
    twice = Sample(id="t", pictures=(picture(1), picture(1)), origin=Origin(source="made"))
    with Store.writer(tmp_path / "s") as writer:
        writer.add(twice)
    assert Store.open(tmp_path / "s")[0] == twice


def test_rows_spread_over_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SHARD_BYTES", 1)
    with Store.writer(tmp_path / "s") as writer:
        for number in range(ROWS):
            writer.add(sample(number))
    assert len(list((tmp_path / "s").glob("shard-*.parquet"))) == 3
    store = Store.open(tmp_path / "s")
    assert list(store) == [sample(row) for row in range(ROWS)]
    groups = pq.ParquetFile(tmp_path / "s" / "shard-00000.parquet").metadata
    assert all(groups.row_group(k).num_rows <= GROUP_ROWS for k in range(groups.num_row_groups))
    (tmp_path / "s" / "shard-00001.parquet").unlink()
    with pytest.raises(Refused, match=r"found: +no shard-00001\.parquet"):
        Store.open(tmp_path / "s")


def test_the_cache_keeps_to_its_budget(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s") as writer:
        for number in range(ROWS):
            writer.add(sample(number))
    large, small = Store.open(tmp_path / "s"), Store.open(tmp_path / "s", cache=1)
    assert large[0] is large[0]
    first = small[0]
    assert small[ROWS - 1] == sample(ROWS - 1)
    assert small[0] == first and small[0] is not first


def test_counts_add_up_and_findings_are_listed(tmp_path: Path) -> None:
    bad = Problem(code="data/x", place="f:1", found="bad")
    with Store.writer(tmp_path / "s", source="given") as writer:
        writer.add(Sample(id="a", origin=Origin(source="")))
        writer.add(sample(1), verdict="quarantined", rule="too-small")
        writer.refuse(bad, bad)
        writer.refuse(bad)
        writer.warn(Problem(code="data/y", place="f:2", found="odd", severity="warn"))
    store = Store.open(tmp_path / "s")
    assert store.counts() == {"kept": 1, "quarantined": 1, "refused": 2}
    assert store.kept.tolist() == [0] and store.quarantined() == [(1, "too-small")]
    assert store.refused() == [bad, bad, bad] and [problem.code for problem in store.warnings()] == ["data/y"]
    assert store.index["source"].to_pylist() == ["given", "made"]


def test_a_repeated_id_is_refused_and_the_writer_goes_on(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s") as writer:
        writer.add(sample(0))
        with pytest.raises(Refused, match=r"samples/duplicate-id at made:0\n +found: +id '0' a second time"):
            writer.add(sample(0))
        writer.add(Sample(id="0", origin=Origin(source="elsewhere")))
    assert len(Store.open(tmp_path / "s")) == 2


def test_a_store_is_whole_or_absent(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stopped"), Store.writer(tmp_path / "s") as writer:
        writer.add(sample(0))
        raise RuntimeError("stopped")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(Refused, match=r"samples/not-a-store .*\n +found: +no index\.parquet and no lineage\.json and no problems\.jsonl"):
        Store.open(tmp_path / "s")


def test_new_verdicts_share_the_shards(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s") as writer:
        for number in range(3):
            writer.add(sample(number))
    store = Store.open(tmp_path / "s")
    table = pa.table({"row": [0, 1, 2], "verdict": ["kept", "quarantined", "kept"], "rule": [None, "dull", None]})
    judged = store.with_verdicts(table, tmp_path / "t", config="c")
    assert judged.kept.tolist() == [0, 2] and judged.quarantined() == [(1, "dull")]
    assert judged[1] == store[1]
    assert (tmp_path / "s" / "shard-00000.parquet").stat().st_ino == (tmp_path / "t" / "shard-00000.parquet").stat().st_ino
    assert judged.id != store.id and judged.lineage.inputs == [{"id": store.lineage.id, "kind": "store"}]
    assert store.with_verdicts(pa.table({"row": [0, 1, 2]}), tmp_path / "u").id == store.id


def test_the_id_is_that_of_the_rows(tmp_path: Path) -> None:
    for name, numbers in (("a", (0, 1)), ("b", (0, 1)), ("c", (1, 0))):
        with Store.writer(tmp_path / name) as writer:
            for number in numbers:
                writer.add(sample(number))
    ids = [Store.open(tmp_path / name).id for name in "abc"]
    assert ids[0] == ids[1] != ids[2]


def test_a_store_travels_to_another_process(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s") as writer:
        writer.add(sample(0))
    assert pickle.loads(pickle.dumps(Store.open(tmp_path / "s")))[0] == sample(0)


def test_a_store_of_nothing(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s"):
        pass
    store = Store.open(tmp_path / "s")
    assert len(store) == 0 and list(store) == [] and store.kept.tolist() == []


def test_size_of_a_picture_is_that_after_exif() -> None:
    from PIL import Image

    image, exif, stream = Image.new("RGB", (30, 20), "red"), Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    image.save(stream, "JPEG", exif=exif)
    described = describe(stream.getvalue(), "a.jpg", "here")
    assert (described.width, described.height) == (20, 30)


def test_a_stream_begins_anywhere_and_leaves_the_cache_alone(tmp_path: Path) -> None:
    with Store.writer(tmp_path / "s") as writer:
        for number in range(ROWS):
            writer.add(sample(number, shown=number % 100))
    store = Store.open(tmp_path / "s")
    held = store[0]
    assert list(store.stream(120, 131)) == [sample(row, shown=row % 100) for row in range(120, 131)], "pictures of rows before the first are found"
    assert [one.id for one in store.stream(ROWS - 1)] == [str(ROWS - 1)] and list(store.stream(5, 5)) == []
    assert list(store._groups) == [(0, 0)] and store[0] is held
    assert store.picture(128, 0) == picture(28).data == store.picture(28, 0)


def test_a_stream_keeps_to_its_own_small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.writer(tmp_path / "s") as writer:
        for number in range(ROWS):
            writer.add(sample(number))
    aside = Store.open(tmp_path / "s").aside(cache=1)
    for row in range(ROWS):
        assert aside[row].id == str(row)
        assert len(aside._groups) == 1


def test_a_row_may_name_a_picture_that_is_here_without_its_bytes(tmp_path: Path) -> None:
    packed = pack(sample(1, shown=0))
    with Store.writer(tmp_path / "s") as writer:
        writer.add(sample(0))
        assert writer.holds(picture(0).hash) and not writer.holds(picture(1).hash)
        writer.add(replace(packed, data=(None,)))
        with pytest.raises(AssertionError, match="no bytes"):
            writer.add(replace(pack(sample(2)), data=(None,)))
    assert Store.open(tmp_path / "s")[1] == sample(1, shown=0)


def test_a_long_index_has_the_id_and_bytes_of_one_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows in (("a", 4096), ("b", 10)):
        monkeypatch.setattr(store_module, "INDEX_ROWS", rows)
        with Store.writer(tmp_path / name) as writer:
            for number in range(ROWS):
                writer.add(sample(number), scores={"x": number / 3})
    a, b = (Store.open(tmp_path / name) for name in "ab")
    assert a.id == b.id and a.index["row"].to_pylist() == list(range(ROWS)) == b.index["row"].to_pylist()
    assert (tmp_path / "a" / "index.parquet").read_bytes() == (tmp_path / "b" / "index.parquet").read_bytes()
