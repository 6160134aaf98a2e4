"""The page of `data check` and its verb: self-contained, with pictures, and honest exit codes."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from sightline.cli.check_verb import check as arguments
from sightline.cli.check_verb import config_of
from sightline.cli.main import Parser
from sightline.data.check.check_page import histogram, write_page
from sightline.data.check.checking import check
from sightline.data.check.rules import RULES
from sightline.data.engine import Local
from sightline.errors import Refused


@pytest.fixture(scope="module")
def html(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "check.html"
    checked = check([shared_data / "coco_mini"], against=[shared_data / "dota"], engine=Local(workers=1))
    write_page(checked, path)
    return path.read_text(encoding="utf-8")


def test_the_page_stands_alone(html: str) -> None:
    """No script, no network: every picture is inside."""
    assert "<script" not in html and 'src="http' not in html and "url(" not in html
    assert html.startswith("<!doctype html>") and html.rstrip().endswith("</html>")


def test_every_rule_that_speaks_has_a_section_with_at_most_twelve_pictures(html: str, shared_data: Path) -> None:
    sections = re.split(r"<h2>", html)[1:]
    by_name = {section.partition("</h2>")[0]: section for section in sections}
    assert {"Rules that speak", "What it is made of", "Names by frequency", "Lengths", "region-aside", "stray-white-space", "tiny-objects"} <= set(by_name)
    for name, section in by_name.items():
        if name in RULES:
            assert section.count('<div class="card">') <= 12
    assert by_name["region-aside"].count("<img") == 5


def test_thumbnails_are_pictures_of_modest_size(html: str) -> None:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    sizes = [Image.open(io.BytesIO(base64.b64decode(data))).size for data in found]
    assert sizes and max(max(size) for size in sizes) <= 360
    assert len(html) < 5_000_000


def test_texts_of_the_data_are_escaped(tmp_path: Path) -> None:
    """A caption with markup is shown, not carried out."""
    path = tmp_path / "rows.json"
    said = [{"from": "human", "value": "Say it."}, {"from": "gpt", "value": "<b onclick=alert(1)>loud</b>  & more"}]
    path.write_text(json.dumps([{"id": "0", "conversations": said}]))
    write_page(check([path], engine=Local(workers=1)), tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "<b onclick" not in html and "&lt;b onclick" in html


@pytest.mark.parametrize("values", [[1.0], [0.0], [1.0] * 50, [float(i) for i in range(1000)], [3.0, 1e6]])
def test_histograms_hold_every_value(values: list[float]) -> None:
    counts = [int(count) for count in re.findall(r": (\d+)</title>", histogram(values, "title", "words"))]
    assert sum(counts) == len(values)


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    parser = Parser(prog="sightline data check", allow_abbrev=False)
    arguments(parser)
    given = parser.parse_intermixed_args(words)
    return given.action(given), capsys.readouterr().out


def test_the_verb(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 for grave findings, 0 for warnings; JSON whose counts add up; a page and a store where asked; nothing left in the work folder."""
    work, page, out = tmp_path / "work", tmp_path / "page.html", tmp_path / "out"
    words = [str(shared_data / "levir_cd"), "--json", "--workers", "1", "--work", str(work), "--page", str(page)]
    code, said = run([*words, "--quarantine", str(out), "--set", "severity.no-annotation=refuse"], capsys)
    record = json.loads(said)
    assert code == 1 and not record["passed"] and record["rules"]["no-annotation"]["severity"] == "refuse"
    assert record["rows"] == record["clean"] + record["flagged"] + record["refused"] == 8
    assert record["quarantined"] == {"store": str(out), "kept": 7, "quarantined": 1, "refused": 0}
    assert page.is_file() and list(work.iterdir()) == []
    code, said = run([str(shared_data / "levir_cd"), "--workers", "1", "--work", str(work), "--rules", "no-annotation", "no-split"], capsys)
    assert code == 0 and "8 rows: 7 clean, 1 flagged, 0 refused" in said


def test_the_verb_lists_its_rules(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(["--rules", "list"], capsys)
    assert code == 0 and [line.split()[0] for line in said.splitlines()] == list(RULES)


def test_thresholds_of_the_command_line() -> None:
    config = config_of(["near=6", "caption_words=[2, 40]", "severity.odd-text=off"], ["near-duplicate"], 512)
    assert (config.near, config.caption_words, config.severity, config.rules, config.max_tokens) == (6, (2, 40), {"odd-text": "off"}, ("near-duplicate",), 512)
    with pytest.raises(Refused) as refused:
        config_of(["nearly=6", "near=many", "severity.odd-text=loud"], [], None)
    assert len(refused.value.problems) == 3 and all(problem.code == "usage/threshold" for problem in refused.value.problems)
    with pytest.raises(Refused, match="at least one"):
        run([], pytest.CaptureFixture)  # pyright: ignore[reportArgumentType]
