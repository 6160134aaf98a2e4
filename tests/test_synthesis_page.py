"""`sightline data synthesize`: store to store, the page of examples, what is printed, and what is refused."""

from __future__ import annotations

import io
import json
import re
from argparse import ArgumentParser
from pathlib import Path

import pytest
from PIL import Image

from sightline.cli.synthesize_verb import synthesize
from sightline.errors import Refused
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Region, RotatedBox, Sample
from sightline.samples.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with Store.writer(tmp_path / "boxes") as writer:
        for number, labels in enumerate((("car", "car", "ship"), ("ship",), ("car", "bus"))):
            stream = io.BytesIO()
            Image.new("RGB", (300, 200), (number, 90, 60)).save(stream, "PNG")
            regions = tuple(Region(label=label, shape=RotatedBox(cx=50 + 80 * k, cy=60, w=50, h=20, theta=15)) for k, label in enumerate(labels))
            origin = Origin(source="<boxes>")
            writer.add(Sample(id=str(number), pictures=(describe(stream.getvalue(), "p.png", "here"),), annotations=regions, origin=origin))
    return tmp_path / "boxes"


def verb(*words: object) -> int:
    parser = ArgumentParser()
    synthesize(parser)
    arguments = parser.parse_args([str(word) for word in words])
    return arguments.action(arguments)


def test_the_verb_writes_a_store_a_page_and_what_is_not_reached(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert verb(store, tmp_path / "out", "--page", page, "--languages", "en") == 0
    said = capsys.readouterr().out
    assert "no question reaches 0.0% of 6 objects" in said and "0 quarantined" in said
    made = Store.open(tmp_path / "out")
    assert len(made) == said_kept(said) and all(row.origin.maker.startswith("template:") for row in made)
    text = page.read_text(encoding="utf-8")
    assert text.count('<div class="card">') == min(60, len(made)) and "&lt;boxes&gt;" in text and "<boxes>" not in text
    assert re.search(r"\{\d+,\d+,\d+,\d+,-?\d+\}", text)


def said_kept(said: str) -> int:
    found = re.search(r"(\d+) kept", said)
    assert found
    return int(found[1])


def test_json_holds_counts_and_coverage(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb(store, tmp_path / "out", "--kinds", "grounding=1,list", "--tile", 150, "--gap", 60, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert [operator["operator"] for operator in record["operators"]] == ["tile", "synthesize"]
    assert record["coverage"]["objects"] == sum(row["objects"] for row in record["coverage"]["rows"]) > 0
    made = Store.open(tmp_path / "out")
    assert {made[int(row)].attributes["kind"] for row in made.kept} == {"grounding", "list"}


def test_a_statistics_file_is_written_once_and_read_again(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    verb(store, tmp_path / "one", "--statistics", file)
    before = file.read_text(encoding="utf-8")
    assert json.loads(before)["<boxes>"]["labels"] == {"bus": 1, "car": 2, "ship": 2}
    verb(store, tmp_path / "two", "--statistics", file)
    assert file.read_text(encoding="utf-8") == before
    assert Store.open(tmp_path / "one").id == Store.open(tmp_path / "two").id


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kinds", "riddle"), "riddle"),
        (("--kinds", "list=x"), "whole number"),
        (("--languages", "en,fr"), "'zh'"),
        (("--tile", "64", "--gap", "64"), "would not move on"),
        (("--labels", "none.csv"), "none.csv"),
        (("--phrasings", "none.yaml"), "none.yaml"),
    ],
)
def test_wrong_options_are_refused_with_what_is_allowed(store: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refused) as refused:
        verb(store, tmp_path / "out", *words)
    assert said in "\n".join(map(str, refused.value.problems))
    assert not (tmp_path / "out").exists()


def test_a_store_is_never_written_over_its_source(store: Path) -> None:
    with pytest.raises(Refused, match="same-folder"):
        verb(store, store)
