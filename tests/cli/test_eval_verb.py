"""`sightline eval` scores a model or ready answers on a published benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from published_files import coded, lines, tsv
from scripted_endpoint import scripted
from sightline.cli.main import main


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Two questions with options."""
    return tsv(tmp_path / "x.tsv", "index image question A B answer", [0, coded(), "q", "x", "y", "B"], [1, coded(1), "r", "x", "y", "A"])


def test_ready_answers_are_scored(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = lines(tmp_path / "a.jsonl", {"index": 0, "text": "B"}, {"index": 1, "text": "B"})
    words = ["eval", "--benchmark", "ai2d", "--path", str(questions), "--answers", str(answers)]
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split()[:2] == ["all", "0.5000"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["metrics"]["all"]["value"] == 0.5 and [row["score"] for row in told["per_request"]] == [1, 0]


def test_an_endpoint_is_asked_once(questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda asked, number: "B") as endpoint:
        words = ["eval", "--benchmark", "ai2d", "--path", str(questions), "--model", f"{endpoint.url}#m", "--answers", str(tmp_path / "kept.jsonl")]
        assert main(words) == 0 and main(words) == 0 and len(endpoint.asked) == 2
        assert endpoint.asked[0]["messages"][0]["content"][0]["type"] == "image_url"
    assert "0.5000" in capsys.readouterr().out
    assert main(["eval", "--benchmark", "ai2d", "--path", str(questions), "--answers", str(tmp_path / "kept.jsonl")]) == 0


def test_mme_answers_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    text = "1.jpg\tq?\tYes\tyes\n1.jpg\tr?\tNo\tno\n"
    (tmp_path / "a" / "count.txt").write_text(text, encoding="utf-8")
    words = ["eval", "--benchmark", "mme", "--path", str(tmp_path / "a"), "--answers", str(tmp_path / "a"), "--write", str(tmp_path / "b")]
    assert main(words) == 0 and "200.0000" in capsys.readouterr().out
    assert (tmp_path / "b" / "count.txt").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--benchmark", "mmme", "--answers", "x"], "mmbench"),
        (["--benchmark", "questions", "--answers", "x"], "ai2d"),
        (["--benchmark", "ai2d"], "--model"),
        (["--benchmark", "ai2d", "--answers", "x", "--set", "rule=guess"], "'match'"),
        (["--benchmark", "ai2d", "--answers", "x", "--write", "y"], "mme"),
    ],
)
def test_mistakes_are_told(words: list[str], said: str, questions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--path", str(questions), *words]) == 2
    assert said in capsys.readouterr().err
