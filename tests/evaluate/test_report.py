"""The report says the same numbers twice, names what fails, shows pictures, and cannot be made to run anything."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.errors import Problem
from sightline.evaluate.asking import Judged, Scores
from sightline.evaluate.metrics import Value, share
from sightline.evaluate.report import best_of, draw, examples, shown, worst_of, write_report
from sightline.evaluate.run_facts import Example, Gate, PartFacts, Report, ScoreTable, StageFacts
from sightline.page import Html, Page, bar, chart, table
from sightline.samples.exchange import Request
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Sample, Show, Text, Turn

KINDS = {"presence": 0.988, "labels": 0.935, "where": 0.672, "count": 0.818, "count-not-one": 0.738, "ground": 1.0, "at": 0.938}
CONTROLS = {
    "no picture": (0.508, 0.062, 0.267, 0.423, 0.0, 0.308, 0.422),
    "shuffled": (0.492, 0.03, 0.215, 0.333, 0.16, 0.235, 0.225),
    "majority": (0.508, 0.085, 0.279, 0.423, 0.0, 0.308, 0.422),
    "thumbnail probe": (0.71, 0.21, 0.66, 0.44, 0.71, 0.99, 0.46),
}


def drawn(seed: int, side: int = 96, form: str = "PNG") -> bytes:
    rng = np.random.default_rng(seed)
    ground = np.array([[150, 130, 95], [88, 110, 60], [60, 85, 50]][seed % 3])
    pixels = np.clip(ground + rng.normal(0, 9, (side, side, 1)), 0, 255).astype(np.uint8)
    x, y = rng.integers(8, side - 40, 2)
    pixels[y : y + 24, x : x + 32] = (70, 110, 150)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def judged(number: int, kind: str, expected: str, given: str, score: float, probability: float | None = None) -> Judged:
    return Judged(request=f"s{number}#0", kind=kind, expected=(expected,), given=given, score=score, probability=probability)


ANSWERS = (
    judged(0, "count", "two", "one", 0.0, 0.61),
    judged(1, "count", "two", "one", 0.0, 0.93),
    judged(2, "where", "northwest", "southwest", 0.0, 0.44),
    judged(3, "labels", "pond, road", "pond", 0.0, 0.88),
    judged(4, "presence", "yes", "yes", 1.0, 0.99),
    judged(5, "labels", "building, pond, road, vehicle", "building, pond, road, vehicle", 1.0, 0.91),
)


def scores(values: tuple[float, ...], rows: tuple[Judged, ...] = ()) -> Scores:
    found = {name: share(round(400 * value), 400) for name, value in zip(KINDS, values)}
    return Scores(
        metrics={"all": share(round(400 * float(np.mean(values))), 400), **found},
        habits={"same-answer count": share(310, 400), "cut-off": share(0, 400)},
        per_request=rows,
    )


def demo() -> Report:
    """A run with everything: what a reader of the page would meet."""
    curve = [(step, 3.2 * 0.99 ** (step / 3) + 0.2) for step in range(0, 660, 10)]
    example = lambda row: Example(picture=drawn(int(row.request[1])), prompt=f"what about <b>{row.kind}</b>?", judged=row)  # noqa: E731
    captions = Scores(
        metrics={"bleu-4": Value(0.31, 0.28, 0.34, 300), "rouge-l": Value(0.49, 0.47, 0.51, 300), "cider": Value(1.42, 1.21, 1.63, 300)},
        habits={"rep-2": Value(0.02, 0.01, 0.03, 300)},
    )
    return Report(
        recipe="quickstart",
        description="A vision-language model from scratch on made scenes.",
        created="2026-01-02 03:04",
        machine="2 cores, no accelerator",
        seconds={"data": 12.0, "eye": 73.0, "words": 31.0, "align": 10.0, "instruct": 101.0, "evaluate": 14.5},
        stages=[
            StageFacts(name="eye", objective="contrastive", steps=350, seconds=73.0, losses={"contrastive": curve, "tag": [(x, y / 3) for x, y in curve]}),
            StageFacts(
                name="instruct", objective="answer-likelihood", steps=1500, seconds=101.0, losses={"answer": curve}, note="language model and connector"
            ),
        ],
        tables=[
            ScoreTable(
                name="Questions on held-out scenes",
                scores=scores(tuple(KINDS.values()), ANSWERS),
                controls={name: scores(values) for name, values in CONTROLS.items()},
                note="400 scenes that no stage has seen.",
            ),
            ScoreTable(
                name="Captions", scores=captions, controls={"commonest caption": Scores(metrics={"cider": Value(0.4, 0.3, 0.5, 300)})}, headline=("cider",)
            ),
        ],
        gates=[
            Gate(name="text notes: presence", value=0.97, wanted=0.9),
            Gate(name="text notes: where", value=0.62, wanted=0.7, meaning="look-up in text is not learnt"),
        ],
        worst=[example(row) for row in worst_of(scores(tuple(KINDS.values()), ANSWERS))],
        best=[example(row) for row in best_of(scores(tuple(KINDS.values()), ANSWERS))],
        problems=[
            Problem(code="data/duplicate", place="scenes:17", found="2 equal pictures", allowed="each once", fix="sightline data dedup", severity="warn")
        ],
        parameters=[
            PartFacts(path="encoders.eye", parameters=481_024, trained={"eye": "full, 2e-3"}),
            PartFacts(path="language_model", parameters=502_400, trained={"instruct": "full, 2e-3"}),
        ],
        lineage={"recipe": "3f" * 32, "model": "9a" * 32},
        commands=['sightline chat runs/quickstart --image tile.png "is there a pond?"'],
    )


class Tags(HTMLParser):
    """Collects tags, and whatever stays open at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.links.extend(value or "" for name, value in attrs if name in ("src", "href") or name.startswith("on"))
        if tag not in ("meta", "img", "br", "line", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "polyline"):
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)


