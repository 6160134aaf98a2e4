"""Hostile data sets for every reader: 300 here, 10,000 in `make soak`; and the harness itself, which has to see what misbehaves."""

from __future__ import annotations

import os
import sys
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import hostile_corpus
import soak
from hostile_corpus import Report, Tally, Try, attempt
from hostile_mutations import HOLE, Special, lay_out, tampered
from hostile_paintings import many_scans, painting
from hostile_pictures import Outcome, bombs, encoded, sample_picture
from hostile_sets import kinds, whole

from sightline.data.check.check_config import CheckConfig
from sightline.data.check.looking import glance
from sightline.data.check.row_facts import Exchange, RowFacts
from sightline.data.check.survey import Survey
from sightline.data.check.twin_rules import alike_text
from sightline.data.hashing import signatures
from sightline.data.readers import files
from sightline.data.readers.cauldron import Cauldron
from sightline.data.readers.class_folders import ClassFolders
from sightline.data.readers.llava_json import LlavaJson
from sightline.data.readers.palette_guess import Guess, guess
from sightline.data.readers.reader import Reader, Row
from sightline.data.reading import read_into
from sightline.errors import LONGEST, Problem, Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Sample

TRIES = 7
"""Of each kind: 44 kinds make 308."""


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_hostile_sets_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    tally = Tally()
    hostile_corpus.lowered()
    outcomes = [attempt(Try(kind=kind, number=number), tmp_path, tally) for number in range(TRIES)]
    assert [(outcome.name, outcome.fault) for outcome in outcomes if outcome.fault] == []
    assert sum(tally.ends.values()) == TRIES
    assert hostile_corpus.peak() < hostile_corpus.MEBIBYTES
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_the_sets_are_whole_before_they_are_tampered_with(kind: str, tmp_path: Path) -> None:
    lay_out(dict(whole(kind)), tmp_path / "set")
    reader = kinds()[kind]()
    assert reader.recognise(tmp_path / "set") is not None
    found = list(reader.read(tmp_path / "set"))
    assert any(isinstance(one, Sample) for one in found)
    assert [one for one in found if isinstance(one, Problem) and one.severity == "refuse"] == []


def test_a_try_is_decided_by_its_name() -> None:
    tries = hostile_corpus.tries(seed=3, count=100)
    assert len({str(one) for one in tries}) == 100 and {one.kind for one in tries} == set(kinds())
    for one in tries[:20]:
        assert one.draw()[:2] == one.draw()[:2]
    one = tries[0]
    drawn = {repr(changed.draw()[1]) for changed in (one, replace(one, number=9), replace(one, seed=4))}
    assert len(drawn) == 3


def test_all_sorts_of_tampering_occur_and_can_be_laid_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    done: list[str] = []
    for number in range(150):
        what, contents = tampered(dict(whole("voc-xml" if number % 2 else "llava-json")), rng)
        lay_out(contents, tmp_path / str(number))
        done.append(what)
    said = "\n".join(done)
    for what in ("json", "xml", "painted", "cut", "removed", "a link to", "a pipe", "a folder", "a hole", "renamed", "circle"):
        assert what in said, f"{what} never occurs"
    assert len({painting(rng) for _ in range(50)}) > 40


# the harness sees what misbehaves


class Faulty(LlavaJson):
    """A reader that does one thing wrong."""

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        first, *others = super().rows(path)
        yield from wrong_rows(first, others)


def wrong_rows(first: Row | Problem, others: list[Row | Problem]) -> Iterator[Row | Problem]:
    """Replaced by each test."""
    yield from (first, *others)


def crash(first: Row | Problem, others: list[Row | Problem]) -> Iterator[Row | Problem]:
    raise KeyError("a bug")


def mute(first: Row | Problem, others: list[Row | Problem]) -> Iterator[Row | Problem]:
    yield Problem(code="data/what", place=first.place, found="something")


def slow(first: Row | Problem, others: list[Row | Problem]) -> Iterator[Row | Problem]:
    start = time.process_time()
    while time.process_time() < start + 0.3:
        pass
    yield first


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(crash, "KeyError came through"), (mute, "says too little"), (slow, "took "), (None, "")],
    ids=["crash", "mute", "slow", "none"],
)
def test_a_reader_that_misbehaves_is_found(wrong: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile_corpus, "kinds", lambda: {"llava-json": Faulty})
    monkeypatch.setattr(Try, "draw", lambda one: ("nothing", dict(whole("llava-json")), np.random.default_rng(1)))
    monkeypatch.setattr(hostile_corpus, "SECONDS", 0.25 if wrong is slow else 5.0)
    if wrong is not None:
        monkeypatch.setattr(sys.modules[__name__], "wrong_rows", wrong)
    outcome = attempt(Try(kind="llava-json", number=0), tmp_path, Tally())
    assert said in outcome.fault if said else not outcome.fault


