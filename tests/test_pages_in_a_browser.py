"""The failure report and the review page in a real browser: what is drawn where, at desktop and phone width, and what clicks and keys do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chromium import Chromium
from sightline.cli.main import main
from sightline.evaluate.failures.evidence import Case, Evidence
from sightline.failure_page import draw
from sightline.failure_report import FailureReport, report
from sightline.failure_review import KEY, PAGE, write_review
from sightline.samples.exchange import Answer
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Region, Regions, RotatedBox, Sample, Show, Text, Turn
from sightline.samples.store import Store
from sightline.training_rows import TrainingRows

pytestmark = pytest.mark.slow
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


def png(seed: int, width: int = 64, height: int = 48) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def cases(count: int, given: Sequence[str] = ("yes",), boxes: bool = False) -> list[Case]:
    """Questions whose right answer is no, or a box; answers say yes, or a box beside it."""
    found = []
    there, said = (Regions(regions=(Region(shape=RotatedBox(cx=x, cy=24, w=20, h=8, theta=0)),)) for x in (20, 26))
    for number in range(count):
        picture = describe(png(number), f"{number}.png", "made")
        turn = Turn(role="user", items=(Show(), Text(text="where is it?" if boxes else f"is there a ship {HOSTILE}?")))
        asked = Sample(id=f"{number}{HOSTILE}", pictures=(picture,), turns=(turn,), origin=Origin(source="made"))
        text = given[number % len(given)]
        answer = Answer(key="", sample=asked.id, weights="", text=text, items=(said,) if boxes else (), logps=(-0.1,))
        right, reply = ((), Turn(role="assistant", items=(there,))) if boxes else (("no",), None)
        kind = f"presence {HOSTILE}"
        found.append(Case(evaluation=f"test {HOSTILE}", name=asked.id, kind=kind, asked=asked, right=right, reply=reply, answer=answer, score=0.0))
    return found


def made(evidence: Evidence, folder: Path, against: Evidence | None = None) -> FailureReport:
    return report(folder / "run", evidence, TrainingRows({}), None, None if against is None else (folder / "other", against))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_failure_report_is_drawn_whole_and_runs_nothing_of_the_data(width: int, dark: bool, tmp_path: Path, chromium: Chromium) -> None:
    every = [*cases(30, (f"yes {HOSTILE}",)), *(replace(one, name=f"box {one.name}") for one in cases(30, ("{1,2,3,4,5}",), boxes=True))]
    found = made(Evidence(cases=tuple(every)), tmp_path, Evidence(cases=tuple(replace(one, score=1.0) for one in every)))
    assert {"failure/hallucination", "failure/region-centre"} <= {one.code for one in found.found()}
    draw(found).write(tmp_path / "page.html")
    chromium.open(tmp_path / "page.html", width, dark)
    assert chromium.js("document.title") == "What goes wrong: run", "nothing of the data has run"
    assert chromium.js("document.scripts.length") == 0 and chromium.js("document.querySelectorAll('[onerror]').length") == 0
    assert chromium.js("[...document.images].length") > 20 and chromium.js("[...document.images].every(one => one.naturalWidth > 0)")
    assert chromium.js("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"
    told = chromium.js("[...document.querySelectorAll('.overview td.n b')].every(one => one.getBoundingClientRect().right < innerWidth)")
    assert told, "every rate is seen without scrolling sideways"
    over = "[...document.querySelectorAll('.seen svg')].map(one => [one.getBoundingClientRect(), one.parentNode.querySelector('img').getBoundingClientRect()])"
    fits = chromium.js(f"{over}.filter(([a, b]) => b.width).every(([a, b]) => Math.abs(a.width - b.width) < 1 && Math.abs(a.height - b.height) < 1)")
    assert fits, "boxes are drawn over their picture"
    place = "document.querySelector('#failure-region-centre ~ .cards .seen polygon.there')"
    box, image = (f"(r => [r.x, r.y, r.width, r.height])({place}{up}.getBoundingClientRect())" for up in ("", ".closest('.seen').querySelector('img')"))
    (x, y, w, h), (left, top, across, down) = chromium.js(box), chromium.js(image)
    middle = ((x + w / 2 - left) / across * 64, (y + h / 2 - top) / down * 48)
    assert middle == pytest.approx((20, 24), abs=0.5), "the box stands where it is in the picture"
    ink, back = (chromium.js(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert (sum(map(int, ink[4:-1].split(","))) > sum(map(int, back[4:-1].split(",")))) == dark


@pytest.fixture
def review(tmp_path: Path) -> Path:
    """The folder of a run with a review of four answers."""
    folder = tmp_path / "run" / "failures"
    write_review(folder, [(one, "random") for one in cases(4)], {}, "run", seed=0)
    return folder


def pressed(chromium: Chromium, item: int) -> list[str]:
    """Grades of an item that are chosen."""
    return chromium.js(f"[...document.querySelectorAll('.item')[{item}].querySelectorAll('[aria-pressed=true]')].map(one => one.dataset.grade)")


def test_a_review_is_clicked_keyed_kept_exported_and_read_back(review: Path, tmp_path: Path, chromium: Chromium, capsys: pytest.CaptureFixture[str]) -> None:
    chromium.open(review / PAGE)
    assert chromium.js("document.title") == "Which answers are good?" and chromium.js("document.getElementById('count').textContent") == "0 of 4"
    assert chromium.js("[...document.images].every(one => one.naturalWidth > 0)")
    for item, grade in enumerate(("good", "repeats", "invents", "box-off")):
        chromium.click(f"[data-grade={grade}]", item)
        assert pressed(chromium, item) == [grade]
    assert chromium.js("document.getElementById('count').textContent") == "4 of 4"
    chromium.click("[data-grade=invents]", 0)
    assert pressed(chromium, 0) == ["invents"], "a fault takes the good away"
    chromium.click("[data-grade=good]", 0)
    chromium.press("ArrowDown")
    chromium.press("3")
    assert pressed(chromium, 1) == ["repeats", "invents"], "keys grade the answer that the arrows went to"
    chromium.press("2")
    chromium.press("j")
    chromium.press("3")
    assert pressed(chromium, 1) == ["invents"] and pressed(chromium, 2) == [], "a second press takes a grade back"
    chromium.click("textarea", 1)
    chromium.write(f"no, 1 of 2 {HOSTILE}")
    assert pressed(chromium, 1) == ["invents"], "keys in a text grade nothing"
    chromium.click("textarea", 2)
    chromium.write("a text without a grade")
    chromium.click("#who")
    chromium.write("a reader")
    chromium.open(review / PAGE)
    kept = [pressed(chromium, item) for item in range(4)]
    assert kept == [["good"], ["invents"], [], ["box-off"]] and chromium.js("document.getElementById('who').value") == "a reader"
    assert chromium.js("document.querySelectorAll('textarea')[1].value") == f"no, 1 of 2 {HOSTILE}"
    chromium.click("#export")
    chromium.wait("Browser.downloadProgress")
    while not (files := list(chromium.saved.glob("verdicts*.json"))) or not files[0].stat().st_size:
        chromium.js("new Promise(done => setTimeout(done, 50))")
    assert chromium.js("document.getElementById('kept').textContent") == "3 exported; 1 with a right answer and no grade are not"
    file = files[0].rename(tmp_path / "verdicts.json")
    assert json.loads(file.read_text())["reviewer"] == "a reader"
    store = tmp_path / "corrections"
    assert main(["report", str(review.parent), "--verdicts", str(file), "--corrections", str(store), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verdicts"] == 3 and told["corrections"] == 2 and told["runs"]["run"]["random"]["box-off"]["value"] == pytest.approx(1 / 3)
    items = list(json.loads((review / KEY).read_text())["items"].values())
    rows = {str(row.attributes["request"]): row for row in Store.open(store)}
    assert set(rows) == {items[1]["request"], items[3]["request"]}
    assert rows[items[1]["request"]].text(-1) == f"no, 1 of 2 {HOSTILE}" and rows[items[3]["request"]].text(-1) == "no"


def test_a_review_fits_a_phone(review: Path, chromium: Chromium) -> None:
    chromium.open(review / PAGE, 390, dark=True)
    assert chromium.js("document.documentElement.scrollWidth <= innerWidth")
    assert chromium.js("[...document.querySelectorAll('.item button')].every(one => one.getBoundingClientRect().right <= innerWidth && one.offsetHeight >= 28)")