def read(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


def test_the_page_is_whole_and_self_contained(tmp_path: Path) -> None:
    path = write_report(demo(), tmp_path)
    page = path.read_text()
    tags = read(page)
    assert tags.open == [] and "script" not in tags.names and "link" not in tags.names
    assert tags.links and all(link.startswith("data:image/png;base64,") for link in tags.links)
    assert "&lt;b&gt;count&lt;/b&gt;" in page and "<b>count</b>?" not in page
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    assert tags.names.count("svg") == 2 and tags.names.count("img") == 6


def test_the_first_screen_answers_good_where_it_fails_and_against_what() -> None:
    page = "".join(draw(demo()).parts)
    first = re.sub(r"<[^>]+>", " ", page[: page.index("Gates")])
    assert "6 of 9 scores stand clearly above every control" in first and "1 of 2 gates failed" in first and "Problems: 1" in first
    assert re.search(r"where\s+67\.2\s*:\s+not clearly above\s+thumbnail probe 66\.0", first)
    assert re.search(r"lowest:\s+where\s+67\.2", first)
    assert "2 times in" in first and "&#x27;two&#x27; was answered &#x27;one&#x27;" in first
    assert "1.42" in first and "best control: commonest caption 0.40" in first


def test_standing_against_controls() -> None:
    rows = {row.name: row for row in demo().tables[0].rows()}
    assert {name: row.standing for name, row in rows.items()} == {
        "all": "above",
        "presence": "above",
        "labels": "above",
        "where": "unclear",
        "count": "above",
        "count-not-one": "unclear",
        "ground": "unclear",
        "at": "above",
    }
    assert rows["where"].best == "thumbnail probe" and rows["presence"].best == "thumbnail probe"
    beaten = ScoreTable(name="x", scores=Scores(metrics={"all": share(5, 10)}), controls={"majority": Scores(metrics={"all": share(5, 10)})}).rows()[0]
    alone = ScoreTable(name="x", scores=Scores(metrics={"all": share(5, 10)})).rows()[0]
    assert (beaten.standing, alone.standing, alone.best) == ("not above", "alone", "")


def test_the_json_holds_the_same_numbers(tmp_path: Path) -> None:
    write_report(demo(), tmp_path)
    record = json.loads((tmp_path / "report.json").read_text())
    where = record["benchmarks"]["Questions on held-out scenes"]["metrics"]["where"]
    page = (tmp_path / "report.html").read_text()
    for value in (where["value"], where["low"], where["high"], where["controls"]["shuffled"]["value"]):
        assert f"{100 * value:.1f}" in page
    assert where["standing"] == "unclear" and where["best_control"] == "thumbnail probe"
    assert record["gates"][1]["passed"] is False and record["seconds"]["eye"] == 73.0
    assert record["worst"][0]["prompt"] == "what about <b>count</b>?" and len(record["worst"][0]["picture"]) == 64
    assert record["stages"][0]["losses"]["tag"][0] == [0, pytest.approx(3.4 / 3)]


def test_worst_answers_take_the_kinds_in_turn_and_the_surest_first() -> None:
    worst = worst_of(Scores(metrics={}, per_request=ANSWERS))
    assert [(row.kind, row.probability) for row in worst] == [("count", 0.93), ("labels", 0.88), ("where", 0.44), ("count", 0.61)]
    assert [row.request for row in worst_of(Scores(metrics={}, per_request=ANSWERS), 2)] == ["s1#0", "s3#0"]
    assert [row.request for row in best_of(Scores(metrics={}, per_request=ANSWERS))] == ["s5#0", "s4#0"]


def test_an_empty_report_says_that_nothing_was_measured(tmp_path: Path) -> None:
    page = write_report(Report(recipe="bare"), tmp_path).read_text()
    assert "cannot say whether the model sees" in page and read(page).open == []


def test_examples_bring_their_picture_and_prompt() -> None:
    sample = Sample(
        id="s4#0",
        pictures=(describe(drawn(4), "4.png", "here"),),
        turns=(Turn(role="user", items=(Show(), Text(text="is there a pond?"))),),
        origin=Origin(source="test"),
    )
    blind = Sample(id="s0#0", turns=(Turn(role="user", items=(Text(text="how many?"),)),), origin=Origin(source="test"))
    found = examples([ANSWERS[4], ANSWERS[0]], [Request(sample=sample), Request(sample=blind)])
    assert (found[0].picture, found[0].prompt, found[0].judged) == (drawn(4), "is there a pond?", ANSWERS[4])
    assert found[1].picture is None


def test_large_and_strange_pictures_are_shown_smaller(tmp_path: Path) -> None:
    large = shown(describe(drawn(1, side=1200, form="TIFF"), "1.tif", "here"))
    assert large.startswith(b"\xff\xd8\xff") and Image.open(io.BytesIO(large)).size == (480, 480)
    (tmp_path / "a.png").write_bytes(drawn(2))
    stored = describe(drawn(2), "a.png", "here")
    by_path = shown(type(stored)(hash=stored.hash, width=96, height=96, data="a.png"), tmp_path)
    assert Image.open(io.BytesIO(by_path)).size == (96, 96)
    assert shown(stored) == drawn(2)


def test_page_pieces(tmp_path: Path) -> None:
    assert "&lt;i&gt;" in table(("<i>",), [("x",)]) and "<i>" in table((Html("<i></i>"),), [])
    assert "left:100.0%" in bar(0.5, 0.4, 0.6, [("none", None), ("over", 1.7)], "a") and "nothing was recorded" in chart({}, "loss")
    flat = chart({"a": [(3, 0.0)], "b": [(3, 0.0)]}, "one point")
    assert "nan" not in flat and flat.count("<polyline") == 2
    page = Page("a < b")
    page.write(tmp_path / "page.html")
    assert "<title>a &lt; b</title>" in (tmp_path / "page.html").read_text()
