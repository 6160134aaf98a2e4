"""`data rewrite`, `caption` and `ask` against a scripted endpoint: what is asked, taken and listed; budgets, kills, garbage, concurrency."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_endpoint import scripted
from tiny_models import picture

from sightline.cli.main import VERBS, Verb, main
from sightline.samples.sample import Box, Origin, Region, Sample, Show, Text, Turn
from sightline.samples.store import Store

ROWS = 30
PROGRAM = """
import sys
from sightline.cli.main import VERBS, Verb, main
VERBS["data rewrite"] = Verb("sightline.cli.writing_verbs:rewrite", "rewrite texts with a model")
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def verbs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rewrite", "caption", "ask"):
        monkeypatch.setitem(VERBS, f"data {name}", Verb(f"sightline.cli.writing_verbs:{name}", "let a model write"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Rows that ask for their number of ships, which are annotated."""
    with Store.writer(tmp_path / "rows") as writer:
        for number in range(ROWS):
            turns = (Turn(role="user", items=(Show(), Text(text=f"Tile {number}: how many ships?"))), Turn(role="assistant", items=(Text(text=str(number)),)))
            known = tuple(Region(label="ship", shape=Box(x0=0, y0=0, x1=4, y1=4 + k)) for k in range(number))
            writer.add(Sample(id=f"s{number}", pictures=(picture(number),), turns=turns, annotations=known, origin=Origin(source="tiles")))
    return tmp_path / "rows"


def tell(asked: dict[str, Any], number: int) -> str:
    """A right sentence for every short answer, but a wrong one for tile 7."""
    question, answer = asked["messages"][-1]["content"].splitlines()[:2]
    said = answer.removeprefix("Short answer: ")
    return f"I can see {'8' if 'Tile 7:' in question else said} ships."


def verb(name: str, store: Path, out: str, url: str, *words: str) -> int:
    return main(["data", name, str(store), str(store.parent / out), "--with", f"{url}#teller", *words])


def answers_of(folder: Path) -> dict[str, str]:
    return {sample.id: sample.text(1) for sample in Store.open(folder)}


def test_answers_are_rewritten_and_rejected_ones_listed(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(tell) as endpoint:
        assert verb("rewrite", store, "out", endpoint.url, "--style", "enrich", "--refused", str(tmp_path / "refused.jsonl"), "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["texts"] == ROWS and said["rejected"] == {"numbers": 1} and said["requests"] == ROWS and said["tokens"] == 10 * ROWS
    assert said["written"]["kept"] == ROWS and said["rules"] == {}
    listed = [json.loads(line) for line in (tmp_path / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
    assert listed == [{"id": "s7", "reason": "numbers", "text": "I can see 8 ships."}]
    made = answers_of(tmp_path / "out")
    assert made["s7"] == "7" and made["s11"] == "I can see 11 ships."


def test_quarantine_is_asked_for(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(tell) as endpoint:
        assert verb("rewrite", store, "out", endpoint.url, "--style", "enrich", "--rejected", "quarantine") == 0
        assert "30 texts: 29 taken, 1 numbers" in capsys.readouterr().out
        assert verb("rewrite", store, "again", endpoint.url, "--style", "enrich", "--rejected", "quarantine", "--seed", "1") == 0
    found = Store.open(tmp_path / "out")
    assert found.quarantined() == [(7, "rewrite/numbers")] and found[7].attributes == {} and found[7].text(1) == "7"
    seeds = [row["seed"] for row in endpoint.asked]
    assert len(set(seeds[:ROWS])) == ROWS and set(seeds[:ROWS]).isdisjoint(seeds[ROWS:])


def test_a_spent_budget_is_told_and_the_pass_goes_on(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--style", "enrich", "--concurrency", "1")
    with scripted(tell) as endpoint:
        assert verb("rewrite", store, "out", endpoint.url, *words, "--most-requests", "12") == 1
        told = capsys.readouterr().err
        assert "evaluate/budget-spent" in told and "12 requests used" in told and not (tmp_path / "out").exists() and len(endpoint.asked) == 12
        assert verb("rewrite", store, "out", endpoint.url, *words, "--most-tokens", "80") == 1
        assert "80 tokens used" in capsys.readouterr().err and 20 <= len(endpoint.asked) <= 21
        assert verb("rewrite", store, "out", endpoint.url, *words) == 0
        assert len(endpoint.asked) == ROWS, "what was under way when a budget was spent is kept"
    assert len(answers_of(tmp_path / "out")) == ROWS


@pytest.mark.slow
def test_a_killed_pass_asks_nothing_twice(store: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)

    def slow(asked: dict[str, Any], number: int) -> str:
        time.sleep(0.05)
        return tell(asked, number)

    with scripted(slow) as endpoint:
        words = ["data", "rewrite", str(store), str(tmp_path / "out"), "--with", f"{endpoint.url}#teller", "--style", "enrich", "--concurrency", "2"]
        process = subprocess.Popen([sys.executable, str(tmp_path / "program.py"), *words])
        answers = tmp_path / "out.answers.jsonl"
        while not answers.exists() or answers.read_bytes().count(b"\n") < 8:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.2)
        known, asked = answers.read_bytes().count(b"\n"), len(endpoint.asked)
        assert not (tmp_path / "out").exists() and 8 <= known < ROWS
        assert main(words) == 0
        assert len(endpoint.asked) - asked == ROWS - known, "only what had no answer"
        assert main([*words[:3], str(tmp_path / "whole"), *words[4:]]) == 0
    first, whole = Store.open(tmp_path / "out"), Store.open(tmp_path / "whole")
    assert first.index.equals(whole.index) and answers_of(tmp_path / "out") == answers_of(tmp_path / "whole")


def test_requests_of_a_block_go_out_together(store: Path) -> None:
    def slow(asked: dict[str, Any], number: int) -> str:
        time.sleep(0.05)
        return tell(asked, number)

    with scripted(slow) as endpoint:
        assert verb("rewrite", store, "out", endpoint.url, "--style", "enrich", "--concurrency", "6") == 0
    assert 4 <= endpoint.busiest <= 6


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((200, b"<html>"), "evaluate/endpoint[^$]*OpenAI-compatible endpoint"),
        ((200, {"choices": []}), "evaluate/endpoint[^$]*OpenAI-compatible endpoint"),
        ((401, {"error": {"message": "no key"}}), "401: no key[^$]*give a key"),
        ((404, {}), "404[^$]*model's name"),
    ],
)
def test_an_endpoint_that_is_none_is_told(reply: Any, message: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda asked, number: reply) as endpoint:
        assert verb("rewrite", store, "out", endpoint.url, "--style", "enrich") == 1
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "empty"),
        ("\ud800 3", "characters"),
        ("As an AI language model, I cannot see it.", "self"),
        ("z" * 50_000, "long"),
        ((400, {"error": "too long"}), "refused"),
        ((200, {"choices": [{"message": {"content": "I can see"}, "finish_reason": "length"}]}), "cut"),
        ((200, {"choices": [{"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}]}), "refused"),
    ],
)
def test_garbage_leaves_rows_as_they_came(reply: Any, reason: str, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda asked, number: reply) as endpoint:
        assert verb("rewrite", store, "out", endpoint.url, "--style", "enrich", "--json", "--refused", str(tmp_path / "r.jsonl")) == 0
    assert json.loads(capsys.readouterr().out)["rejected"] == {reason: ROWS} and len((tmp_path / "r.jsonl").read_bytes().splitlines()) == ROWS
    assert answers_of(tmp_path / "out") == answers_of(store)


def test_pictures_are_asked_about_and_answers_compared_with_annotations(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda asked, number: "Question:\nHow many ships are there?\n===\nAnswer:\nThere are five ships.") as endpoint:
        assert verb("ask", store, "out", endpoint.url, "--count", "1", "--refused", str(tmp_path / "refused.jsonl"), "--max-tokens", "77") == 0
    assert "30 texts: 2 taken, 28 count" in capsys.readouterr().out, "tile 5 has five; of tile 0 nothing is known"
    asked = endpoint.asked[0]
    assert asked["max_tokens"] == 77 and asked["messages"][-1]["content"][0]["image_url"]["url"].startswith("data:image/")
    made = {sample.id: sample for sample in Store.open(tmp_path / "out")}
    assert made["s5"].text(1) == "There are five ships." and made["s5"].origin.maker == "model:teller"
    assert made["s0"].attributes["rewrite"] == "ask (unchecked)" and made["s4"].text(1) == "4"


def test_captions_name_known_labels_only(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted(lambda asked, number: "Ships beside a bridge." if number % 2 else "Ships at sea near each other.") as endpoint:
        assert verb("caption", store, "out", endpoint.url, "--concurrency", "1", "--replace", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rejected"]["labels"] >= 14 and said["taken"] + said["rejected"]["labels"] == ROWS
    made = {sample.id: sample for sample in Store.open(tmp_path / "out")}
    assert {one.text(1) for one in made.values() if "captions_from" not in one.attributes} <= set(map(str, range(ROWS)))
    assert "certainly visible" in endpoint.asked[0]["messages"][0]["content"][1]["text"]
    with scripted(lambda asked, number: "船。") as endpoint:
        assert verb("caption", store, "all", endpoint.url, "--any-label", "--language", "zh", "--count", "2", "--prompt", "说。") == 0
    assert len(endpoint.asked) == 2 * ROWS and endpoint.asked[0]["messages"][0]["content"][1]["text"] == "说。"
    assert Store.open(tmp_path / "all")[3].turns[1].alternatives == ((Text(text="船。"),),)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--style", "sing"), "invalid choice: 'sing'"),
        ((), "--style"),
        (("--style", "enrich", "--concurrency", "0"), "concurrency: Input should be greater than or equal to 1"),
        (("--style", "enrich", "--most-tokens", "-1"), "most_tokens"),
        (("--style", "enrich", "--temperature", "-1"), "temperature"),
    ],
)
def test_mistakes_are_told_before_anybody_is_asked(words: tuple[str, ...], message: str, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verb("rewrite", store, "out", "http://127.0.0.1:9/v1", *words) == 2
    assert message in capsys.readouterr().err


def test_help_needs_nothing_heavy(tmp_path: Path) -> None:
    program = PROGRAM.replace(
        "sys.exit(main(sys.argv[1:]))", "main(['data', 'rewrite', '--help']); print([n for n in ('torch', 'pydantic', 'numpy') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "--style" in said and said.strip().endswith("[]")