def test_a_row_that_becomes_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Try, "draw", lambda one: ("nothing", dict(whole("class-folders")), np.random.default_rng(1)))
    assert not attempt(Try(kind="class-folders", number=0), tmp_path, Tally()).fault
    monkeypatch.setattr(ClassFolders, "make", lambda *_: [])
    assert "2 rows listed" in attempt(Try(kind="class-folders", number=0), tmp_path, Tally()).fault


def test_processes_that_die_are_faults_and_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report()
    outcomes = list(hostile_corpus.check_all(tmp_path, seed=0, count=3, report=report, workers=1))
    assert len(outcomes) == 3 and [outcome.fault for outcome in outcomes if outcome.fault] == []
    assert 50 < report.mebibytes < hostile_corpus.MEBIBYTES
    assert sum(report.tally.ends.values()) == 3
    (tmp_path / "again").mkdir()
    ends = []

    def silent(scratch: Path, seed: int) -> Any:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        ends.append(theirs)  # a closed end would be a process that died
        process = context.Process(target=time.sleep, args=(60.0,), daemon=True)
        process.start()
        return hostile_corpus._Worker(process=process, tasks=ours)

    monkeypatch.setattr(hostile_corpus, "_started", silent)
    monkeypatch.setattr(hostile_corpus, "PATIENCE", 0.0)
    hung = list(hostile_corpus.check_all(tmp_path / "again", seed=0, count=1, report=Report(), workers=1))
    assert [outcome.fault[:20] for outcome in hung] == ["the process hung for"]


def test_the_line_of_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def few(scratch: Path, seed: int, count: int, report: Report) -> Iterator[Outcome]:
        report.tally.ends.update(read=count - 1, refused=1)
        report.mebibytes, report.slowest = 2000.0, Outcome(name="a:1", seconds=6.0)
        yield from [Outcome(name="a:1", fault="boom"), Outcome(name="a:2")]

    monkeypatch.setattr(hostile_corpus, "check_all", few)
    found = list(soak.corpus(soak.Soak(scratch=tmp_path, sets=2)))
    assert [(figure.name.removeprefix("hostile-corpus"), figure.passed) for figure in found] == [
        ("", False),
        (" read", True),
        (" slowest", False),
        (" memory", False),
    ]


# what the corpus found


@pytest.mark.parametrize(
    "special", [Special(sort="pipe"), Special(sort="link", target="/dev/zero"), Special(sort="hole"), Special(sort="link", target="absent")]
)
@pytest.mark.parametrize("kind", ["dota", "dota-results", "voc-xml", "label-masks", "coco-panoptic", "webdataset", "mme-answers", "sroie", "llava-json"])
def test_what_is_no_plain_file_is_told_and_never_waited_for(kind: str, special: Special, tmp_path: Path) -> None:
    for number, name in enumerate(whole(kind)):
        folder = tmp_path / str(number)
        lay_out({**whole(kind), name: special}, folder)
        reader = kinds()[kind]()
        for known in kinds().values():
            known().recognise(folder)
        assert all(isinstance(one, Sample) or (one.found and one.place) for one in tolerant(reader, folder))


def tolerant(reader: Reader, path: Path) -> list[Sample | Problem]:
    """What a reader makes of a path, a refusal as its problems."""
    try:
        return list(reader.read(path))
    except Refused as refused:
        return list(refused.problems)


def test_text_that_is_no_plain_file_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "hole").open("wb").truncate(HOLE)
    with pytest.raises(Refused, match="no plain file"):
        files.read_text(tmp_path / "pipe")
    with pytest.raises(Refused, match=f"{HOLE} bytes"):
        files.read_text(tmp_path / "hole")
    assert files.head_bytes(tmp_path / "pipe") == b"" and files.head_bytes(tmp_path / "absent") == b""
    assert files.head_bytes(tmp_path / "hole") == bytes(files.HEAD)


def test_a_link_in_a_circle_is_neither_file_nor_folder(tmp_path: Path) -> None:
    lay_out({**whole("class-folders"), "pond/again": Special(sort="link", target="again"), "round": Special(sort="link", target=".")}, tmp_path / "set")
    assert files.has_pictures(tmp_path / "set" / "pond")
    assert not any(folder.name == "again" for folder in files.folders(tmp_path / "set"))
    for reader in kinds().values():
        reader().recognise(tmp_path / "set")


def test_names_that_are_no_utf_8_are_refused_by_their_row(tmp_path: Path) -> None:
    sets = whole("class-folders")
    lay_out({**sets, "ship/\udcb8\udcdb.png": sets["pond/a7.png"]}, tmp_path / "set")
    store = read_into(tmp_path / "set", ClassFolders(), tmp_path / "store", on_problem="quarantine", workers=1)
    assert store.counts() == {"kept": 2, "quarantined": 0, "refused": 1}
    (problem,) = store.refused()
    assert problem.code == "data/not-utf-8-name" and r"\udcb8\udcdb.png" in problem.found and problem.fix == "rename the file"


