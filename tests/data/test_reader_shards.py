"""Tar shards: which members are one sample, captions and their sources, hostile archives, and the way back."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sightline.data.readers.caption_reader import caption_turns
from sightline.data.readers.tar_members import Member, members
from sightline.data.readers.webdataset import Webdataset, grouped
from sightline.errors import Problem, Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Sample, Text


def png(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 12), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def put(file: Path, *entries: tuple[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(file, "w", format=format) as shard:
        for name, data in entries:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return file


def groups(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    found = grouped((Member(name=name, offset=0, size=0) for name in names), "p")
    return [(group[0], list(group[1])) for group in found if not isinstance(group, Problem)]


def problems(root: Path) -> list[Problem]:
    return [found for found in Webdataset().read(root) if isinstance(found, Problem)]


def one(root: Path) -> Sample:
    (sample,) = Webdataset().read(root)
    assert isinstance(sample, Sample), str(sample)
    return sample


def test_members_of_one_key_are_one_sample() -> None:
    names = ["000.jpg", "000.txt", "000.JSON", "001.jpg", "001.txt", "001.jpg", "001.txt", "a.b.jpg", "a.b.txt"]
    assert groups(names) == [("000", ["jpg", "txt", "json"]), ("001", ["jpg", "txt"]), ("001", ["jpg", "txt"]), ("a", ["b.jpg", "b.txt"])]
    assert groups(["x/1.jpg", "y/1.jpg", "y.z/1.txt"]) == [("x/1", ["jpg"]), ("y/1", ["jpg"]), ("y.z/1", ["txt"])]


def test_names_without_a_key_or_a_suffix_are_problems() -> None:
    found = list(grouped((Member(name=name, offset=0, size=0) for name in ("README", "._1.jpg", "1.jpg")), "p"))
    assert [problem.found for problem in found if isinstance(problem, Problem)] == ["'README'", "'._1.jpg'"] and len(found) == 3


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("name", ["1.jpg", "d" * 90 + "/" + "e" * 60 + ".jpg", "\u6c34.jpg"])
def test_members_are_those_of_the_library(tmp_path: Path, format: int, name: str) -> None:
    file = put(tmp_path / "a.tar", (name, b"x" * 700), ("last.txt", b""), format=format)
    with tarfile.open(file) as shard:
        known = [Member(name=info.name, offset=info.offset_data, size=info.size) for info in shard.getmembers()]
    assert list(members(file)) == known


def test_captions_from_text_json_and_lists(tmp_path: Path) -> None:
    meta = {"caption": "a pond", "url": "http://e/1", "similarity": 0.31, "exif": "{}", "key": "1"}
    put(
        tmp_path / "rs3-val-0000.tar",
        ("1.png", png()),
        ("1.txt", b"a pond"),
        ("1.json", json.dumps(meta).encode()),
        ("2.img_content", png(1)),
        ("2.img_name", b"airport_1.png"),
        ("2.caption", b"an airport"),
        ("3.png", png(2)),
        ("3.json", json.dumps([{"caption": "b"}, {"caption": "c"}, {"caption": "b"}]).encode()),
    )
    known = Webdataset().recognise(tmp_path)
    assert known is not None and known[1] == "rs3-val-0000.tar is a tar file whose first member has the key '1' and the suffix 'png'"
    first, second, third = (found for found in Webdataset().read(tmp_path) if isinstance(found, Sample))
    assert first.attributes == {"url": "http://e/1", "similarity": 0.31, "split": "val", "references": ["a pond"]} and first.text(1) == "a pond"
    assert second.pictures[0].name == "airport_1.png" and second.text(1) == "an airport" and second.origin.row == "rs3-val-0000.tar:1"
    assert third.attributes["references"] == ["b", "c", "b"] and third.turns[1].alternatives == ((Text(text="c"),),)


def test_a_key_that_comes_again_is_another_sample(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", *[entry for shade in range(2) for entry in (("1.png", png(shade)), ("1.txt", b"x"))])
    put(tmp_path / "b.tar", ("1.png", png(2)), ("1.txt", b"y"))
    assert [found.id for found in Webdataset().read(tmp_path) if isinstance(found, Sample)] == ["1", "1#1", "1#2"]


class Evil:
    """Whoever unpickles this raises."""

    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was opened",))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", ("1.png", png()), ("1.txt", b"x"), ("1.pkl", pickle.dumps(Evil())))
    (problem,) = problems(tmp_path)
    assert problem.code == "data/pickle-member" and problem.found == "pkl" and "would run its code" in problem.fix


def test_what_is_no_plain_file_inside_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as shard:
        for name, kind, link in (
            ("1.txt", tarfile.SYMTYPE, "/etc/passwd"),
            ("2.txt", tarfile.LNKTYPE, "1.txt"),
            ("3.txt", tarfile.CHRTYPE, ""),
            ("d", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            shard.addfile(info)
        for name in ("/etc/4.png", "../5.png", "a/../../6.png", "C:\\7.png", "8\n.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png())
            shard.addfile(info, io.BytesIO(png()))
    found = problems(tmp_path)
    assert [problem.code.removeprefix("data/") for problem in found] == ["tar-member"] * 3 + ["path-escape"] * 4 + ["tar-member"]
    assert found[0].found == "'1.txt' is a symbolic link" and "'/etc/4.png' leads out of the archive" in found[3].found


def header(name: str, size: int, kind: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("data", "code", "found"),
    [
        (header("1.png", 1 << 40) + b"x" * 512, "broken-tar", "1099511627776 bytes of content, 512 in the file"),
        (header("x", 1 << 30, b"L") + b"x" * 512, "broken-tar", "1073741824 bytes of content"),
        (header("x", 1 << 17, b"L") + b"x" * (1 << 17), "tar-header", "an extended header of 131072 bytes"),
        (header("x", 1 << 17, b"x") + b"x" * (1 << 17), "tar-header", "an extended header of 131072 bytes"),
        (b"\x1f\x8b" + b"x" * 510, "broken-tar", "no tar header"),
        (header("1.png", 10)[:300], "broken-tar", "no tar header"),
        (header("1.png", 10).replace(b"1.png", b"2.png"), "broken-tar", "no tar header"),
        (header("1.png", 10), "broken-tar", "10 bytes of content, 0 in the file"),
    ],
)
def test_broken_and_hostile_archives(tmp_path: Path, data: bytes, code: str, found: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    (problem,) = members(tmp_path / "a.tar")
    assert isinstance(problem, Problem) and problem.code == f"data/{code}" and found in problem.found


def test_members_beyond_measure_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    with file.open("wb") as stream:
        stream.write(header("1.png", 300 << 20))
        stream.truncate(512 + (300 << 20))  # a hole: no bytes on disk
    (problem,) = members(file)
    assert isinstance(problem, Problem) and problem.code == "data/tar-member" and f"has {300 << 20} bytes" in problem.found


@given(st.binary(max_size=2000) | st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=40)))
@settings(deadline=None, max_examples=60)
def test_any_bytes_end_in_members_or_problems(tmp_path_factory: pytest.TempPathFactory, change: bytes | tuple[int, bytes]) -> None:
    file = tmp_path_factory.mktemp("shards") / "a.tar"
    whole = header("1.txt", 5) + b"hello".ljust(512, b"\0") + header("2.txt", 3) + b"you".ljust(512, b"\0") + bytes(1024)
    file.write_bytes(change if isinstance(change, bytes) else whole[: change[0]] + change[1] + whole[change[0] + len(change[1]) :])
    for member in members(file):
        assert isinstance(member, Problem) or member.offset + member.size <= file.stat().st_size


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([("1.txt", b"x")], "data/picture-count"),
        ([("1.png", png()), ("1.jpg", png()), ("1.txt", b"x")], "data/picture-count"),
        ([("1.png", png()), ("1.txt", b"\xff")], "data/not-utf-8"),
        ([("1.png", png()), ("1.json", b"{")], "data/not-json"),
        ([("1.png", png()), ("1.json", b'{"caption": 3}')], "data/wrong-shape"),
        ([("1.png", png()), ("1.txt", b" ")], "data/empty-caption"),
        ([("1.png", png()), ("1.cls", b"3")], "data/empty-caption"),
        ([("1.png", png()[:50]), ("1.txt", b"x")], "samples/broken-picture"),
    ],
)
def test_samples_that_cannot_be_read(tmp_path: Path, entries: list[tuple[str, bytes]], code: str) -> None:
    put(tmp_path / "a.tar", *entries)
    assert code in {problem.code for problem in problems(tmp_path)}


def test_members_that_are_not_read_are_named(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", ("1.png", png()), ("1.txt", b"x"), ("1.exif", b"?"))
    warning, sample = Webdataset().read(tmp_path)
    assert isinstance(warning, Problem) and (warning.severity, warning.found) == ("warn", "exif") and isinstance(sample, Sample)


def test_a_shard_that_is_shorter_than_listed(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", ("1.png", png()), ("1.txt", b"x"))
    (tmp_path / "sizes.json").write_text('{"a.tar": 2}')
    (problem,) = problems(tmp_path)
    assert problem.code == "data/shard-size" and problem.found == "1 samples" and problem.allowed == "2, as sizes.json says"


def test_compressed_shards_are_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", ("1.png", png()), ("1.txt", b"x"))
    (tmp_path / "b.tar.gz").write_bytes(b"\x1f\x8b")
    (problem,) = problems(tmp_path)
    assert problem.code == "data/compressed-shard" and problem.place.endswith("b.tar.gz")


def test_no_shards(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"data/no-shards (.|\n)*no .tar file"):
        list(Webdataset().read(tmp_path))


CAPTIONS = st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20).filter(lambda text: text.strip()), min_size=1, max_size=4)


@given(st.lists(st.tuples(CAPTIONS, st.sampled_from(["train", "val", None])), min_size=1, max_size=5))
@settings(deadline=None, max_examples=25)
def test_what_is_written_comes_back(tmp_path_factory: pytest.TempPathFactory, things: list[tuple[list[str], str | None]]) -> None:
    samples = []
    for number, (captions, split) in enumerate(things):
        attributes = {"url": f"http://e/{number}", "references": captions, **({"split": split} if split else {})}
        picture = describe(png(number), f"odd name {number}.png" if number % 2 else f"k{number}.png", "p")
        samples.append(Sample(id=f"k{number}", pictures=(picture,), turns=caption_turns(captions), attributes=attributes, origin=Origin(source="s")))
    root = tmp_path_factory.mktemp("shards")
    assert Webdataset(shard_rows=2).write(samples, root) == []
    back = sorted((found for found in Webdataset(source="s").read(root) if isinstance(found, Sample)), key=lambda sample: sample.id)
    assert [replace(sample, origin=Origin(source="s")) for sample in back] == samples
    assert sum(json.loads((root / "sizes.json").read_text()).values()) == len(samples)


def test_what_shards_cannot_hold_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a.tar", ("1.png", png()), ("1.txt", b"x"))
    sample = one(tmp_path)
    odd = replace(sample, id="a/b.c", attributes={"references": ["x"], "kind": "k"})
    found = [problem.found for problem in Webdataset().write([sample, odd, replace(sample, pictures=(), turns=())], tmp_path / "b")]
    assert found == [
        "ids: 1 sample written without",
        "attributes: 1 sample written without",
        "more, or less, than captions of one picture: 1 sample not written",
    ]
