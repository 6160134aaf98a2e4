"""docs/troubleshooting.md: every code that can be raised stands there in both languages, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from error_codes import CODE, ROOMS, UNFOLLOWED, Source
from sightline.data.operators import OPERATOR
from sightline.recipe import Recipe

ROW = re.compile(r"^\| `([a-z-]+/[a-z0-9-]+)` \| (.+) \|$", re.MULTILINE)
PAGES = ("troubleshooting.md", "troubleshooting.zh.md")


@pytest.fixture(scope="module")
def source(repository: Path) -> Source:
    return Source(repository / "src" / "sightline")


def rows(repository: Path, name: str) -> dict[str, str]:
    """What a page says of each code and rule, in the order of the page. Each stands there once."""
    found = ROW.findall((repository / "docs" / name).read_text(encoding="utf-8"))
    assert len(dict(found)) == len(found), f"{name}: a code stands there twice"
    return dict(found)


WHOLE = """
def one():
    return Problem(code="data/whole", place="a")
def refuse(code, place):
    return Problem(code=f"data/{code}", place=place)
def wrap(place, *, code="by-default"):
    return refuse(code, place)
class Reader:
    def end(self, what):
        raise Refused(refuse("data/x", "a"), f"train/non-finite-{what}", f"data/{what}")
def two(far):
    wrap("a", code="by-name" if far else "otherwise")
    refuse("not followed: no code", "a")
    Reader().end("loss")
    for code in ("in-a-loop",):
        Problem(code=f"model/{code}")
"""


def test_codes_are_read_out_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "toy.py").write_text(WHOLE)
    (tmp_path / "other.py").write_text('from sightline.toy import refuse\nrefuse("from-elsewhere", "b")\n')
    (tmp_path / "third.py").write_text('def refuse(code):\n    return code\nrefuse("of-another-function")\n')
    found = Source(tmp_path)
    assert set(found.codes) - {"data/x"} == {f"data/{last}" for last in ("whole", "by-name", "otherwise", "from-elsewhere")} | {"train/non-finite-loss"}
    assert found.unfollowed == {"toy.py"}


def test_every_template_is_followed_or_named(source: Source) -> None:
    assert source.unfollowed == set(UNFOLLOWED), "name what can stand there in error_codes.UNFOLLOWED"
    for module, lasts in UNFOLLOWED.items():
        assert set(lasts) <= source.texts[module], module


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_every_code_and_no_other(page: str, source: Source, repository: Path) -> None:
    said = {code for code in rows(repository, page) if code.split("/")[0] in ROOMS}
    missing = {code: source.codes[code] for code in sorted(source.codes.keys() - said)}
    assert missing == {}, f"{page} lacks codes that are raised there"
    assert sorted(said - source.codes.keys()) == [], f"{page} has codes that nothing raises"


@pytest.mark.parametrize("page", PAGES)
def test_every_code_has_a_meaning_and_a_remedy(page: str, repository: Path) -> None:
    for code, said in rows(repository, page).items():
        cells = said.split(" | ")
        assert len(cells) == (2 if code.split("/")[0] in ROOMS else 1) and all(cells), f"{page}: {code}"


@pytest.mark.parametrize("page", PAGES)
def test_codes_stand_under_their_room(page: str, repository: Path) -> None:
    text = (repository / "docs" / page).read_text(encoding="utf-8")
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        room, codes = part.partition("\n")[0], [code for code, _ in ROW.findall(part)]
        assert codes == sorted(codes), f"{page}: {room}"
        assert room not in ROOMS or {code.split("/")[0] for code in codes} == {room}


@pytest.mark.parametrize("page", PAGES)
def test_rules_of_operators_are_those_of_the_source(page: str, source: Source, repository: Path) -> None:
    assert Recipe, "importing it fills the table"
    rooms = {*OPERATOR.table(), "region"}
    texts = {text for module, found in source.texts.items() if module.startswith("data/") for text in found}
    written = {text for text in texts if re.fullmatch(r"[a-z-]+/[a-z-]+", text) and text.partition("/")[0] in rooms}
    assert {code for code in rows(repository, page) if code.split("/")[0] not in ROOMS} == written


def test_both_languages_have_the_same_codes(repository: Path) -> None:
    english, chinese = (list(rows(repository, page)) for page in PAGES)
    assert english == chinese
    assert all(CODE.fullmatch(code) for code in english if code.split("/")[0] in ROOMS)