def test_a_problem_can_be_printed_and_is_short_whatever_it_quotes() -> None:
    problem = Problem(code="a/b", place="folder/\udcff\u6e2f.png", found="x" * (3 << 20), fix="y")
    assert problem.place == r"folder/\udcff" + "\u6e2f.png"
    assert len(str(problem).encode()) < LONGEST + 200 and "(3145728 characters)" in problem.found


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    column = pa.array([[{"user": "a", "assistant": "b"}]])
    pq.write_table(pa.table([column, column, column], ["images", "texts", "texts"]), tmp_path / "t.parquet")
    for reader in kinds().values():
        assert reader().recognise(tmp_path) is None
    (problem,) = Cauldron().rows(tmp_path / "t.parquet")
    assert isinstance(problem, Problem) and "several columns 'texts'" in problem.found


@pytest.mark.parametrize("kind", ["dota", "voc-xml"])
def test_flags_of_regions_are_written_as_numbers_or_told(kind: str, tmp_path: Path) -> None:
    (sample,) = list(kinds()["dota"]().read(_one_ship(tmp_path)))
    assert isinstance(sample, Sample)
    for value, flag, lost in ((True, 1, False), (False, 0, False), (2, 2, False), ("hard", 0, True), (None, 0, True), (-1, 0, True)):
        region = replace(sample.annotations[0], attributes={"difficult": value})
        out = tmp_path / f"{kind}-{value}"
        told = kinds()[kind]().write([replace(sample, annotations=(region,))], out)
        (again,) = [one for one in kinds()[kind]().read(out) if isinstance(one, Sample)]
        assert again.annotations[0].attributes["difficult"] == flag
        assert any("attributes of regions" in problem.found for problem in told) is lost


def _one_ship(folder: Path) -> Path:
    sets = whole("dota")
    lay_out(
        {"labelTxt/a.txt": b"1 1 9 1 9 6 1 6 ship 0\n", "images/a.png": next(data for name, data in sets.items() if name.endswith(".png"))}, folder / "ship"
    )
    return folder / "ship"


@pytest.mark.parametrize("text", ["[1e400]", '{"a": -1e999}', "[NaN]", "[Infinity]", "[" + "9" * 400 + ".0]"])
def test_numbers_without_end_are_no_json(text: str) -> None:
    with pytest.raises(ValueError, match="is no JSON number"):
        files.parse_json(text)
    assert files.parse_json("[1e308, 0.5, 1e-400]") == [1e308, 0.5, 0.0]


def test_a_problem_always_says_what_was_found() -> None:
    assert files.refuse("a", "b", "", "c", "d").found == "an empty text"


def text_facts(count: int, text: str) -> Survey:
    """Rows of text that all say the same, and one that says nearly the same."""
    said = [text] * count + [text + " now"]
    rows = [RowFacts(place=str(number), data_set=0, number=number, exchanges=(Exchange(question=one, answers=("yes",)),)) for number, one in enumerate(said)]
    return Survey(config=CheckConfig(), rows=rows, names=["s"], roles=["own"])


def test_texts_that_are_equal_are_not_compared_pair_by_pair() -> None:
    start = time.thread_time()
    (finding,) = alike_text(text_facts(3000, "Name one thing that swims in a pond and is no duck"))
    assert time.thread_time() - start < 15.0
    assert (finding.row, finding.other) == (3000, 0)


def test_a_huge_text_is_compared_in_bounded_memory() -> None:
    tracemalloc.start()
    signatures(["pond " * 400_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 << 20


def test_a_look_costs_no_more_than_a_reading() -> None:
    start = time.thread_time()
    for data in (many_scans(np.random.default_rng(0)), *(data for name, data in bombs().items() if "256 MiB" not in name)):
        with pytest.raises(Refused):
            describe(data, "a", "b")
        assert glance(data, "a") is None
    assert time.thread_time() - start < 20.0


def test_masks_of_numbers_and_of_colours_in_one_set(tmp_path: Path) -> None:
    sets = {name: data for name, data in whole("label-masks").items() if name.startswith(("images", "masks"))}
    masks = sorted(name for name in sets if name.startswith("masks"))
    for number, name in enumerate(masks):
        sets[name] = encoded(sample_picture() if number % 2 else sample_picture().convert("L"), "PNG")
    lay_out(dict(sets), tmp_path / "set")
    for reader in kinds().values():
        reader().recognise(tmp_path / "set")
    assert isinstance(guess(tmp_path / "set", masks), Guess)


def test_text_of_a_table_that_is_no_utf_8_is_refused(tmp_path: Path) -> None:
    column = pa.array([b"\xcf\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"images": pa.array([[b""]]), "texts": column}), tmp_path / "t.parquet")
    (problem,) = Cauldron().read(tmp_path / "t.parquet")
    assert isinstance(problem, Problem) and problem.code == "data/not-utf-8" and problem.place.endswith("t.parquet:row 0")
