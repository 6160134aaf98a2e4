"""Parquet rows of pictures and texts: null, one and several pictures, ratings, stray markers, broken rows, and the way back."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers import parquet_rows
from sightline.data.readers.cauldron import RATINGS, Cauldron
from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Sample, Show, Text, Turn


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def text(user: str, assistant: str, source: str | None = "x") -> dict[str, str | None]:
    return {"user": user, "assistant": assistant, "source": source}


def put(root: Path, *rows: dict[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), root / "train-0.parquet")


def read(root: Path, **options: Any) -> list[Sample | Problem]:
    return list(Cauldron(**options).read(root))


def sample_of(found: list[Sample | Problem]) -> Sample:
    (sample,) = found
    assert isinstance(sample, Sample), str(sample)
    return sample


def test_pictures_stand_before_the_first_question_only(tmp_path: Path) -> None:
    put(tmp_path / "ai2d", {"images": [{"bytes": png(), "path": None}], "texts": [text("q1", "a1"), text("q2", "a2")]})
    known = Cauldron().recognise(tmp_path)
    assert known is not None and known[1] == "train-0.parquet has columns images, and texts of user and assistant"
    assert Cauldron().annotated(tmp_path) == {tmp_path / "ai2d" / "train-0.parquet"}
    sample = sample_of(read(tmp_path))
    assert [turn.items for turn in sample.turns] == [(Show(picture=0), Text(text="q1")), (Text(text="a1"),), (Text(text="q2"),), (Text(text="a2"),)]
    assert sample.attributes == {"source": "x"} and sample.id == "ai2d/train-0.parquet:0"


@pytest.mark.parametrize("images", [None, {"bytes": png(), "path": "a.png"}, [], [{"bytes": png(k), "path": None} for k in range(3)]])
def test_no_one_and_several_pictures(tmp_path: Path, images: Any) -> None:
    count = len(images) if isinstance(images, list) else int(images is not None)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = pa.schema(
        [("images", kind if isinstance(images, dict) else pa.list_(kind)), ("texts", pa.list_(pa.struct([("user", pa.string()), ("assistant", pa.string())])))]
    )
    pq.write_table(pa.Table.from_pylist([{"images": images, "texts": [{"user": "q", "assistant": "a"}]}], columns), tmp_path / "a.parquet")
    sample = sample_of(read(tmp_path))
    assert len(sample.pictures) == count and sample.turns[0].items == (*(Show(picture=k) for k in range(count)), Text(text="q"))


def test_texts_of_low_rating_and_stray_markers_are_left_out_and_said(tmp_path: Path) -> None:
    texts = [text("<image>\nq1<|image_1|>", "a1"), text("q2", "a2"), text("q3", "a3")]
    ratings = {"relevance_ratings": [5, 1, None], "formatting_ratings": [3, 5, 4], "source": "y"}
    put(tmp_path, {"images": [{"bytes": png(), "path": None}], "texts": texts, **ratings})
    low, stray, sample = read(tmp_path, least_rating=3)
    assert isinstance(low, Problem) and (low.code, low.severity, low.found) == ("data/low-rating", "warn", "1 of 3 texts rated below 3")
    assert isinstance(stray, Problem) and stray.found == "2 markers of pictures inside texts"
    assert isinstance(sample, Sample) and [sample.text(k) for k in range(4)] == ["\nq1", "a1", "q3", "a3"]
    assert sample.attributes == {"relevance_ratings": [5, None], "formatting_ratings": [3, 4], "source": "x"}
    (problem,) = read(tmp_path, least_rating=6)
    assert isinstance(problem, Problem) and (problem.code, problem.severity) == ("data/low-rating", "refuse")


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"images": [{"bytes": b"no", "path": None}], "texts": [text("q", "a")]}, "samples/not-a-picture"),
        ({"images": [{"bytes": None, "path": "../a.png"}], "texts": [text("q", "a")]}, "data/path-escape"),
        ({"images": [{"bytes": None, "path": "a.png"}], "texts": [text("q", "a")]}, "samples/missing-picture"),
        ({"images": ["a.png"], "texts": [text("q", "a")]}, "data/picture-name"),
        ({"images": [{"bytes": png(), "path": None}], "texts": [{"user": "q", "assistant": None}, text("q", "a")]}, "data/wrong-shape"),
        ({"images": [{"bytes": png(), "path": None}], "texts": [text("q", " ")]}, "samples/empty-answer"),
        ({"images": [{"bytes": png(), "path": None}], "texts": [text("q", "a")], "relevance_ratings": [1, 2]}, "data/wrong-shape"),
        ({"images": [{"bytes": png(), "path": None}], "texts": [text("q", "a")], "relevance_ratings": ["x"]}, "data/wrong-shape"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], code: str) -> None:
    put(tmp_path, row)
    assert code in {problem.code for problem in read(tmp_path) if isinstance(problem, Problem)}


def test_groups_that_unpack_to_too_much_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One value a million times takes a few kB on disk: its footer says what it becomes.
    put(tmp_path, {"images": [{"bytes": png(), "path": None}], "texts": [text("q", "a")]})
    monkeypatch.setattr(parquet_rows, "LARGEST_GROUP", 100)
    (problem,) = read(tmp_path)
    assert isinstance(problem, Problem) and problem.code == "data/row-group-too-large"


def test_a_truncated_file_and_no_file(tmp_path: Path) -> None:
    put(tmp_path, {"images": [{"bytes": png(), "path": None}], "texts": [text("q", "a")]})
    file = tmp_path / "train-0.parquet"
    data = file.read_bytes()
    file.write_bytes(data[:60] + bytes(100) + data[160:])  # the footer is whole, a page is not
    assert all(isinstance(found, Problem) and found.code == "data/broken-parquet" for found in read(tmp_path)) and len(read(tmp_path)) == 1
    (tmp_path / "train-1.parquet").write_bytes(data)
    file.write_bytes(data[:-20])
    whole, missing = read(tmp_path)
    assert isinstance(whole, Sample) and isinstance(missing, Problem) and missing.place == str(file)
    (tmp_path / "train-1.parquet").unlink()
    with pytest.raises(Refused, match=r"data/no-tables (.|\n)*columns images and texts"):
        read(tmp_path)


WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(lambda text: text.strip() and "<" not in text)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.tuples(WORDS | st.just(""), WORDS, st.integers(1, 5)), min_size=1, max_size=3)), min_size=1, max_size=3)
)
@settings(deadline=None, max_examples=30)
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, list[tuple[str, str, int]]]]) -> None:
    samples = []
    for number, (count, pairs) in enumerate(rows):
        turns: list[Turn] = []
        for question, answer, _ in pairs:
            shown = [Show(picture=k) for k in range(count)] if not turns else []
            said = [Text(text=question)] if question else []
            turns += [Turn(role="user", items=(*shown, *said)), Turn(role="assistant", items=(Text(text=answer),))]
        attributes = {"source": "x", RATINGS[number % 4]: [rating for _, _, rating in pairs]}
        pictures = tuple(describe(png(k), f"{k}.png", "p") for k in range(count))
        origin = Origin(source="s", row=f"cauldron.parquet:{number}")
        samples.append(Sample(id=f"row {number}", pictures=pictures, turns=tuple(turns), attributes=attributes, origin=origin))
    root = tmp_path_factory.mktemp("cauldron")
    assert Cauldron().write(samples, root) == []
    assert read(root, source="s") == samples


def test_what_rows_cannot_hold_is_named(tmp_path: Path) -> None:
    picture = describe(png(), "a.png", "p")
    answer = Turn(role="assistant", items=(Text(text="a"),))
    origin = Origin(source="s")
    late = Sample(id="1", pictures=(picture,), turns=(Turn(role="user", items=(Text(text="q"), Show(picture=0))), answer), origin=origin)
    system = Sample(id="2", turns=(Turn(role="system", items=(Text(text="be"),)), Turn(role="user", items=(Text(text="q"),)), answer), origin=origin)
    marked = Sample(id="3", turns=(Turn(role="user", items=(Text(text="<image>"),)), answer), origin=origin)
    found = [problem.found.partition(":")[0] for problem in Cauldron().write([late, system, marked], tmp_path)]
    assert found == ["pictures elsewhere than before the first question", "no dialogue of user and assistant", "text that contains a marker of pictures"]
