"""`data score`: what it asks, writes and prints, that it goes on where it was killed, and what it refuses before it asks anybody."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tiny_models import picture

from sightline import named_answerers
from sightline.cli.main import VERBS, Verb, main
from sightline.evaluate.answers import AnswerFile, Remembering
from sightline.samples.exchange import Answer, Request
from sightline.samples.sample import Origin, Sample, Show, Text, Turn
from sightline.samples.store import Store

LENGTHS = (4, 1, 7, 1, 3, 9, 2, 5, 8, 6)


class Judge:
    """Finds long texts unlikely; falls over after `until` answers."""

    def __init__(self, until: int = 1000) -> None:
        self.asked, self.until = 0, until

    def key(self, request: Request) -> str:
        return f"{request.ask} {request.sample.text(0)} {request.sample.text(1)}"

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            if self.asked == self.until:
                raise KeyboardInterrupt
            self.asked += 1
            size = float(len(request.sample.text(1).split()))
            logps = () if size == 9 else (-math.log(size + 1),)
            yield Answer(key=self.key(request), sample=request.sample.id, weights="w", text="", logps=logps, score=size)

    def measure(self, sample: Sample) -> int:
        return 0


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with Store.writer(tmp_path / "rows") as writer:
        for number, length in enumerate(LENGTHS):
            turns = (Turn(role="user", items=(Show(picture=0),)), Turn(role="assistant", items=(Text(text=f"<b>{number}</b> " + "ship " * (length - 1)),)))
            writer.add(Sample(id=f"s{number}", pictures=(picture(number),), turns=turns, origin=Origin(source="web")))
    return tmp_path / "rows"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Answers in place of the model, kept in the file that the verb names."""
    made = Judge()
    monkeypatch.setattr(named_answerers, "named_answerer", lambda name, *, answers, precision: Remembering(made, AnswerFile(answers)))
    monkeypatch.setitem(VERBS, "data score", Verb("sightline.cli.score_verb:score", "score rows by a model"))
    return made


def score(store: Path, out: str, *words: str) -> int:
    return main(["data", "score", str(store), str(store.parent / out), *words])


def kept(folder: Path) -> list[str]:
    found = Store.open(folder)
    return [found[int(row)].id for row in found.kept]


def test_rows_are_scored_kept_and_listed(store: Path, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(store, "out", "--score", "perplexity", "--with", "./m", "--keep", "0.2", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["kept"], said["quarantined"], said["judged"], said["score"]) == (2, 8, 10, "perplexity")
    assert said["missing"] == [{"id": "s5", "why": "no score in the answer"}] and kept(store.parent / "out") == ["s1", "s3"]
    assert score(store, "all", "--score", "match-score", "--with", "./m") == 0
    assert "10 kept, 0 quarantined" in capsys.readouterr().out


def test_thresholds_change_without_anybody_being_asked(store: Path, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    score(store, "out", "--score", "perplexity", "--with", "./m")
    asked = judge.asked
    assert score(store.parent / "out", "low", "--score", "by-score", "--column", "perplexity", "--at-most", "4.5") == 0
    assert kept(store.parent / "low") == ["s1", "s3", "s4", "s6"] and judge.asked == asked
    assert "4 kept, 6 quarantined" in capsys.readouterr().out


def test_a_killed_pass_goes_on(store: Path, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    judge.until = 4
    assert score(store, "out", "--score", "perplexity", "--with", "./m") == 130
    assert not (store.parent / "out").exists()
    judge.until = 1000
    assert score(store, "out", "--score", "perplexity", "--with", "./m") == 0
    assert judge.asked == 10
    assert score(store, "again", "--score", "perplexity", "--with", "./m") == 0
    first, again = (Store.open(store.parent / name) for name in ("out", "again"))
    assert first.index.equals(again.index) and first.id == again.id


def test_the_page_shows_both_ends_with_pictures(store: Path, judge: Judge, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert score(store, "out", "--score", "perplexity", "--with", "./m", "--keep", "0.2", "--page", str(page)) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<rect") == 40 and text.count('src="data:image/jpeg') == 2 and "http" not in re.sub(r"data:[^\"]*", "", text)
    ends = [re.findall(r"<b>([\d.]+)</b>(.*?)</div>", end, re.S) for end in text.split("Highest 20%:")[-2:]]
    assert ends[-1][0][0] == "9" and "set aside" in ends[-1][0][1] and "&lt;b&gt;8&lt;/b&gt;" in text
    assert "1 rows without a score" in text and "s5: no score in the answer" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--score", "perplexity"), "--score perplexity without --with"),
        (("--score", "by-score", "--at-most", "3"), "--score by-score without --column"),
        (("--score", "by-score", "--column", "x"), "nothing is chosen"),
        (("--score", "by-score", "--column", "x", "--lowest", "0.1", "--with", "./m"), "by-score asks nobody"),
        (("--score", "perplexity", "--with", "./m", "--keep", "20"), "keep: Input should be less than or equal to 1"),
        (("--score", "by-score", "--column", "x", "--at-most", "nan"), "at_most: Input should be a finite number"),
        (("--score", "clip-score", "--with", "./m", "--prompt", "x", "--lowest", "0.1"), "--lowest with --score clip-score"),
    ],
)
def test_what_does_not_belong_together_is_refused(store: Path, judge: Judge, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str) -> None:
    assert score(store, "out", *words) == 2
    assert message in capsys.readouterr().err and judge.asked == 0 and not (store.parent / "out").exists()


def test_all_wrong_arguments_are_told_at_once_and_a_store_is_not_its_own_out(store: Path, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(store, "rows", "--score", "clip-score", "--prompt", "x", "--lowest", "0.1") == 2
    assert "4 problems" in capsys.readouterr().err


def test_an_absent_score_is_a_finding(store: Path, judge: Judge, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(store, "out", "--score", "by-score", "--column", "perplexity", "--lowest", "0.2") == 1
    assert "no row has a score 'perplexity'" in capsys.readouterr().err
