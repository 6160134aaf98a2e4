"""`sightline report`: arguments, exit codes, and what is printed where."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest

from sightline.cli.main import main


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """A run of which the beginning and the end are known."""
    events = [{"event": "run", "recipe": "toy"}, {"event": "ended", "state": "done", "seconds": 1.0, "time": "2026-03-01T12:00:00+00:00"}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return tmp_path


def test_the_page_is_drawn_and_named(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(ended)]) == 0
    assert capsys.readouterr().out.endswith(f"look at {ended / 'live.html'}\n")
    assert "<h1>toy</h1>" in (ended / "live.html").read_text()
    assert main(["report", str(ended), "--watch"]) == 0, "a run that has ended is not waited for"


def test_the_facts_as_json(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(ended), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["recipe"], told["state"], told["stages"], told["last"]) == ("toy", "done", [], "2026-03-01T12:00:00+00:00")


def test_a_browser_is_asked_for(ended: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: asked.append(address) is not None)
    assert main(["report", str(ended), "--open"]) == 0
    assert asked == [(ended / "live.html").resolve().as_uri()] and f"open {ended / 'live.html'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"), [([], "no events.jsonl"), (["--every", "3"], "--every 3 without --watch"), (["--watch", "--every", "0"], "--every 0")]
)
def test_what_cannot_be_drawn_is_refused(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "live.html").exists()
