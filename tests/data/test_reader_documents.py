"""Documents with pictures between texts: places of pictures, thresholds, addresses of which there is no file, and the way back."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.documents import document
from sightline.data.readers.mmc4 import Mmc4, placed
from sightline.data.readers.obelics import Obelics
from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Item, Origin, Picture, Sample, Show, Text


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


PICTURES = tuple(describe(png(shade), f"{shade}.png", "p") for shade in range(6))


def put_pictures(root: Path, *names: str) -> None:
    for shade, name in enumerate(names):
        (root / "images").mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_bytes(png(shade))


def put_pages(root: Path, *rows: dict[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "shard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def put_web(root: Path, *rows: dict[str, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), root / "train-0.parquet")


def info(name: str, sentence: int, similarity: float = 0.5) -> dict[str, Any]:
    return {"image_name": name, "raw_url": f"http://e/{name}", "matched_text_index": sentence, "matched_sim": similarity}


def said(sample: Sample | Problem) -> str:
    assert isinstance(sample, Sample), str(sample)
    assert sample.turns[0].items == ()
    return "".join(item.text if isinstance(item, Text) else f"<{item.picture}>" if isinstance(item, Show) else "?" for item in sample.turns[1].items)


def test_pictures_stand_before_or_after_their_sentence(tmp_path: Path) -> None:
    put_pictures(tmp_path, "0.png", "1.png", "2.png")
    put_pages(tmp_path, {"url": "http://p", "text_list": ["s0", "s1", "s2"], "image_info": [info("0.png", 2), info("1.png", 0), info("2.png", 2)]})
    known = Mmc4().recognise(tmp_path)
    assert known is not None and known[1] == "the first row of shard.jsonl has text_list and image_info"
    (sample,) = Mmc4().read(tmp_path)
    assert said(sample) == "<1>s0 s1<0><2>s2"
    (other,) = Mmc4(place="after").read(tmp_path)
    assert said(other) == "s0<1>s1 s2<0><2>"
    assert isinstance(sample, Sample)
    assert sample.attributes == {"url": "http://p", "similarities": [0.5] * 3, "urls": ["http://e/0.png", "http://e/1.png", "http://e/2.png"]}


def test_order_within_a_sentence_is_that_of_the_list() -> None:
    assert placed(["a", "b"], [(1, 0), (0, 1), (1, 2)], "before") == [Show(picture=1), Text(text="a"), Show(picture=0), Show(picture=2), Text(text="b")]


def test_pictures_that_are_less_similar_or_too_many_are_left_out_and_counted(tmp_path: Path) -> None:
    put_pictures(tmp_path, *(f"{k}.png" for k in range(4)))
    put_pages(
        tmp_path, {"text_list": ["s0", "s1"], "image_info": [info("0.png", 0, 0.3), info("1.png", 1, 0.9), info("2.png", 1, 0.239), info("3.png", 0, 0.25)]}
    )
    warning, sample = Mmc4(most_pictures=2).read(tmp_path)
    assert isinstance(warning, Problem) and warning.severity == "warn" and warning.found == "2 pictures less similar than 0.24, or beyond 2"
    assert said(sample) == "<0>s0<1>s1" and isinstance(sample, Sample) and [picture.name for picture in sample.pictures] == ["0.png", "1.png"]
    (_, text_only) = Mmc4(least_similarity=2).read(tmp_path)
    assert said(text_only) == "s0 s1"


@pytest.mark.parametrize(
    ("row", "code", "found"),
    [
        ({"text_list": ["s"], "image_info": [info("none.png", 0)]}, "picture-by-url", "http://e/none.png, which is not in"),
        ({"text_list": ["s"], "image_info": [info("../a.png", 0)]}, "path-escape", "'../a.png' leads out of"),
        ({"text_list": ["s"], "image_info": [info("0.png", 1)]}, "wrong-shape", "matched_text_index 1 and"),
        ({"text_list": ["s"], "image_info": [info("0.png", True)]}, "wrong-shape", "matched_text_index True"),
        ({"text_list": ["s"], "image_info": [{**info("0.png", 0), "matched_sim": "x"}]}, "wrong-shape", "matched_sim 'x'"),
        ({"text_list": ["s", 3], "image_info": []}, "wrong-shape", "without lists"),
        ({"text_list": [], "image_info": []}, "wrong-shape", "without lists"),
        ({"text_list": [" "], "image_info": []}, "empty-answer", "is empty"),
    ],
)
def test_bad_pages_are_named(tmp_path: Path, row: dict[str, Any], code: str, found: str) -> None:
    put_pictures(tmp_path, "0.png")
    put_pages(tmp_path, row)
    (problem,) = Mmc4().read(tmp_path)
    assert isinstance(problem, Problem) and problem.code.partition("/")[2] == code and found in problem.found


def test_a_picture_may_be_named_by_its_address(tmp_path: Path) -> None:
    address = "http://e/x.jpg?size=1"
    put_pictures(tmp_path, hashlib.sha256(address.encode()).hexdigest() + ".png")
    put_pages(tmp_path, {"text_list": ["s"], "image_info": [{**info("x.jpg", 0), "raw_url": address}]})
    put_web(tmp_path / "web", {"images": [address, None], "texts": [None, "t"], "general_metadata": "{}"}, {"images": ["http://e/y.jpg"], "texts": [None]})
    (page,) = Mmc4().read(tmp_path)
    assert said(page) == "<0>s"
    shown, problem = Obelics(pictures="../images").read(tmp_path / "web")
    assert said(shown) == "<0>t" and isinstance(shown, Sample) and shown.attributes == {"urls": [address], "general_metadata": "{}"}
    assert isinstance(problem, Problem) and problem.code == "data/picture-by-url"
    assert hashlib.sha256(b"http://e/y.jpg").hexdigest() + ".jpg" in problem.fix and "nothing is fetched" in problem.allowed


def test_two_lists_become_one_document(tmp_path: Path) -> None:
    put_pictures(tmp_path, "u1.png", "u2.png")
    put_web(tmp_path, {"images": ["u1.png", None, "u2.png"], "texts": [None, "t", None]}, {"images": [None], "texts": ["only text"]})
    known = Obelics().recognise(tmp_path)
    assert known is not None and known[1] == "train-0.parquet has columns images and texts, both lists of text"
    assert Obelics().annotated(tmp_path) == {tmp_path / "train-0.parquet"}
    first, second = Obelics().read(tmp_path)
    assert said(first) == "<0>t<1>" and said(second) == "only text"
    assert isinstance(first, Sample) and [picture.name for picture in first.pictures] == ["u1.png", "u2.png"] and first.id == "train-0.parquet:0"


@pytest.mark.parametrize(
    ("images", "texts", "found"),
    [
        (["a.png", None], [None, None], "both or neither at 1"),
        (["a.png", "b.png"], ["t", None], "both or neither at 0"),
        (["a.png"], [None, "t"], "images and texts of lengths 1 and 2"),
        ([], [], "images and texts of lengths 0 and 0"),
        (None, ["t"], "images and texts of lengths None and 1"),
        (["../../a.png"], [None], "'../../a.png' leads out of"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, images: list[str | None] | None, texts: list[str | None], found: str) -> None:
    columns = pa.schema([("images", pa.list_(pa.string())), ("texts", pa.list_(pa.string()))])
    pq.write_table(pa.Table.from_pylist([{"images": images, "texts": texts}], columns), tmp_path / "a.parquet")
    (problem,) = Obelics().read(tmp_path)
    assert isinstance(problem, Problem) and found in problem.found


def test_files_that_are_no_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert Obelics().recognise(tmp_path) is None
    (problem,) = Obelics().read(tmp_path / "a.parquet")
    assert isinstance(problem, Problem) and problem.code == "data/broken-parquet"
    with pytest.raises(Refused, match=r"data/no-tables (.|\n)*columns images and texts"):
        list(Obelics().read(tmp_path))


WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(lambda text: text.strip())


@st.composite
def pages(draw: st.DrawFn, ends: bool) -> tuple[tuple[Item, ...], tuple[Picture, ...]]:
    """Texts and pictures in turn; `ends` allows pictures at the end."""
    items: list[Item] = []
    count = 0
    for text in draw(st.lists(WORDS, min_size=1, max_size=3)):
        for _ in range(draw(st.integers(1 if items else 0, 1 if count else 2))):
            items.append(Show(picture=count))
            count += 1
        items.append(Text(text=text))
    if ends and draw(st.booleans()):
        items.append(Show(picture=count))
        count += 1
    return tuple(items), PICTURES[:count]


def sample_of(page: tuple[tuple[Item, ...], tuple[Picture, ...]], **attributes: Any) -> Sample:
    items, pictures = page
    return Sample(id="d", pictures=pictures, turns=document(items), attributes=attributes, origin=Origin(source="s", row="f"))


def one(found: list[Sample | Problem]) -> Sample:
    (sample,) = found
    assert isinstance(sample, Sample), str(sample)
    return sample


@given(pages(ends=True))
@settings(deadline=None, max_examples=30)
def test_lists_that_are_written_come_back(tmp_path_factory: pytest.TempPathFactory, page: tuple[tuple[Item, ...], tuple[Picture, ...]]) -> None:
    root = tmp_path_factory.mktemp("obelics")
    sample = sample_of(page, general_metadata="{}")
    assert Obelics().write([sample], root) == []
    back = one(list(Obelics(source="s").read(root)))
    assert (back.id, back.pictures, back.turns, back.attributes) == (sample.id, sample.pictures, sample.turns, sample.attributes)


@given(pages(ends=False))
@settings(deadline=None, max_examples=30)
def test_pages_that_are_written_come_back(tmp_path_factory: pytest.TempPathFactory, page: tuple[tuple[Item, ...], tuple[Picture, ...]]) -> None:
    root = tmp_path_factory.mktemp("mmc4")
    count = len(page[1])
    sample = sample_of(page, url="http://p", **({"similarities": [0.5] * count, "urls": ["http://e"] * count} if count else {}))
    assert Mmc4().write([sample], root) == []
    back = one(list(Mmc4(source="s").read(root)))
    assert (back.id, back.pictures, back.turns, back.attributes) == (sample.id, sample.pictures, sample.turns, sample.attributes)


def test_what_documents_cannot_hold_is_named(tmp_path: Path) -> None:
    ends = sample_of(((Text(text="a"), Show(picture=0)), PICTURES[:1]))
    crossed = sample_of(((Show(picture=1), Show(picture=0), Text(text="a")), PICTURES[:2]))
    twice = sample_of(((Show(picture=0), Show(picture=0), Text(text="a")), PICTURES[:1]))
    chat = Sample(id="c", pictures=PICTURES[:1], origin=Origin(source="s"))
    found = [problem.found.partition(":")[0] for problem in Mmc4().write([ends, crossed, twice, chat], tmp_path)]
    assert found == ["pictures without a sentence behind them, or in another order", "pictures that are not shown, or several times", "a dialogue, or no turns"]
    found = [problem.found.partition(":")[0] for problem in Obelics().write([ends, crossed, twice, chat], tmp_path / "b")]
    assert found == ["pictures in another order than they are shown", "pictures that are not shown, or several times", "a dialogue, or no turns"]
    assert len(list(Obelics().read(tmp_path / "b"))) == 1
