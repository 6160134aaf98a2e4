"""`data read` and `data show` on real sets, `chat` on a tiny run: the verbs from the command line to what they print."""

from __future__ import annotations

import html
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.cli.main import main
from sightline.errors import Refused
from sightline.model import directory
from sightline.preview import show
from sightline.run import run
from sightline.samples.sample import Text, Turn
from sightline.samples.store import Store

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
COMMAND = [sys.executable, "-c", "import sys; from sightline.cli.main import main; sys.exit(main())"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of tiny.yaml up to a model that answers about pictures."""
    threads = torch.get_num_threads()
    out = tmp_path_factory.mktemp("preview") / "run"
    run(TINY, out, until="align")
    torch.set_num_threads(threads)
    return out


def coloured(page: str, kind: str) -> list[str]:
    """Texts of the tokens of one colour."""
    return [html.unescape(text) for text in re.findall(rf'<span class="tok {kind}">(.*?)</span>', page, re.S)]


def test_a_page_colours_exactly_what_is_learnt(finished: Path, tmp_path: Path) -> None:
    preview = show(finished / "data" / "questions", model=str(finished), page=tmp_path / "page.html", limit=5)
    store = Store.open(finished / "data" / "questions")
    page = (tmp_path / "page.html").read_text()
    answers = [sample.text(turn) for sample in (store[row] for row in range(5)) for turn in range(1, len(sample.turns), 2)]
    assert "".join(coloured(page, "answer")) == "".join(f" {answer}<|end|>" for answer in answers)
    processor = directory.load(directory.model_folder(finished))[1]
    entries = processor.measure(96, 96).decoder
    assert coloured(page, "slot") == [f"[{entries} entries]"] * 5
    assert "<br>[" not in page.replace('<span class="tok slot">', ""), "the picture stands before the branches"
    assert "seen as overview 32x32" in page
    assert "annotated: " in page
    assert (preview.rows, preview.kept, len(preview.samples)) == (12, 12, 5)
    assert "http" not in re.sub(r"http://www\.w3\.org\S*", "", page)


def test_answers_to_one_question_asked_twice_are_coloured_in_both_branches(finished: Path, tmp_path: Path) -> None:
    sample = Store.open(finished / "data" / "questions")[0]
    pair = [sample.turns[0], Turn(role="assistant", items=(Text(text="yes"),))]
    twice = replace(sample, turns=(*pair, pair[0], Turn(role="assistant", items=(Text(text="no"),), alternatives=((Text(text="never"),),))))
    with Store.writer(tmp_path / "store") as writer:
        writer.add(replace(twice, attributes={"turns": "independent"}))
    show(tmp_path / "store", model=str(finished))
    page = (tmp_path / "store" / "show.html").read_text()
    assert "".join(coloured(page, "answer")) == " yes<|end|> no<|end|>"
    assert "also right: never" in page


def test_a_recipe_whose_tokenizer_is_not_there_yet(finished: Path) -> None:
    with pytest.raises(Refused, match="usage/no-tokenizer"):
        show(finished / "data" / "notes", recipe=str(TINY))
    with pytest.raises(Refused, match="usage/no-model"):
        show(finished / "data" / "notes", recipe=str(TINY), model="other")


@pytest.mark.parametrize(("name", "arguments", "kept"), [("rsicd", ["--format", "karpathy-captions", "--limit", "20"], 20), ("dota", ["--format", "dota"], 3)])
def test_real_sets_are_read_and_shown(
    name: str, arguments: list[str], kept: int, shared_data: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, page = tmp_path / "store", tmp_path / "page.html"
    assert main(["data", "read", str(shared_data / name), str(store), *arguments]) == 0
    assert capsys.readouterr().out.endswith(f"\n{store}: {kept} kept, 0 quarantined, 0 refused\n")
    assert main(["data", "show", str(store), "--model", str(finished), "--page", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kept"], len(told["samples"]), told["page"]) == (kept, kept, str(page))
    text = page.read_text()
    assert len(text) < 8_000_000
    assert ("annotated: " in text) == (name == "dota")
    assert bool(coloured(text, "answer")) == (name == "rsicd")


def test_one_question_about_a_picture_from_the_command_line(finished: Path) -> None:
    picture = next((finished / "made" / "scenes" / "images").iterdir())
    asked = [*COMMAND, "chat", str(finished), "--image", str(picture), "is there a road?", "--max-tokens", "5", "--json"]
    ended = subprocess.run(asked, capture_output=True, text=True, check=True)
    told = json.loads(ended.stdout)
    assert isinstance(told["text"], str)
    assert 1 <= len(told["tokens"]) == len(told["logps"]) <= 5
    assert all(np.isfinite(told["logps"]))


def test_a_conversation_over_lines(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    picture = next((finished / "made" / "scenes" / "images").iterdir())
    lines = f"/image {picture}\nis there a road?\nwhere is it?\n/image nowhere.png\n/reset\nis there a road?\n/quit\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    assert main(["chat", str(finished), "--max-tokens", "3", "--json"]) == 0
    printed = capsys.readouterr()
    answers = [json.loads(found) for found in re.findall(r"\{.*?\n\}", printed.out, re.S)]
    assert len({answer["key"] for answer in answers if "key" in answer}) == 3, "with the picture, after a turn, and without: three prompts"
    assert any(problem["code"] == "usage/no-picture" for answer in answers for problem in answer.get("problems", []))
